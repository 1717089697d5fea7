"""Repair: bring back shards that are known to be missing or bad, the most endangered blocks first.

Serves the `missing_shard` table, which writes, reads and verification fill. A shard whose node does not answer is put
off, never given up: unknown is not absent. It rebuilds in place, through the coordinator; moving the slots of a node
that is out, and rebuilding from node to node, are not here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from coordinator.blocks.store import BlockStore
from coordinator.metadata import blocks
from coordinator.metadata.db import Door
from coordinator.metadata.values import BlockRow, MissingShard, Swept
from coordinator.protocol.errors import ApiError, BlockDamaged

_log = logging.getLogger(__name__)

BATCH: Final = 200
AT_ONCE: Final = 2  # repair must not starve clients
_RETRY_FIRST_S: Final = 5.0
_RETRY_MOST_S: Final = 600.0


def group_by_block(missing: Iterable[MissingShard]) -> list[tuple[BlockRow, list[MissingShard]]]:
    """All shards of a block together, since one read of the block rebuilds them all; in order of first appearance."""
    by_block: dict[bytes, list[MissingShard]] = defaultdict(list)
    for shard in missing:
        by_block[shard.block.block_id].append(shard)
    return [(shards[0].block, shards) for shards in by_block.values()]


def retry_after_s(attempts: int) -> float:
    """Doubling from seconds to ten minutes."""
    return float(min(_RETRY_MOST_S, _RETRY_FIRST_S * 2 ** min(attempts, 10)))


async def repair(db: Door, store: BlockStore) -> Swept:
    """Rebuild what can be rebuilt now. What cannot is put off; a block that is lost is logged as an error."""
    found = done = 0
    while missing := await db.run(blocks.list_missing, BATCH):
        found += len(missing)
        gate = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(
            *(_repair_block(db, store, gate, row, shards) for row, shards in group_by_block(missing))
        )
        done += sum(results)
        # Whatever was not rebuilt has been put off, so that the next batch holds others.
    return Swept(found={"shards": found}, done={"shards": done})


async def _repair_block(
    db: Door, store: BlockStore, gate: asyncio.Semaphore, row: BlockRow, shards: list[MissingShard]
) -> int:
    """How many shards of the block are back."""
    indexes = {shard.index for shard in shards}
    attempts = max(shard.attempts for shard in shards)
    back: set[int] = set()
    async with gate:
        try:
            back = await store.rebuild(row, indexes)
        except BlockDamaged as error:
            _log.error("block.lost", extra={"block": row.block_id.hex(), "reason": str(error.facts)})
        except ApiError as error:
            _log.info("block.repair_put_off", extra={"block": row.block_id.hex(), "code": error.code})
    if back:
        await db.run(blocks.mark_repaired, row.block_id, back)
        _log.info("block.repaired", extra={"block": row.block_id.hex(), "shards": sorted(back)})
    if back != indexes:
        await db.run(blocks.postpone_repair, row.block_id, indexes - back, retry_after_s(attempts))
    return len(back)
