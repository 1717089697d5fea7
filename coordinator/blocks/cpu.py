"""The CPU pool: where work of more than a few milliseconds goes (hash, seal, code, passwords).

Guarantees: at most `threads` functions run at once; at most `queue_max` wait. Does not: bound the memory that waiting
work holds (budget.py). Only functions that release the GIL for their bulk run side by side.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from coordinator.protocol.errors import Unavailable

_Args = TypeVarTuple("_Args")
_R = TypeVar("_R")


class CpuPool:
    """Owned by the event loop; the functions run in the pool's threads."""

    def __init__(self, threads: int = 0, *, queue_max: int = 1024) -> None:
        """`threads` 0 means one for each core that this process may use."""
        self.threads = threads or len(os.sched_getaffinity(0))
        self._queue_max = queue_max
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="cpu")
        self._in_flight = 0

    @property
    def running(self) -> int:
        return min(self._in_flight, self.threads)

    @property
    def queued(self) -> int:
        return max(0, self._in_flight - self.threads)

    async def run(self, function: Callable[[*_Args], _R], *args: *_Args) -> _R:
        """`function(*args)` in a thread. Raises what it raises, and Unavailable when the queue is full.

        A caller that is cancelled leaves at once; a function that has begun still runs to its end.
        """
        if self.queued >= self._queue_max:
            raise Unavailable(reason="the CPU queue is full")
        self._in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        finally:
            self._in_flight -= 1

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        self._executor.shutdown(wait=True, cancel_futures=True)
