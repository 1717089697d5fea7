"""The block store as the rest of the coordinator sees it: blocks in, blocks out, over the storage nodes.

Guarantees: `write` returns when the blocks are durable on enough nodes; `read` returns verified plaintext. Bad shards
that reads come across are handed to the database's repair queue by a task of the store.
Does not: record blocks (metadata.blocks.record), decide who may read them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import zmq

from coordinator.blocks.budget import ByteBudget
from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.inventory import ShardInventory
from coordinator.blocks.keys import AccountKeys, RootKey
from coordinator.blocks.nodes import NodeKeys, NodePool
from coordinator.blocks.read import BlockReader, ReadSettings
from coordinator.blocks.rebuild import BlockRebuilder
from coordinator.blocks.recent import Plain, RecentBlocks
from coordinator.blocks.siblings import Siblings
from coordinator.blocks.write import BlockWriter, PlainBlock, WriteSettings
from coordinator.config import CoordinatorConfig
from coordinator.metadata import accounts, blocks, groups
from coordinator.metadata.db import Door
from coordinator.metadata.values import AccountId, BlockRow, NewBlock
from coordinator.metrics import BLOCK_BUDGET_WAITING, BLOCK_BYTES, SHARDS_BAD
from coordinator.protocol.errors import ApiError

_log = logging.getLogger(__name__)

_REPORTS_MAX: Final = 1000
# A block being written takes up to five times its size (plain, packed, sealed, parity, opened again), one being read
# twice: these bound what sealing and opening may hold, beside the bodies that come in and go out.
_WRITING_BYTES_MAX: Final = 12 * 1024 * 1024
_READING_BYTES_MAX: Final = 64 * 1024 * 1024
_BASE: Final = b"base "  # before the ids of remembered blocks whose hash was not computed: nobody is given those
_ASSEMBLING_BYTES_MAX: Final = 32 * 1024 * 1024  # blocks that are made of a delta, and what they are made of


class BlockStore:
    """Owned by the event loop; everything between `start` and `close`."""

    def __init__(self, config: CoordinatorConfig, db: Door, cpu: CpuPool) -> None:
        secret = Path(config.node_secret_key_file).read_text().strip()
        keys = NodeKeys(public=zmq.curve_public(secret.encode()).decode(), secret=secret)
        account_keys = AccountKeys(
            RootKey.read(Path(config.root_key_file)), lambda account: db.run(accounts.get_account_key, account)
        )
        # Bodies on their way in, and blocks on their way out, hold a part of these until they are stored or sent.
        self.incoming = ByteBudget(config.blocks_in_flight_bytes_max)
        self.outgoing = ByteBudget(config.blocks_in_flight_bytes_max)
        self.assembling = ByteBudget(_ASSEMBLING_BYTES_MAX)
        writing, reading = ByteBudget(_WRITING_BYTES_MAX), ByteBudget(_READING_BYTES_MAX)
        budgets = {
            "incoming": self.incoming,
            "outgoing": self.outgoing,
            "assembling": self.assembling,
            "writing": writing,
            "reading": reading,
        }
        for name, budget in budgets.items():
            BLOCK_BUDGET_WAITING.labels(name).set_function(partial(getattr, budget, "waiting"))
        self._db = db
        self.nodes = NodePool(lambda: db.run(groups.load_map), lambda: db.run(groups.map_version), keys, config.site)
        self._writer = BlockWriter(self.nodes, cpu, account_keys, writing, WriteSettings())
        self._reader = BlockReader(self.nodes, cpu, account_keys, reading, self._report, ReadSettings())
        self.inventory = ShardInventory(self.nodes)
        self.recent = RecentBlocks()
        self.siblings = Siblings(self.recent)
        self._reading: dict[bytes, asyncio.Task[Plain]] = {}  # what `read_again` and `read_base` read now
        self._rebuilder = BlockRebuilder(self.nodes, cpu, self._reader)
        self._reports: asyncio.Queue[tuple[bytes, frozenset[int]]] = asyncio.Queue(_REPORTS_MAX)
        self._reporter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.nodes.start()
        self.siblings.start()
        self._reporter = asyncio.create_task(self._send_reports(), name="bad-shard-reports")

    async def close(self) -> None:
        if self._reporter is not None:
            self._reporter.cancel()
            await asyncio.gather(self._reporter, return_exceptions=True)
        for task in self._reading.values():
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
        self.siblings.close()
        self.recent.clear()
        await self._writer.close()
        await self.nodes.close()

    async def write(self, account_id: AccountId, plain: Sequence[PlainBlock]) -> list[NewBlock]:
        """Make blocks durable, together; see BlockWriter.write. The caller records them."""
        written = await self._writer.write(account_id, plain)
        BLOCK_BYTES.labels("written").inc(sum(block.row.plain_size for block in written))
        return written

    async def read(self, row: BlockRow, *, hashed: bool = True) -> Plain:
        """The verified plaintext of one block; see BlockReader.read."""
        remembered = self.recent.get(row.block_id)
        if remembered is None and (remembered := await self.siblings.fetch(row.block_id, row.plain_size)) is not None:
            self.recent.put(row.block_id, remembered)
        if remembered is not None:
            BLOCK_BYTES.labels("remembered").inc(len(remembered))
            return remembered
        plain = await self._reader.read(row, hashed=hashed)
        BLOCK_BYTES.labels("read").inc(len(plain))
        return plain

    async def read_again(self, row: BlockRow) -> Plain:
        """As `read`, of a block that is likely to be read again within seconds: it is remembered for so long, and read
        once for all who ask at the same time."""
        return await self._read_together(row.block_id, row, hashed=True)

    async def read_base(self, row: BlockRow) -> Plain:
        """As `read_again`, for making another block that is checked by its own hash: this one's is not computed, which
        takes a quarter of what reading it takes."""
        remembered = self.recent.get(row.block_id)
        return remembered or await self._read_together(_BASE + row.block_id, row, hashed=False)

    async def _read_together(self, name: bytes, row: BlockRow, *, hashed: bool) -> Plain:
        task = self._reading.get(name)
        if task is None:
            task = self._reading[name] = asyncio.create_task(self._read_and_remember(name, row, hashed=hashed))
            task.add_done_callback(partial(self._end_reading, name))
        return await asyncio.shield(task)  # one caller that leaves must not take the block away from the others

    async def _read_and_remember(self, name: bytes, row: BlockRow, *, hashed: bool) -> Plain:
        plain = self.recent.get(name)
        if plain is None:
            plain = await self.read(row, hashed=hashed)
            self.recent.put(name, plain)
        return plain

    def _end_reading(self, name: bytes, task: asyncio.Task[Plain]) -> None:
        del self._reading[name]
        if not task.cancelled():
            task.exception()  # those who still wait are told; where all have left, nobody need be

    async def rebuild(self, row: BlockRow, indexes: Collection[int]) -> set[int]:
        """Put lost shards back; see BlockRebuilder.rebuild."""
        return await self._rebuilder.rebuild(row, indexes)

    def _report(self, block_id: bytes, indexes: frozenset[int]) -> None:
        SHARDS_BAD.inc(len(indexes))
        try:
            self._reports.put_nowait((block_id, indexes))
        except asyncio.QueueFull:
            # Repair lags far behind; the next read or the verify job reports it again.
            _log.warning("shards.report_dropped", extra={"block": block_id.hex()})

    async def _send_reports(self) -> None:
        while True:
            block_id, indexes = await self._reports.get()
            try:
                await self._db.run(blocks.report_missing, block_id, indexes, "found bad by a read")
            except ApiError as error:
                _log.warning("shards.not_reported", extra={"block": block_id.hex(), "reason": error.message})
