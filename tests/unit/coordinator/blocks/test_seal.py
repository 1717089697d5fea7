"""Sealing: what comes out is what went in, or an error; never other bytes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.blocks.seal import Codec, SealedBlock, open_block, seal_block, verify_seal
from coordinator.blocks.write import new_block_id
from coordinator.metadata.values import AccountId, BlockRow, GroupId
from coordinator.protocol.errors import BlockDamaged
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block

ACCOUNT = AccountId(7)
KEY = bytes(range(32))


def seal(plain: bytes, account: AccountId = ACCOUNT) -> SealedBlock:
    return seal_block(plain, hash_block(plain), new_block_id(), account, KEY, 4)


def row_of(sealed: SealedBlock) -> BlockRow:
    return BlockRow(
        block_id=sealed.block_id,
        hash=sealed.hash,
        group_id=GroupId(1),
        group_epoch=1,
        k=4,
        m=2,
        codec=int(sealed.codec),
        plain_size=sealed.plain_size,
        sealed_size=sealed.sealed_size,
        sealed_digest=sealed.sealed_digest,
        account_id=sealed.account_id,
        wrapped_key=sealed.wrapped_key,
    )


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=200_000), st.integers(1, 50))
def test_open_gives_back_what_was_sealed(piece: bytes, times: int) -> None:
    plain = (piece * times)[:BLOCK_BYTES]
    sealed = seal(plain)
    verify_seal(sealed, plain, KEY)
    assert open_block(bytes(sealed.sealed), row_of(sealed), KEY) == plain


@pytest.mark.parametrize("size", [1, 15, 16, 127, 128, 64 * 1024, BLOCK_BYTES - 1, BLOCK_BYTES])
def test_sizes_at_the_edges(size: int) -> None:
    plain = os.urandom(size)
    sealed = seal(plain)
    assert sealed.codec is Codec.STORED
    assert len(sealed.buffer) % 4 == 0
    assert open_block(sealed.sealed, row_of(sealed), KEY) == plain


def test_text_is_compressed_and_media_is_not() -> None:
    assert seal(b"All work and no play makes a dull file. " * 50_000).codec is Codec.ZSTD
    assert seal(os.urandom(1 << 20)).codec is Codec.STORED


@pytest.mark.parametrize("size", [0, BLOCK_BYTES + 1])
def test_blocks_of_impossible_size_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a block of"):
        seal(bytes(size))


@settings(max_examples=100)
@given(st.data())
def test_open_raises_damaged_when_one_bit_flips(data: st.DataObject) -> None:
    sealed = seal(b"some text that is long enough to be worth packing " * 20)
    at = data.draw(st.integers(0, sealed.sealed_size - 1))
    wrong = bytearray(sealed.sealed)
    wrong[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BlockDamaged):
        open_block(wrong, row_of(sealed), KEY)


def test_open_raises_damaged_for_another_block_account_size_or_key() -> None:
    plain = os.urandom(1000)
    sealed = seal(plain)
    row = row_of(sealed)
    for wrong in (
        replace(row, block_id=new_block_id()),
        replace(row, account_id=AccountId(8)),
        replace(row, plain_size=999),
        replace(row, codec=int(Codec.ZSTD)),
        replace(row, hash=bytes(32)),
        replace(row, sealed_size=row.sealed_size - 1),
        replace(row, wrapped_key=seal(plain).wrapped_key),
    ):
        with pytest.raises(BlockDamaged):
            open_block(sealed.sealed, wrong, KEY)
    with pytest.raises(BlockDamaged):
        open_block(sealed.sealed, row, bytes(32))


def test_verify_catches_a_seal_that_does_not_open_to_what_went_in() -> None:
    plain = os.urandom(5000)
    sealed = seal(plain)
    with pytest.raises(BlockDamaged):
        verify_seal(sealed, plain[:-1] + b"x", KEY)
    sealed.buffer[100] ^= 1  # what a processor that computes wrongly would have written
    with pytest.raises(BlockDamaged):
        verify_seal(sealed, plain, KEY)


def test_every_block_has_a_key_and_an_id_of_its_own() -> None:
    first, second = seal(b"same"), seal(b"same")
    assert first.wrapped_key != second.wrapped_key
    assert bytes(first.sealed) != bytes(second.sealed)
    ids = [new_block_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(one[6] >> 4 == 7 and one[8] >> 6 == 2 and len(one) == 16 for one in ids)


def test_everything_but_the_hash_is_looked_at_where_the_caller_compares_hashes() -> None:
    plain = os.urandom(1000)
    sealed = seal(plain)
    row = row_of(sealed)
    assert open_block(sealed.sealed, replace(row, hash=bytes(32)), KEY, hashed=False) == plain
    damaged = bytearray(sealed.sealed)
    damaged[500] ^= 1
    for bytes_, wrong in ((sealed.sealed, replace(row, block_id=new_block_id())), (memoryview(damaged), row)):
        with pytest.raises(BlockDamaged):
            open_block(bytes_, wrong, KEY, hashed=False)
