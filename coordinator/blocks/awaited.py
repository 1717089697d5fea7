"""Who waits for blocks of announced versions, and who tells them that one has arrived.

A block that this worker records wakes its waiters at once; what other workers record is looked for in the database,
for all waiters together, every POLL_S. Being woken is a hint: the waiter looks for itself, with its own rights.

Guarantees: waiting holds no thread, no database connection and no block; while nobody waits nothing is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from coordinator.metadata.values import AccountId
from coordinator.protocol.errors import ApiError

_log = logging.getLogger(__name__)

POLL_S: Final = 0.1
WAITERS_MAX: Final = 1024

Key = tuple[AccountId, bytes]  # and the block's hash


class Waiting:
    """One waiter's place."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        self._told.set()

    async def wait(self, timeout_s: float) -> None:
        """Until the block may have arrived, at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        self._told.clear()


class AwaitedBlocks:
    """Owned by the event loop; `run` is its one task."""

    def __init__(self, find_recorded: Callable[[Collection[Key]], Awaitable[Iterable[Key]]]) -> None:
        """`find_recorded` says which of these blocks the database knows, for whomever."""
        self._find_recorded = find_recorded
        self._waiting: dict[Key, list[Waiting]] = {}
        self._someone = asyncio.Event()
        self._draining = False
        self.count = 0

    @property
    def full(self) -> bool:
        """Nobody more may wait now."""
        return self._draining or self.count >= WAITERS_MAX

    @contextmanager
    def expect(self, account_id: AccountId, digest: bytes) -> Iterator[Waiting]:
        """A place to wait for a block; take it before looking whether the block is there."""
        key, place = (account_id, digest), Waiting()
        places = self._waiting.setdefault(key, [])
        places.append(place)
        self.count += 1
        self._someone.set()
        try:
            yield place
        finally:
            self.count -= 1
            places.remove(place)
            if not places:
                del self._waiting[key]

    def recorded(self, account_id: AccountId, digests: Iterable[bytes]) -> None:
        """These blocks are durable and recorded."""
        if self._waiting:
            for digest in digests:
                self._tell((account_id, digest))

    def drain(self) -> None:
        """Wake everyone; who looks at `full` goes."""
        self._draining = True
        for key in self._waiting:
            self._tell(key)

    async def run(self) -> None:
        """Look for what other workers record, for as long as the worker runs."""
        while True:
            await self._someone.wait()
            await asyncio.sleep(POLL_S)
            if not self._waiting:
                self._someone.clear()
                continue
            try:
                for key in await self._find_recorded(list(self._waiting)):
                    self._tell(key)
            except ApiError as error:
                _log.warning("blocks.not_looked_for", extra={"reason": error.message})

    def _tell(self, key: Key) -> None:
        for place in self._waiting.get(key, ()):
            place.tell()
