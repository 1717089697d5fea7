"""Threads for transfers: a bounded pipeline from one producer to a few workers.

The work waits for the network or runs in code that releases the interpreter lock (hashing, TLS), so threads suffice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Generic, TypeVar

from coordinator.protocol.hashing import BLOCK_BYTES

T = TypeVar("T")
R = TypeVar("R")
BUFFERS_MAX: Final = 8


class _Pipeline(Generic[T]):
    """What one run's threads share; `_state` guards every field."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._state = threading.Condition()
        self._queue: deque[T] = deque()
        self._closed = False
        self._running = 0
        self.error: BaseException | None = None

    def start(self, target: Callable[[], None]) -> None:
        self._running += 1
        # Daemons: Ctrl-C must not wait for a transfer's time-out, and what is half-done is continued the next time.
        threading.Thread(target=self._guard, args=(target,), daemon=True).start()

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread, which raises it
            self.stop(error)
        with self._state:
            self._running -= 1
            self._state.notify_all()

    def stop(self, error: BaseException) -> None:
        with self._state:
            self.error = self.error or error
            self._closed = True
            self._queue.clear()
            self._state.notify_all()

    def feed(self, items: Iterable[T]) -> None:
        for item in items:
            with self._state:
                self._state.wait_for(lambda: self._closed or len(self._queue) < self._ahead)
                if self._closed:
                    return
                self._queue.append(item)
                self._state.notify_all()
        with self._state:
            self._closed = True
            self._state.notify_all()

    def drain(self, work: Callable[[T], object]) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                item = self._queue.popleft()
                self._state.notify_all()
            work(item)

    def wait(self) -> None:
        with self._state:
            self._state.wait_for(lambda: self._running == 0)


def for_each(items: Iterable[T], work: Callable[[T], object], *, workers: int, ahead: int = 1) -> None:
    """Do `work` on every item in `workers` threads; one more thread produces the items, at most `ahead` beforehand.

    Returns when all is done. Raises the first error after no thread is running any more; no further item is begun
    then. KeyboardInterrupt returns at once and leaves the threads to end with the process.
    """
    pipeline: _Pipeline[T] = _Pipeline(ahead)
    pipeline.start(lambda: pipeline.feed(items))
    for _ in range(workers):
        pipeline.start(lambda: pipeline.drain(work))
    try:
        pipeline.wait()
    except KeyboardInterrupt as interrupt:
        pipeline.stop(interrupt)
        raise
    if pipeline.error is not None:
        raise pipeline.error


class Buffers:
    """A bounded stock of block-sized buffers: what limits the memory of all transfers of one process."""

    def __init__(self, buffers_max: int = BUFFERS_MAX) -> None:
        self._permits = threading.BoundedSemaphore(buffers_max)
        self._free: deque[bytearray] = deque()

    @contextmanager
    def take(self) -> Iterator[bytearray]:
        """A buffer of BLOCK_BYTES with arbitrary contents; waits while all are in use."""
        with self._permits:
            try:
                buffer = self._free.pop()
            except IndexError:
                buffer = bytearray(BLOCK_BYTES)
            try:
                yield buffer
            finally:
                self._free.append(buffer)


class _Task(Generic[R]):
    """One call in a thread of its own."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._result: R
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread, which raises it
            self._error = error

    def result(self) -> R:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


def in_order(items: Iterable[T], work: Callable[[T], R], at_once: int) -> Iterator[R]:
    """What `work` makes of each item, in the items' order, with `at_once` of them under way or waiting to be taken."""
    running: deque[_Task[R]] = deque()
    for item in items:
        if len(running) == at_once:
            yield running.popleft().result()
        running.append(_Task(partial(work, item)))
    while running:
        yield running.popleft().result()
