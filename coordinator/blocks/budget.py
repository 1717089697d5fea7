"""A bound on the bytes of blocks that this process works on at once; whoever asks beyond it waits in line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """At most `limit` bytes are held; first come, first served, so a large request is never starved by small ones.

    Owned by the event loop. A holder that alone exceeds the limit is let in when nobody else holds anything.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes for the block of the `async with`."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    def release(self, size: int) -> None:
        self.held -= size
        self._admit()

    async def acquire(self, size: int) -> None:
        """Wait for `size` bytes; the caller gives them back with `release`."""
        if not self._line and self._fits(size):
            self.held += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled at once: give it back
                self.held -= size
            self._admit()
            raise

    def _fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self.limit

    def _admit(self) -> None:
        while self._line:
            size, turn = self._line[0]
            if turn.cancelled():
                self._line.popleft()
            elif self._fits(size):
                self._line.popleft()
                self.held += size
                turn.set_result(None)
            else:
                return
