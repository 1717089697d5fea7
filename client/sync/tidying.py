"""Keeps `.holdfast` in the synced folder small: the trash, and temporary files that belong to nothing any more.

At the start and now and then, since a client may run for months. What goes wrong is told once and tried again; nothing
waits for it.
Does not: decide what is too old or too much (local/root.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from client.fs.base import OWN_FOLDER, FileSystem
from client.sync.engine.loop import Engine
from client.sync.local import root
from client.sync.workers import Result, Workers
from node.base.clock import Clock

EVERY_S: Final = 3600.0


@dataclass
class Tidying:
    """Belongs to the control thread; the chores run in a worker. `_told` is what went wrong the last time."""

    engine: Engine
    chores: Sequence[Callable[[], object]]
    workers: Workers
    clock: Clock
    _due: float | None = field(init=False)  # None while it is being done
    _told: str | None = None

    def __post_init__(self) -> None:
        self._due = self.clock.monotonic()

    def step(self) -> None:
        if self._due is not None and self.clock.monotonic() >= self._due:
            self._due = None
            self.workers.submit(partial(_do_all, self.chores), self._done)

    def _done(self, result: Result[OSError | None]) -> None:
        self._due = self.clock.monotonic() + EVERY_S
        if result.error is not None:
            self.engine.tell_mistake(OWN_FOLDER, result.error)
            return
        error = result.get()
        told = None if error is None else f"it could not be tidied: {error.strerror or error}"
        if told is not None and told != self._told:
            with self.engine.store.transaction():
                self.engine.store.told.add_failure(self.clock.now(), OWN_FOLDER, told)
        self._told = told


def chores(fs: FileSystem, clock: Clock) -> list[Callable[[], object]]:
    return [partial(root.remove_old_parts, fs, clock), partial(root.empty_trash, fs, clock)]


def _do_all(chores: Sequence[Callable[[], object]]) -> OSError | None:
    """One that fails keeps no other from being done; what the last of those met."""
    failed: OSError | None = None
    for chore in chores:
        try:
            chore()
        except OSError as error:
            failed = error
    return failed
