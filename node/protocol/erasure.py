"""The erasure code: a sealed block becomes k data shards and m parity shards, any k of which give it back.

The code is systematic Reed-Solomon over GF(2^8), defined by `reedsolo`: the parity matrix is what RSCodec(m) makes of
unit vectors, so byte i of all shards, in order, is a (shortened) reedsolo codeword, and `recover_with_reedsolo` needs
nothing else. ISA-L or numpy does the bulk (gf256.py). With k = 1 every shard is the sealed block itself: copies.

Data shards are the sealed block cut into k equal parts; the last is filled with zeros. Everything here is pure and
releases the interpreter lock during the bulk: call it in a thread pool.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node.protocol.gf256 import TABLES_CACHED_MAX, Kernel, Matrix, addresses, best_kernel, invert, times
from node.protocol.messages import Buffer

K_MAX: Final = 14
M_MAX: Final = 6


class TooFewShards(Exception):
    """Fewer than k shards are there: the sealed block cannot be rebuilt from them."""


@dataclass(frozen=True, slots=True)
class Code:
    """`k` data shards (1 to 14) and `m` parity shards (0 to 6); any k of all survive m losses."""

    k: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= K_MAX or not 0 <= self.m <= M_MAX:
            raise ValueError(f"no code {self.k}+{self.m}: k is 1 to {K_MAX}, m is 0 to {M_MAX}")

    def __str__(self) -> str:
        return f"{self.k}+{self.m}"

    @property
    def shards(self) -> int:
        """How many shards a block has: k + m."""
        return self.k + self.m


def backend() -> str:
    """What multiplies: "isa-l" or "numpy"."""
    return best_kernel().name


def shard_size(k: int, sealed_size: int) -> int:
    """Bytes in each shard of a sealed block of `sealed_size` bytes."""
    return -(-sealed_size // k)


def encode(sealed: Buffer, code: Code, *, kernel: Kernel | None = None) -> list[Buffer]:
    """All k+m shards of a sealed block. Data shards are views of `sealed` (do not change it), but for a filled-up last.

    A caller that can seal into a buffer of k * shard_size bytes saves that copy too: see `encode_parity`.
    """
    view = memoryview(sealed).cast("B")
    size = shard_size(code.k, view.nbytes)
    if size == 0:
        raise ValueError("a sealed block is never empty")
    data: list[Buffer] = [view[start : start + size] for start in range(0, code.k * size, size)]
    for position, shard in enumerate(data):
        if len(shard) < size:  # more than one when the block is shorter than k * (k - 1) bytes
            data[position] = bytes(shard).ljust(size, b"\0")
    return data + list(_parity(data, size, code, kernel))


def encode_parity(data: Buffer, code: Code, *, kernel: Kernel | None = None) -> list[bytes]:
    """The m parity shards for `data`: k data shards of equal size one after the other, already filled with zeros."""
    view = memoryview(data).cast("B")
    size, rest = divmod(view.nbytes, code.k)
    if rest or not size:
        raise ValueError(f"{view.nbytes} bytes are not {code.k} shards of equal size")
    return _parity([view[i * size : (i + 1) * size] for i in range(code.k)], size, code, kernel)


def rebuild_shards(
    present: Mapping[int, Buffer], missing: Collection[int], code: Code, *, kernel: Kernel | None = None
) -> dict[int, bytes]:
    """Recompute the shards of one sealed block at positions `missing`.

    `present` maps position (0..k+m-1) to payload; payloads have equal length in bytes; any k of them suffice.
    Raises TooFewShards when fewer than k are present. Compare the whole with the sealed digest before trusting it.
    Source: systematic Reed-Solomon over GF(2^8), parity matrix as defined by reedsolo.
    """
    wanted = sorted(missing)
    _check_positions([*present, *wanted], code)
    chosen = _choose_sources(present, code)
    size = _common_size(present, chosen)
    rebuilt = [bytes(size) for _ in wanted]
    if wanted:
        _multiply(_recovery_rows(code, chosen, tuple(wanted)), [present[p] for p in chosen], rebuilt, size, kernel)
    return dict(zip(wanted, rebuilt, strict=True))


def join(present: Mapping[int, Buffer], sealed_size: int, code: Code, *, kernel: Kernel | None = None) -> memoryview:
    """The sealed block from any k of its shards; data shards that are missing are computed in place.

    `present` is as for `rebuild_shards`, which also says what is raised. The result is `sealed_size` bytes.
    """
    _check_positions(present, code)
    chosen = _choose_sources(present, code)
    size = _common_size(present, chosen)
    if size != shard_size(code.k, sealed_size):
        raise ValueError(f"shards of {size} bytes are not of a sealed block of {sealed_size}")
    if code.k == 1:
        return memoryview(present[chosen[0]]).cast("B").toreadonly()
    whole = bytes(code.k * size)
    missing = tuple(position for position in range(code.k) if position not in chosen)
    sources = [present[position] for position in chosen]
    with addresses([whole, *sources]) as (start, *places):
        for position, place in zip(chosen, places, strict=True):
            if position < code.k:
                _copy(start + position * size, place, size)
        if missing:
            targets = [start + position * size for position in missing]
            (kernel or best_kernel()).multiply(_recovery_rows(code, chosen, missing), places, targets, size)
    return memoryview(whole)[:sealed_size]


def recover_with_reedsolo(present: Mapping[int, Buffer], code: Code) -> list[bytes]:
    """All k+m shards from any k of them with the pure-Python reedsolo alone: the reference, about 1 MB/s.

    For tests, and for whoever must one day read volumes with nothing but this definition. Raises TooFewShards.
    """
    import reedsolo  # noqa: PLC0415 - a storage node in service never needs it

    chosen = _choose_sources(present, code)
    size = _common_size(present, chosen)
    if code.k == 1:
        return [bytes(present[chosen[0]])] * code.shards
    if code.m == 0:
        return [bytes(present[position]) for position in range(code.k)]
    codec = reedsolo.RSCodec(code.m)
    # All shards but the k chosen count as lost, so that what is used is also what was asked for.
    lost = [position for position in range(code.shards) if position not in chosen]
    shards = [bytearray(present[p]) if p in chosen else bytearray(size) for p in range(code.shards)]
    for i in range(size):
        codeword = codec.decode(bytes(shard[i] for shard in shards), erase_pos=lost, only_erasures=True)[1]
        for shard, value in zip(shards, codeword, strict=True):
            shard[i] = value
    return [bytes(shard) for shard in shards]


@lru_cache(maxsize=K_MAX * (M_MAX + 1))
def parity_matrix(code: Code) -> Matrix:
    """m rows of k coefficients: parity shard j is the sum over i of row[j][i] * data shard i."""
    if code.k == 1:
        return (b"\1",) * code.m
    import reedsolo  # noqa: PLC0415 - a storage node that only keeps shards never needs it

    codec = reedsolo.RSCodec(code.m)
    units = (bytes(int(i == position) for i in range(code.k)) for position in range(code.k))
    columns = [bytes(codec.encode(unit))[code.k :] for unit in units]
    return tuple(bytes(column[j] for column in columns) for j in range(code.m))


def _parity(data: Sequence[Buffer], size: int, code: Code, kernel: Kernel | None) -> list[bytes]:
    if code.k == 1:
        return [bytes(data[0])] * code.m
    parity = [bytes(size) for _ in range(code.m)]
    if parity:
        _multiply(parity_matrix(code), data, parity, size, kernel)
    return parity


def _multiply(
    matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[bytes], size: int, kernel: Kernel | None
) -> None:
    # `outputs` are fresh bytes objects that nobody else has seen yet: filling them in place, as C code does with
    # PyBytes_FromStringAndSize(NULL, n), saves a zeroing and a copy.
    with addresses([*inputs, *outputs]) as places:
        (kernel or best_kernel()).multiply(matrix, places[: len(inputs)], places[len(inputs) :], size)


@lru_cache(maxsize=TABLES_CACHED_MAX)
def _recovery_rows(code: Code, chosen: tuple[int, ...], missing: tuple[int, ...]) -> Matrix:
    """The rows that compute `missing` from the shards at the k positions `chosen`."""
    if code.k == 1:
        return (b"\1",) * len(missing)
    generator = [bytes(int(r == c) for c in range(code.k)) for r in range(code.k)] + list(parity_matrix(code))
    decoding = invert([generator[position] for position in chosen])
    return tuple(times(generator[position], decoding) for position in missing)


def _choose_sources(present: Mapping[int, Buffer], code: Code) -> tuple[int, ...]:
    """k positions, data first: each data shard that is there saves a row of work."""
    if len(present) < code.k:
        raise TooFewShards(f"{len(present)} shards of a {code} block, {code.k} are needed")
    return tuple(sorted(present)[: code.k])


def _common_size(present: Mapping[int, Buffer], chosen: Sequence[int]) -> int:
    sizes = {memoryview(present[position]).nbytes for position in chosen}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"shards of one block have one size above zero, not {sorted(sizes)}")
    return sizes.pop()


def _check_positions(positions: Collection[int], code: Code) -> None:
    if any(not 0 <= position < code.shards for position in positions):
        raise ValueError(f"a {code} block has positions 0 to {code.shards - 1}")


_memcpy = ctypes.CDLL(None).memcpy  # unlike a slice assignment it lets go of the interpreter lock
_memcpy.restype = ctypes.c_void_p


def _copy(target: int, source: int, size: int) -> None:
    _memcpy(ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size))
