"""Rules that change while a client runs."""

from __future__ import annotations

import pytest

from client.fs.failing import FailingFileSystem
from client.sync.engine.rules import BYTES_MAX, RETRY_S, RulesUnreadable, read_rules
from client.sync.local.ignore import IGNORE_FILE
from client.sync.local.selection import Selection
from tests.kit.engine_rig import Rig


def test_a_new_ignore_rule_forgets_and_deletes_nothing(rig: Rig) -> None:
    rig.write("a.log", b"log")
    rig.run()
    rig.selection = Selection("*.log\n")
    rig.write(".holdfastignore", b"*.log\n")
    rig.settle()
    assert rig.files()["a.log"] == b"log"
    assert any(path.strip("/") == "a.log" for path in rig.remote())
    rig.disk.user.delete(("a.log",))
    rig.settle()
    assert any(path.strip("/") == "a.log" for path in rig.remote())


def test_rules_that_cannot_be_read_leave_the_last_ones_in_force_until_they_can(rig: Rig) -> None:
    rig.selection = Selection("*.log\n")
    rig.write(IGNORE_FILE, b"*.log\n")
    rig.run()
    rig.rules_trouble = "Permission denied"
    rig.write(IGNORE_FILE, b"*.tmp\n")
    rig.settle()
    assert rig.store.told.problems() == [
        (IGNORE_FILE, "Permission denied; until it can be read, the rules that were read last hold")
    ]
    changes: list[None] = []
    rig.engine._rules.on_change = lambda: changes.append(None)
    for _ in range(10):
        rig.engine.step(rig.clock.at + RETRY_S)
    assert changes == [], "trying again is no change"
    rig.engine._rules.on_change = rig.engine.note_change
    rig.write("a.log", b"log")
    rig.write("b.tmp", b"tmp")
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} == {IGNORE_FILE, "b.tmp"}
    rig.selection, rig.rules_trouble = Selection("*.tmp\n"), None
    rig.write("c.tmp", b"tmp")
    rig.run(lambda: rig.store.told.problems() == [])
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} == {IGNORE_FILE, "a.log", "b.tmp"}


def test_lines_that_are_no_rules_are_told(rig: Rig) -> None:
    rig.selection = Selection("*.log\n!\n")
    rig.write(IGNORE_FILE, b"*.log\n!\n")
    rig.settle()
    ((path, reason),) = rig.store.told.problems()
    assert path == IGNORE_FILE
    assert "line 2" in reason


def test_rules_are_read_as_they_stand_in_the_file(rig: Rig) -> None:
    assert read_rules(rig.fs) == ""
    rig.write(IGNORE_FILE, "\ufeff*.log\nübrig\n".encode())
    assert read_rules(rig.fs) == "*.log\nübrig\n"
    rig.disk.user.delete((IGNORE_FILE,))
    rig.disk.user.symlink((IGNORE_FILE,))
    assert read_rules(rig.fs) == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"*.log\n\xfc\n", "its line 2 is not UTF-8"), (b"#" * (BYTES_MAX + 1), "it is larger than 1 MiB")],
)
def test_rules_that_cannot_be_understood_are_none(rig: Rig, data: bytes, reason: str) -> None:
    rig.write(IGNORE_FILE, data)
    with pytest.raises(RulesUnreadable) as caught:
        read_rules(rig.fs)
    assert caught.value.facts["reason"] == reason


def test_rules_on_a_disk_that_fails_are_not_taken_for_none(rig: Rig) -> None:
    rig.write(IGNORE_FILE, b"*.log\n")
    with pytest.raises(RulesUnreadable):
        read_rules(FailingFileSystem(rig.fs, fail_at=1))
