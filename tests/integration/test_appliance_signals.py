"""An appliance started in the background by `nohup holdfast up … &` in a script: SIGINT and SIGHUP are ignored from the
start on, also by its children."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import Appliance, is_alive, short_folder
from tests.kit.commands import signals_for_children


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_started_in_the_background_it_outlives_its_terminal_and_stops_cleanly_on_sigterm(folder: Path) -> None:
    appliance = Appliance(folder / "data", "--nodes", "3", "--code", "2+1", "--workers", "1")
    with signals_for_children(signal.SIGINT, signal.SIGHUP, ignored=True):
        appliance.start()
    children = appliance.processes()
    appliance.supervisor.signal(signal.SIGHUP)
    assert appliance.stop() == 0
    # The one that asked it to stop was the first that it heard: a second one ends everything at once.
    assert "Ending everything at once." not in appliance.console.read_text()
    assert [process.name for process in children if is_alive(process.pid)] == []
    # The supervisor asks PostgreSQL with a SIGINT.
    assert "received fast shutdown request" in (folder / "data" / "logs" / "postgres.log").read_text()
