"""Make blocks durable: seal, code, send to a group's slots, and know when it is enough.

Guarantees: what `write` returns has at least the floor of its shards fsynced on different nodes, was opened again and
compared, and names the shards that are missing, to be recorded in the block row's own transaction. When it raises,
nothing of the block is visible; shards that did land are leaks that the verify job finds.
Does not: record anything in the database (the caller), repair (jobs), check quotas.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

from coordinator.blocks.budget import ByteBudget
from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.keys import AccountKeys
from coordinator.blocks.nodes import NodePool
from coordinator.blocks.place import Slot, code_for, slot_of_shard, write_floor
from coordinator.blocks.seal import SealedBlock, seal_block, verify_seal
from coordinator.metadata.values import AccountId, BlockRow, Group, NewBlock
from coordinator.protocol.errors import CannotTakeWrite, ClusterFull, HashMismatch
from coordinator.protocol.hashing import hash_block
from node.protocol.erasure import Code, encode, encode_parity, shard_size
from node.protocol.errors import NodeError, StaleEpoch
from node.protocol.messages import SHARDS_PER_MESSAGE_MAX, PutShards, ShardMeta

_log = logging.getLogger(__name__)

# Small blocks share a message to each slot; a message stays below this many bytes of payload.
_MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlainBlock:
    """A block to be written. `hash` is its SHA-256 where that is known for sure; else it is computed when sealing.

    `claimed` is what its sender says that the hash is: the write is refused where it is another one.
    """

    plain: bytes | bytearray
    hash: bytes | None = None
    claimed: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Coded:
    """A sealed block as shards for one group; shard i belongs into `slots[i]`."""

    sealed: SealedBlock
    row: BlockRow
    slots: tuple[Slot, ...]
    metas: tuple[ShardMeta, ...]
    payloads: tuple[memoryview | bytes, ...]

    def missing(self, lost: set[Slot]) -> tuple[int, ...]:
        return tuple(index for index, slot in enumerate(self.slots) if slot in lost)


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """`hedge_s`: how long late slots are waited for when enough others have fsynced; `timeout_s`: when all is lost."""

    hedge_s: float = 2.0
    timeout_s: float = 20.0


class BlockWriter:
    """Writes blocks to the home site. Owned by the event loop; the bytes of all writes together stay in `budget`."""

    def __init__(
        self, nodes: NodePool, cpu: CpuPool, keys: AccountKeys, budget: ByteBudget, settings: WriteSettings
    ) -> None:
        self._nodes = nodes
        self._cpu = cpu
        self._keys = keys
        self._budget = budget
        self._settings = settings
        self._chance = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._late: set[asyncio.Task[None]] = set()

    async def write(self, account_id: AccountId, blocks: Sequence[PlainBlock]) -> list[NewBlock]:
        """Make some blocks durable together (one message and one fsync a slot): one large block or several small ones.

        Raises CannotTakeWrite or ClusterFull when no group takes them, HashMismatch when one is not what its sender
        claims; then none of them is written.
        """
        size = sum(len(block.plain) for block in blocks)
        async with self._budget.hold(size):
            key = await self._keys.get(account_id)
            groups = self._nodes.placement.candidates(self._chance)
            if not groups:
                raise self._no_group()
            coded = await self._cpu.run(_seal_all, blocks, account_id, key, groups[0])
            checked = asyncio.ensure_future(self._cpu.run(_verify_all, coded, blocks, key))
            try:
                written = await self._place(coded, groups)
                await checked
            finally:
                # A write that failed must not leave the check running on buffers that it gives up.
                await asyncio.gather(checked, return_exceptions=True)
            return written

    async def close(self) -> None:
        """Give up the shards that nobody waits for any more."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def _place(self, coded: Sequence[_Coded], groups: Sequence[Group]) -> list[NewBlock]:
        """Send the shards to the first of `groups`, for which they are coded, or to the next that takes them."""
        for attempt, group in enumerate(groups):
            current = self._nodes.map.groups.get(group.id, group)
            if attempt > 0:
                coded = await self._cpu.run(_code_all, [block.sealed for block in coded], current)
            missing = await self._send(current, coded)
            if missing is not None:
                return [NewBlock(block.row, block.missing(missing)) for block in coded]
        raise self._no_group()

    async def _send(self, group: Group, coded: Sequence[_Coded]) -> set[Slot] | None:
        """Send every shard to its slot. The slots that have not fsynced, or None when too few have."""
        loop = asyncio.get_running_loop()
        open_slots = {slot for slot in group.slots if self._nodes.writable(slot)}
        tasks = {
            slot: asyncio.create_task(self._send_slot(slot, metas, payloads))
            for slot, (metas, payloads) in _by_slot(coded).items()
            if slot in open_slots
        }
        deadline = loop.time() + self._settings.timeout_s
        hedge_until = loop.time() + self._settings.hedge_s
        waiting = set(tasks.values())
        while waiting:
            enough = all(_durable(block, tasks) >= write_floor(block.row.k, block.row.m) for block in coded)
            until = hedge_until if enough else deadline
            if loop.time() >= until:
                break
            _, waiting = await asyncio.wait(
                waiting, timeout=until - loop.time(), return_when="ALL_COMPLETED" if enough else "FIRST_COMPLETED"
            )
        for slot, task in tasks.items():
            if task in waiting:
                self._nodes.suspect(slot)
                self._late.add(task)
                task.add_done_callback(self._forget_late)
        await self._learn(tasks)
        if any(_durable(block, tasks) < write_floor(block.row.k, block.row.m) for block in coded):
            return None
        return {slot for slot in group.slots if slot not in tasks or not _is_durable(tasks[slot])}

    async def _send_slot(self, slot: Slot, metas: Sequence[ShardMeta], payloads: Sequence[memoryview | bytes]) -> None:
        message = PutShards(slot[1], tuple(metas))
        await self._nodes.request(slot, message, payloads, timeout_s=self._settings.timeout_s)

    async def _learn(self, tasks: dict[Slot, asyncio.Task[None]]) -> None:
        """Log what failed; a stale epoch means that our map is old."""
        stale = False
        for slot, task in tasks.items():
            error = task.exception() if task.done() and not task.cancelled() else None
            if error is None:
                continue
            if not isinstance(error, NodeError):
                raise error
            stale = stale or isinstance(error, StaleEpoch)
            _log.info("shard.not_written", extra={"node": slot[0], "code": error.code, "reason": str(error)})
        if stale:
            await self._nodes.reload()

    def _forget_late(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # a late failure changes nothing: the shard is recorded as missing already

    def _no_group(self) -> CannotTakeWrite | ClusterFull:
        return ClusterFull() if self._nodes.placement.some_disk_full else CannotTakeWrite()


def _seal_all(blocks: Sequence[PlainBlock], account_id: AccountId, key: bytes, group: Group) -> list[_Coded]:
    """All the CPU work of a write in one go: going to the pool and back costs as much as sealing a small block."""
    return [_code(_seal(block, account_id, key, group.k), group) for block in blocks]


def _seal(block: PlainBlock, account_id: AccountId, key: bytes, k: int) -> SealedBlock:
    digest = block.hash or hash_block(block.plain)
    if block.claimed is not None and not hmac.compare_digest(digest, block.claimed):
        raise HashMismatch
    return seal_block(block.plain, digest, new_block_id(), account_id, key, k)


def _verify_all(coded: Sequence[_Coded], blocks: Sequence[PlainBlock], key: bytes) -> None:
    for one, block in zip(coded, blocks, strict=True):
        verify_seal(one.sealed, block.plain, key)


def _code_all(sealed: Sequence[SealedBlock], group: Group) -> list[_Coded]:
    return [_code(block, group) for block in sealed]


def _code(sealed: SealedBlock, group: Group) -> _Coded:
    k, m = code_for(sealed.sealed_size, group)
    payloads: list[memoryview | bytes]
    if k == 1:
        payloads = [sealed.sealed] * (m + 1)
        digests = [sealed.sealed_digest] * (m + 1)
    else:
        payloads = _shards(sealed, Code(k, m))
        digests = [xxhash.xxh3_128_digest(payload) for payload in payloads]
    row = _block_row(sealed, group, k, m)
    metas = tuple(shard_meta(row, group.epoch, index, digest) for index, digest in enumerate(digests))
    slots = tuple(slot_of_shard(group, sealed.block_id, k, index) for index in range(k + m))
    return _Coded(sealed, row, slots, metas, tuple(payloads))


def _shards(sealed: SealedBlock, code: Code) -> list[memoryview | bytes]:
    size = shard_size(code.k, sealed.sealed_size)
    if len(sealed.buffer) < code.k * size:  # sealed for a group of another code
        return [bytes(shard) for shard in encode(sealed.sealed, code)]
    data = memoryview(sealed.buffer)[: code.k * size]
    return [*(data[i * size : (i + 1) * size] for i in range(code.k)), *encode_parity(data, code)]


def _by_slot(coded: Sequence[_Coded]) -> dict[Slot, tuple[list[ShardMeta], list[memoryview | bytes]]]:
    by_slot: dict[Slot, tuple[list[ShardMeta], list[memoryview | bytes]]] = defaultdict(lambda: ([], []))
    for block in coded:
        for slot, meta, payload in zip(block.slots, block.metas, block.payloads, strict=True):
            metas, payloads = by_slot[slot]
            metas.append(meta)
            payloads.append(payload)
    return by_slot


def _durable(block: _Coded, tasks: dict[Slot, asyncio.Task[None]]) -> int:
    return sum(slot in tasks and _is_durable(tasks[slot]) for slot in block.slots)


def _is_durable(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _block_row(sealed: SealedBlock, group: Group, k: int, m: int) -> BlockRow:
    return BlockRow(
        block_id=sealed.block_id,
        hash=sealed.hash,
        group_id=group.id,
        group_epoch=group.epoch,
        k=k,
        m=m,
        codec=int(sealed.codec),
        plain_size=sealed.plain_size,
        sealed_size=sealed.sealed_size,
        sealed_digest=sealed.sealed_digest,
        account_id=sealed.account_id,
        wrapped_key=sealed.wrapped_key,
    )


def shard_meta(row: BlockRow, group_epoch: int, index: int, payload_digest: bytes) -> ShardMeta:
    """What shard `index` of a block says about itself in its header."""
    return ShardMeta(
        block_id=row.block_id,
        index=index,
        k=row.k,
        m=row.m,
        group_id=row.group_id,
        group_epoch=group_epoch,
        plain_size=row.plain_size,
        sealed_size=row.sealed_size,
        codec=row.codec,
        account_id=row.account_id,
        payload_digest=payload_digest,
        sealed_digest=row.sealed_digest,
        wrapped_key=row.wrapped_key,
    )


def new_block_id() -> bytes:
    """A UUID of version 7 (RFC 9562): time-ordered, so that index pages stay warm, and never made twice."""
    stamp = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    rest = bytearray(os.urandom(10))
    rest[0] = 0x70 | rest[0] & 0x0F
    rest[2] = 0x80 | rest[2] & 0x3F
    return uuid.UUID(bytes=stamp + bytes(rest)).bytes


def batches(blocks: Sequence[PlainBlock]) -> list[list[PlainBlock]]:
    """Cut blocks into runs that share one message a slot: by count and by bytes, in order."""
    runs: list[list[PlainBlock]] = []
    size = 0
    for block in blocks:
        if not runs or len(runs[-1]) >= SHARDS_PER_MESSAGE_MAX or size + len(block.plain) > _MESSAGE_BYTES_MAX:
            runs.append([])
            size = 0
        runs[-1].append(block)
        size += len(block.plain)
    return runs
