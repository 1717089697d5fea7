"""What follows when an operation was not carried out: look again, wait, tell; ever more slowly when it fails again.

Guarantees: nothing that failed is forgotten: its nodes are held (holds.py) until it is worth another try. What looking
again does not help is told as stuck, with a sentence.
Does not: retry by itself: once the nodes are free, the next plan says what is to be done with them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from client.fs.base import FileSystem, Path
from client.sync.engine import apply
from client.sync.engine.apply import Stale, Stuck, Unavailable
from client.sync.engine.holds import Holds, Trouble
from client.sync.engine.work import Work
from client.sync.local.disk import Disk, shown
from client.sync.planner.conflicts import Naming
from client.sync.planner.plan import Busy, subjects
from client.sync.remote.feed import Feed
from client.sync.store.store import Store
from client.sync.tree import (
    DeleteLocal,
    DeleteRemote,
    Download,
    Forget,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    MoveRemote,
    Operation,
    Record,
    Upload,
)
from client.sync.workers import Result, Workers
from node.base.clock import Clock

STALE_FIRST_S: Final = 0.05
STALE_MAX_S: Final = 10.0
STALE_MAX: Final = 6  # so often it may be looked at again before it is told as stuck
IN_USE_S: Final = 0.5
IN_USE_MAX_S: Final = 60.0
STUCK_FIRST_S: Final = 5.0
STUCK_MAX_S: Final = 300.0


@dataclass
class Failures:
    """`service_since`: since when (monotonic) the service has refused operations without one being carried out."""

    store: Store
    fs: FileSystem
    workers: Workers
    clock: Clock
    random: random.Random
    feed: Feed
    disk: Disk
    holds: Holds
    naming: Callable[[], Naming]
    on_conflict: Callable[[str, str], None]
    service_since: float | None = None
    _attempts: dict[tuple[str, int], int] = field(default_factory=dict)

    def end(self, work: Work) -> None:
        """It was carried out after all."""
        self._attempts.pop(_key(work), None)
        self.service_since = None

    def end_all(self) -> None:
        self._attempts.clear()
        self.service_since = None

    def note(self, work: Work, outcome: Stale | Stuck | Unavailable) -> None:
        """The nodes of the work stay busy until it is worth another try."""
        match outcome:
            case Stale():
                self._look_again(work, outcome)
            case Stuck():
                path = self._path(work.operation)
                delay = self._delay(work, STUCK_FIRST_S, STUCK_MAX_S)
                self._hold(work, delay, trouble=Trouble(outcome, path))
                self.store.told.add_failure(self.clock.now(), path, outcome.reason)
            case Unavailable(error):
                self.feed.fail(error)
                if self.service_since is None:
                    self.service_since = self.clock.monotonic()
                # It may have been done all the same: what the feed is telling just now may be older than that.
                delay = self._delay(work, STALE_FIRST_S, STALE_MAX_S)
                self._hold(work, delay, fetch=self.feed.ticket)

    def _look_again(self, work: Work, outcome: Stale) -> None:
        before = self._attempts.get(_key(work), 0)
        delay = 0.0
        if before or outcome.in_use:
            delay = self._delay(work, STALE_FIRST_S, IN_USE_MAX_S if outcome.in_use else STALE_MAX_S)
        else:
            self._attempts[_key(work)] = 1
        if outcome.local and work.places and before:
            self._clear_way(work)
        fetch = scan = 0
        if outcome.remote:
            fetch = self.feed.ticket
            self.feed.want()
            if before:
                self.feed.look_up_root()
        if outcome.local:
            scan = self.disk.scans_begun + 1
            self.disk.want(work.folders(self.store))
        if outcome.in_use:
            delay = max(delay, IN_USE_S)
        trouble = self._unchanging(work.operation, outcome) if before >= STALE_MAX else None
        self._hold(work, delay, fetch=fetch, scan=scan, trouble=trouble)

    def _hold(self, work: Work, delay: float, *, fetch: int = 0, scan: int = 0, trouble: Trouble | None = None) -> None:
        not_before = self.clock.monotonic() + delay
        self.holds.hold(subjects(work.operation), not_before=not_before, fetch=fetch, scan=scan, trouble=trouble)

    def _unchanging(self, operation: Operation, outcome: Stale) -> Trouble:
        path = self._path(operation)
        if outcome.in_use or (outcome.local and isinstance(operation, Upload)):
            reason = f"{path} is being written by a program; it is brought up to date when that has ended."
        elif outcome.local:
            reason = (
                f"{path} cannot be brought up to date: something that is not synced is in its way on this computer."
            )
        else:
            reason = (
                f"{path} cannot be brought up to date now: the service says that it changed, and does not tell how."
            )
        return Trouble(Stuck(reason, "in_the_way"), path)

    def _delay(self, work: Work, first_s: float, max_s: float) -> float:
        attempts = self._attempts[_key(work)] = self._attempts.get(_key(work), 0) + 1
        return min(max_s, first_s * 2.0 ** min(attempts - 1, 16)) * (0.5 + self.random.random() / 2)

    def _path(self, operation: Operation) -> str:
        match operation:
            case Record(synced) | Forget(synced):
                path: Path | None = self.store.local_path(synced.local_id)
            case Upload(local) | MoveLocal(local) | DeleteLocal(local) | MakeRemoteFolder(local):
                path = self.store.local_path(local.id)
            case Download(node) | MoveRemote(node) | DeleteRemote(node) | MakeLocalFolder(node):
                path = self.store.remote_path(node.id)
        return shown(path or ())

    # --- what stands in the way ---------------------------------------------------------------------------------

    def _clear_way(self, work: Work) -> None:
        """The service has the name: what can never be synced, such as a symbolic link, takes a conflicted copy's."""
        parent_id, name = work.places[-1]
        above = self.store.local_path(parent_id)
        if above is not None:
            path = (*above, name)
            job = partial(apply.clear_way, self.fs, path, self.naming())
            self.workers.submit(job, partial(self._way_cleared, path))

    def _way_cleared(self, path: Path, result: Result[Path | None]) -> None:
        if (copy := result.get()) is not None:
            self.on_conflict(shown(path), shown(copy))
            with self.store.transaction():
                self.store.told.add_conflict(shown(path), shown(copy), self.clock.now())


def _key(work: Work) -> tuple[str, int]:
    nodes: Busy = subjects(work.operation)
    return ("local", min(nodes.local)) if nodes.local else ("remote", min(nodes.remote))
