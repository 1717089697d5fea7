"""What a client does when it has nothing to do: see now and then whether disk, database and service say the same.

A difference that two checks in a row find, both begun and ended in sync with nothing changed in between, is a mistake
somewhere: it is told, and both sides are looked at anew from nothing (a scan, a listing), which mends it.
Does not: compare (check.py), or keep anything from going on: it runs in a worker and a change makes it void.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from client.errors import ClientError
from client.sync.check import Checked, Difference, lasting
from client.sync.engine.loop import Engine
from client.sync.workers import Result, Workers
from node.base.clock import Clock

FIRST_S: Final = 600.0
EVERY_S: Final = 6 * 3600.0
AGAIN_S: Final = 30.0
_TOLD_MAX: Final = 20


@dataclass
class IdleCheck:
    """Owned by the control thread; `compare` runs in a worker."""

    engine: Engine
    compare: Callable[[], Checked]
    workers: Workers
    clock: Clock
    _due: float = field(init=False)
    _running: bool = False
    _cursor: str | None = None
    _suspected: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._due = self.clock.monotonic() + FIRST_S

    def step(self) -> None:
        """Begin a check when one is due and the folder is at rest."""
        if self._running or self.clock.monotonic() < self._due or not self.engine.is_settled():
            return
        self._running = True
        self._cursor = self.engine.remote.cursor
        self.workers.submit(self.compare, self._compared)

    def _compared(self, result: Result[Checked]) -> None:
        self._running = False
        self._due = self.clock.monotonic() + AGAIN_S
        try:
            found = result.get().differences
        except (OSError, sqlite3.Error, ClientError):
            return  # the disk, the database or the service does not answer: the engine tells that
        if not self.engine.is_settled() or self.engine.remote.cursor != self._cursor:
            return
        certain = lasting(self._suspected, found)
        self._suspected = [] if certain else found
        if certain:
            self._mend(certain)
        elif found:
            self.engine.disk.want_all()
            self.engine.feed.want()
        if certain or not found:
            self._due = self.clock.monotonic() + EVERY_S

    def _mend(self, certain: list[Difference]) -> None:
        store, now = self.engine.store, self.clock.now()
        with store.transaction():
            for one in certain[:_TOLD_MAX]:
                store.told.add_failure(now, one.path, f"a check found a difference between {one.between}: {one.what}")
        self.engine.remote.relist()
        self.engine.disk.want_all()
        self.engine.feed.want()
