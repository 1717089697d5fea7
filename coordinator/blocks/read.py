"""Read blocks: the k data shards first, parity when one is late or bad, and nothing unverified.

Guarantees: what `read` returns has the size, GCM tag and SHA-256 of its block row. A shard that is missing or bad is
reported through `report`, once a block. Does not: repair (jobs), write to the database, know files or ranges.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Final

import xxhash

from coordinator.blocks.budget import ByteBudget
from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.keys import AccountKeys
from coordinator.blocks.nodes import NodePool
from coordinator.blocks.place import slot_of_shard
from coordinator.blocks.seal import digest_matches, open_block
from coordinator.metadata.values import BlockRow
from coordinator.protocol.errors import BlockDamaged, CannotRead
from node.protocol.erasure import Code, encode, join, shard_size
from node.protocol.errors import NodeError, ShardCorrupt, ShardMissing
from node.protocol.messages import GetShard, ShardFound, ShardName

_log = logging.getLogger(__name__)

# When verified shards do not add up to their block, this many sets of k are tried before giving up.
_SETS_TRIED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class ReadSettings:
    timeout_s: float = 20.0


class BlockReader:
    """Reads blocks from the home site. Owned by the event loop; `report(block_id, bad indexes)` must not block."""

    def __init__(  # noqa: PLR0917 - the parts that it is wired from
        self,
        nodes: NodePool,
        cpu: CpuPool,
        keys: AccountKeys,
        budget: ByteBudget,
        report: Callable[[bytes, frozenset[int]], None],
        settings: ReadSettings,
    ) -> None:
        self._nodes = nodes
        self._cpu = cpu
        self._keys = keys
        self._budget = budget
        self._report = report
        self._settings = settings

    async def read(self, row: BlockRow, *, hashed: bool = True) -> bytes:
        """The block's plaintext. Raises CannotRead (nodes away) and BlockDamaged (shards bad). `hashed` False: its hash
        is not compared (its seal is), since what is made of it will be."""
        key = await self._keys.get(row.account_id)
        return await self._collect(row, lambda sealed: open_block(sealed, row, key, hashed=hashed))

    async def read_sealed(self, row: BlockRow) -> bytes:
        """The sealed block, checked against its digest: what lost shards are rebuilt from. Raises as `read`."""
        return await self._collect(row, lambda sealed: _check_whole(sealed, row))

    async def _collect(self, row: BlockRow, accept: Callable[[memoryview], bytes]) -> bytes:
        """Gather shards, join them, and give what `accept` makes of the sealed block; it raises BlockDamaged."""
        async with self._budget.hold(row.sealed_size + row.plain_size):
            gathering = _Gathering(self._nodes, row, self._settings.timeout_s)
            try:
                shards = await gathering.first(row.k)
                try:
                    return await self._cpu.run(lambda: accept(_join(shards, row)))
                except BlockDamaged as error:
                    # Every shard passed its own digest and yet they do not add up: one of them lies. Ask for all.
                    _log.error("block.shards_disagree", extra={"block": row.block_id.hex(), "reason": str(error.facts)})
                    shards = await gathering.all()
                    sealed, liars = await self._cpu.run(_find_whole, shards, row)
                    gathering.bad |= liars
                    return await self._cpu.run(accept, sealed)
            finally:
                await gathering.close()
                if gathering.bad:
                    self._report(row.block_id, frozenset(gathering.bad))


class _Gathering:
    """The shards of one block as they come in. One owner; `close` ends whatever is still asked for."""

    def __init__(self, nodes: NodePool, row: BlockRow, timeout_s: float) -> None:
        group = nodes.map.groups.get(row.group_id)
        if group is None:
            raise CannotRead(block=row.block_id.hex(), cause="its placement group is not in the cluster map")
        slots = [slot_of_shard(group, row.block_id, row.k, index) for index in range(row.k + row.m)]
        self._nodes = nodes
        self._row = row
        self._slots = slots
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._rest = _reading_order(row, [nodes.readable(slot) for slot in slots])
        self._asked: dict[asyncio.Task[memoryview], int] = {}
        self._shards: dict[int, memoryview] = {}
        self.bad: set[int] = set()

    async def first(self, count: int) -> dict[int, memoryview]:
        """The first `count` shards that come, asking for more whenever one fails or is late."""
        for index in self._rest[:count]:
            self._ask(index)
        while len(self._shards) < count:
            if not self._asked and not self._rest:
                raise self._too_few()
            hedged = await self._wait()
            short = count - len(self._shards) - len(self._asked)
            for index in self._rest[: max(short, 1 if hedged else 0)]:
                self._ask(index)
        return dict(self._shards)

    async def all(self) -> dict[int, memoryview]:
        """Every shard that can be had."""
        for index in tuple(self._rest):
            self._ask(index)
        while self._asked:
            await self._wait()
        return dict(self._shards)

    async def close(self) -> None:
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    def _ask(self, index: int) -> None:
        self._rest.remove(index)
        self._asked[asyncio.create_task(self._fetch(index))] = index

    async def _wait(self) -> bool:
        """Take in what comes next. True when what is asked for is late and others should be asked as well."""
        loop = asyncio.get_running_loop()
        left = self._deadline - loop.time()
        if left <= 0:
            raise self._too_few()
        patience = min(left, max(self._nodes.hedge_delay_s(self._slots[index]) for index in self._asked.values()))
        done, _ = await asyncio.wait(
            self._asked, timeout=patience if self._rest else left, return_when="FIRST_COMPLETED"
        )
        for task in done:
            self._take(self._asked.pop(task), task)
        return not done

    def _take(self, index: int, task: asyncio.Task[memoryview]) -> None:
        error = task.exception()
        if error is None:
            self._shards[index] = task.result()
        elif isinstance(error, ShardMissing | ShardCorrupt):
            self.bad.add(index)
        elif not isinstance(error, NodeError):
            raise error
        if error is not None:
            facts = {"block": self._row.block_id.hex(), "index": index, "reason": str(error)}
            _log.info("shard.not_read", extra=facts)

    async def _fetch(self, index: int) -> memoryview:
        slot, row = self._slots[index], self._row
        left = max(0.001, self._deadline - asyncio.get_running_loop().time())
        question = GetShard(slot[1], ShardName(row.block_id, index))
        found, payload = await self._nodes.request(slot, question, timeout_s=left)
        if not isinstance(found, ShardFound) or payload is None:
            raise ShardCorrupt(f"node {slot[0]} answered without a shard")
        meta = found.meta
        if (meta.block_id, meta.index, meta.k) != (row.block_id, index, row.k):
            raise ShardCorrupt(f"node {slot[0]} answered with another shard")
        if payload.nbytes != shard_size(row.k, row.sealed_size):
            raise ShardCorrupt(f"node {slot[0]} answered with {payload.nbytes} bytes")
        if xxhash.xxh3_128_digest(payload) != meta.payload_digest:
            raise ShardCorrupt(f"node {slot[0]} answered with bytes that do not match their digest")
        return payload

    def _too_few(self) -> CannotRead | BlockDamaged:
        block = self._row.block_id.hex()
        lost = len(self.bad)
        if lost > self._row.m:
            return BlockDamaged(block=block, cause=f"{lost} of its shards are missing or bad")
        return CannotRead(block=block, cause=f"{len(self._shards)} of {self._row.k} shards could be read")


def _reading_order(row: BlockRow, readable: Sequence[bool]) -> list[int]:
    """Shard indexes in the order in which to ask: data before parity, nodes that answer before those that do not.

    Copies (k = 1) are all alike, so reading starts at a copy that the block id picks and the load spreads.
    """
    indexes = range(row.k + row.m)
    turn = row.block_id[-5] if row.k == 1 else 0
    return sorted(indexes, key=lambda i: (not readable[i], row.k > 1 and i >= row.k, (i + turn) % len(indexes)))


def _join(shards: Mapping[int, memoryview], row: BlockRow) -> memoryview:
    return join(shards, row.sealed_size, Code(row.k, row.m))


def _check_whole(sealed: memoryview, row: BlockRow) -> bytes:
    if not digest_matches(sealed, row):
        raise BlockDamaged(block=row.block_id.hex(), cause="the sealed block's digest differs")
    return bytes(sealed)


def _find_whole(shards: Mapping[int, memoryview], row: BlockRow) -> tuple[memoryview, set[int]]:
    """Find k shards that add up to the sealed block; the block, and which of the others are wrong."""
    for chosen in islice(combinations(sorted(shards), row.k), _SETS_TRIED_MAX):
        sealed = _join({index: shards[index] for index in chosen}, row)
        if digest_matches(sealed, row):
            right = encode(sealed, Code(row.k, row.m))
            return sealed, {index for index in shards if bytes(shards[index]) != bytes(right[index])}
    raise BlockDamaged(block=row.block_id.hex(), cause="no set of its shards adds up to it")
