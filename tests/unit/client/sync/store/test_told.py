"""What people are told: kept as long as it is true, and of errors the newest."""

from __future__ import annotations

import pytest

from client.sync.store.database import Database
from client.sync.store.told import ConflictRow, Told


def test_only_the_last_failures_are_kept() -> None:
    database = Database(None)
    told = Told(database)
    with database.transaction():
        for number in range(150):
            told.add_failure(number, None, f"failure {number}")
    assert [row.message for row in told.failures(2)] == ["failure 149", "failure 148"]
    assert len(told.failures(1000)) == 100


def test_conflicts_come_oldest_first() -> None:
    database = Database(None)
    told = Told(database)
    with database.transaction():
        told.add_conflict("b", "b (copy)", 1.0)
        told.add_conflict("a", "a (copy)", 2.0)
    assert told.conflicts() == [ConflictRow("b", "b (copy)", 1.0), ConflictRow("a", "a (copy)", 2.0)]


def test_a_copy_is_known_once_and_only_so_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.sync.store.told.CONFLICTS_KEPT", 2)
    database = Database(None)
    told = Told(database)
    with database.transaction():
        for copy in ("1", "2", "2", "3", "4"):
            told.add_conflict("a", copy, 1.0)
        assert [row.copy_path for row in told.conflicts()] == ["3", "4"]
        told.drop_conflicts(["3", "none"])
        assert [row.copy_path for row in told.conflicts()] == ["4"]


def test_a_problem_is_taken_back_by_who_told_it() -> None:
    database = Database(None)
    told = Told(database)
    with database.transaction():
        told.set_problem("a", "it cannot be read", "reading")
        told.set_problem("a", None, "disk")
    assert told.problems() == [("a", "it cannot be read")]
    with database.transaction():
        told.set_problem("a", None, "reading")
    assert told.problems() == []


def test_a_folder_that_was_listed_keeps_the_problems_below_its_folders() -> None:
    database = Database(None)
    told = Told(database)
    with database.transaction():
        for path in ("f/a", "f/g/b", "fa", "f"):
            told.set_problem(path, "it is a symbolic link", "disk")
        told.drop_problems_in("f", "disk")
    assert [path for path, _ in told.problems()] == ["f", "f/g/b", "fa"]
    with database.transaction():
        told.drop_problems_in("", "disk")
    assert [path for path, _ in told.problems()] == ["f/g/b"]
