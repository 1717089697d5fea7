"""Expiry: uploads that nobody continued, and references of blocks that nobody committed.

An expired upload gives its space back and its watchers are told; the blocks that it alone kept are then collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.metadata import sweeps, uploads
from coordinator.metadata.db import Door
from coordinator.metadata.values import Head, Swept

_BATCH: Final = 100
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ExpiryRules:
    """How long what was begun and not finished is kept. An upload's own expiry stands in its row."""

    staged_s: float = 7 * _DAY_S  # blocks sent by hash: longer than any announced upload is continued
    ended_uploads_s: float = 7 * _DAY_S  # until then an upload's address tells what became of it


async def expire(db: Door, publish: Callable[[Sequence[Head]], None], rules: ExpiryRules) -> Swept:
    """End what is over; `publish` tells the watchers of the namespaces that were told."""
    expired = 0
    while heads := await db.run(uploads.expire, _BATCH):
        publish(heads)
        expired += len(heads)
        if len(heads) < _BATCH:
            break
    staged = await _repeat(db, lambda: sweeps.expire_staged(rules.staged_s, 10 * _BATCH), 10 * _BATCH)
    forgotten = await _repeat(db, lambda: uploads.forget_ended(rules.ended_uploads_s, 10 * _BATCH), 10 * _BATCH)
    return Swept(done={"uploads expired": expired, "blocks let go": staged, "old uploads forgotten": forgotten})


async def _repeat(db: Door, step: Callable[[], int], batch: int) -> int:
    """Run a bounded step until it finds less than its bound."""
    total = 0
    while (count := await db.run(step)) == batch:
        total += count
    return total + count
