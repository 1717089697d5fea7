"""The sync engine with everything around it in memory: one client, its disk, its service, time that it waits for."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.engine.loop import Engine, Settings
from client.sync.engine.rules import RulesUnreadable
from client.sync.local.disk import Disk
from client.sync.local.findings import DirtyFolder
from client.sync.local.ignore import IGNORE_FILE
from client.sync.local.selection import Selection
from client.sync.remote.feed import Feed
from client.sync.remote.side import RemoteSide
from client.sync.store.reader import Reader
from client.sync.store.store import Store
from client.sync.transfer.contents import Tools
from client.sync.transfer.jobs import OneByOne
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.transfers import Transfers
from client.sync.workers import Result, run
from tests.kit.sim_service import SimConnection, SimService, sim_api


class ManualClock:
    """Time passes only when nothing is left to do."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return 1_790_000_000.0 + self.at


class InOrder:
    """Jobs are done one after the other when the control thread waits; when there is none time goes on to the deadline.

    `kept` takes the jobs for which it says True: they never end.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = deque()
        self.done = 0

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self._jobs.append((job, done))

    def next_event(self, deadline: float | None) -> bool:
        if self._jobs:
            job, done = self._jobs.popleft()
            self.done += 1
            done(run(job))
            return True
        if deadline is not None:
            self._clock.at = max(self._clock.at, deadline)
        return False


class Troubled:
    """An API some of whose calls fail: `fails` maps a method's name to what it raises."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.fails: dict[str, Exception] = {}
        self.after: dict[str, Callable[[], object]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._api, name)
        if not callable(real):
            return real

        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                raise self.fails[name]
            answer = real(*args, **more)
            if name in self.after:
                self.after.pop(name)()
            return answer

        return call


class Rig:
    """One client and its service."""

    def __init__(self, *, allow_deletes: bool = False, service: SimService | None = None) -> None:
        self.clock = ManualClock()
        self.service = service or SimService()
        self.others = sim_api(SimConnection(self.service, 99))  # somebody else, who is never troubled
        self.api = Troubled(sim_api(SimConnection(self.service, 1)))
        self.disk = FakeDisk(self.clock)
        self.fs = FakeFileSystem(self.disk)
        self.fs.write_marker(b"{}")
        self.store = Store(None)
        self.workers = InOrder(self.clock)
        self.tape = random.Random(1)
        self.conflicts: list[tuple[str, str]] = []
        self.mistakes: list[Exception] = []
        self.selection = Selection()  # what the ignore file says when it is read the next time
        self.rules_trouble: str | None = None  # why it cannot be read
        reader = Reader(self.store)
        remote = RemoteSide(self.store, Selection(), 1)
        self.feed = Feed(remote, self.api, self.workers, self.clock, self.tape, "/", False, lambda: None)
        self.local = Disk(
            *(self.fs, self.store, reader, self.workers, self.clock, self.tape, Selection(), set()),
            on_change=lambda: None,
            pause=self.pause,
        )
        tools = Tools(
            fs=self.fs,
            service=self.api,
            known=reader,
            parallel=OneByOne(),
            up=RateLimit(None, self.clock, self.pause),
            down=RateLimit(None, self.clock, self.pause),
            pause=self.pause,
            new_key=lambda: f"{self.tape.getrandbits(64):x}",
        )
        self.engine = Engine(
            store=self.store,
            fs=self.fs,
            service=self.api,
            carrier=Transfers(tools, self.clock),
            workers=self.workers,
            clock=self.clock,
            random=self.tape,
            settings=Settings(who="Ann", allow_deletes=allow_deletes),
            feed=self.feed,
            disk=self.local,
            remote=remote,
            load_rules=self._load_rules,
            on_conflict=lambda path, copy: self.conflicts.append((path, copy)),
            on_mistake=self.mistakes.append,
        )

    def pause(self, seconds: float) -> None:
        self.clock.at += seconds

    def _load_rules(self) -> Selection:
        if self.rules_trouble is not None:
            raise RulesUnreadable(path=IGNORE_FILE, reason=self.rules_trouble)
        return self.selection

    def look(self) -> None:
        """Somebody changed something on one of the sides."""
        self.local.want([DirtyFolder((), recursive=True)])
        self.feed.want()
        self.engine.note_change()

    def run(self, until: Callable[[], bool] | None = None, *, steps: int = 3000) -> None:
        """Until both sides agree (or `until`)."""
        until = until or self.engine.is_settled
        for _ in range(steps):
            self.engine.step(self.clock.at + 1.0)
            if until():
                return
        raise AssertionError(f"not after {steps} steps: {self.engine.status()}")

    def settle(self) -> None:
        self.look()
        self.run()

    def write(self, name: str, data: bytes) -> None:
        self.disk.user.write_in_place(tuple(name.split("/")), data)

    def upload(self, path: str, data: bytes) -> None:
        """Somebody else stores a file."""
        rig = Rig(service=self.service)
        rig.run()
        rig.write(path.strip("/"), data)
        rig.settle()

    def files(self) -> dict[str, bytes]:
        return {"/".join(path): data for path, data in self.disk.user.files().items()}

    def remote(self) -> set[str]:
        return set(self.service.tree())
