"""Deltas: what is told as a copy is one, an edit costs little more than its bytes, and nothing makes the search slow.

Files are of random bytes from a seed that hypothesis chooses, so that a failure prints how to repeat it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.sync.transfer import delta
from client.sync.transfer.delta import PIECE_BYTES, Base, BlockCopies, Copy, Search, sign, split
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block

KIB = 1024
EASY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
BASE_BLOCKS_MAX = 8


class Counted:
    """A new file that counts what of it is read."""

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self.calls = 0
        self.bytes = 0

    def read(self, offset: int, size: int) -> memoryview:
        assert offset >= 0 and size >= 0
        assert offset + size <= len(self.plain), "reads beyond the file's end"
        self.calls += 1
        self.bytes += size
        return memoryview(self.plain)[offset : offset + size]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def signatures(plain: bytes) -> list[bytes | None]:
    view = memoryview(plain)
    blocks = [view[start : start + BLOCK_BYTES] for start in range(0, len(plain), BLOCK_BYTES)]
    return [sign(block, hash_block(block)) for block in blocks]


def base_of(plain: bytes) -> Base:
    return Base(len(plain), signatures(plain))


def search(old: bytes, new: bytes) -> list[Copy]:
    """All copies of the new file, checked."""
    copies = list(Search(base_of(old), Counted(new).read, len(new)).find(0, len(new)))
    check(copies, old, new, 0, len(new))
    return copies


def check(copies: Sequence[Copy], old: bytes, new: bytes, start: int, stop: int) -> None:
    done = start
    for copy in copies:
        assert copy.size > 0
        assert done <= copy.offset
        done = copy.offset + copy.size
        assert copy.base_offset >= 0
        assert copy.base_offset + copy.size <= len(old)
        assert new[copy.offset : done] == old[copy.base_offset : copy.base_offset + copy.size]
    assert done <= stop


def literal_bytes(copies: Sequence[Copy], new: bytes) -> int:
    return len(new) - sum(copy.size for copy in copies)


def rebuild(block: BlockCopies, old: bytes, new: bytes) -> bytes:
    """The block's bytes from copies of the old file and literals of the new one."""
    at, made = block.index * BLOCK_BYTES, bytearray()
    for copy in block.copies:
        made += new[at : copy.offset]
        made += old[copy.base_offset : copy.base_offset + copy.size]
        at = copy.offset + copy.size
    return bytes(made + new[at : block.index * BLOCK_BYTES + block.size])


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An old file and what a few edits of all kinds make of it."""
    seed = draw(st.integers(0, 1 << 32))
    size = draw(st.one_of(st.integers(0, 3 * PIECE_BYTES), st.integers(0, 600 * KIB)))
    old = noise(size, seed)
    for _ in range(draw(st.integers(0, 3))):  # runs of one byte, so that pieces repeat
        at, length = draw(st.integers(0, max(0, size))), draw(st.integers(0, 100 * KIB))
        old = (old[:at] + bytes(length) + old[at + length :])[:size]
    new = old
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(new)))
        length = draw(st.one_of(st.integers(0, 10), st.integers(0, 64 * KIB)))
        match draw(st.sampled_from(("insert", "delete", "overwrite", "move", "repeat", "zeros"))):
            case "insert":
                new = new[:at] + noise(length, seed + at) + new[at:]
            case "delete":
                new = new[:at] + new[at + length :]
            case "overwrite":
                new = new[:at] + noise(length, seed ^ at) + new[at + length :]
            case "move":
                rest = new[:at] + new[at + length :]
                to = draw(st.integers(0, len(rest)))
                new = rest[:to] + new[at : at + length] + rest[to:]
            case "repeat":
                new = new[:at] + new[at : at + length] * 2 + new[at:]
            case "zeros":
                new = new[:at] + bytes(length) + new[at + length :]
    return old, new


@EASY
@given(edits())
def test_copies_and_literals_give_the_new_file(pair: tuple[bytes, bytes]) -> None:
    old, new = pair
    copies = search(old, new)
    blocks = list(split(copies, 0, len(new), BASE_BLOCKS_MAX))
    assert b"".join(rebuild(block, old, new) for block in blocks) == new


@EASY
@given(edits(), st.data())
def test_a_range_alone_gets_copies_within_it(pair: tuple[bytes, bytes], data: st.DataObject) -> None:
    old, new = pair
    start = data.draw(st.integers(0, len(new)))
    stop = data.draw(st.integers(start, len(new)))
    copies = list(Search(base_of(old), Counted(new).read, len(new)).find(start, stop))
    check(copies, old, new, start, stop)


@EASY
@given(st.integers(1, 400 * KIB), st.data())
@example(PIECE_BYTES, None)
@example(10 * PIECE_BYTES, None)
def test_an_inserted_byte_costs_less_than_two_pieces_more(size: int, data: st.DataObject | None) -> None:
    old = noise(size, size)
    for at in [data.draw(st.integers(0, size))] if data else [0, 1, size - 1, size]:
        new = old[:at] + bytes([old[at] ^ 1 if at < size else 7]) + old[at:]
        assert literal_bytes(search(old, new), new) <= 1 + 2 * PIECE_BYTES


@EASY
@given(st.integers(1, 400 * KIB), st.data())
def test_a_deletion_costs_less_than_two_pieces(size: int, data: st.DataObject) -> None:
    old = noise(size, size)
    at = data.draw(st.integers(0, size - 1))
    new = old[:at] + old[at + data.draw(st.integers(1, size - at)) :]
    assert literal_bytes(search(old, new), new) <= 2 * PIECE_BYTES


@EASY
@given(st.integers(1, 800 * KIB), st.data())
def test_an_overwritten_range_costs_itself_and_two_pieces(size: int, data: st.DataObject) -> None:
    old = noise(size, size)
    at = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - at))
    new = old[:at] + noise(length, ~size) + old[at + length :]
    assert literal_bytes(search(old, new), new) <= length + 2 * PIECE_BYTES


@pytest.mark.parametrize("at", [0, 1, 3 * 1024 * KIB + 5, 4 * 1024 * KIB - 1])
@pytest.mark.parametrize("grown", [0, 1, 300 * KIB])
def test_a_megabyte_overwritten_in_a_large_file(at: int, grown: int) -> None:
    """Longer than what is rolled: the grid finds where it ends, and the match is followed back to there."""
    old = noise(9 * 1024 * KIB + 77, 1)
    length = 1024 * KIB
    new = old[:at] + noise(length + grown, 2) + old[at + length :]
    assert literal_bytes(search(old, new), new) <= length + grown + 2 * PIECE_BYTES


def test_an_appended_range_costs_itself() -> None:
    old = noise(5 * 1024 * KIB + 100, 3)
    new = old + noise(1024 * KIB, 4)
    assert literal_bytes(search(old, new), new) == 1024 * KIB


@EASY
@given(st.integers(0, 1 << 32), st.integers(3 * PIECE_BYTES, 100 * KIB), st.data())
def test_a_moved_range_costs_its_three_edges(seed: int, length: int, data: st.DataObject) -> None:
    old = noise(500 * KIB, seed)
    at = data.draw(st.integers(0, len(old) - length))
    rest = old[:at] + old[at + length :]
    to = data.draw(st.integers(0, len(rest)))
    new = rest[:to] + old[at : at + length] + rest[to:]
    assert literal_bytes(search(old, new), new) <= 6 * PIECE_BYTES


@EASY
@given(st.integers(0, 1 << 32), st.integers(0, 40 * KIB))
def test_a_piece_is_found_at_every_offset(seed: int, offset: int) -> None:
    old = noise(3 * PIECE_BYTES, seed)
    new = noise(offset, ~seed) + old[PIECE_BYTES : 2 * PIECE_BYTES] + noise(seed % 5000, seed ^ 1)
    assert search(old, new) == [Copy(offset, PIECE_BYTES, PIECE_BYTES)]


@EASY
@given(edits(), st.integers(0, 1 << 32))
def test_unknown_and_damaged_signatures_only_cost_literals(pair: tuple[bytes, bytes], seed: int) -> None:
    old, new = pair
    tape = random.Random(seed)
    known: list[bytes | None] = [
        tape.choice((signature, None, b"", tape.randbytes(40), (signature or b"")[:-1]))
        for signature in signatures(old)
    ]
    copies = list(Search(Base(len(old), known), Counted(new).read, len(new)).find(0, len(new)))
    check(copies, old, new, 0, len(new))


def test_a_window_of_a_large_base_finds_what_lies_in_it() -> None:
    old = noise(5 * BLOCK_BYTES + 1000, 5)
    new = b"x" + old
    windowed = Base(len(old), signatures(old)[2:4], first_block=2)
    copies = list(Search(windowed, Counted(new).read, len(new)).find(0, len(new)))
    check(copies, old, new, 0, len(new))
    assert sum(copy.size for copy in copies) == 2 * BLOCK_BYTES


def test_the_window_moves_with_the_search() -> None:
    old = noise(4 * BLOCK_BYTES + 1000, 6)
    new = b"x" + old
    known = signatures(old)
    search = Search(Base(len(old), known[:2]), Counted(new).read, len(new))
    copies = list(search.find(0, 2 * BLOCK_BYTES))
    search.change_base(Base(len(old), known[1:], first_block=1))
    copies += search.find(2 * BLOCK_BYTES, len(new))
    check(copies, old, new, 0, len(new))
    assert literal_bytes(copies, new) == 1


def test_ranges_that_follow_each_other_lose_nothing_at_their_border() -> None:
    old = noise(2 * BLOCK_BYTES, 7)
    new = b"x" + old
    search = Search(base_of(old), Counted(new).read, len(new))
    copies = [*search.find(0, BLOCK_BYTES), *search.find(BLOCK_BYTES, len(new))]
    check(copies, old, new, 0, len(new))
    assert literal_bytes(copies, new) == 1


def test_a_block_copies_from_few_base_blocks_and_takes_those_that_give_most() -> None:
    def copy(number: int, size: int) -> Copy:
        return Copy(number * 10_000, (2 * number + 1) * BLOCK_BYTES, size)

    many = [copy(number, 1000 + number) for number in range(20)]
    (block,) = split(many, 0, BLOCK_BYTES, base_blocks_max=3)
    assert block.copies == tuple(many[-3:])
    assert block.literal_bytes == BLOCK_BYTES - sum(copy.size for copy in many[-3:])


def test_every_block_is_told_also_without_copies_and_neighbours_are_one_copy() -> None:
    copies = [
        Copy(0, 50, 100),
        Copy(100, 150, 100),
        Copy(2 * BLOCK_BYTES + 500, 0, 10),
        Copy(3 * BLOCK_BYTES - 5, 7, 100),
    ]
    told = list(split(copies, 0, 3 * BLOCK_BYTES + 200, BASE_BLOCKS_MAX))
    assert [(block.index, block.size) for block in told] == [
        (0, BLOCK_BYTES),
        (1, BLOCK_BYTES),
        (2, BLOCK_BYTES),
        (3, 200),
    ]
    assert [block.copies for block in told] == [(Copy(0, 50, 200),), (), (), (Copy(3 * BLOCK_BYTES, 12, 95),)]


def test_signatures_stay_readable() -> None:
    """What a client's database holds must mean the same to its next release."""
    signature = sign(bytes(range(256)) * 16 + b"tail", bytes(range(32)))
    assert (
        signature.hex() == "01" + "0001020304050607" + "0028cf40" + "00000000" + "51918707377c4beb" + "770fca8045193b14"
    )


