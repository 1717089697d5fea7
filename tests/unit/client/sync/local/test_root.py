"""The root's marker, and what is tidied up in our own folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from client.fs.base import TrashEntry
from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.local import root
from client.sync.local.root import Marker, RootForeign, RootMissing

MARKER = Marker(folder_id="f1", service="https://x", user_id=3, remote_root=7, generation=4)
DAY_S = 86_400


class Clock:
    time = 1_700_000_000.0  # 2023-11-14

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(clock: Clock) -> FakeDisk:
    return FakeDisk(clock)


@pytest.fixture
def fs(disk: FakeDisk) -> FakeFileSystem:
    fs = FakeFileSystem(disk)
    root.write(fs, MARKER)
    return fs


def test_the_marker_that_was_written_is_the_one_that_is_read(fs: FakeFileSystem) -> None:
    assert root.read(fs) == MARKER
    assert root.check(fs, msgspec.structs.replace(MARKER, generation=9)) == MARKER


def test_a_new_folder_has_no_marker_and_is_never_taken_for_the_root(disk: FakeDisk) -> None:
    fs = FakeFileSystem(disk)
    assert root.read(fs) is None
    with pytest.raises(RootMissing):
        root.check(fs, MARKER)


def test_a_root_that_is_not_there_is_missing(fs: FakeFileSystem, disk: FakeDisk) -> None:
    disk.present = False
    with pytest.raises(RootMissing):
        root.check(fs, MARKER)


@pytest.mark.parametrize("change", [{"folder_id": "f2"}, {"service": "y"}, {"user_id": 4}, {"remote_root": 8}])
def test_another_root_is_foreign_and_says_what_differs(fs: FakeFileSystem, change: dict[str, object]) -> None:
    with pytest.raises(RootForeign) as caught:
        root.check(fs, msgspec.structs.replace(MARKER, **change))
    assert str(getattr(MARKER, next(iter(change)))) in caught.value.message


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"folder_id": 5}'])
def test_a_marker_that_cannot_be_read_is_foreign(fs: FakeFileSystem, data: bytes) -> None:
    fs.write_marker(data)
    with pytest.raises(RootForeign):
        root.read(fs)


def test_a_database_of_another_time_does_not_fit() -> None:
    assert root.fits(4, 4)
    assert root.fits(4, 5)  # a crash between the two
    assert not root.fits(4, 3)  # the database was restored from a backup
    assert not root.fits(4, 6)  # the folder was


def test_a_root_within_a_root_is_found(tmp_path: Path) -> None:
    (tmp_path / "a/.holdfast").mkdir(parents=True)
    (tmp_path / "a/.holdfast/root.json").write_bytes(b"{}")
    assert root.enclosing_root(tmp_path / "a/b/c") == tmp_path / "a"
    assert root.enclosing_root(tmp_path / "a") is None


def test_parts_go_when_nothing_has_touched_them_for_long(fs: FakeFileSystem, disk: FakeDisk, clock: Clock) -> None:
    fs.open_temp("old").close()
    in_use = fs.open_temp("in use")
    clock.time += (root.PART_DAYS + 1) * DAY_S
    fs.open_temp("new").close()
    assert root.remove_old_parts(fs, clock) == 1
    assert sorted(name for name, _ in fs.list_temp()) == ["in use", "new"]
    in_use.close()


def test_the_trash_keeps_what_is_young(fs: FakeFileSystem, disk: FakeDisk, clock: Clock) -> None:
    for data in (b"old", b"young"):
        disk.user.write_in_place(("file",), data)
        fs.trash(("file",), None)
        clock.time += root.TRASH_DAYS * DAY_S / 2 + DAY_S
    assert root.empty_trash(fs, clock) == 1
    assert disk.user.trashed() == [b"young"]


def test_one_entry_that_cannot_go_does_not_keep_the_others(
    clock: Clock, disk: FakeDisk, fs: FakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        disk.user.write_in_place((name,), name.encode())
        fs.trash((name,), None)
    stuck, drop = fs.list_trash()[0].key, fs.drop_trash

    def refuse(key: str) -> None:
        if key == stuck:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        drop(key)

    monkeypatch.setattr(fs, "drop_trash", refuse)
    assert root.empty_trash(fs, clock, bytes_max=0) == 1
    assert [entry.key for entry in fs.list_trash()] == [stuck]


def test_the_oldest_goes_first_when_the_trash_is_too_large() -> None:
    entries = [TrashEntry(f"2026-01-0{day}/x", f"2026-01-0{day}", 10) for day in range(1, 6)]
    assert root.choose_expired(entries, "2026-01-02", 25) == entries[:3]
    assert root.choose_expired(entries, "2026-01-01", 50) == []
    assert root.choose_expired(entries, "2026-01-01", 0) == entries
