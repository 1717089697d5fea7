"""Blocks that arrive as deltas: made from a base version's blocks and literal bytes, then stored like any others.

Guarantees: a block is stored only when its bytes have the hash that was announced for it, whatever the delta says; of
one request nothing is held but its body and a few blocks, and of all requests together no more than a budget.
Does not: commit (metadata.commits), parse HTTP (api/deltas.py).

Several blocks are worked on at once, in order: while one is sealed and sent, the base blocks of the next are read. A
file that was shifted needs each base block for two of its blocks; the store remembers it in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.blocks.recent import Plain
from coordinator.blocks.write import PlainBlock
from coordinator.metadata import blocks, pending
from coordinator.metadata.values import DeltaPlan, FileId, Session
from coordinator.protocol.delta import (
    DELTA_BASE_BLOCKS_MAX,
    DELTA_KEPT_BLOCK_BYTES_MAX,
    BadDelta,
    BlockDelta,
    Copy,
    Delta,
    Literal,
    decode_delta,
    encode_ops,
)
from coordinator.protocol.errors import BadRequest, HashMismatch
from coordinator.protocol.hashing import BLOCK_BYTES, block_size
from coordinator.services import Services
from coordinator.staging import stage_blocks

BLOCKS_AT_ONCE: Final = 4  # of one request
_BLOCK_WORK_BYTES: Final = 2 * BLOCK_BYTES  # the block in the making, and the base block that is copied from


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of a base block from `source` on, which go to `target` in the block in the making."""

    source: int
    target: int
    length: int


def cut_pieces(block: BlockDelta) -> dict[int, list[Piece]]:
    """What a block copies, by the index of the base block, in ascending order."""
    pieces: dict[int, list[Piece]] = {}
    target = 0
    for op in block.ops:
        if isinstance(op, Copy):
            offset, done = op.offset, 0
            while done < op.length:
                index, source = divmod(offset + done, BLOCK_BYTES)
                length = min(op.length - done, BLOCK_BYTES - source)
                pieces.setdefault(index, []).append(Piece(source, target + done, length))
                done += length
        target += op.length
    return dict(sorted(pieces.items()))


async def apply_delta(services: Services, session: Session, upload_id: str, encoded: bytes | bytearray) -> int:
    """Store the blocks of the caller's own pending upload that `encoded` describes; how many they are.

    Raises BadRequest, NotFound (upload, or the base version), UploadGone, HashMismatch (`blocks`: the indexes of those
    that did not become what was announced; the others are stored), and what reading and writing blocks raise.
    """
    delta, copies = await services.cpu.run(_decode, encoded)
    plan = await services.db.run(
        pending.plan_delta,
        session,
        upload_id,
        [block.index for block in delta.blocks],
        FileId(delta.base_id),
        delta.base_version,
        sorted({index for pieces in copies for index in pieces}),
    )
    _check_fit(delta, copies, plan)
    target = plan.upload.target
    there = await services.db.run(
        blocks.stage_existing,
        session,
        target.account_id,
        target.namespace_id,
        None,
        [plan.hashes[block.index] for block in delta.blocks],
    )
    makers = [
        _Maker(services, session, plan, block, pieces)
        for block, pieces, row in zip(delta.blocks, copies, there, strict=True)
        if row is None
    ]
    # Kept before the first block is told: who follows the upload sees by then that it comes as a delta. Whoever uses
    # the operations of a block that turns out wrong finds that out as well.
    kept = await services.cpu.run(_ops_to_keep, delta)
    if kept:
        await services.db.run(pending.keep_delta, upload_id, FileId(delta.base_id), delta.base_version, kept)
    wrong = await _make_all(makers)
    if wrong:
        await services.db.run(pending.drop_delta, upload_id, sorted(wrong))
        raise HashMismatch(blocks=sorted(wrong))
    return len(delta.blocks)


def _decode(encoded: bytes | bytearray) -> tuple[Delta, list[dict[int, list[Piece]]]]:
    try:
        delta = decode_delta(encoded)
    except BadDelta as error:
        raise BadRequest(reason=f"the delta cannot be used: {error}") from error
    return delta, [cut_pieces(block) for block in delta.blocks]


def _check_fit(delta: Delta, copies: Sequence[Mapping[int, object]], plan: DeltaPlan) -> None:
    """Raises BadRequest where the delta names what is not in the upload or its base, or asks for too much."""
    for block, pieces in zip(delta.blocks, copies, strict=True):
        if block.index not in plan.hashes:
            raise BadRequest(reason=f"the upload has no block {block.index}")
        if block.length != block_size(plan.size_bytes, block.index):
            raise BadRequest(reason=f"block {block.index} has another length")
        if any(isinstance(op, Copy) and op.offset + op.length > plan.base_size_bytes for op in block.ops):
            raise BadRequest(reason=f"block {block.index} copies from beyond the base's end")
        if any(isinstance(op, Literal) and op.plain is None for op in block.ops):
            raise BadRequest(reason="its literals have no bytes")
        if len(pieces) > DELTA_BASE_BLOCKS_MAX:
            raise BadRequest(reason=f"block {block.index} copies from more than {DELTA_BASE_BLOCKS_MAX} base blocks")


async def _make_all(makers: Sequence[_Maker]) -> set[int]:
    """Make and store the blocks, a few at once; the indexes of those whose bytes were not what was announced."""
    queue = iter(makers)
    wrong: set[int] = set()

    async def work() -> None:
        for maker in queue:
            try:
                await maker.make()
            except HashMismatch:
                wrong.add(maker.index)

    tasks = [asyncio.create_task(work()) for _ in range(min(BLOCKS_AT_ONCE, len(makers)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return wrong


class _Maker:
    """One block in the making."""

    def __init__(
        self,
        services: Services,
        session: Session,
        plan: DeltaPlan,
        block: BlockDelta,
        pieces: Mapping[int, list[Piece]],
    ) -> None:
        self.index = block.index
        self._services = services
        self._session = session
        self._plan = plan
        self._block = block
        self._pieces = pieces

    async def make(self) -> None:
        """Raises HashMismatch, and what reading and writing blocks raise."""
        store, cpu = self._services.store, self._services.cpu
        async with store.assembling.hold(_BLOCK_WORK_BYTES):
            plain = bytearray(self._block.length)
            _fill_literals(plain, self._block)
            for index, pieces in self._pieces.items():
                base = await store.read_base(self._plan.base[index])
                await cpu.run(_fill, plain, base, pieces)
            block = PlainBlock(plain, claimed=self._plan.hashes[self.index])
            await stage_blocks(self._services, self._session, self._plan.upload.target, [block])


def _fill(plain: bytearray, base: Plain, pieces: Sequence[Piece]) -> None:
    source, target = memoryview(base), memoryview(plain)
    for piece in pieces:
        target[piece.target : piece.target + piece.length] = source[piece.source : piece.source + piece.length]


def _fill_literals(plain: bytearray, block: BlockDelta) -> None:
    at, target = 0, memoryview(plain)
    for op in block.ops:
        if isinstance(op, Literal) and op.plain is not None:
            target[at : at + op.length] = op.plain
        at += op.length


def _ops_to_keep(delta: Delta) -> dict[int, bytes]:
    """The operations that help another device: of blocks that copy anything, where they are not too long."""
    kept: dict[int, bytes] = {}
    for block in delta.blocks:
        if not any(isinstance(op, Copy) for op in block.ops):
            continue
        ops = encode_ops(block.ops, literals=False)
        if len(ops) <= DELTA_KEPT_BLOCK_BYTES_MAX:
            kept[block.index] = ops
    return kept
