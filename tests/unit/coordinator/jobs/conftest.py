"""A fresh database for each test, and a door to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.metadata import db
from coordinator.metadata.db import Door
from tests.kit.metadata import Person, add_person, check_accounts
from tests.kit.postgres import conninfo, postgres

__all__ = ["conninfo", "postgres"]


@pytest.fixture
def door(conninfo: str) -> Iterator[Door]:
    door = Door(conninfo, threads=2)
    yield door
    door.close()


@pytest.fixture
def database(conninfo: str) -> Iterator[str]:
    """This test's thread has a connection, too; at the end the books must agree with the rows."""
    with db.connected(conninfo):
        yield conninfo
        check_accounts()


@pytest.fixture
def anna(database: str) -> Person:
    return add_person("anna@example.org")
