"""Collect: blocks that nothing refers to go from live to condemned, after the grace period to doomed, then to the trash
of their nodes.

Guarantees: nothing that is referenced is ever taken (metadata.sweeps checks under the row's lock); a dedup hit or a
commit revives a condemned block in its own transaction; a doomed block is forgotten only when every node that may hold
a shard has said that it has trashed it: unknown is not absent. A run that would take more than a tenth of everything,
or any run after the database was restored, stops and asks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.metadata import sweeps
from coordinator.metadata.db import Door
from coordinator.metadata.values import DoomedBlock, Lease, Swept

_log = logging.getLogger(__name__)

_DAY_S: Final = 86_400.0
_CRAWL_BATCH: Final = 1000
_DOOM_BATCH: Final = 500
_TRASH_BATCH: Final = 256
_RETRY_FIRST_S: Final = 60.0
_RETRY_MOST_S: Final = 6 * 3600.0
_CRAWL_TIMEOUT_S: Final = 60.0

# Trashes the shards of these blocks; answers which of them every node concerned has positively let go.
TrashShards = Callable[[Sequence[DoomedBlock]], Awaitable[Sequence[DoomedBlock]]]


@dataclass(frozen=True, slots=True)
class CollectRules:
    """`grace_s` must be longer than any upload session; `trash_after_s` longer than the oldest restorable backup is
    old. `share_max`: taking more of all blocks than this at once stops the run; so few blocks as `few` never do."""

    grace_s: float = _DAY_S
    trash_after_s: float = _DAY_S
    share_max: float = 0.10
    few: int = 1000


def why_not(collectable: int, living: int, held: str, rules: CollectRules) -> str:
    """Why this much must not be collected without a person's word; "" when it may be."""
    if collectable and held:
        return held
    if collectable > max(rules.few, rules.share_max * living):
        return f"{collectable} of {living} blocks would be collected"
    return ""


def retry_after_s(attempts: int) -> float:
    """Doubling from a minute to six hours: a node that is away comes back when it does."""
    return min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(attempts, 16))


async def collect(db: Door, lease: Lease, trash: TrashShards, rules: CollectRules, *, forced: bool = False) -> Swept:
    """One whole round. `forced`: a person has looked and wants it done, which also ends a hold."""
    found = await _crawl(db, lease)
    collectable, living = await db.run_within(_CRAWL_TIMEOUT_S, sweeps.count_collectable, rules.grace_s)
    reason = why_not(collectable, living, await db.run(sweeps.held_reason), rules)
    if reason and not forced:
        _log.error("collect.stopped", extra={"reason": reason, "collectable": collectable, "living": living})
        return Swept(found={**found, "held back": collectable}, done={})
    if reason:
        await db.run(sweeps.hold, "")
    doomed = 0
    while count := await db.run_within(_CRAWL_TIMEOUT_S, sweeps.doom, lease, rules.grace_s, _DOOM_BATCH):
        doomed += count
    trashed, put_off = await _trash(db, lease, trash, rules)
    return Swept(found=found, done={"doomed": doomed, "trashed": trashed, "put off": put_off})


async def _crawl(db: Door, lease: Lease) -> dict[str, int]:
    """Condemn and revive, over all blocks in the order of their ids."""
    looked_at = condemned = revived = 0
    after: bytes | None = b""
    while after is not None:
        page = await db.run_within(_CRAWL_TIMEOUT_S, sweeps.condemn, lease, after, _CRAWL_BATCH)
        looked_at, condemned, revived = looked_at + page.looked_at, condemned + page.condemned, revived + page.revived
        after = page.last
    return {"blocks": looked_at, "newly unreferenced": condemned, "referenced again": revived}


async def _trash(db: Door, lease: Lease, trash: TrashShards, rules: CollectRules) -> tuple[int, int]:
    """Trash what is doomed; (how many are gone, how many are put off because a node did not answer)."""
    gone = put_off = 0
    while batch := await db.run(sweeps.list_doomed, rules.trash_after_s, _TRASH_BATCH):
        trashed = await trash(batch)
        await db.run(sweeps.forget_doomed, lease, trashed)
        done = {(block.block_id, block.group_id) for block in trashed}
        left = [block for block in batch if (block.block_id, block.group_id) not in done]
        # The attempts differ within a batch; the patience of the most patient serves all.
        if left:
            await db.run(sweeps.postpone_doomed, left, retry_after_s(max(block.attempts for block in left)))
        gone, put_off = gone + len(trashed), put_off + len(left)
    return gone, put_off
