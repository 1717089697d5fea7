"""A second person."""

from __future__ import annotations

import pytest

from tests.kit.metadata import Person, add_person


@pytest.fixture
def ben(database: str) -> Person:
    return add_person("ben@example.org")
