"""The control loop of one synced folder: absorbs what both sides tell, plans, hands operations to workers.

Guarantees: only this thread writes the store. A node that an operation is at work on is left out of the plan, and after
the service was changed until the feed has told that change, so that older news is never taken for a change of
somebody else. What fails is tried again, ever more slowly, and shown; nothing that failed is called in sync. Many
deletes at once wait for a yes. All time, randomness, disk, network and threads are passed in.
Does not: decide what is to be done (plan.py), carry it out (apply.py, carry.py).

Everything here survives a crash at any instant because nothing here is state: the trees are observations, and what is
in flight is derived from them again (apply.py says how for each operation).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from client.errors import sentence
from client.fs.base import FileSystem
from client.sync.engine.absorb import Absorber
from client.sync.engine.apply import Gone, NotEmpty, Outcome, Placed, Stale, Told
from client.sync.engine.breaker import DeleteBreaker
from client.sync.engine.failures import Failures
from client.sync.engine.holds import Holds, Trouble
from client.sync.engine.lanes import Lanes
from client.sync.engine.prepare import Preparer
from client.sync.engine.rules import Rules
from client.sync.engine.sent import SentUploads
from client.sync.engine.telling import Telling
from client.sync.engine.work import Work
from client.sync.local.disk import Disk, shown
from client.sync.local.findings import DirtyFolder
from client.sync.local.selection import Selection
from client.sync.planner.conflicts import Naming
from client.sync.planner.plan import operations, subjects
from client.sync.remote.feed import Feed
from client.sync.remote.service import Service
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.transfer.carry import Carrier
from client.sync.tree import (
    DeleteRemote,
    Forget,
    MakeRemoteFolder,
    MoveRemote,
    Operation,
    PendingUpload,
    Record,
    Upload,
)
from client.sync.workers import Result, Workers
from node.base.clock import Clock

EVENTS_AT_ONCE: Final = 200
QUEUED_MAX: Final = 1000
IN_USE: Final = "a program keeps writing to it; it is synced when that has ended"
PASS_FREE_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0


class State(StrEnum):
    IN_SYNC = "in_sync"
    SYNCING = "syncing"
    BLOCKED = "blocked"
    OFFLINE = "offline"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`who` names this person on this device in conflicted copies. More than `deletes_max` deletes that are more than
    `deletes_share` of all files wait for `allow_deletes`."""

    who: str
    allow_deletes: bool = False
    deletes_max: int = 50
    deletes_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """What the folder is doing. `reason` is a sentence when it is blocked or offline, or waits for a program."""

    state: State
    reason: str | None
    queued: int
    conflicts: int


class Watcher(Protocol):
    """Tells where something may have changed."""

    def wait(self) -> list[DirtyFolder] | None:
        """Blocks until there is something; None: anything may have changed. Runs in a worker."""


