"""A fresh database for each test that asks for one, and a person in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.metadata import db
from tests.kit.metadata import Person, add_person, check_accounts
from tests.kit.postgres import conninfo, postgres

__all__ = ["conninfo", "postgres"]


@pytest.fixture
def database(conninfo: str) -> Iterator[str]:
    """This test's thread has a connection; at the end the books must agree with the rows."""
    with db.connected(conninfo):
        yield conninfo
        check_accounts()


@pytest.fixture
def anna(database: str) -> Person:
    return add_person("anna@example.org")
