"""Verify: compare what the nodes say that they hold with what the database says that they should, both ways.

A shard that a disk positively does not list is queued for repair. A shard of no block that the database knows is a
leak: it is counted and logged, never deleted here. Blocks younger than the margin are left out on both sides, since
they may be between their nodes and their row. A disk that does not answer is unknown, not empty.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from coordinator.blocks.inventory import ShardInventory
from coordinator.blocks.place import Slot, slot_of_shard
from coordinator.metadata import blocks
from coordinator.metadata.db import Door
from coordinator.metadata.values import BlockRow, ClusterMap, Swept
from node.protocol.errors import NodeError
from node.protocol.messages import InventoryRow

_log = logging.getLogger(__name__)

YOUNG_S: Final = 300.0
_PAGE: Final = 1000


@dataclass
class _Disk:
    """A disk's inventory being read in block id order; `rows` are those not yet compared."""

    slot: Slot
    pages: AsyncIterator[tuple[InventoryRow, ...]]
    rows: list[InventoryRow] = field(default_factory=list)
    ended: bool = False
    silent: bool = False

    async def take_up_to(self, last: bytes | None) -> set[tuple[bytes, int]]:
        """The shards up to and including block `last` (None: all that are left)."""
        taken: set[tuple[bytes, int]] = set()
        while True:
            count = sum(1 for row in self.rows if last is None or row.block_id <= last)
            taken.update((row.block_id, row.index) for row in self.rows[:count])
            del self.rows[:count]
            if self.rows or self.ended:
                return taken
            try:
                self.rows = list(await anext(self.pages))
            except StopAsyncIteration:
                self.ended = True
            except NodeError as error:
                self.ended = self.silent = True
                facts = {"disk": self.slot[1], "code": error.code, "reason": str(error)}
                _log.warning("verify.disk_not_read", extra=facts)


def expected_shards(rows: Sequence[BlockRow], cluster: ClusterMap) -> dict[Slot, dict[tuple[bytes, int], BlockRow]]:
    """Which shard should stand on which disk."""
    expected: dict[Slot, dict[tuple[bytes, int], BlockRow]] = {}
    for row in rows:
        group = cluster.groups[row.group_id]
        for index in range(row.k + row.m):
            slot = slot_of_shard(group, row.block_id, row.k, index)
            expected.setdefault(slot, {})[row.block_id, index] = row
    return expected


def made_before(now_s: float) -> bytes:
    """The smallest block id that was made at `now_s` (seconds since 1970): ids are ordered by time."""
    return int(now_s * 1000).to_bytes(6, "big") + bytes(10)


async def verify(db: Door, inventory: ShardInventory, cluster: ClusterMap, young_s: float = YOUNG_S) -> Swept:
    """One pass over every block and every disk that answers."""
    young = made_before(time.time() - young_s)
    disks = [_Disk(slot, inventory.list_shards(slot)) for slot in inventory.disks()]
    seen = missing = leaked = 0
    after = b""
    while True:
        page = [row for row in await db.run(blocks.list_page, after, _PAGE) if row.block_id < young]
        last = page[-1].block_id if len(page) == _PAGE else None
        expected = expected_shards(page, cluster)
        for disk in disks:
            held = await disk.take_up_to(last)
            if disk.silent:
                continue
            wanted = expected.get(disk.slot, {})
            for name in wanted.keys() - held:
                missing += 1
                await db.run(blocks.report_missing, name[0], {name[1]}, "not in its disk's inventory")
            leaks = {block_id for block_id, index in held - wanted.keys() if block_id < young}
            leaked += await _count_leaks(db, leaks)
        seen += len(page)
        if last is None:
            break
        after = last
    silent = sum(disk.silent for disk in disks)
    return Swept(
        found={"blocks": seen, "missing shards": missing, "leaked shards": leaked, "silent disks": silent},
        done={"queued": missing},
    )


async def _count_leaks(db: Door, block_ids: set[bytes]) -> int:
    """Shards of blocks that neither stand nor wait to be trashed."""
    if not block_ids:
        return 0
    unknown = block_ids - await db.run(blocks.list_known, block_ids)
    for block_id in unknown:
        _log.warning("shard.leaked", extra={"block": block_id.hex()})
    return len(unknown)
