"""Random histories of three real clients and a real appliance, judged by the published model and by what people expect.

*One file*: reads, writes and deletes of single files at three computers, whose clients run when chance says so; the
oracle (kit/oracle.py) keeps every state of the model that explains what was seen. Several files are watched at once,
each by an oracle of its own, since a client's run costs the same for one or for six.

*Trees*: files and folders are made, edited, moved and deleted with few names, so that they collide. In the end all
computers and the service hold the same; every content that nobody overwrote or deleted knowingly is there; none is
there twice; and nothing is there that nobody wrote.

Every history has a number; `HOLDFAST_SEED=… HOLDFAST_HISTORY=…` (both are printed) plays one again. Whose client runs
when is part of the history; how two that run at the same time interleave is not, so such a failure may need some tries.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import NewUser
from tests.kit.faults import make_random
from tests.kit.oracle import ABSENT, Oracle, Value
from tests.kit.sync_device import Device, original_name, wait_until_equal
from tests.kit.sync_world import Ledger, World, change_tree, new_world

COMPUTERS = 3
FILES = 6
CI_S = 12.0
DEEP_S = float(os.environ.get("HOLDFAST_DEEP_S") or 3600)


@pytest.fixture
def world(new_user: NewUser, tmp_path: Path) -> Iterator[World]:
    with new_world(new_user(), tmp_path, COMPUTERS) as made:
        yield made


History = Callable[[World, str, random.Random], None]


def play(world: World, history: History, name: str, seconds: float) -> None:
    """Histories until the time is up; on a failure prints what happened and how to see it again."""
    seed = make_random(name).randrange(1 << 32)
    chosen = os.environ.get("HOLDFAST_HISTORY")
    deadline = time.monotonic() + seconds
    number = int(chosen or 0)
    while True:
        world.told.clear()
        folder = f"history {number}"
        for device in world.devices[:1]:
            device.folder(folder)
        for device in world.devices:
            device.once()
        try:
            history(world, folder, random.Random(f"{seed} {number}"))
        except BaseException:
            print(f"{name}: HOLDFAST_HISTORY={number} repeats this one:\n  " + "\n  ".join(world.told))
            raise
        number += 1
        if chosen or time.monotonic() >= deadline:
            break
    print(f"{name}: {number} histories")


# --- one file: the published model -----------------------------------------------------------------------------------


def play_files(world: World, folder: str, rng: random.Random) -> None:
    """Reads, writes and deletes of some files, each watched by its own oracle."""
    oracles = {f"{folder}/{number}.txt": Oracle(COMPUTERS) for number in range(FILES)}
    for _ in range(rng.randint(1, 3)):
        at_once = rng.random() < 0.4  # else clients run one at a time, which is exactly repeatable
        for _ in range(rng.randint(3, 14)):
            at = rng.randrange(COMPUTERS)
            if rng.random() < 0.35:
                if at in world.running:
                    world.finish_sync(at)
                elif at_once:
                    world.begin_sync(at)
                else:
                    world.sync(at)
                continue
            for path in rng.sample(sorted(oracles), rng.randint(1, FILES)):
                _touch(world, oracles[path], at, path, rng)
        world.rest()
        for path, oracle in oracles.items():
            values, copies = zip(*(_seen(device, path) for device in world.devices), strict=True)
            oracle.stabilize(values, copies)


def _touch(world: World, oracle: Oracle, at: int, path: str, rng: random.Random) -> None:
    chance = rng.random()
    if chance < 0.2:
        value = world.read(at, path)
        world.tell(f"{at} reads {path}: {value}")
        oracle.read(at, value)
        return
    value = ABSENT if chance < 0.35 else world.new_content()
    overwrote = world.write(at, path, value)
    world.tell(f"{at} writes {path}: {value} over {overwrote}")
    if value is ABSENT and overwrote is ABSENT:
        oracle.read(at, ABSENT)  # nothing was there to be deleted: that is no write
    else:
        oracle.write(at, value, overwrote)


def _seen(device: Device, path: str) -> tuple[Value, frozenset[str]]:
    """A file's content here, and those of its conflicted copies."""
    there = device.path(path)
    copies = [other for other in there.parent.iterdir() if _is_copy_of(other.name, there.name)]
    assert len({copy.read_text() for copy in copies}) == len(copies), f"copies of equal content: {copies}"
    return (there.read_text() if there.exists() else ABSENT), frozenset(copy.read_text() for copy in copies)


def _is_copy_of(name: str, original: str) -> bool:
    found: str | None = original_name(name)
    while found is not None and found != original:
        found = original_name(found)
    return found == original


def test_single_files_behave_as_the_published_model(world: World) -> None:
    play(world, play_files, "model of a file", CI_S)


@pytest.mark.deep
@pytest.mark.timeout(DEEP_S + 600)
def test_single_files_behave_as_the_published_model_in_a_long_campaign(world: World) -> None:
    play(world, play_files, "model of a file", DEEP_S)


# --- trees -----------------------------------------------------------------------------------------------------------


def play_trees(world: World, folder: str, rng: random.Random) -> None:
    """Everything that can be done to a tree, with few names."""
    ledger = Ledger()
    for _ in range(rng.randint(1, 3)):
        at_once = rng.random() < 0.4
        for _ in range(rng.randint(4, 12)):
            at = rng.randrange(COMPUTERS)
            if rng.random() < 0.3:
                if at in world.running:
                    world.finish_sync(at)
                elif at_once:
                    world.begin_sync(at)
                else:
                    world.sync(at)
                continue
            for _ in range(rng.randint(1, 6)):
                change_tree(world, ledger, at, folder, rng)
        world.rest()
        tree = world.devices[0].tree()
        ledger.check(
            [entry.digest for path, entry in tree.items() if entry.digest is not None and path.startswith(folder + "/")]
        )


def test_trees_end_equal_and_lose_nothing(world: World) -> None:
    play(world, play_trees, "model of trees", CI_S)


@pytest.mark.deep
@pytest.mark.timeout(DEEP_S + 600)
def test_trees_end_equal_and_lose_nothing_in_a_long_campaign(world: World) -> None:
    play(world, play_trees, "model of trees", DEEP_S)


# --- continuous clients: the same with time passing -------------------------------------------------------------------


def test_trees_end_equal_with_clients_that_run_all_the_time(world: World) -> None:
    seed = make_random("running clients").randrange(1 << 32)
    rng = random.Random(seed)
    ledger = Ledger()
    world.devices[0].folder("shared")
    for device in world.devices:
        device.once()
    for device in world.devices:
        device.start()
    try:
        deadline = time.monotonic() + CI_S / 2
        while time.monotonic() < deadline:
            for _ in range(rng.randint(1, 12)):
                change_tree(world, ledger, rng.randrange(COMPUTERS), "shared", rng)
                time.sleep(rng.random() * 0.05)  # people and programs take their time, of all lengths
            tree = wait_until_equal(world.user, *world.devices, timeout_s=60)
            ledger.check([entry.digest for entry in tree.values() if entry.digest is not None])
            world.tell("at rest")
        for device in world.devices:
            device.stop()
    except BaseException:
        print("what happened:\n  " + "\n  ".join(world.told))
        for device in world.devices:
            print(device.client and device.client.stderr)
        raise
