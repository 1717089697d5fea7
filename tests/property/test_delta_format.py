"""The delta format: everything that can be encoded comes back, and arbitrary bytes are refused in bounded work."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.delta import (
    DELTA_BLOCK_OPS_MAX,
    BadDelta,
    BlockDelta,
    Copy,
    Delta,
    Literal,
    decode_delta,
    decode_ops,
    encode_delta,
    encode_ops,
)
from coordinator.protocol.hashing import BLOCK_BYTES

VECTOR = Path(__file__).parent.parent / "vectors" / "delta_format_1.json"

copies = st.builds(Copy, st.integers(0, (1 << 44) - 1), st.integers(1, 60_000))
literals = st.binary(min_size=1, max_size=60).map(lambda plain: Literal(len(plain), plain))
operations = st.lists(copies | literals, max_size=40).map(tuple)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    indexes = sorted(draw(st.sets(st.integers(0, (1 << 32) - 1), max_size=20)))
    blocks = tuple(BlockDelta(index, draw(operations)) for index in indexes)
    return Delta(draw(st.integers(0, (1 << 63) - 1)), draw(st.integers(0, (1 << 31) - 1)), blocks)


def without_bytes(delta: Delta) -> Delta:
    return Delta(delta.base_id, delta.base_version, tuple(BlockDelta(b.index, lengths(b.ops)) for b in delta.blocks))


def lengths(ops: tuple[Copy | Literal, ...]) -> tuple[Copy | Literal, ...]:
    return tuple(op if isinstance(op, Copy) else Literal(op.length) for op in ops)


@given(deltas())
def test_a_delta_comes_back_as_it_was_encoded(delta: Delta) -> None:
    assert decode_delta(encode_delta(delta, literals=True)) == delta
    assert decode_delta(encode_delta(delta, literals=False)) == without_bytes(delta)


@given(operations)
def test_operations_come_back_without_their_bytes(ops: tuple[Copy | Literal, ...]) -> None:
    assert decode_ops(encode_ops(ops, literals=False)) == lengths(ops)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_decode_to_what_encodes_as_them(encoded: bytes) -> None:
    for candidate in (encoded, b"HFD1" + encoded, b"HFD1\1" + bytes(12) + b"\0\0\0\2" + encoded):
        try:
            delta = decode_delta(candidate)
        except BadDelta:
            continue
        again = encode_delta(delta, literals=candidate[4] == 1)
        assert decode_delta(again) == delta


@settings(max_examples=300)
@given(deltas(), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_never_raises_anything_else(delta: Delta, at: int, bit: int) -> None:
    encoded = bytearray(encode_delta(delta, literals=True))
    encoded[at % len(encoded)] ^= 1 << bit
    with contextlib.suppress(BadDelta):
        decode_delta(encoded)


@given(deltas().filter(lambda delta: bool(delta.blocks)))
def test_every_cut_is_refused(delta: Delta) -> None:
    encoded = encode_delta(delta, literals=True)
    for size in range(0, len(encoded), max(1, len(encoded) // 50)):
        with pytest.raises(BadDelta):
            decode_delta(encoded[:size])


def test_bounds_are_kept() -> None:
    too_long = Delta(1, 1, (BlockDelta(0, (Copy(0, BLOCK_BYTES), Copy(0, 1))),))
    empty = Delta(1, 1, (BlockDelta(0, (Copy(0, 0),)),))
    unordered = Delta(1, 1, (BlockDelta(3, ()), BlockDelta(3, ())))
    too_many_ops = Delta(1, 1, (BlockDelta(0, (Copy(0, 1),) * (DELTA_BLOCK_OPS_MAX + 1)),))
    too_many_blocks = Delta(1, 1, tuple(BlockDelta(index, ()) for index in range(65)))
    for bad in (too_long, empty, unordered, too_many_ops, too_many_blocks):
        with pytest.raises(BadDelta):
            decode_delta(encode_delta(bad, literals=False))
    many = Delta(1, 1, tuple(BlockDelta(index, (Copy(0, 1),) * DELTA_BLOCK_OPS_MAX) for index in range(9)))
    with pytest.raises(BadDelta):
        decode_delta(encode_delta(many, literals=False))
    assert len(decode_delta(encode_delta(too_many_blocks, literals=False), blocks_max=65).blocks) == 65


def test_the_frozen_bytes_still_mean_the_same() -> None:
    vector = json.loads(VECTOR.read_text())
    ops = tuple(
        Copy(op["offset"], op["length"]) if "offset" in op else Literal(op["length"], bytes.fromhex(op["plain"]))
        for op in vector["ops"]
    )
    delta = Delta(vector["base_id"], vector["base_version"], (BlockDelta(vector["index"], ops),))
    assert encode_delta(delta, literals=True).hex() == vector["with_literals"]
    assert encode_delta(delta, literals=False).hex() == vector["lengths_only"]
    assert decode_delta(bytes.fromhex(vector["with_literals"])) == delta