@dataclass
class Engine:
    """`_pass` is the plan being carried out, `_pass_found` whether it held anything; `_changed` tells that the trees
    have changed since it began."""

    store: Store
    fs: FileSystem
    service: Service
    carrier: Carrier
    workers: Workers
    clock: Clock
    random: random.Random
    settings: Settings
    feed: Feed
    disk: Disk
    remote: RemoteSide
    watcher: Watcher | None = None
    load_rules: Callable[[], Selection] | None = None
    on_conflict: Callable[[str, str], None] = lambda path, copy: None
    on_mistake: Callable[[Exception], None] = lambda error: None
    _pass: Iterator[Operation] | None = None
    _pass_found: bool = False
    _pass_took_s: float = 0.0
    _not_before: float = 0.0  # of the next pass
    _changed: bool = True
    _settled: bool = False
    _watching: bool = False

    def __post_init__(self) -> None:
        self.feed.on_change = self.disk.on_change = self.note_change
        self.feed.on_announced = self._prefetch
        self.store.begin_session()
        self._telling = Telling(self.store, self._naming)
        self._rules = Rules(
            *(self.store, self.fs, self.disk, self.remote, self.workers, self.clock, self.load_rules),
            on_change=self.note_change,
        )
        self._breaker = DeleteBreaker(
            *(self.store, self.disk, self.remote, self.clock, self._naming),
            count_max=self.settings.deletes_max,
            share_max=self.settings.deletes_share,
            allowed=self.settings.allow_deletes,
        )
        self._preparer = Preparer(self.store, self.fs, self.service, self.remote, self.disk, self._naming)
        self._lanes = Lanes(self.workers, self.carrier, self._done)
        self._sent = SentUploads(self.store, self._naming)
        self._holds = Holds(self.feed, self.disk, self.clock, self.note_change)
        self._absorber = Absorber(self.store, self.remote, self.disk, self.clock, self.on_conflict)
        self._failures = Failures(
            *(self.store, self.fs, self.workers, self.clock, self.random, self.feed, self.disk, self._holds),
            naming=self._naming,
            on_conflict=self.on_conflict,
        )

    # --- what others ask ----------------------------------------------------------------------------------------

    def step(self, deadline: float | None) -> None:
        """Do what is due, then wait until something happens or the deadline (monotonic); not when both sides have just
        come to agree, which somebody may wait for."""
        self._watch()
        settled_before = self._settled
        timers = [self.feed.step(), self.disk.step(), self._operate(), deadline]
        if self._settled and not settled_before:
            return
        until = min((timer for timer in timers if timer is not None), default=None)
        if self.workers.next_event(until):
            now = self.clock.monotonic()
            for _ in range(EVENTS_AT_ONCE):
                if not self.workers.next_event(now):
                    break

    def note_change(self) -> None:
        """The trees, or what the plan depends on, may be different now."""
        self._changed = True
        self._settled = False
        self._telling.note_change()

    def reload_rules(self) -> None:
        """What is left out was chosen anew, or the ignore file could not be read."""
        self._rules.reload()

    def allow_deletes(self) -> None:
        """Somebody says yes to all that is gone now."""
        self._breaker.allowed = True
        self.note_change()

    def tell_mistake(self, path: str, error: Exception) -> None:
        """A mistake of our own, in something that only saves time or space: syncing goes on."""
        with self.store.transaction():
            reason = f"a mistake in Holdfast itself ({type(error).__name__}: {error}); syncing goes on"
            self.store.told.add_failure(self.clock.now(), path, reason)
        self.on_mistake(error)

    def is_settled(self) -> bool:
        """Both sides agree, as far as anybody can know now."""
        return self._settled and self.feed.trouble is None

    def is_waiting(self) -> bool:
        """Nothing goes on without a change outside: a person's yes, free space, the service coming back, a program that
        writes no more."""
        if self.feed.root_trouble is not None:
            return True
        if self.feed.trouble is not None or self.disk.trouble is not None:
            return True
        return self.asks_for_yes() or (bool(self.troubles or self.disk.in_use) and self._is_quiet())

    def asks_for_yes(self) -> bool:
        """Whether only `allow_deletes` is missing."""
        return self._breaker.held is not None and self._is_quiet()

    def failing_since(self) -> float | None:
        """Since when (monotonic) the service has refused operations without one being carried out, although it answers
        otherwise; None while something is under way."""
        return self._failures.service_since if self._lanes.active == 0 else None

    def needs_a_person(self) -> bool:
        """Waiting alone will not change anything."""
        return self.feed.root_trouble is not None or self.feed.trouble is None

    def status(self) -> Status:
        state, reason = self.state()
        queued = 0 if state is State.IN_SYNC else max(1, self.store.dirty_count() + self.disk.unread)
        return Status(state, reason, queued, len(self.conflicts()))

    def state(self) -> tuple[State, str | None]:
        if self.feed.root_trouble is not None:
            return State.BLOCKED, self.feed.root_trouble
        if self.disk.trouble is not None:
            return State.BLOCKED, self.disk.trouble
        if self.feed.trouble is not None:
            return State.OFFLINE, sentence(self.feed.trouble)
        if self._breaker.held is not None:
            return State.BLOCKED, self._breaker.held
        if (troubles := self.troubles) and self._is_quiet():
            return State.BLOCKED, troubles[0].stuck.reason
        if self.is_settled():
            return State.IN_SYNC, None
        in_use = self.disk.in_use if self._is_quiet() else []
        return State.SYNCING, f"{shown(in_use[0])}: {IN_USE}." if in_use else None

    @property
    def troubles(self) -> list[Trouble]:
        """What cannot be brought up to date now."""
        return self._holds.troubles

    def conflicts(self) -> list[tuple[str, str]]:
        """(path, copy) of the conflicted copies that are still there."""
        return self._telling.conflicts()

    def _is_quiet(self) -> bool:
        """Whether nothing is under way that is not held."""
        at_work = self._lanes.active or self._pass is not None or self._changed or self._rules.is_removing
        return not at_work and self.disk.is_quiet

    # --- the watcher --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.watcher is not None and not self._watching:
            self._watching = True
            self.workers.submit(self.watcher.wait, self._watched)

    def _watched(self, result: Result[list[DirtyFolder] | None]) -> None:
        self._watching = False
        folders = result.get()
        if folders is None:
            self.disk.want_all()
        else:
            self.disk.want(folders)
        self.note_change()

    # --- planning -----------------------------------------------------------------------------------------------

    def _operate(self) -> float | None:
        """Release what waited long enough, plan, start what there are slots for; when to be called again."""
        if not self._lanes.active:
            self.remote.forget_told()
        timer = self._holds.release()
        if not self._may_plan():
            return timer
        timer = _sooner(timer, self._rules.next_due)
        self._sent.resolve(self._holds.busy)
        if self._pass is None and self._changed and self.clock.monotonic() < self._not_before:
            timer = _sooner(timer, self._not_before)
        else:
            self._pull()
        self._lanes.start()
        was_settled, self._settled = self._settled, self._has_settled()
        if self._settled and not was_settled:
            self._come_to_rest()
        return timer

    def _may_plan(self) -> bool:
        if not (self.feed.is_ready and self.disk.is_ready) or self.feed.root_trouble is not None:
            return False
        return self._rules.check() and self.feed.trouble is None

    def _has_settled(self) -> bool:
        at_work = self._pass is not None or self._pass_found or self._changed or self._lanes.active
        waiting = not self._holds.is_empty or not self._sent.is_empty or self._breaker.held is not None
        return not (at_work or waiting or self._rules.is_removing) and self.feed.is_idle and self.disk.is_idle

    def _come_to_rest(self) -> None:
        self._telling.come_to_rest()
        self._failures.end_all()
        self._breaker.allowed = False

    def _pull(self) -> None:
        """Take operations from the plan while there is room."""
        began = self.clock.monotonic()
        if self._pass is None:
            if not self._changed:
                return
            self._changed = self._pass_found = False
            self._pass_took_s = 0.0
            self._breaker.check()
            self._pass = operations(self.store, self._naming(), self._holds.busy)
        else:
            self._breaker.check_again()
        planned = self._take_from(self._pass)
        now = self.clock.monotonic()
        self._pass_took_s += now - began
        if self._pass is None:
            # A pass looks at all that differs: with very much of that, one for every finished operation is too many.
            self._not_before = now + min(PAUSE_MAX_S, 2 * self._pass_took_s - 2 * PASS_FREE_S)
            self._changed |= self._pass_found  # what was done may allow more
        for operation in planned:
            self._queue(operation)

    def _take_from(self, plan: Iterator[Operation]) -> list[Operation]:
        """What is to be carried out; what both sides agree on is written down at once."""
        planned: list[Operation] = []
        with self.store.transaction():
            while self._lanes.active + len(planned) < QUEUED_MAX:
                operation = next(plan, None)
                match operation:
                    case None:
                        self._pass = None
                        break
                    case Record(synced):
                        self.disk.end_keeping(synced.local_id)
                        self.store.put_synced(synced)
                    case Forget(synced):
                        self.store.drop_synced(synced.id)
                    case _ if self._breaker.holds_back(operation) or self._sent.meets(operation):
                        continue
                    case _:
                        self._holds.take(subjects(operation))
                        planned.append(operation)
                self._pass_found = True
        return planned

    def _queue(self, operation: Operation) -> None:
        work = self._preparer.prepare(operation)
        if work is None:
            self._holds.free(subjects(operation))
            self._changed = True
            return
        self._sent.begin(operation)
        self.disk.busy.update(work.places)
        self._lanes.add(work)

    def _naming(self) -> Naming:
        return Naming(self.settings.who, datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%d"))

    # --- outcomes -----------------------------------------------------------------------------------------------

    def _done(self, batch: list[tuple[Work, Outcome]]) -> None:
        with self.store.transaction():
            for work, outcome in batch:
                self._finish(work, outcome)
        self.note_change()

    def _finish(self, work: Work, outcome: Outcome) -> None:
        self.disk.busy.difference_update(work.places)
        asked = isinstance(work.operation, MakeRemoteFolder | Upload | MoveRemote | DeleteRemote)
        if asked and isinstance(outcome, Told | Gone) and work.asked_at < self.remote.listed_anew_at:
            # The service was put back to an older state since: what it did before that may be undone.
            outcome = Stale(remote=True)
        if isinstance(outcome, Told | Placed | Gone | NotEmpty):
            self._succeeded(work, outcome)
        else:
            self._failures.note(work, outcome)
        self._sent.end(work.operation, outcome)
        if work.places:
            self._after_local(work, isinstance(outcome, Placed | Gone))

    def _succeeded(self, work: Work, outcome: Told | Placed | Gone | NotEmpty) -> None:
        self._failures.end(work)
        if isinstance(outcome, Gone):
            self._breaker.count(work.operation)
        changed = self._absorber.absorb(work, outcome)
        self._holds.free(subjects(work.operation))
        if changed is not None:
            self._holds.hold(changed, fetch=self.feed.ticket)
            self.feed.want()

    def _after_local(self, work: Work, done: bool) -> None:
        """A scan passes over places where an operation is at work, and over all in a folder there: one that came by
        looks there again."""
        if done:
            local = getattr(work.operation, "local", None)
            self.disk.touched((local.id,) if local is not None else (), work.places)
        if self.disk.is_scanning or self.disk.scans_begun != work.scans_begun:
            for folder in [*work.folders(self.store), *work.folders_at_work(self.store)]:
                self.disk.want_soon(folder, 0.1)

    # --- announced versions -------------------------------------------------------------------------------------

    def _prefetch(self, rows: tuple[PendingUpload, ...]) -> None:
        for row in rows:
            path = None if row.parent_id is None else self.remote.child_path(row.parent_id, row.name)
            if path is not None:
                self.workers.submit(partial(self.carrier.prefetch, row, path), partial(self._prefetched, row.name))

    def _prefetched(self, name: str, result: Result[None]) -> None:
        """It only saves time, so what it meets is left to the download to tell; but for mistakes of our own."""
        if result.error is not None:
            self.tell_mistake(name, result.error)


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((timer for timer in (one, other) if timer is not None), default=None)
