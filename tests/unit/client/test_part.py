"""A file on its way in."""

from __future__ import annotations

import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.errors import LocalConflict, LocalMissing
from client.part import PartFile, part_path, with_executable
from coordinator.protocol.hashing import BLOCK_BYTES

MOMENT = datetime(2020, 2, 3, 4, 5, 6, 789_000, UTC)


def test_the_target_appears_whole_with_time_and_executable_bit(tmp_path: Path) -> None:
    target = tmp_path / "f"
    with PartFile(target) as part:
        part.write(2, b"cd")
        part.write(0, b"ab")
        part.write(4, b"too much")
        assert not target.exists()
        part.finish(4, MOMENT, executable=True)
    assert target.read_bytes() == b"abcd"
    assert target.stat().st_mtime == MOMENT.timestamp()
    assert target.stat().st_mode & stat.S_IXUSR
    assert os.listdir(tmp_path) == ["f"]


def test_a_part_that_was_left_is_continued(tmp_path: Path) -> None:
    target = tmp_path / "f"
    with PartFile(target) as part:
        part.write(0, b"a" * BLOCK_BYTES)
    with PartFile(target) as part:
        assert part.size_bytes() == BLOCK_BYTES
        held = part.hash_of(BLOCK_BYTES + 5, 0, bytearray(BLOCK_BYTES))
        assert held == hashlib.sha256(b"a" * BLOCK_BYTES).hexdigest()
        assert part.hash_of(BLOCK_BYTES + 5, 1, bytearray(BLOCK_BYTES)) == hashlib.sha256(b"").hexdigest()
        part.discard()
    assert os.listdir(tmp_path) == []


def test_two_runs_do_not_fill_the_same_part(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f"), pytest.raises(LocalConflict, match="another run"):
        PartFile(tmp_path / "f")


def test_a_private_file_stays_private_when_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    target.chmod(0o600)
    with PartFile(target) as part:
        assert stat.S_IMODE(part_path(target).stat().st_mode) == 0o600
        part.write(0, b"new")
        part.finish(3, None, executable=False)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_folder_in_the_way_is_a_conflict_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with PartFile(tmp_path / "f") as part, pytest.raises(LocalConflict):
        part.finish(0, None, executable=False)
    assert os.listdir(tmp_path) == ["f"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalMissing, match="nowhere"):
        PartFile(tmp_path / "nowhere" / "f")


def test_a_link_in_the_parts_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    part_path(tmp_path / "f").symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match="cannot be used"):
        PartFile(tmp_path / "f")
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_name_too_long_for_the_suffix_still_has_a_part() -> None:
    path = part_path(Path("/x") / ("ü" * 127))
    assert len(path.name.encode()) <= 255
    assert path != part_path(Path("/x") / ("ä" * 127))


def test_executable_wherever_readable() -> None:
    assert with_executable(0o640, True) == 0o750
    assert with_executable(0o755, False) == 0o644


def test_what_was_flushed_leaves_the_memory(tmp_path: Path) -> None:
    first = memoryview(bytearray(4096))
    with PartFile(tmp_path / "f") as part:
        part.write(0, bytes(1 << 20))
        part.flush()
        with part_path(tmp_path / "f").open("rb") as file:
            try:
                cached = os.preadv(file.fileno(), [first], 0, os.RWF_NOWAIT) > 0
            except BlockingIOError:
                cached = False
            except OSError as error:
                pytest.skip(f"this file system does not tell: {error}")
    assert not cached
