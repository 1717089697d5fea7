"""Scrub: have every disk re-read and check what it holds, and queue for repair what is bad.

One disk after another, a few hundred shards at a time, so that clients hardly notice.
"""

from __future__ import annotations

import logging
from collections import defaultdict

from coordinator.blocks.inventory import ShardInventory
from coordinator.blocks.place import Slot
from coordinator.metadata import blocks
from coordinator.metadata.db import Door
from coordinator.metadata.values import Swept
from node.protocol.errors import NodeError
from node.protocol.messages import ShardName

_log = logging.getLogger(__name__)


async def scrub(db: Door, inventory: ShardInventory) -> Swept:
    """One pass over all disks that answer."""
    checked = bad = silent = 0
    for disk in inventory.disks():
        try:
            async for rows in inventory.list_shards(disk):
                names = [ShardName(row.block_id, row.index) for row in rows]
                checked += len(names)
                bad += await _report(db, disk, await inventory.verify(disk, names))
        except NodeError as error:
            silent += 1
            _log.warning("scrub.disk_not_read", extra={"disk": disk[1], "code": error.code, "reason": str(error)})
    return Swept(found={"shards": checked, "bad": bad, "silent disks": silent}, done={"queued": bad})


async def _report(db: Door, disk: Slot, bad: list[ShardName]) -> int:
    by_block: dict[bytes, set[int]] = defaultdict(set)
    for name in bad:
        by_block[name.block_id].add(name.index)
    for block_id, indexes in by_block.items():
        _log.error("shard.bad", extra={"disk": disk[1], "block": block_id.hex(), "indexes": sorted(indexes)})
        await db.run(blocks.report_missing, block_id, indexes, "found bad by the scrub")
    return len(bad)
