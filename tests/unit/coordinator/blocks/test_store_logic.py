"""Writing and reading over nodes that are late, dead, full, or that lie: the decisions, with nodes in RAM.

The real nodes are held to the same behaviour by tests/fault; here every order of events can be chosen.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
import xxhash

from coordinator.blocks.budget import ByteBudget
from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.keys import AccountKeys, RootKey
from coordinator.blocks.nodes import NodePool
from coordinator.blocks.place import Placement, Slot, plan_placement
from coordinator.blocks.read import BlockReader, ReadSettings
from coordinator.blocks.write import BlockWriter, PlainBlock, WriteSettings
from coordinator.metadata.values import AccountId, Group, GroupId, GroupState, NewBlock, NodeId, SiteId
from coordinator.protocol.errors import BlockDamaged, CannotRead, CannotTakeWrite
from coordinator.protocol.hashing import hash_block
from node.protocol.errors import NodeBusy, NodeError, NodeUnreachable, ShardMissing
from node.protocol.messages import Buffer, GetShard, Operation, PutDone, PutShards, Result, ShardFound, ShardMeta

ACCOUNT = AccountId(1)
NODES = 6


@dataclass
class RamNodes:
    """Six nodes in RAM, in the place of a NodePool. `delay_s`, `fails` and `lies` are by node number."""

    shards: dict[tuple[NodeId, bytes, int], tuple[ShardMeta, bytes]] = field(default_factory=dict)
    delay_s: dict[int, float] = field(default_factory=dict)
    fails: dict[int, type[NodeError]] = field(default_factory=dict)
    lies: set[int] = field(default_factory=set)
    away: set[int] = field(default_factory=set)
    suspected: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)

    @property
    def map(self) -> RamNodes:
        return self

    @property
    def groups(self) -> dict[GroupId, Group]:
        slots = tuple((NodeId(n), f"disk{n}") for n in range(NODES))
        return {GroupId(1): Group(GroupId(1), SiteId(1), 4, 2, 1, GroupState.OPEN, slots)}

    @property
    def placement(self) -> Placement:
        return plan_placement(
            self.groups.values(), lambda s: 1 << 30 if self.writable(s) else None, some_disk_full=False
        )

    def writable(self, slot: Slot) -> bool:
        return slot[0] not in self.away

    readable = writable

    def hedge_delay_s(self, slot: Slot) -> float:
        return 0.02

    def suspect(self, slot: Slot) -> None:
        self.suspected.add(slot[0])

    async def reload(self) -> None:
        raise AssertionError("nothing here is stale")

    async def request(
        self, slot: Slot, operation: Operation, payloads: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Result, memoryview | None]:
        node = slot[0]
        self.asked.append(node)
        if node in self.away:
            raise NodeUnreachable("away")
        try:
            await asyncio.wait_for(asyncio.sleep(self.delay_s.get(node, 0)), timeout_s)
        except TimeoutError:
            raise NodeUnreachable("no answer in time") from None
        if node in self.fails:
            raise self.fails[node]("told to")
        if isinstance(operation, PutShards):
            for meta, payload in zip(operation.shards, payloads, strict=True):
                self.shards[node, meta.block_id, meta.index] = (meta, bytes(payload))
            return PutDone(), None
        assert isinstance(operation, GetShard)
        found = self.shards.get((node, operation.shard.block_id, operation.shard.index))
        if found is None:
            raise ShardMissing("not here")
        meta, payload = found
        if node in self.lies:  # a wrong payload that carries its own right digest: what a bad rebuild would leave
            payload = bytes([payload[0] ^ 1]) + payload[1:]
            meta = ShardMeta(
                **{**{n: getattr(meta, n) for n in meta.__struct_fields__}, "payload_digest": _digest(payload)}
            )
        return ShardFound(meta), memoryview(payload)


def _digest(payload: bytes) -> bytes:
    return xxhash.xxh3_128_digest(payload)


@dataclass
class Store:
    nodes: RamNodes
    writer: BlockWriter
    reader: BlockReader
    reports: list[tuple[bytes, frozenset[int]]]

    async def write(self, *plain: bytes) -> list[NewBlock]:
        return await self.writer.write(ACCOUNT, [PlainBlock(one, hash_block(one)) for one in plain])

    async def read(self, block: NewBlock) -> bytes:
        return await self.reader.read(block.row)


def with_store(body: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        nodes = RamNodes()
        root = RootKey(bytes(32))
        wrapped = root.make_account_key()

        async def fetch(_account: AccountId) -> bytes:
            return wrapped

        reports: list[tuple[bytes, frozenset[int]]] = []
        cpu, keys, pool = CpuPool(2), AccountKeys(root, fetch), cast(NodePool, nodes)
        writer = BlockWriter(pool, cpu, keys, ByteBudget(16 << 20), WriteSettings(hedge_s=0.1, timeout_s=0.5))
        reader = BlockReader(
            pool, cpu, keys, ByteBudget(64 << 20), lambda *told: reports.append(told), ReadSettings(timeout_s=0.5)
        )
        try:
            await body(Store(nodes, writer, reader, reports))
        finally:
            await writer.close()
            cpu.close()

    asyncio.run(run())


BIG = os.urandom(300_000)
SMALL = b"a small file"


@pytest.mark.parametrize("plain", [SMALL, BIG, os.urandom(64 * 1024 - 16), os.urandom(64 * 1024 - 15), b"x"])
def test_round_trip(plain: bytes) -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(plain)
        assert not block.missing
        assert await store.read(block) == plain
        assert not store.reports

    with_store(body)


def test_a_batch_is_one_message_a_slot() -> None:
    async def body(store: Store) -> None:
        plains = [os.urandom(1000 + n) for n in range(20)] + [os.urandom(100_000 + n) for n in range(5)]
        blocks = await store.write(*plains)
        assert len(store.nodes.asked) == NODES
        assert [await store.read(block) for block in blocks] == plains

    with_store(body)


def test_a_late_slot_is_given_up_and_recorded_as_missing() -> None:
    async def body(store: Store) -> None:
        store.nodes.delay_s[3] = 0.4
        [block] = await store.write(BIG)
        assert block.missing == (3,)
        assert store.nodes.suspected == {3}
        assert await store.read(block) == BIG

    with_store(body)


def test_a_failing_slot_is_recorded_and_two_refuse_the_write() -> None:
    async def body(store: Store) -> None:
        store.nodes.fails[2] = NodeBusy
        [block] = await store.write(BIG)
        assert block.missing == (2,)
        store.nodes.fails[5] = NodeBusy
        with pytest.raises(CannotTakeWrite):
            await store.write(BIG)

    with_store(body)


@pytest.mark.parametrize("plain", [SMALL, BIG])
def test_two_nodes_away_refuse_every_write_and_no_read(plain: bytes) -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(plain)
        for away in itertools.combinations(range(NODES), 2):
            store.nodes.away = set(away)
            assert await store.read(block) == plain
            with pytest.raises(CannotTakeWrite):
                await store.write(plain)

    with_store(body)


def test_three_nodes_away_cannot_read_and_say_that_waiting_helps() -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(BIG)
        store.nodes.away = {0, 1, 2}
        with pytest.raises(CannotRead):
            await store.read(block)
        store.nodes.away = set()
        assert await store.read(block) == BIG

    with_store(body)


def test_a_late_data_shard_is_replaced_by_parity() -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(BIG)
        store.nodes.delay_s[1] = 0.4
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await store.read(block) == BIG
        assert loop.time() - began < 0.3

    with_store(body)


def test_lost_shards_are_read_around_and_reported() -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(BIG)
        for lost in itertools.combinations(range(4), 2):
            kept = dict(store.nodes.shards)
            for key in [key for key in kept if key[2] in lost]:
                del store.nodes.shards[key]
            assert await store.read(block) == BIG
            assert store.reports.pop() == (block.row.block_id, frozenset(lost))
            store.nodes.shards = kept
        for key in [key for key in store.nodes.shards if key[2] in (0, 1, 2)]:
            del store.nodes.shards[key]
        with pytest.raises(BlockDamaged):
            await store.read(block)

    with_store(body)


@pytest.mark.parametrize("liars", [{0}, {3}, {1, 2}, {0, 5}])
def test_shards_that_lie_with_a_right_digest_are_found_out(liars: set[int]) -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(BIG)
        store.nodes.lies = liars
        assert await store.read(block) == BIG
        assert store.reports == [(block.row.block_id, frozenset(liars))]
        store.nodes.lies = {0, 1, 2}
        with pytest.raises(BlockDamaged):
            await store.read(block)

    with_store(body)


def test_a_copy_that_lies_is_found_out() -> None:
    async def body(store: Store) -> None:
        [block] = await store.write(SMALL)
        holders = sorted(node for node, _, _ in store.nodes.shards)
        for liars in itertools.combinations(holders, 2):
            store.nodes.lies = set(liars)
            assert await store.read(block) == SMALL
        store.nodes.lies = set(holders)
        with pytest.raises(BlockDamaged):
            await store.read(block)

    with_store(body)
