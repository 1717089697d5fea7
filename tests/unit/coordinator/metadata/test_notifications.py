from __future__ import annotations

import psycopg
import pytest

from coordinator.metadata import db, notifications
from tests.kit.metadata import Person


def test_notifications_are_told_in_order_and_read_up_to_one(anna: Person, ben: Person) -> None:
    for number in range(3):
        notifications.add([anna.user.id, ben.user.id, anna.user.id], "note", f"message {number}", "/f")
    found, unread = notifications.list_after(anna.user.id, 0, 2)
    assert [row.message for row in found] == ["message 0", "message 1"]
    assert unread == 3
    notifications.mark_read(anna.user.id, found[-1].id)
    rest, unread = notifications.list_after(anna.user.id, found[-1].id, 10)
    assert [(row.message, row.read) for row in rest] == [("message 2", False)]
    assert unread == 1
    assert notifications.list_after(ben.user.id, 0, 10)[1] == 3


def test_the_audit_log_is_append_only(anna: Person) -> None:
    notifications.audit(anna.user.id, anna.session.device_id, "login", {"address": "127.0.0.1"})
    notifications.audit(None, None, "start", {})
    newest, oldest = notifications.list_audit(None, 10)
    assert (newest.action, oldest.action, oldest.facts) == ("start", "login", {"address": "127.0.0.1"})
    assert [row.id for row in notifications.list_audit(newest.id, 10)] == [oldest.id]
    for sql in ("UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            db.run(sql)
