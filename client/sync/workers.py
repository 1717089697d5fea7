"""Threads that do what waits: disk, network, hashing. What they give is looked at in the control thread.

Guarantees: `done` callbacks run one at a time, in the thread that calls `next_event`. A job that never returns holds up
nothing but its own thread; at the end of the process nobody waits for it.
Does not: bound what is submitted (engine/lanes.py does, by kind).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from node.base.clock import Clock, SystemClock

T = TypeVar("T")
THREADS_MAX: Final = 24
_WAIT_MAX_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What a job gave: a value, or what it raised."""

    value: T | None = None
    error: Exception | None = None

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


def run(job: Callable[[], T]) -> Result[T]:
    """Do the job here and now."""
    try:
        return Result(job())
    except Exception as error:  # noqa: BLE001  # handed to the control thread, which decides
        return Result(error=error)


class Workers(Protocol):
    """Real: threads. In the simulation: tasks under a seeded scheduler."""

    def submit(self, job: Callable[[], T], done: Callable[[Result[T]], None]) -> None:
        """Do `job` elsewhere; `next_event` will call `done` with what it gave."""

    def next_event(self, deadline: float | None) -> bool:
        """Run one `done` that waits; False when there was none until `deadline` (monotonic; None: wait for ever)."""


class ThreadWorkers:
    """Threads are started when they are needed and stay. Every submitted job is either promised to a thread of its own,
    new or idle, or counted in `_backlog` for whoever ends next: so none waits behind a job that may never end."""

    def __init__(self, clock: Clock | None = None, threads_max: int = THREADS_MAX) -> None:
        self._clock = clock or SystemClock()
        self._threads_max = threads_max
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Result[Any]], None]] | None] = (
            queue.SimpleQueue()
        )  # None ends a thread
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._idle = 0  # threads that wait and have no job promised
        self._backlog = 0  # jobs that are promised to nobody, since there are `threads_max` threads at work
        self._threads = 0

    def submit(self, job: Callable[[], T], done: Callable[[Result[T]], None]) -> None:
        self._jobs.put((job, done))
        with self._lock:
            if self._idle:
                self._idle -= 1
                return
            if self._threads == self._threads_max:
                self._backlog += 1
                return
            self._threads += 1
        threading.Thread(target=self._work, name=f"sync-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while True:
            if (taken := self._jobs.get()) is None:
                return
            job, done = taken
            self._finish(done, run(job))
            del taken, job, done  # what they hold must not live until the next one comes
            with self._lock:
                if self._backlog:
                    self._backlog -= 1
                else:
                    self._idle += 1
                    self._lock.notify_all()

    def _finish(self, done: Callable[[Result[T]], None], result: Result[T]) -> None:
        self._events.put(lambda: done(result))

    def next_event(self, deadline: float | None) -> bool:
        try:
            if deadline is None:
                event = self._events.get()
            elif (left := deadline - self._clock.monotonic()) > 0:
                event = self._events.get(timeout=min(left, _WAIT_MAX_S))
            else:
                event = self._events.get_nowait()
        except queue.Empty:
            return False
        event()
        return True

    def end(self, timeout_s: float) -> bool:
        """Wait for all jobs to come to their end; the threads end with them. False when they have not by then. Nothing
        is submitted any more."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._idle == self._threads and not self._backlog, timeout_s):
                return False
            for _ in range(self._threads):
                self._jobs.put(None)
            return True

    def wake(self) -> None:
        """Let a waiting `next_event` return at once. Safe from signal handlers and other threads."""
        self._events.put(_nothing)


def _nothing() -> None:
    pass
