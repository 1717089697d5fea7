"""Local files as something to send."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.errors import LocalMissing, LocalTrouble
from client.source import SourceFile, Unsettled, datetime_of, mtime_ns_of
from coordinator.protocol.hashing import BLOCK_BYTES


def make(path: Path, data: bytes, mode: int = 0o644) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    return path


def test_blocks_of_a_file_are_its_bytes_cut_at_four_mebibytes(tmp_path: Path) -> None:
    data = os.urandom(1000) * 8400
    with SourceFile.open(make(tmp_path / "f", data, 0o755)) as source:
        buffer = bytearray(BLOCK_BYTES)
        blocks = [bytes(source.read_block(index, buffer)) for index in range(source.blocks)]
        source.check_unchanged()
    assert [len(block) for block in blocks] == [BLOCK_BYTES, BLOCK_BYTES, len(data) - 2 * BLOCK_BYTES]
    assert b"".join(blocks) == data
    assert source.executable
    assert source.mtime == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)


@pytest.mark.parametrize("change", ["append", "shorten", "rewrite"])
def test_a_change_while_reading_is_noticed(tmp_path: Path, change: str) -> None:
    path = make(tmp_path / "f", b"x" * 5000)
    with SourceFile.open(path) as source:
        with path.open("r+b") as file:
            if change == "append":
                file.seek(0, 2)
                file.write(b"y")
            elif change == "shorten":
                file.truncate(100)
            else:
                file.write(b"y")
        with pytest.raises(Unsettled):
            if change == "shorten":
                source.read_whole()
            source.check_unchanged()


def test_a_file_written_this_very_moment_is_read_only_once_a_change_would_show(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    with SourceFile.open(path) as source:
        path.write_bytes(b"two")
        with pytest.raises(Unsettled):
            source.check_unchanged()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(LocalTrouble):
            SourceFile.open(path)
    with pytest.raises(LocalMissing):
        SourceFile.open(tmp_path / "nothing")


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocalTrouble):
        SourceFile.open(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


@pytest.mark.parametrize("mtime_ns", [0, -1, -(10**18) * 8, 10**18 * 9, -(10**20), 10**21, 1_234_567_891_234])
def test_any_time_a_file_can_have_becomes_one_that_the_service_takes(mtime_ns: int) -> None:
    moment = datetime_of(mtime_ns)
    assert datetime_of(mtime_ns_of(moment)) == moment
    assert moment.tzinfo is UTC
    assert 1 <= moment.year <= 9999
