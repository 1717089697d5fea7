"""One file, three clients, and the published model's oracle: every value that anybody sees must be explained.

Reads and writes happen at single moments, between any two steps of the engines; a process may be killed and the network
fail. What the model does not know (folders, moves, lost databases) is left to test_world.py.
"""

from __future__ import annotations

import random
from functools import partial

import pytest

from client.fs.base import OWN_FOLDER
from client.sync.planner.conflicts import parse
from tests.kit.oracle import ABSENT, Oracle, Unexplained, Value
from tests.kit.scheduler import Stuck
from tests.kit.workload import FATE, Step, Workload
from tests.kit.world import SETTLE_S, Client, World, walk

NAME = "file.txt"
NODES = 3
SEEDS = 200
SEEDS_DEEP = 20_000
CHUNK = 25
FATES = ("kill", "kill", "cut_network", "busy_service", "lose_events")


class ModelWorld(World):
    """A world in which people only read and write one file, and tell the oracle."""

    def __init__(self, seed: int) -> None:
        tape = random.Random(f"model {seed}")
        fates = [Step(FATE, tape.choice(FATES), tape.getrandbits(32), tape.random()) for _ in range(tape.randrange(3))]
        super().__init__(Workload(NODES, tuple(fates)), seed)
        for client in self.clients:
            # A write that arrives after its sender gave up and looked is one that nobody can explain.
            client.weather.late_request = 0.0
        self.oracle = Oracle(NODES)
        self._tape = tape
        self._pace = tape.choice((0.01, 0.2, 2.0))
        self._values = 0

    def run(self) -> None:
        for client in self.clients:
            client.start()
        for _ in range(self._tape.randrange(1, 4)):
            for node in range(NODES):
                self._acting += 1
                self.scheduler.spawn(self.outside, f"person{node}", partial(self._person, node))
            self._acting += 1
            self.scheduler.spawn(self.outside, FATE, self._act(list(self.workload.steps), self._befall))
            self.scheduler.run(lambda: self._acting == 0, at_most_s=SETTLE_S)
            self._calm_down()
            assert self._settle(), self._states()
            shown = [self._look(node) for node in range(NODES)]
            self.oracle.stabilize([value for value, _ in shown], [copies for _, copies in shown])

    def _person(self, node: int) -> None:
        for _ in range(self._tape.randrange(5)):
            self.scheduler.sleep(self._pace * self._tape.random())
            for _ in range(self._tape.randrange(4)):
                self.scheduler.pause("looks")
            self._wait_for_the_client(node)
            value, _ = self._look(node)
            drawn = self._tape.random()
            if drawn < 0.5:
                self.oracle.read(node, value)
            elif drawn < 0.6:
                self._write(node, ABSENT, value)
            else:
                self._values += 1
                self._write(node, f"v{self._values}", value)
        self._acting -= 1

    def _fate_kill(self, tape: random.Random, client: Client) -> None:
        client.kill()
        self.oracle.kill(client.index)
        self._restart(tape, client)

    def _wait_for_the_client(self, node: int) -> None:
        """While the client compares a file that makes way, the name may show for an instant what is about to come, or
        nothing. Who writes in that instant finds the writing under another name: kept, but not as the model says."""
        disk = self.clients[node].disk
        while (own := disk.root.children.get(OWN_FOLDER)) and (box := own.children.get("moving")) and box.children:
            self.scheduler.sleep(0.01)

    def _write(self, node: int, value: Value, overwrote: Value) -> None:
        disk = self.clients[node].person_disk
        if value is ABSENT:
            if overwrote is not ABSENT:
                disk.unlink((NAME,))
        else:
            in_place = self._tape.random() < 0.5
            handle = disk.open_to_write((NAME if in_place else "file.new~",), create=True)
            handle.truncate(0)
            handle.write_at(0, value.encode())
            handle.close()
            if not in_place:
                disk.rename(("file.new~",), (NAME,))
            self.ledger.seen.add(value.encode())
        self.oracle.write(node, value, overwrote)
        self.scheduler.trace.append((self.scheduler.now, f"person{node}", "writes", value))

    def _look(self, node: int) -> tuple[Value, set[str]]:
        """The file's value, and those of its conflicted copies."""
        value, copies = ABSENT, set()
        for path, entry in walk(self.clients[node].disk):
            assert entry.content is not None
            if path == (NAME,):
                value = entry.content.decode()
            elif parse(path[-1]) is not None or "(recovered" in path[-1]:
                copies.add(entry.content.decode())
        return value, copies


def _complaint(seed: int) -> str | None:
    world = ModelWorld(seed)
    try:
        world.run()
    except (Unexplained, Stuck, AssertionError) as error:
        return f"seed {seed}: {error}"
    finally:
        world.close()
    return None


def _complaints(seeds: range) -> list[str]:
    return [told for seed in seeds if (told := _complaint(seed)) is not None]


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_model_explains_every_history(first: int) -> None:
    told = _complaints(range(first, first + CHUNK))
    assert not told, "\n" + "\n".join(told)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS_DEEP, 500))
def test_the_model_explains_many_more_histories(first: int) -> None:
    told = _complaints(range(first, first + 500))
    assert not told, "\n" + "\n".join(told)
