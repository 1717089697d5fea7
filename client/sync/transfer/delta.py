"""Finding what a new version of a file shares with the old one at whatever offset, by signatures of the old one. Pure.

A *piece* is 4 KiB of a block (the last piece of a file may be shorter). A block's signature holds two numbers for each
piece: a checksum that can be rolled over every byte offset of the new version, and a strong hash that confirms what the
checksum suggests. The client keeps the signatures of what it last synced (0.3 % of the file), so they never travel, and
the old bytes need not be there any more. Found are copies of whole pieces: an edit costs less than two pieces beside
its own bytes.

The search follows the shift that matched last, which costs one strong hash for each piece. Where that fails it rolls
over every offset for a short way, and farther on it only probes one place in each `_GRID_BYTES`, fewer still after
megabytes without a hit: from a hit it follows the match backwards as well, so that only a stretch shorter than the
distance of two places is missed. How much is rolled is paid for by what was found, so a wholly new file costs little
more than reading a sample of it (`bench delta` has the numbers).

Guarantees: memory is bounded by the base given (some 30 bytes for each of its pieces), not by the new file; time is
linear in the new file whatever it holds. Does not: prove equality. A strong hash has 64 bits; the service checks each
block that it puts together by the block's SHA-256.
Imports numpy, which costs 15 MB and a tenth of a second: import this module when a signature or a search is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from coordinator.protocol.hashing import BLOCK_BYTES, block_size, count_blocks

PIECE_BYTES: Final = 4096
PIECES_PER_BLOCK: Final = BLOCK_BYTES // PIECE_BYTES

# Of a signature: this byte, eight bytes of the block's hash, the checksums (4 bytes each), the strong hashes (8 each).
_FORMAT: Final = b"\x01"
NAME_BYTES: Final = 8  # of the hash that tell a block from others
_HEAD_BYTES: Final = 1 + NAME_BYTES
_ENTRY_BYTES: Final = 12
_WORDS: Final = PIECE_BYTES // 4

_FOLLOW_PIECES_FIRST: Final = 8  # looked at together where the shift is new; twice as many each time it holds,
_FOLLOW_PIECES: Final = 256  # up to these
_BACK_PIECES_FIRST: Final = 4
_GAP_BYTES_MIN: Final = 4 * PIECE_BYTES  # a shorter gap before matches in the same alignment is not worth rolling
_ROLL_FIRST: Final = 8 * 1024  # offsets rolled at once: behind an insertion the next match is one piece away
_ROLL_BYTES: Final = 64 * 1024  # and farther on; more would not fit the processor's nearest caches
_ROLL_MAX: Final = 128 * 1024  # offsets rolled behind a mismatch before the search turns to probing
_ROLL_CANDIDATES: Final = 16  # a checksum that is right is nearly always a match, so the first few are enough
_GRID_BYTES: Final = 256 * 1024
_GRID_THINNED_MAX: Final = (BLOCK_BYTES // _GRID_BYTES).bit_length() - 1
_CREDIT_BYTES: Final = 16 * 1024 * 1024  # that may be rolled for nothing; what is found adds to it
_ROLL_PRICE: Final = 16 * 1024  # the least that one rolling costs: its fixed part takes longer than the bytes
_COPY_BYTES_MIN: Final = 64  # naming a copy takes some ten bytes
_TABLE_BITS: Final = range(12, 23)  # sixteen places for each checksum, at most 4 MiB

Uint32s = npt.NDArray[np.uint32]
Uint64s = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Read = Callable[[int, int], "bytes | bytearray | memoryview"]


@dataclass(frozen=True, slots=True)
class Copy:
    """`size` bytes of the new file at `offset` are those of the base at `base_offset`."""

    offset: int
    base_offset: int
    size: int


@dataclass(frozen=True, slots=True)
class BlockCopies:
    """What of one block of the new file can be copied, in order; the rest is literal. Offsets are the file's."""

    index: int
    size: int
    copies: tuple[Copy, ...]

    @property
    def literal_bytes(self) -> int:
        return self.size - sum(copy.size for copy in self.copies)


