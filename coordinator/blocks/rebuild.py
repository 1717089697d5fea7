"""Rebuild lost shards of a block and put them into their slots.

Guarantees: a shard is only written when the sealed block that it was computed from matches its digest, and only where
its node answers: what a silent node holds is unknown, not absent, and is never written over.
Does not: decide what is to be rebuilt and when (jobs/repair.py), or note it in the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

import xxhash

from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.nodes import NodePool
from coordinator.blocks.place import slot_of_shard
from coordinator.blocks.read import BlockReader
from coordinator.blocks.write import shard_meta
from coordinator.metadata.values import BlockRow, Group
from node.protocol.erasure import Code, encode
from node.protocol.errors import NodeError
from node.protocol.messages import Buffer, PutShards

_log = logging.getLogger(__name__)
_TIMEOUT_S: Final = 20.0


class BlockRebuilder:
    """Owned by the event loop."""

    def __init__(self, nodes: NodePool, cpu: CpuPool, reader: BlockReader) -> None:
        self._nodes = nodes
        self._cpu = cpu
        self._reader = reader

    async def rebuild(self, row: BlockRow, indexes: Collection[int]) -> set[int]:
        """Make the shards at `indexes` durable again; those that are. Raises CannotRead and BlockDamaged as a read."""
        group = self._nodes.map.groups[row.group_id]
        slots = {index: slot_of_shard(group, row.block_id, row.k, index) for index in indexes}
        reachable = [index for index in indexes if self._nodes.writable(slots[index])]
        if not reachable:
            return set()
        sealed = await self._reader.read_sealed(row)
        shards = await self._cpu.run(encode, sealed, Code(row.k, row.m))
        done = await asyncio.gather(*(self._put(row, group, index, shards[index]) for index in reachable))
        return {index for index, durable in zip(reachable, done, strict=True) if durable}

    async def _put(self, row: BlockRow, group: Group, index: int, payload: Buffer) -> bool:
        slot = slot_of_shard(group, row.block_id, row.k, index)
        meta = shard_meta(row, group.epoch, index, xxhash.xxh3_128_digest(payload))
        try:
            await self._nodes.request(slot, PutShards(slot[1], (meta,)), [payload], timeout_s=_TIMEOUT_S)
        except NodeError as error:
            facts = {"block": row.block_id.hex(), "index": index, "code": error.code, "reason": str(error)}
            _log.warning("shard.not_rebuilt", extra=facts)
            return False
        return True
