"""Deltas: blocks told as copies out of a base version and the bytes that it does not have. Pure.

A delta describes some blocks of an announced version, each by itself: its operations, in order, give its bytes. The
same format carries a delta to the service (with the literal bytes) and tells other devices how a version was sent
(lengths only; they fetch the literal ranges of the blocks, or have them).

Format 1, integers big endian, varints LEB128 (seven bits a byte, low first, the eighth: more follow):

    4  magic "HFD1"        1  flags: 1 = with literal bytes        8  base file id
    4  base version        4  number of blocks
    then for each block, by ascending index
    4  index of the block  varint  number of operations
    then for each operation
    varint  length in bytes * 2 + (1 for a literal)
    a copy:     varint  offset in the base
    a literal:  the bytes, where the flags say so

Guarantees: `decode_delta` gives exactly what was encoded or raises BadDelta; whatever the bytes say, it makes no more
operations than its bound, and no block longer than BLOCK_BYTES.
Does not: know how long the blocks are or should be, or whether the base reaches as far (who applies it does).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import VERSION_MAX

DELTA_BLOCKS_MAX: Final = 64  # in one request
DELTA_BODY_BYTES_MAX: Final = 8 * 1024 * 1024  # of one request, not compressed
DELTA_BASE_BLOCKS_MAX: Final = 8  # base blocks that one block may copy from: each is read to make it
DELTA_BLOCK_OPS_MAX: Final = 8192
DELTA_OPS_MAX: Final = 65_536  # in one request
# Operations that are kept for other devices: of one block, and of all blocks of a version. What is longer is not kept.
DELTA_KEPT_BLOCK_BYTES_MAX: Final = 16 * 1024
DELTA_KEPT_BYTES_MAX: Final = 2 * 1024 * 1024

_MAGIC: Final = b"HFD1"
_HEAD: Final = struct.Struct(">4sBQII")
_INDEX: Final = struct.Struct(">I")
_WITH_LITERALS: Final = 1
_ID_MAX: Final = (1 << 63) - 1
_VARINT_BYTES_MAX: Final = 9  # 63 bits


class BadDelta(ValueError):
    """These bytes are no delta; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes of the base from `offset` on."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Literal:
    """`length` bytes that the base does not have; `plain` holds them, or is None where only the length is told."""

    length: int
    plain: bytes | memoryview | None = None


Op = Copy | Literal


@dataclass(frozen=True, slots=True)
class BlockDelta:
    """One block of the target, at `index`: the operations that give its bytes in order."""

    index: int
    ops: tuple[Op, ...]

    @property
    def length(self) -> int:
        return sum(op.length for op in self.ops)


@dataclass(frozen=True, slots=True)
class Delta:
    """Blocks by ascending index, told from version `base_version` of the file `base_id`."""

    base_id: int
    base_version: int
    blocks: tuple[BlockDelta, ...]


def encode_delta(delta: Delta, *, literals: bool) -> bytes:
    """`literals`: with their bytes, as the service takes them; else with their lengths only."""
    head = _HEAD.pack(_MAGIC, literals, delta.base_id, delta.base_version, len(delta.blocks))
    parts: list[bytes | memoryview] = [head]
    for block in delta.blocks:
        parts += (_INDEX.pack(block.index), encode_ops(block.ops, literals=literals))
    return b"".join(parts)


def encode_ops(ops: Sequence[Op], *, literals: bool) -> bytes:
    """One block's operations as they stand in a delta, their number first."""
    parts: list[bytes | memoryview] = [_varint(len(ops))]
    for op in ops:
        if isinstance(op, Copy):
            parts += (_varint(op.length << 1), _varint(op.offset))
            continue
        parts.append(_varint(op.length << 1 | 1))
        if literals:
            if op.plain is None or len(op.plain) != op.length:
                raise ValueError("a literal without its bytes")
            parts.append(op.plain)
    return b"".join(parts)


def join_kept(base_id: int, base_version: int, blocks: Sequence[tuple[int, bytes]]) -> bytes:
    """A delta without literal bytes from (index, what `encode_ops` made), by ascending index."""
    head = _HEAD.pack(_MAGIC, 0, base_id, base_version, len(blocks))
    return head + b"".join(part for index, ops in blocks for part in (_INDEX.pack(index), ops))


def decode_delta(
    encoded: bytes | bytearray | memoryview, *, blocks_max: int = DELTA_BLOCKS_MAX, ops_max: int = DELTA_OPS_MAX
) -> Delta:
    """Raises BadDelta. Literals with bytes are views into `encoded`, which must not change as long as they live."""
    reader = _Reader(memoryview(encoded), ops_max)
    magic, flags, base_id, base_version, count = reader.unpack(_HEAD)
    if magic != _MAGIC or flags & ~_WITH_LITERALS:
        raise BadDelta("it does not begin like a delta of format 1")
    if base_id > _ID_MAX or base_version > VERSION_MAX:
        raise BadDelta("it names a base that cannot be")
    if count > blocks_max:
        raise BadDelta(f"it has {count} blocks, more than {blocks_max}")
    blocks: list[BlockDelta] = []
    for _ in range(count):
        (index,) = reader.unpack(_INDEX)
        if blocks and index <= blocks[-1].index:
            raise BadDelta("its blocks are not in order")
        blocks.append(BlockDelta(index, reader.ops(literals=bool(flags & _WITH_LITERALS))))
    if reader.left:
        raise BadDelta("something follows its end")
    return Delta(base_id, base_version, tuple(blocks))


def decode_ops(encoded: bytes) -> tuple[Op, ...]:
    """What `encode_ops` made without literal bytes. Raises BadDelta."""
    reader = _Reader(memoryview(encoded), DELTA_BLOCK_OPS_MAX)
    ops = reader.ops(literals=False)
    if reader.left:
        raise BadDelta("something follows its end")
    return ops


class _Reader:
    """Takes values off the front of some bytes."""

    def __init__(self, view: memoryview, ops_max: int) -> None:
        self._view = view
        self._at = 0
        self._ops_left = ops_max

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self._take(layout.size))

    def ops(self, *, literals: bool) -> tuple[Op, ...]:
        count, length = self._varint(), 0
        self._ops_left -= count
        if count > DELTA_BLOCK_OPS_MAX or self._ops_left < 0:
            raise BadDelta("it has too many operations")
        ops: list[Op] = []
        for _ in range(count):
            head = self._varint()
            size = head >> 1
            length += size
            if size == 0 or length > BLOCK_BYTES:
                raise BadDelta("a block in it is longer than a block can be, or an operation is empty")
            if head & 1:
                ops.append(Literal(size, self._take(size) if literals else None))
            else:
                ops.append(Copy(self._varint(), size))
        return tuple(ops)

    def _take(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        if self.left < 0:
            raise BadDelta("it ends within a block")
        return self._view[start : self._at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise BadDelta("a number in it is too long")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
