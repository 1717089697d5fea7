"""Compressed bodies: bounded, whole or refused."""

from __future__ import annotations

import gzip
import random

import pytest

from coordinator.api.packing import Unpacker, pack, takes_gzip
from coordinator.protocol.errors import BadRequest, TooLarge


def test_a_body_comes_back_whatever_its_chunks() -> None:
    content = bytes(3_000_000) + random.Random(1).randbytes(1000)
    packed = gzip.compress(content)
    for size in (1, 7, 1000, len(packed)):
        unpacker = Unpacker(len(content))
        pieces = [
            piece for at in range(0, len(packed), size) for piece in unpacker.feed(packed[at : at + size]) if piece
        ]
        unpacker.finish()
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) <= 256 * 1024


def test_a_bomb_is_refused_before_it_is_held() -> None:
    packed = gzip.compress(bytes(50_000_000))
    unpacker, taken = Unpacker(1_000_000), 0
    with pytest.raises(TooLarge):
        for piece in unpacker.feed(packed):
            taken += len(piece)
    assert taken <= 1_000_000


def test_much_from_next_to_nothing_is_refused_although_the_body_may_be_large() -> None:
    unpacker, taken = Unpacker(64 << 20), 0
    with pytest.raises(TooLarge):
        for piece in unpacker.feed(gzip.compress(bytes(64 << 20))):
            taken += len(piece)
    assert taken < 14 << 20
    content = random.Random(2).randbytes(20 << 20).hex().encode()
    assert sum(map(len, Unpacker(64 << 20).feed(gzip.compress(content)))) == len(content)


@pytest.mark.parametrize("tail", [b"x", gzip.compress(b"more")], ids=["rest", "another"])
def test_what_follows_the_end_is_refused(tail: bytes) -> None:
    packed = gzip.compress(b"content")
    with pytest.raises(BadRequest):
        list(Unpacker(100).feed(packed + tail))
    unpacker = Unpacker(100)
    list(unpacker.feed(packed))
    with pytest.raises(BadRequest):
        list(unpacker.feed(tail))


def test_what_is_cut_off_or_not_gzip_is_refused() -> None:
    unpacker = Unpacker(100)
    list(unpacker.feed(gzip.compress(b"content")[:-1]))
    with pytest.raises(BadRequest):
        unpacker.finish()
    with pytest.raises(BadRequest):
        list(Unpacker(100).feed(b"{}"))
    with pytest.raises(BadRequest):
        Unpacker(100).finish()


def test_answers_are_packed_where_that_helps() -> None:
    assert pack(random.Random(2).randbytes(2000)) is None
    packed = pack(bytes(2000))
    assert packed is not None
    assert gzip.decompress(packed) == bytes(2000)


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip; q=0", False),
        ("identity", False),
        ("", False),
        ("*", False),
    ],
)
def test_gzip_is_only_sent_to_who_names_it(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes
