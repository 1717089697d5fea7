"""A door to the test's database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.metadata.db import Door


@pytest.fixture
def door(conninfo: str) -> Iterator[Door]:
    door = Door(conninfo, threads=2)
    yield door
    door.close()
