"""What people are told (notifications) and what operators can look up later (the audit log)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final

from coordinator.metadata import db
from coordinator.metadata.values import AuditRow, DeviceId, NotificationRow, UserId

UNREAD_COUNTED_MAX: Final = 1000


def add(user_ids: Collection[UserId], kind: str, message: str, path: str | None = None) -> None:
    """Tell each user once. `message` is a plain sentence, `kind` a word for programs."""
    db.run(
        "INSERT INTO notification (user_id, kind, message, path) SELECT unnest(%s::bigint[]), %s, %s, %s",
        (sorted(set(user_ids)), kind, message, path),
    )


def list_after(user_id: UserId, after: int, limit: int) -> tuple[list[NotificationRow], int]:
    """Those with an id above `after`, oldest first, and how many are unread in all (counted up to 1000)."""
    found = db.rows(
        """SELECT id, created_at, kind, message, path, read_at IS NOT NULL FROM notification
           WHERE user_id = %s AND id > %s ORDER BY id LIMIT %s""",
        (user_id, after, limit),
    )
    (unread,) = db.one(
        "SELECT count(*) FROM (SELECT 1 FROM notification WHERE user_id = %s AND read_at IS NULL LIMIT %s) u",
        (user_id, UNREAD_COUNTED_MAX),
    )
    return [NotificationRow(*row) for row in found], unread


def mark_read(user_id: UserId, up_to: int) -> None:
    """All with an id of at most `up_to`."""
    db.run(
        "UPDATE notification SET read_at = now() WHERE user_id = %s AND id <= %s AND read_at IS NULL", (user_id, up_to)
    )


def audit(user_id: UserId | None, device_id: DeviceId | None, action: str, facts: Mapping[str, object]) -> None:
    """Append one line: who did what. Facts hold no secrets and no file content."""
    db.run(
        "INSERT INTO audit_log (user_id, device_id, action, facts) VALUES (%s, %s, %s, %s::jsonb)",
        (user_id, device_id, action, json.dumps(dict(facts), default=str)),
    )


def list_audit(before: int | None, limit: int) -> list[AuditRow]:
    """Newest first, those with an id below `before`."""
    found = db.rows(
        """SELECT id, at, user_id, device_id, action, facts FROM audit_log
           WHERE id < coalesce(%s::bigint, 9223372036854775807) ORDER BY id DESC LIMIT %s""",
        (before, limit),
    )
    return [AuditRow(*row) for row in found]
