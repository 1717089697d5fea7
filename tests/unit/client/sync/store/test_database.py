"""The file: what a transaction wrote is there as a whole or not at all, damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.sync.store.database import Database, ReadOnly, StoreDamaged, StoreFull, set_aside

PUT = "INSERT INTO fact (name, value) VALUES (?, ?)"
ALL = "SELECT name FROM fact ORDER BY name"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_transactions_within_one_are_part_of_it(path: Path) -> None:
    database = Database(path)
    with pytest.raises(ZeroDivisionError), database.transaction():
        with database.transaction():
            database.write(PUT, ("inner", "x"))
        raise ZeroDivisionError
    assert database.rows(ALL) == []
    assert not database.in_transaction


def test_what_is_being_written_is_not_seen_by_others(path: Path) -> None:
    database, other = Database(path), ReadOnly(path)
    with database.transaction():
        database.write(PUT, ("a", "x"))
        assert other.rows(ALL) == []
    assert other.rows(ALL) == [("a",)]


def test_what_is_no_database_is_noticed(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreDamaged):
        Database(path)


def test_a_page_overwritten_in_the_middle_is_noticed(path: Path) -> None:
    database = Database(path)
    with database.transaction():
        database.write_many(PUT, ((f"fact {number}", "x" * 20) for number in range(2000)))
    database.close()
    data = bytearray(path.read_bytes())
    data[-4096 * 8 : -4096 * 4] = b"\xff" * 4096 * 4
    path.write_bytes(data)
    with pytest.raises(StoreDamaged):
        Database(path)


def test_a_file_of_a_newer_format_is_not_touched_by_guessing(path: Path) -> None:
    database = Database(path)
    with database.transaction():
        database.write("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreDamaged, match="newer client"):
        Database(path)


def test_a_file_is_set_aside_beside_the_ones_before(path: Path) -> None:
    asides = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        path.with_name(path.name + "-wal").write_bytes(content)
        asides.append(set_aside(path))
    assert [aside.read_bytes() for aside in asides] == [b"one", b"two"]
    assert [aside.with_name(aside.name + "-wal").read_bytes() for aside in asides] == [b"one", b"two"]


def test_a_full_disk_is_told_and_what_was_there_stays(path: Path) -> None:
    database = Database(path)
    with database.transaction():
        database.write(PUT, ("a", "x"))
    (pages,) = database.rows("PRAGMA page_count")[0]
    database.rows(f"PRAGMA max_page_count = {pages + 5}")  # as a disk that has no room for more
    with pytest.raises(StoreFull), database.transaction():
        database.write_many(PUT, ((f"fact {number}", "x" * 1000) for number in range(1000)))
    assert database.rows(ALL) == [("a",)]
    database.rows(f"PRAGMA max_page_count = {pages + 1000}")
    with database.transaction():
        database.write(PUT, ("b", "x"))
    assert database.rows(ALL) == [("a",), ("b",)]
