from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from coordinator.metadata import db, schema
from coordinator.metadata.schema.migrate import migrate
from tests.kit.metadata import Person, add_person, check_accounts, in_parallel
from tests.kit.postgres import PostgresServer


@pytest.fixture
def blank(postgres: PostgresServer) -> Iterator[str]:
    """A database without any table."""
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE blank")
        yield postgres.conninfo("blank")
        connection.execute("DROP DATABASE blank WITH (FORCE)")


SCRIPTS = sorted(path.stem for path in Path(schema.__file__).parent.glob("0*.py"))


def test_migrations_are_applied_once(blank: str) -> None:
    first = migrate(blank)
    assert first == SCRIPTS
    assert migrate(blank) == []


def test_several_processes_may_migrate_at_once(blank: str) -> None:
    """Each on its own connection, as workers that start together."""

    def work() -> list[str]:
        db.database.dispose()  # migrate opens a connection of its own
        return migrate(blank)

    results = in_parallel(blank, work, work, work)
    assert sorted(len(result) for result in results if isinstance(result, list)) == [0, 0, len(SCRIPTS)]


@pytest.mark.parametrize("table", ["file_version", "journal"])
def test_history_is_append_only(anna: Person, table: str) -> None:
    anna.put("/f", "x")
    for sql in (f"UPDATE {table} SET version = 7", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            db.run(sql)
    with pytest.raises(psycopg.errors.RestrictViolation), db.transaction():
        db.run("SET LOCAL holdfast.retention = 'on'")
        db.run(f"UPDATE {table} SET version = 7")  # not even retention rewrites


def test_a_referenced_block_cannot_be_deleted(anna: Person) -> None:
    anna.put("/f", "x")
    with pytest.raises(psycopg.IntegrityError, match="violates"):
        db.run("DELETE FROM block")


def test_everything_works_on_an_older_postgresql() -> None:
    server = PostgresServer(version=16)
    try:
        with server.database() as conninfo, db.connected(conninfo):
            anna = add_person()
            anna.put("/a/f", "x", "y")
            assert db.one("SHOW server_version")[0].startswith("16")
            check_accounts()
    finally:
        server.close()
