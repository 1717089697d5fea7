"""What the nodes hold: list it, have it verified, and let go of what is doomed.

Guarantees: an answer is what a node positively said; a node that does not answer makes the call fail or leaves its
blocks out, it never counts as "nothing there".
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Final

from coordinator.blocks.nodes import NodePool
from coordinator.blocks.place import Slot, slot_of_shard
from coordinator.metadata.values import DoomedBlock, GroupId
from node.protocol.errors import NodeError
from node.protocol.messages import (
    SHARDS_PER_MESSAGE_MAX,
    Inventory,
    InventoryRow,
    ListShards,
    ShardName,
    TrashDone,
    TrashShards,
    Verified,
    VerifyShards,
)

_log = logging.getLogger(__name__)
_TIMEOUT_S: Final = 60.0
_PAGE: Final = SHARDS_PER_MESSAGE_MAX


class ShardInventory:
    """Owned by the event loop."""

    def __init__(self, nodes: NodePool) -> None:
        self._nodes = nodes

    def disks(self) -> list[Slot]:
        """Every disk of the cluster map."""
        return [(disk.node_id, disk.id) for disk in self._nodes.map.disks.values()]

    async def list_shards(self, disk: Slot) -> AsyncIterator[tuple[InventoryRow, ...]]:
        """The disk's whole inventory in (block id, index) order, a page at a time. Raises NodeError."""
        after: ShardName | None = None
        while True:
            page, _ = await self._nodes.request(disk, ListShards(disk[1], after, _PAGE), timeout_s=_TIMEOUT_S)
            if not isinstance(page, Inventory):
                raise NodeError(f"node {disk[0]} answered a listing with something else")
            if page.rows:
                yield page.rows
                after = ShardName(page.rows[-1].block_id, page.rows[-1].index)
            if page.complete or not page.rows:
                return

    async def verify(self, disk: Slot, names: Sequence[ShardName]) -> list[ShardName]:
        """Have shards read and checked on their disk; those that are missing or bad. Raises NodeError."""
        question = VerifyShards(disk[1], tuple(names))
        answer, _ = await self._nodes.request(disk, question, timeout_s=_TIMEOUT_S)
        if not isinstance(answer, Verified) or len(answer.verdicts) != len(names):
            raise NodeError(f"node {disk[0]} answered a verification with something else")
        return [name for name, verdict in zip(names, answer.verdicts, strict=True) if verdict != "ok"]

    async def trash(self, doomed: Sequence[DoomedBlock]) -> list[DoomedBlock]:
        """Move the shards of these blocks to their nodes' trash; the blocks for which every node has said so."""
        orders: dict[tuple[Slot, GroupId], list[ShardName]] = defaultdict(list)
        needed: dict[bytes, set[tuple[Slot, GroupId]]] = defaultdict(set)
        for block in doomed:
            group = self._nodes.map.groups[block.group_id]
            for index in range(block.k + block.m):
                order = (slot_of_shard(group, block.block_id, block.k, index), block.group_id)
                orders[order].append(ShardName(block.block_id, index))
                needed[block.block_id].add(order)
        done = await asyncio.gather(*(self._trash(*order, names) for order, names in orders.items()))
        carried_out = {order for order, ok in zip(orders, done, strict=True) if ok}
        return [block for block in doomed if needed[block.block_id] <= carried_out]

    async def _trash(self, slot: Slot, group_id: GroupId, names: Sequence[ShardName]) -> bool:
        epoch = self._nodes.map.groups[group_id].epoch
        try:
            for start in range(0, len(names), _PAGE):
                order = TrashShards(slot[1], epoch, group_id, tuple(names[start : start + _PAGE]))
                answer, _ = await self._nodes.request(slot, order, timeout_s=_TIMEOUT_S)
                if not isinstance(answer, TrashDone):
                    return False
        except NodeError as error:
            _log.info("shards.not_trashed", extra={"node": slot[0], "code": error.code, "reason": str(error)})
            return False
        return True
