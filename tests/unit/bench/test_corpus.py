"""What benchmarks measure with is the same everywhere, and of the kind that they say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import zstandard

from bench import corpus
from coordinator.protocol.hashing import BLOCK_BYTES


def _shrinks_to(data: bytes) -> float:
    return len(zstandard.ZstdCompressor(level=1).compress(data)) / len(data)


def test_the_same_block_is_made_again() -> None:
    assert corpus.make_block(3, 4, 100_000) == corpus.make_block(3, 4, 100_000)


def test_blocks_of_different_files_and_places_differ() -> None:
    blocks = {hashlib.sha256(corpus.make_block(n, i, 50_000)).digest() for n in range(3) for i in range(4)}
    assert len(blocks) == 12


def test_text_shrinks_to_a_third_and_random_bytes_not_at_all() -> None:
    assert 0.28 < _shrinks_to(corpus.make_block(0, 0, 1 << 20)) < 0.40
    assert _shrinks_to(corpus.make_block(0, 1, 1 << 20)) > 0.99


def test_a_file_has_its_size_and_is_made_once(tmp_path: Path) -> None:
    path = corpus.make_file(tmp_path, BLOCK_BYTES + 1000, 1)
    made_at = path.stat().st_mtime_ns
    assert path.stat().st_size == BLOCK_BYTES + 1000
    assert path.read_bytes()[BLOCK_BYTES:] == corpus.make_block(1, 1, 1000)
    assert corpus.make_file(tmp_path, BLOCK_BYTES + 1000, 1).stat().st_mtime_ns == made_at


def test_small_files_average_what_was_asked_and_repeat() -> None:
    files = corpus.make_small(200, 10_000, 5)
    assert abs(sum(len(file.data) for file in files) / 200 - 10_000) < 100
    assert len({file.path for file in files}) == 200
    assert files == corpus.make_small(200, 10_000, 5)
    assert files[0].data != corpus.make_small(200, 10_000, 6)[0].data


def test_without_spread_small_files_have_one_size() -> None:
    assert {len(file.data) for file in corpus.make_small(10, 5000, 0, spread=0.0)} == {5000}
