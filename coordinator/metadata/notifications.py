"""What people are told (notifications) and what operators can look up later (the audit log)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coordinator.metadata.values import AuditRow, DeviceId, NotificationRow, UserId


def add(user_ids: Collection[UserId], kind: str, message: str, path: str | None = None) -> None:
    """Tell each user once. `message` is a plain sentence, `kind` a word for programs."""
    raise NotImplementedError


def list_after(user_id: UserId, after: int, limit: int) -> tuple[list[NotificationRow], int]:
    """Those with an id above `after`, oldest first, and how many are unread in all (counted up to 1000)."""
    raise NotImplementedError


def mark_read(user_id: UserId, up_to: int) -> None:
    raise NotImplementedError


def audit(user_id: UserId | None, device_id: DeviceId | None, action: str, facts: Mapping[str, object]) -> None:
    """Append one line: who did what. Facts hold no secrets and no file content."""
    raise NotImplementedError


def list_audit(before: int | None, limit: int) -> list[AuditRow]:
    """Newest first, those with an id below `before`."""
    raise NotImplementedError