def sign(plain: bytes | bytearray | memoryview, block_hash: bytes) -> bytes:
    """The signature of one block (or of a file's last, shorter one)."""
    view = memoryview(plain)
    whole = len(view) // PIECE_BYTES
    count = -(-len(view) // PIECE_BYTES)
    rolls = np.zeros(count, np.uint32)  # that of a short last piece stays 0: it is never rolled over
    if whole:
        words = np.frombuffer(view, "<u4", count=whole * _WORDS).reshape(whole, _WORDS)
        rolls[:whole] = np.einsum("ij,j->i", words, _WEIGHTS)
    head = _FORMAT + block_hash[:NAME_BYTES]
    return head + rolls.astype("<u4").tobytes() + _strong_hashes(view).astype("<u8").tobytes()


def join_signatures(size: int, signatures: Sequence[bytes | memoryview | None]) -> bytes:
    """Those of a whole file in one; None for a block that nothing is known of."""
    return b"".join(
        signature or bytes(_signature_bytes(block_size(size, index))) for index, signature in enumerate(signatures)
    )


def cut_signatures(size: int, joined: bytes) -> list[memoryview]:
    """Each block's, from what `join_signatures` made for a file of this size; [] from anything else."""
    step, count = _signature_bytes(BLOCK_BYTES), count_blocks(size)
    if count == 0 or len(joined) != step * (count - 1) + _signature_bytes(block_size(size, count - 1)):
        return []
    view = memoryview(joined)
    return [view[start : start + step] for start in range(0, len(joined), step)]


def name_of(signature: memoryview) -> bytes:
    """The first bytes of the block's hash: enough to tell the blocks of a few versions apart."""
    return bytes(signature[1:_HEAD_BYTES])


def _signature_bytes(plain_bytes: int) -> int:
    return _HEAD_BYTES + -(-plain_bytes // PIECE_BYTES) * _ENTRY_BYTES


def split(copies: Iterable[Copy], start: int, stop: int, base_blocks_max: int) -> Iterator[BlockCopies]:
    """Copies in order, within [start, stop), cut at the blocks' borders. `start` is a border; `stop` is one or the end.

    Every block of the range is told, as soon as it is complete, also those without any copy. A block copies from at
    most `base_blocks_max` blocks of the base: those that give it the most.
    """
    index, held = start // BLOCK_BYTES, list[Copy]()

    def closed() -> BlockCopies:
        size = min(BLOCK_BYTES, stop - index * BLOCK_BYTES)
        return BlockCopies(index, size, _from_few_blocks(held, base_blocks_max))

    for copy in copies:
        offset, base_offset, rest = copy.offset, copy.base_offset, copy.size
        while rest:
            while offset >= (index + 1) * BLOCK_BYTES:
                yield closed()
                index, held = index + 1, []
            size = min(rest, (index + 1) * BLOCK_BYTES - offset)
            _append(held, Copy(offset, base_offset, size))
            offset, base_offset, rest = offset + size, base_offset + size, rest - size
    while index * BLOCK_BYTES < stop:
        yield closed()
        index, held = index + 1, []


def _append(held: list[Copy], copy: Copy) -> None:
    """As part of the copy before it where it continues that one."""
    if held:
        last = held[-1]
        if (last.offset + last.size, last.base_offset + last.size) == (copy.offset, copy.base_offset):
            held[-1] = Copy(last.offset, last.base_offset, last.size + copy.size)
            return
    held.append(copy)


def _from_few_blocks(copies: Sequence[Copy], base_blocks_max: int) -> tuple[Copy, ...]:
    """Those worth naming, from the base blocks that give the most."""
    worthwhile = [copy for copy in copies if copy.size >= _COPY_BYTES_MIN]
    taken: Counter[int] = Counter()
    for copy in worthwhile:
        for block in _base_blocks(copy):
            taken[block] += copy.size
    if len(taken) <= base_blocks_max:
        return tuple(worthwhile)
    kept = {block for block, _ in taken.most_common(base_blocks_max)}
    return tuple(copy for copy in worthwhile if kept.issuperset(_base_blocks(copy)))


def _base_blocks(copy: Copy) -> range:
    return range(copy.base_offset // BLOCK_BYTES, (copy.base_offset + copy.size - 1) // BLOCK_BYTES + 1)


class Base:
    """An old version of `size` bytes by the signatures of its blocks from `first_block` on; None where not known.

    Blocks before and after those given are unknown: of a huge file a window is enough. Immutable.
    """

    def __init__(self, size: int, signatures: Sequence[bytes | memoryview | None], first_block: int = 0) -> None:
        self.first_piece = first_block * PIECES_PER_BLOCK
        stop_bytes = min(size, (first_block + len(signatures)) * BLOCK_BYTES)
        self.pieces = max(0, -(-stop_bytes // PIECE_BYTES) - self.first_piece)
        self.strong: Uint64s = np.zeros(self.pieces, np.uint64)  # 0: unknown
        rolls: Uint32s = np.zeros(self.pieces, np.uint32)
        for index, signature in zip(range(first_block, count_blocks(size)), signatures, strict=False):
            at = index * PIECES_PER_BLOCK - self.first_piece
            count = -(-block_size(size, index) // PIECE_BYTES)
            whole_bytes = _signature_bytes(block_size(size, index))
            if signature is not None and signature[:1] == _FORMAT and len(signature) == whole_bytes:
                rolls[at : at + count] = np.frombuffer(signature, "<u4", count, _HEAD_BYTES)
                self.strong[at : at + count] = np.frombuffer(signature, "<u8", count, _HEAD_BYTES + 4 * count)
        self.tail_bytes = stop_bytes % PIECE_BYTES
        self.whole = self.pieces - (1 if self.tail_bytes else 0)  # pieces of full size
        self._index(rolls)

    def _index(self, rolls: Uint32s) -> None:
        """Both numbers sorted, to be found by; of equal pieces the first, where the longest run is likeliest."""
        known = np.flatnonzero(self.strong[: self.whole])
        strong, first = np.unique(self.strong[known], return_index=True)
        self._strong_sorted: Uint64s = strong
        self._piece_of: npt.NDArray[np.uint32] = known[first].astype(np.uint32)
        self._rolls: Uint32s = np.unique(rolls[known])
        bits = max(_TABLE_BITS.start, min((len(self._rolls) * 16).bit_length(), _TABLE_BITS.stop - 1))
        self._table_shift = np.uint32(32 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[self._rolls >> self._table_shift] = True

    @property
    def empty(self) -> bool:
        return len(self._rolls) == 0

    def find(self, strong: Uint64s) -> Indices:
        """For each strong hash the first piece that has it, -1 where none has."""
        if self.empty:
            return np.full(len(strong), -1, np.int64)
        at = np.minimum(np.searchsorted(self._strong_sorted, strong), len(self._strong_sorted) - 1)
        return np.where(self._strong_sorted[at] == strong, self._piece_of[at].astype(np.int64), np.int64(-1))

    def candidates(self, rows: npt.NDArray[np.uint8], most: int | None = None) -> list[tuple[int, int]]:
        """(row, offset) in order where a piece's length of bytes has the checksum of some piece. `rows` is 2D.

        At least the first `most` of them, where that is given.
        """
        found: list[tuple[int, int]] = []
        for phase in range(4):
            words = rows.shape[1] - phase >> 2
            if words < _WORDS:
                break
            # A copy, since words at odd addresses are slow. Wrapping arithmetic is the modulus.
            values = np.ascontiguousarray(rows[:, phase : phase + words * 4]).view("<u4")
            sums = np.zeros((rows.shape[0], words + 1), np.uint32)
            np.cumsum(values * _INVERSES[:words], axis=1, dtype=np.uint32, out=sums[:, 1:])
            rolls = (sums[:, _WORDS:] - sums[:, :-_WORDS]) * _POWERS[: words + 1 - _WORDS]
            row_at, word_at = np.nonzero(self._table[rolls >> self._table_shift])
            if len(row_at):
                named = rolls[row_at, word_at]
                at = np.minimum(np.searchsorted(self._rolls, named), len(self._rolls) - 1)
                right = np.flatnonzero(self._rolls[at] == named)[:most]
                found.extend(zip(row_at[right].tolist(), (word_at[right] * 4 + phase).tolist(), strict=True))
        return sorted(found)


class Search:
    """One pass over a new file of `size` bytes; `read(offset, size)` gives its bytes, fewer only at its end.

    Ranges are to be searched in ascending order. What `read` gives is not looked at any more after its next call.
    """

    def __init__(self, base: Base, read: Read, size: int) -> None:
        self._base = base
        self._read = read
        self._size = size
        self._shift = 0  # of the last match: its offset in the new file less that in the base
        self._credit = _CREDIT_BYTES
        self._stretch = -1
        self._grid: list[tuple[int, int]] = []  # of block `_stretch`
        self._barren = 0  # blocks probed in a row without a hit

    def change_base(self, base: Base) -> None:
        """Go on with another window of the same old version."""
        self._base = base
        self._stretch = -1

    def find(self, start: int, stop: int) -> Iterator[Copy]:
        """Copies within [start, stop), in order, none overlapping."""
        if self._base.empty:
            return
        done = start
        # A piece may begin before `start`: what of it lies in the range is copied nevertheless.
        at = max(0, start - (start - self._shift) % PIECE_BYTES)
        while at < stop:
            copies, gap_start, gap_stop = self._follow(at, stop)
            hit = self._search(max(gap_start, done), gap_stop, open_end=gap_stop == stop)
            if hit is not None:
                floor = copies[-1].offset + copies[-1].size if copies else done
                copies.append(self._extend_back(*hit, floor))
                gap_stop = hit[0] + PIECE_BYTES
            for copy in copies:
                self._shift = copy.offset - copy.base_offset
                self._credit += copy.size
                if (clipped := _clip(copy, done, stop)) is not None:
                    done = clipped.offset + clipped.size
                    yield clipped
            at = gap_stop

    def _follow(self, at: int, stop: int) -> tuple[list[Copy], int, int]:
        """Copies from `at` on while pieces match without a gap worth a search; then the gap's beginning and end.

        The end is where pieces match again in the same alignment, `stop` where none does soon.
        """
        copies: list[Copy] = []
        gap_start = at
        pieces = _FOLLOW_PIECES_FIRST
        while at < stop:
            wanted = min(pieces, -(-(stop - at) // PIECE_BYTES))
            view = memoryview(self._read(at, min(wanted * PIECE_BYTES, self._size - at)))
            strong = _strong_hashes(view[: len(view) // PIECE_BYTES * PIECE_BYTES])
            found = self._matches(at, strong)
            step = 0
            while step < len(strong):
                if found[step] < 0:
                    step += 1
                    continue
                here = at + step * PIECE_BYTES
                if here - gap_start >= _GAP_BYTES_MIN:
                    return copies, gap_start, here
                run = self._run_length(strong[step:], int(found[step]))
                copies.append(self._copy(here, int(found[step]), run))
                gap_start = here + copies[-1].size
                step += run
            at += len(strong) * PIECE_BYTES
            if len(strong) < pieces or at - gap_start >= pieces * PIECE_BYTES // 2:
                break
            pieces = min(2 * pieces, _FOLLOW_PIECES)
        return copies, gap_start, stop

    def _matches(self, at: int, strong: Uint64s) -> Indices:
        """The base's pieces equal to those from `at` on, -1 for none; where several are, that of the present shift."""
        found = self._base.find(strong)
        expected, misaligned = divmod(at - self._shift, PIECE_BYTES)
        expected -= self._base.first_piece
        first, last = max(0, expected), min(self._base.whole, expected + len(strong))
        if not misaligned and first < last:
            part = slice(first - expected, last - expected)
            pieces = np.arange(first, last)
            found[part] = np.where(self._base.strong[first:last] == strong[part], pieces, found[part])
        return found

    def _run_length(self, strong: Uint64s, piece: int) -> int:
        """How many pieces in a row match from `piece` on; the first one does."""
        there = self._base.strong[piece : min(piece + len(strong), self._base.whole)]
        unequal = np.flatnonzero(there != strong[: len(there)])
        return int(unequal[0]) if len(unequal) else len(there)

    def _copy(self, offset: int, piece: int, run: int) -> Copy:
        """A run of pieces, with the base's short last piece where that follows here as well."""
        base, size = self._base, run * PIECE_BYTES
        if base.tail_bytes and piece + run == base.whole:
            tail = self._read(offset + size, min(base.tail_bytes, self._size - offset - size))
            if len(tail) == base.tail_bytes and xxh3_64_intdigest(tail) == int(base.strong[-1]):
                size += base.tail_bytes
        return Copy(offset, (base.first_piece + piece) * PIECE_BYTES, size)

    def _search(self, start: int, stop: int, *, open_end: bool) -> tuple[int, int] | None:
        """(offset, piece) of the first match found from `start` on: at every offset at first, then on the grid.

        `open_end`: it is not known that the present alignment goes on at `stop`.
        """
        at, width = start, _ROLL_FIRST
        while at < min(stop, start + _ROLL_MAX) and self._credit > 0:
            width = min(width, stop - at)
            if (hit := self._roll(at, width)) is not None:
                return hit
            at, width = at + width, _ROLL_BYTES
        for stretch in range(at // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            for offset, piece in self._grid_hits(stretch):
                if at <= offset < stop:
                    return offset, piece
        # What follows the last place of the grid may go on to the end.
        last = max(at, stop - 2 * PIECE_BYTES)
        return self._roll(last, stop - last) if open_end and last < stop else None

    def _roll(self, at: int, width: int) -> tuple[int, int] | None:
        """(offset, piece) of the first match that begins in [at, at + width)."""
        self._credit -= max(width, _ROLL_PRICE)
        data = np.frombuffer(self._read(at, min(width + PIECE_BYTES - 1, self._size - at)), np.uint8)
        for _, offset in self._base.candidates(data[np.newaxis], _ROLL_CANDIDATES):
            if (piece := self._confirm(at + offset)) >= 0:
                return at + offset, piece
        return None

    def _grid_hits(self, stretch: int) -> list[tuple[int, int]]:
        """(offset, piece) for each place probed in one block's length where something matches; computed once."""
        if stretch != self._stretch:
            places = range(stretch * BLOCK_BYTES, (stretch + 1) * BLOCK_BYTES, _GRID_BYTES << self._thinned())
            rows = np.zeros((len(places), 2 * PIECE_BYTES), np.uint8)
            for row, place in zip(rows, places, strict=True):
                if place < self._size:
                    data = self._read(place, min(2 * PIECE_BYTES - 1, self._size - place))
                    row[: len(data)] = np.frombuffer(data, np.uint8)
            hits: dict[int, tuple[int, int]] = {}
            for row_at, offset in self._base.candidates(rows):
                if row_at not in hits and (piece := self._confirm(places[row_at] + offset)) >= 0:
                    hits[row_at] = places[row_at] + offset, piece
            self._stretch, self._grid = stretch, list(hits.values())
            self._barren = 0 if hits else self._barren + 1
        return self._grid

    def _thinned(self) -> int:
        """By how many halvings the grid is thinned: the longer nothing was found, down to one place in a block."""
        return min((self._barren // 2).bit_length(), _GRID_THINNED_MAX)

    def _confirm(self, offset: int) -> int:
        """The piece that the bytes at `offset` are by their strong hash; -1 where none is."""
        if offset + PIECE_BYTES > self._size:
            return -1
        return int(self._matches(offset, _strong_hashes(memoryview(self._read(offset, PIECE_BYTES))))[0])

    def _extend_back(self, offset: int, piece: int, floor: int) -> Copy:
        """The match and the matching pieces before it, as far as they reach behind `floor`."""
        start, first, pieces = offset, piece, _BACK_PIECES_FIRST
        while first and start > floor:
            count = min(pieces, first, -(-(start - floor) // PIECE_BYTES), start // PIECE_BYTES)
            if count == 0:
                break
            view = memoryview(self._read(start - count * PIECE_BYTES, count * PIECE_BYTES))
            unequal = np.flatnonzero(_strong_hashes(view) != self._base.strong[first - count : first])
            equal = count - 1 - int(unequal[-1]) if len(unequal) else count
            start, first = start - equal * PIECE_BYTES, first - equal
            if equal < count:
                break
            pieces = min(2 * pieces, _FOLLOW_PIECES)
        return Copy(start, (self._base.first_piece + first) * PIECE_BYTES, offset + PIECE_BYTES - start)


def _strong_hashes(view: memoryview) -> Uint64s:
    """One for each piece, also for a short last one."""
    return np.array(
        [xxh3_64_intdigest(view[at : at + PIECE_BYTES]) for at in range(0, len(view), PIECE_BYTES)], np.uint64
    )


def _clip(copy: Copy, start: int, stop: int) -> Copy | None:
    first, last = max(copy.offset, start), min(copy.offset + copy.size, stop)
    return Copy(first, copy.base_offset + first - copy.offset, last - first) if first < last else None


# The checksum of words w[0..n-1] (little endian) is SCALE * sum of w[j] * FACTOR^(n-1-j), modulo 2^32. The factor is
# odd, so it has an inverse, and a window's sum is the difference of two prefix sums of w[i] * FACTOR^-i. Its upper
# bits depend on all bits of every word, so they index the table.
_FACTOR: Final = 0x9E3779B5
_SCALE: Final = 0x85EBCA6B


def _powers(first: int, factor: int, count: int) -> Uint32s:
    row = np.full(count, factor, np.uint32)
    row[0] = first % (1 << 32)
    return np.cumprod(row, dtype=np.uint32)


_WEIGHTS: Final = _powers(_SCALE, _FACTOR, _WORDS)[::-1].copy()
_INVERSES: Final = _powers(1, pow(_FACTOR, -1, 1 << 32), (_ROLL_BYTES + PIECE_BYTES) // 4)
_POWERS: Final = _powers(_SCALE * pow(_FACTOR, _WORDS - 1, 1 << 32), _FACTOR, _ROLL_BYTES // 4 + 1)
