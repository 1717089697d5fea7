"""An appliance started in the background by a script: SIGINT is ignored from the start on, also by its children."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import Appliance, is_alive, short_folder
from tests.kit.commands import sigint_for_children


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_started_in_the_background_it_stops_cleanly_on_sigterm(folder: Path) -> None:
    appliance = Appliance(folder / "data", "--nodes", "3", "--code", "2+1", "--workers", "1")
    with sigint_for_children(ignored=True):
        appliance.start()
    children = appliance.processes()
    assert appliance.stop() == 0
    assert [process.name for process in children if is_alive(process.pid)] == []
    # The supervisor asks PostgreSQL with a SIGINT.
    assert "received fast shutdown request" in (folder / "data" / "logs" / "postgres.log").read_text()