@pytest.mark.parametrize("size", [1, PIECE_BYTES, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 5000])
def test_signatures_are_joined_and_cut(size: int) -> None:
    plain = noise(size, 8)
    known = signatures(plain)
    joined = delta.join_signatures(size, known)
    cut = delta.cut_signatures(size, joined)
    assert [bytes(one) for one in cut] == known
    assert [delta.name_of(one) for one in cut] == [(one or b"")[1:9] for one in known]
    assert delta.cut_signatures(size + PIECE_BYTES, joined) == []
    assert delta.cut_signatures(0, b"") == []
    unknown = delta.join_signatures(size, [None] * len(known))
    assert Base(size, delta.cut_signatures(size, unknown)).empty


SMALL = 16 * 1024 * KIB  # of the slow cases: large enough that quadratic work would take minutes


def repeated(period: bytes) -> bytes:
    return (period * (SMALL // len(period) + 1))[:SMALL]


def interrupted(plain: bytes, every: int, by: bytes) -> bytes:
    return b"".join(plain[at : at + every] + by for at in range(0, len(plain), every))


def islands(plain: bytes, other: bytes) -> bytes:
    """One piece of six is kept, at shifts that differ."""
    return b"".join(plain[at : at + 4096] + other[at : at + 20_001] for at in range(0, len(plain), 24_096))


RANDOM, OTHER = noise(SMALL, 1), noise(SMALL, 2)
CASES: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "new": lambda: (RANDOM, OTHER),
    "zeros": lambda: (bytes(SMALL), b"x" + bytes(SMALL)),
    "zeros from one piece": lambda: (OTHER[:PIECE_BYTES] + bytes(PIECE_BYTES) + RANDOM, bytes(SMALL)),
    "a period": lambda: (RANDOM, repeated(RANDOM[5000:14_001])),
    "a short period": lambda: (repeated(b"abcde"), b"x" + repeated(b"abcde")),
    "islands": lambda: (RANDOM, islands(RANDOM, OTHER)),
    "a byte in each 8 KiB": lambda: (RANDOM, interrupted(RANDOM, 8192, b"x")),
    "almost zeros": lambda: (bytes(PIECE_BYTES) + RANDOM[:PIECE_BYTES], repeated(bytes(5000) + b"aaa")),
}


@pytest.mark.parametrize("name", CASES)
def test_no_content_makes_the_search_read_much_more_than_the_file(name: str) -> None:
    old, new = CASES[name]()
    file = Counted(new)
    copies = list(Search(base_of(old), file.read, len(new)).find(0, len(new)))
    check(copies, old, new, 0, len(new))
    assert file.bytes <= 6 * len(new) + 2 * delta._CREDIT_BYTES
    assert file.calls <= len(new) // 1000
