"""Cutting files into blocks, as the client does it, against an independent reference."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import source as source_module
from client import upload
from client.source import SourceFile
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block

SMALL_BLOCK = 7  # the same code with tiny blocks meets every boundary quickly


def reference(data: bytes, block_bytes: int) -> tuple[list[str], str]:
    """Block hashes and content hash, written down from the published description alone."""
    hashes = []
    rest = data
    while rest:
        hashes.append(hashlib.sha256(rest[:block_bytes]))
        rest = rest[block_bytes:]
    return [one.hexdigest() for one in hashes], hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()


class Dribble(io.RawIOBase):
    """A pipe that gives between one byte and `most` at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = data, most

    def read(self, size: int = -1) -> bytes:
        piece = self._data[: min(size, self._most)]
        self._data = self._data[len(piece) :]
        return piece


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "BLOCK_BYTES", SMALL_BLOCK)
    monkeypatch.setattr(source_module, "BLOCK_BYTES", SMALL_BLOCK)
    monkeypatch.setattr(source_module, "count_blocks", lambda size: -(-size // SMALL_BLOCK))
    monkeypatch.setattr(source_module, "block_size", lambda size, index: min(SMALL_BLOCK, size - index * SMALL_BLOCK))


quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(data=st.binary(max_size=60), most=st.integers(1, 20))
def test_a_stream_is_cut_like_the_reference(small_blocks: None, data: bytes, most: int) -> None:
    stream = cast(BinaryIO, Dribble(data, most))
    blocks = [block for window in upload._read_windows(stream) for block in window]
    assert [hash_block(block).hex() for block in blocks] == reference(data, SMALL_BLOCK)[0]
    assert b"".join(blocks) == data


@quick
@given(data=st.binary(max_size=60))
def test_a_file_is_cut_like_the_reference(small_blocks: None, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    with SourceFile.open(path) as source:
        buffer = bytearray(BLOCK_BYTES)
        hashes = [hash_block(source.read_block(index, buffer)).hex() for index in range(source.blocks)]
    assert hashes == reference(data, SMALL_BLOCK)[0]


@given(data=st.binary(max_size=200))
def test_the_content_hash_is_the_published_one(data: bytes) -> None:
    hashes, whole = reference(data, BLOCK_BYTES)
    assert content_hash(bytes.fromhex(one) for one in hashes).hex() == whole
    if data:
        assert hash_block(data).hex() == hashes[0]


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17])
def test_real_sizes_at_the_boundaries(tmp_path: Path, size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    (tmp_path / "f").write_bytes(data)
    with SourceFile.open(tmp_path / "f") as source:
        buffer = bytearray(BLOCK_BYTES)
        hashes = [hash_block(source.read_block(index, buffer)) for index in range(source.blocks)]
    expected, whole = reference(data, BLOCK_BYTES)
    assert [one.hex() for one in hashes] == expected
    assert content_hash(hashes).hex() == whole


@given(st.integers(0, 1 << 44))
def test_block_sizes_add_up(size: int) -> None:
    count = count_blocks(size)
    assert (count == 0) == (size == 0)
    if count:
        assert (count - 1) * BLOCK_BYTES + block_size(size, count - 1) == size
        assert 0 < block_size(size, count - 1) <= BLOCK_BYTES
