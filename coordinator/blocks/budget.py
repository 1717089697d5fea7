"""A bound on the bytes of blocks that this process works on at once; whoever asks beyond it waits in line.

A body that is being received holds its bytes for as long as its client likes: one that sends nothing while others wait
is made to leave, or a few lines that went dead would stop all the others until their time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

# So long a sender may be silent while others wait: more than a mobile network's pauses, less than a person's patience.
PATIENCE_S: Final = 5.0
CHECK_S: Final = 1.0


class Holder(Protocol):
    """Who holds bytes that somebody else is still sending."""

    @property
    def stalled_s(self) -> float:
        """For how many seconds the sender has owed the next byte; 0 while it is not its turn."""

    def give_up(self) -> None:
        """Stop waiting for the sender; what is held is released soon after."""


class ByteBudget:
    """At most `limit` bytes are held; first come, first served, so a large request is never starved by small ones.

    Owned by the event loop. A holder that alone exceeds the limit is let in when nobody else holds anything.
    """

    def __init__(self, limit: int, *, patience_s: float = PATIENCE_S, check_s: float = CHECK_S) -> None:
        self.limit = limit
        self._patience_s = patience_s
        self._check_s = check_s
        self._holders: set[Holder] = set()
        self.held = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @asynccontextmanager
    async def hold(self, size: int, holder: Holder | None = None) -> AsyncIterator[None]:
        """Hold `size` bytes for the block of the `async with`; `holder` may have to leave it early."""
        await self.acquire(size)
        if holder is not None:
            self._holders.add(holder)
        try:
            yield
        finally:
            if holder is not None:
                self._holders.discard(holder)
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
            while not turn.done():
                await asyncio.wait((turn,), timeout=self._check_s)
                if not turn.done():
                    self._end_stalled()
        except asyncio.CancelledError:
            if turn.done():  # admitted and cancelled at once: give it back
                self.held -= size
            turn.cancel()
            self._admit()
            raise

    def _end_stalled(self) -> None:
        for holder in tuple(self._holders):
            if holder.stalled_s > self._patience_s:
                holder.give_up()

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
