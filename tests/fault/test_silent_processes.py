"""Processes that are there and do nothing, as after SIGSTOP: the supervisor notices, and starts them again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.kit.cluster import Appliance, lend, short_folder, wait_until

HUNG_AFTER_S = 6.0  # a question each second; the default of half a minute would only make the test longer


@pytest.fixture(scope="module")
def appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    options = ("--nodes", "3", "--code", "2+1", "--workers", "2", "--hung-after", str(HUNG_AFTER_S))
    with short_folder() as folder, Appliance(folder / "data", *options) as appliance:
        yield from lend(appliance, request)


def test_stopped_processes_are_started_again_and_all_is_well(appliance: Appliance) -> None:
    data = b"stopped" * 100_000
    assert appliance.login().put("/before", data).status == 200
    frozen = [appliance.processes("node")[0], appliance.processes("coordinator")[0]]
    for process in frozen:
        process.signal(signal.SIGSTOP)
    for process in frozen:
        appliance.wait_until_back(process, timeout_s=60)
    session = appliance.login()
    assert session.get("/before").body == data
    # The node is one of those that every write needs.
    wait_until(lambda: session.put("/after", data).status == 200, what="writes", timeout_s=60)
    assert session.get("/after").body == data
    events = map(json.loads, (appliance.folder / "logs" / "supervisor.log").read_text().splitlines())
    told = {event["child"] for event in events if event["event"] == "child.silent"}
    assert told >= {process.name for process in frozen}
