"""kill -9 of sync clients and of the service's workers while people work: all trees end equal, and nothing is lost.

Continuous clients run on three computers whose files change at random. Again and again a client, a coordinator worker
or both die at a random moment; clients are started anew, the supervisor restarts the workers. Every few rounds
everybody comes to rest: all folders and the service's tree hold the same, and every content that nobody overwrote or
deleted knowingly is there. People also exchange whole folders with each other in one step. Where that is very much in a
minute, a client asks whether the deletes are meant; then it must have been so much, and somebody says yes.
"""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.sync.engine.breaker import WINDOW_S
from tests.kit.api import add_user
from tests.kit.cluster import Appliance, lend, short_folder
from tests.kit.faults import make_random
from tests.kit.sync_device import Device, check_equal, read_service_tree, settle, wait_until_equal
from tests.kit.sync_world import Ledger, World, change_tree, new_world

COMPUTERS = 3
CI_ROUNDS = 6
DEEP_ROUNDS = 100
REST_EVERY = 3
pytestmark = pytest.mark.xdist_group("killed appliance for sync")


@pytest.fixture(scope="module")
def killed_appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    with short_folder() as folder, Appliance(folder / "data") as appliance:
        yield from lend(appliance, request)


@pytest.fixture
def world(killed_appliance: Appliance, tmp_path: Path) -> Iterator[World]:
    user = add_user(killed_appliance.login("sync kills"), killed_appliance)
    with new_world(user, tmp_path, COMPUTERS) as made:
        yield made


class Worker:
    """Somebody who changes files at one computer in a thread of his own, until `stop`. Owns his part of the ledger."""

    def __init__(self, world: World, at: int, number: int, seed: float) -> None:
        self.ledger = Ledger()
        self._world = World(
            world.user, world.devices, world.scratch / f"{number} {at}", person=f"person {at} in round {number}: "
        )
        self._world.scratch.mkdir(exist_ok=True)
        self._at = at
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"worker-{at}")
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._rng.random() * 0.05):
                change_tree(self._world, self.ledger, self._at, "shared", self._rng)
        except BaseException as error:
            self._failed = error
            raise

    def stop(self) -> list[str]:
        """Ends; what was done."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self._failed is None, self._failed
        return self._world.told


def kill_some(world: World, appliance: Appliance, rng: random.Random) -> None:
    """One, some or all of the clients and a worker of the service die; the clients are started again."""
    victims = rng.sample(range(COMPUTERS), rng.randint(0, COMPUTERS))
    killed = [appliance.kill_child(rng.choice(appliance.processes("coordinator")).name)] if rng.random() < 0.5 else []
    for at in victims:
        world.devices[at].kill()
    for process in killed:
        appliance.wait_until_back(process)
    for at in victims:
        world.devices[at].start()
    world.tell(f"killed {victims} and {[process.name for process in killed]}")


def say_yes(ledger: Ledger, since: float, device: Device, told: dict[str, Any]) -> None:
    """What a person does whose client asks about many deletes, having made them."""
    asked = re.search(r"of (\d+) files.*--allow-deletes", told["reason"] or "", re.IGNORECASE)
    if told["state"] == "blocked" and asked is not None:
        deleted = ledger.deleted_since(since)
        assert deleted > int(asked[1]) / 2, f"{device.name}: {told['reason']} People have deleted {deleted} files."
        device.run("sync", device.root, "--allow-deletes")


def run_rounds(world: World, appliance: Appliance, rounds: int) -> None:
    rng = make_random("sync kills")
    total = Ledger()
    world.devices[0].folder("shared")
    for device in world.devices:
        device.once()
        device.start()
    done: list[str] = []
    rested = time.monotonic()
    try:
        for number in range(rounds):
            workers = [Worker(world, at, number, rng.random()) for at in range(COMPUTERS)]
            threading.Event().wait(rng.uniform(0.3, 1.0))  # a random moment of their work
            kill_some(world, appliance, rng)
            for worker in workers:
                done += worker.stop()
                total.add(worker.ledger)
            if number % REST_EVERY == REST_EVERY - 1 or number == rounds - 1:
                look = partial(say_yes, total, rested - WINDOW_S)
                tree = wait_until_equal(world.user, *world.devices, timeout_s=90, look=look)
                rested = time.monotonic()
                total.check([entry.digest for entry in tree.values() if entry.digest is not None], twice=True)
                done.append("at rest")
    except BaseException:
        print("\n".join([*done[-400:], *world.told]))
        for device in world.devices:
            print(f"--- {device.name}\n{device.client and device.client.stderr}")
        raise
    for device in world.devices:
        device.stop()


def test_killed_clients_and_workers_lose_nothing(world: World, killed_appliance: Appliance) -> None:
    run_rounds(world, killed_appliance, CI_ROUNDS)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_killed_clients_and_workers_lose_nothing_in_a_long_campaign(world: World, killed_appliance: Appliance) -> None:
    run_rounds(world, killed_appliance, DEEP_ROUNDS)


def test_a_service_that_cannot_store_is_told_and_nothing_is_called_synced(
    world: World, killed_appliance: Appliance
) -> None:
    """Three of six nodes do not answer: too few for 4+2 to take a write."""
    device: Device = world.devices[0]
    other: Device = world.devices[1]
    device.put("before", b"before")
    settle(world.user, device, other)
    frozen = killed_appliance.processes("node")[:3]
    for node in frozen:
        node.signal(signal.SIGSTOP)
    try:
        device.put("file", random.Random("cannot store").randbytes(200_000))
        result = device.once(expect=None)
        assert result.code != 0, result
        assert device.status()["state"] in ("blocked", "offline", "syncing")
        assert set(read_service_tree(world.user)) == {"before"}
    finally:
        for node in frozen:
            node.signal(signal.SIGCONT)
    settle(world.user, device, other)
    assert set(check_equal(world.user, device, other)) == {"before", "file"}
