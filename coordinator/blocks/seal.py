"""Seal and open one block: compress, encrypt, digest, and check; no I/O.

Guarantees: `open_block` returns exactly the plaintext that `seal_block` was given, or raises BlockDamaged. A sealed
block that `verify_seal` has passed has been opened again on this machine and compared, so a processor that computes
wrongly is caught before anything is acknowledged.
Does not: keep or choose keys (keys.py), code shards (node.protocol.erasure), decide where they go (place.py).

Everything here is CPU work that releases the interpreter lock in bulk; run it in the CPU pool.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import xxhash
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from coordinator.metadata.values import AccountId, BlockRow
from coordinator.protocol.errors import BlockDamaged
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block

TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
# Every block has a key of its own, used for one message: the nonce need not vary.
_NONCE: Final = bytes(12)
_SAMPLE_BYTES: Final = 16 * 1024
# A block whose samples shrink by less than this is stored as it is; decompression on every read must pay for itself.
_WORTHWHILE_RATIO: Final = 0.95
_ZSTD_LEVEL: Final = 1
_COMPRESS_FROM_BYTES: Final = 128

Buffer = bytes | bytearray | memoryview


class Codec(IntEnum):
    """How a block's plaintext was packed before it was encrypted. The numbers stand on disk."""

    STORED = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block ready to be coded into shards: `buffer` holds `sealed_size` bytes, then zeros up to a multiple of k."""

    block_id: bytes
    account_id: AccountId
    hash: bytes
    plain_size: int
    codec: Codec
    sealed_size: int
    sealed_digest: bytes
    wrapped_key: bytes
    buffer: bytearray

    @property
    def sealed(self) -> memoryview:
        return memoryview(self.buffer)[: self.sealed_size]


class _Zstd(threading.local):
    """zstd contexts are not thread-safe and costly to make: one of each for every CPU thread."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def seal_block(  # noqa: PLR0917 - the facts of one block, each named by its caller
    plain: Buffer, digest: bytes, block_id: bytes, account_id: AccountId, account_key: bytes, padded_to: int
) -> SealedBlock:
    """Compress and encrypt one block of at most BLOCK_BYTES under a fresh key.

    `digest` is the plaintext's SHA-256, already checked by the caller. `buffer` of the result is zero-padded to a
    multiple of `padded_to` bytes, so that data shards are slices of it.
    """
    plain_size = memoryview(plain).nbytes
    if not 0 < plain_size <= BLOCK_BYTES:
        raise ValueError(f"a block of {plain_size} bytes")
    codec, packed = _pack(plain)
    key = os.urandom(KEY_BYTES)
    sealed_size = len(packed) + TAG_BYTES
    buffer = bytearray(-(-sealed_size // padded_to) * padded_to)
    aad = _aad(block_id, account_id, plain_size, codec)
    AESGCM(key).encrypt_into(_NONCE, packed, aad, memoryview(buffer)[:sealed_size])
    return SealedBlock(
        block_id=block_id,
        account_id=account_id,
        hash=digest,
        plain_size=plain_size,
        codec=codec,
        sealed_size=sealed_size,
        sealed_digest=xxhash.xxh3_128_digest(memoryview(buffer)[:sealed_size]),
        wrapped_key=aes_key_wrap(account_key, key),
        buffer=buffer,
    )


def verify_seal(sealed: SealedBlock, plain: bytes | bytearray, account_key: bytes) -> None:
    """Open what was just sealed and compare it with the plaintext. Raises BlockDamaged: nothing may be acknowledged."""
    opened = _open(sealed.sealed, sealed, account_key)
    if opened != plain:  # one memcmp; comparing memoryviews goes byte by byte and is 20 times slower
        raise BlockDamaged(block=sealed.block_id.hex(), cause="the sealed block does not open to what went in")


def open_block(sealed: Buffer, facts: BlockRow, account_key: bytes, *, hashed: bool = True) -> bytes:
    """The verified plaintext: sizes, GCM tag and, unless `hashed` is False, SHA-256 are right, or BlockDamaged is
    raised."""
    plain = _open(memoryview(sealed)[: facts.sealed_size], facts, account_key)
    if hashed and hash_block(plain) != facts.hash:
        raise BlockDamaged(block=facts.block_id.hex(), cause="the plaintext's hash differs")
    return plain


def digest_matches(sealed: Buffer, facts: BlockRow) -> bool:
    """Whether a sealed block put together from shards is the one that was written (XXH3-128, not cryptographic)."""
    return bool(xxhash.xxh3_128_digest(memoryview(sealed)[: facts.sealed_size]) == facts.sealed_digest)


def _pack(plain: Buffer) -> tuple[Codec, Buffer]:
    if not _compresses(plain):
        return Codec.STORED, plain
    packed = _zstd.compressor.compress(plain)
    if len(packed) > memoryview(plain).nbytes * _WORTHWHILE_RATIO:
        return Codec.STORED, plain
    return Codec.ZSTD, packed


def _compresses(plain: Buffer) -> bool:
    """Judge by three samples (start, middle, end): already compressed media is most of what people keep."""
    view = memoryview(plain)
    if view.nbytes < _COMPRESS_FROM_BYTES:
        return False
    if view.nbytes <= 4 * _SAMPLE_BYTES:
        return True
    starts = (0, (view.nbytes - _SAMPLE_BYTES) // 2, view.nbytes - _SAMPLE_BYTES)
    packed = sum(len(_zstd.compressor.compress(view[at : at + _SAMPLE_BYTES])) for at in starts)
    return packed < _WORTHWHILE_RATIO * len(starts) * _SAMPLE_BYTES


def _open(sealed: memoryview, facts: BlockRow | SealedBlock, account_key: bytes) -> bytes:
    if sealed.nbytes != facts.sealed_size or facts.sealed_size < TAG_BYTES:
        raise BlockDamaged(block=facts.block_id.hex(), cause="the sealed block has the wrong size")
    aad = _aad(facts.block_id, facts.account_id, facts.plain_size, facts.codec)
    try:
        key = aes_key_unwrap(account_key, facts.wrapped_key)
        packed = AESGCM(key).decrypt(_NONCE, sealed, aad)
        plain = packed if facts.codec == Codec.STORED else _unpack(packed, facts.plain_size)
    except (InvalidTag, InvalidUnwrap, zstandard.ZstdError) as error:
        raise BlockDamaged(block=facts.block_id.hex(), cause=f"it does not open ({type(error).__name__})") from error
    if len(plain) != facts.plain_size:
        raise BlockDamaged(block=facts.block_id.hex(), cause="the plaintext has the wrong size")
    return plain


def _unpack(packed: bytes, plain_size: int) -> bytes:
    # The frame's own size is compared first, so that a forged frame cannot make this process allocate without bound.
    if zstandard.frame_content_size(packed) != plain_size:
        raise zstandard.ZstdError("the frame announces another size")
    return _zstd.decompressor.decompress(packed, max_output_size=plain_size)


def _aad(block_id: bytes, account_id: int, plain_size: int, codec: int) -> bytes:
    return (
        b"holdfast block 1" + block_id + account_id.to_bytes(8, "big") + plain_size.to_bytes(4, "big") + bytes([codec])
    )
