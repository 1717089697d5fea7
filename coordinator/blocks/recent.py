"""Plaintext of blocks that are likely to be wanted again within seconds, kept in memory, within a bound.

Two uses: blocks that another device waits for while they arrive, so that passing them on costs no reading; and blocks
that several parts of one delta copy from. A block is put here only once it is durable and verified.

Guarantees: at most `limit` bytes, none longer than `keep_s`; a worker that neither passes blocks on nor applies deltas
holds nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from coordinator.metadata.values import AccountId

RECENT_BYTES_MAX: Final = 64 * 1024 * 1024
KEEP_S: Final = 10.0
WANTED_S: Final = 60.0
_ACCOUNTS_MAX: Final = 10_000

Plain = bytes | bytearray


class RecentBlocks:
    """Owned by the event loop, but for `get`, which any thread may call."""

    def __init__(self, limit: int = RECENT_BYTES_MAX, *, keep_s: float = KEEP_S) -> None:
        self._limit = limit
        self._keep_s = keep_s
        self._blocks: OrderedDict[bytes, tuple[Plain, float]] = OrderedDict()  # by block id: bytes, and when put
        self._wanted: dict[AccountId, float] = {}  # whose new blocks somebody waits for, and until when
        self._timer: asyncio.TimerHandle | None = None
        self.held = 0

    def want(self, account_id: AccountId) -> bool:
        """Somebody reads what this account announces: its new blocks are to be put here for WANTED_S. Whether that was
        not so, or soon not any more."""
        now = asyncio.get_running_loop().time()
        if self._wanted.get(account_id, 0.0) > now + WANTED_S / 2:
            return False
        if account_id not in self._wanted and len(self._wanted) >= _ACCOUNTS_MAX:
            self._wanted.clear()
        self._wanted[account_id] = now + WANTED_S
        return True

    def wants(self, account_id: AccountId) -> bool:
        return self._wanted.get(account_id, 0.0) > asyncio.get_running_loop().time()

    def put(self, block_id: bytes, plain: Plain) -> None:
        """`plain` is not changed any more."""
        now = asyncio.get_running_loop().time()
        self._drop(block_id)
        self._blocks[block_id] = plain, now
        self.held += len(plain)
        while self.held > self._limit:
            self._drop(next(iter(self._blocks)))
        self._set_timer(now)

    def get(self, block_id: bytes) -> Plain | None:
        found = self._blocks.get(block_id)
        return found[0] if found is not None else None

    def clear(self) -> None:
        self._blocks.clear()
        self.held = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self, block_id: bytes) -> None:
        found = self._blocks.pop(block_id, None)
        if found is not None:
            self.held -= len(found[0])

    def _set_timer(self, now: float) -> None:
        if self._timer is None and self._blocks:
            oldest = next(iter(self._blocks.values()))[1]
            self._timer = asyncio.get_running_loop().call_later(max(0.0, oldest + self._keep_s - now), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for block_id, (_, since) in list(self._blocks.items()):
            if since + self._keep_s > now:
                break
            self._drop(block_id)
        self._set_timer(now)
