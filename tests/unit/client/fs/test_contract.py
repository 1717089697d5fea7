"""What every file system promises (client/fs/base.py): one suite for the real disk and the one in memory."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path as DiskPath
from typing import Protocol

import pytest

from client.fs.base import OWN_FOLDER, ChangedMeanwhile, FileKind, FileSystem, InUse, Path, Stat
from client.fs.failing import FailingFileSystem
from client.fs.fake import FakeDisk, FakeFileSystem
from client.fs.real import RealFileSystem
from client.sync.tree import Stamp
from node.base.clock import SystemClock

OLD, NEW, EDITED = b"old contents", b"new contents!", b"somebody's edit"


class Person(Protocol):
    """What the tests do behind the file system's back."""

    def write(self, path: Path, data: bytes) -> None: ...
    def save(self, path: Path, data: bytes) -> None: ...
    def delete(self, path: Path) -> None: ...
    def mkdir(self, path: Path) -> None: ...
    def symlink(self, path: Path, target: Path) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...
    def read(self, path: Path) -> bytes: ...
    def names(self, path: Path) -> set[str]: ...
    def trashed(self) -> list[bytes]: ...
    def touch(self, path: Path, mtime_ns: int) -> None: ...
    def again(self) -> FileSystem:
        """A second process on the same root."""


class OnDisk:
    def __init__(self, root: DiskPath) -> None:
        self.root = root

    def at(self, path: Path) -> DiskPath:
        return self.root.joinpath(*path)

    def write(self, path: Path, data: bytes) -> None:
        self.at(path).write_bytes(data)

    def save(self, path: Path, data: bytes) -> None:
        beside = self.at((*path[:-1], "beside"))
        beside.write_bytes(data)
        beside.rename(self.at(path))

    def delete(self, path: Path) -> None:
        self.at(path).unlink()

    def mkdir(self, path: Path) -> None:
        self.at(path).mkdir()

    def symlink(self, path: Path, target: Path) -> None:
        self.at(path).symlink_to(self.at(target))

    def link(self, source: Path, target: Path) -> None:
        self.at(target).hardlink_to(self.at(source))

    def read(self, path: Path) -> bytes:
        return self.at(path).read_bytes()

    def names(self, path: Path) -> set[str]:
        return set(os.listdir(self.at(path))) - {OWN_FOLDER}

    def trashed(self) -> list[bytes]:
        return [each.read_bytes() for each in self.root.glob(f"{OWN_FOLDER}/trash/*/*/*")]

    def touch(self, path: Path, mtime_ns: int) -> None:
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns))

    def again(self) -> FileSystem:
        return RealFileSystem(self.root, SystemClock())


class InMemory:
    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.write = disk.user.write_in_place
        self.save = disk.user.save_by_rename
        self.delete = disk.user.delete
        self.mkdir = disk.user.mkdir
        self.link = disk.user.link
        self.read = disk.user.read
        self.trashed = disk.user.trashed

    def symlink(self, path: Path, target: Path) -> None:
        self.disk.user.symlink(path)

    def touch(self, path: Path, mtime_ns: int) -> None:
        self.disk.user.touch(path, mtime_ns)

    def names(self, path: Path) -> set[str]:
        return set(self.disk.folder(path).children) - {OWN_FOLDER}

    def again(self) -> FileSystem:
        return FakeFileSystem(self.disk)


@pytest.fixture(params=["real", "real, no exchange", "fake", "fake, no exchange", "failing"])
def world(
    request: pytest.FixtureRequest, tmp_path: DiskPath, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FileSystem, Person]]:
    fs: FileSystem
    person: Person
    if request.param.startswith("real"):
        fs, person = RealFileSystem(tmp_path, SystemClock()), OnDisk(tmp_path)
        if request.param != "real":
            monkeypatch.setattr("client.fs.kernel._UNSUPPORTED", frozenset({0}))
            monkeypatch.setattr("ctypes.get_errno", lambda: 0)
            monkeypatch.setattr("client.fs.kernel._libc", Refusing())
    else:
        disk = FakeDisk(SystemClock(), can_exchange=request.param != "fake, no exchange")
        fs, person = FakeFileSystem(disk), InMemory(disk)
        if request.param == "failing":
            fs = FailingFileSystem(fs)
    fs.write_marker(b"{}")
    yield fs, person
    fs.close()


class Refusing:
    """A kernel, or a file system, that does not know the new renames."""

    statx = ctypes.CDLL(None, use_errno=True).statx

    def renameat2(self, *_: object) -> int:
        return -1


World = tuple[FileSystem, Person]


def stamp_of(fs: FileSystem, path: Path) -> Stamp:
    return fs.stat(path).stamp()


def put(fs: FileSystem, path: Path, data: bytes, expected: Stamp | None = None) -> Stat:
    temp = fs.open_temp("part")
    temp.write_at(0, data)
    try:
        return fs.place(temp, path, expected)
    finally:
        temp.close()


# --- looking ------------------------------------------------------------------------------------------------------


def test_list_tells_kinds_and_sizes_and_leaves_our_own_folder_out(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    person.mkdir(("folder",))
    person.symlink(("link",), ("file",))
    found = dict(fs.list_folder(()))
    assert {name: each.kind for name, each in found.items()} == {
        "file": FileKind.FILE,
        "folder": FileKind.FOLDER,
        "link": FileKind.SYMLINK,
    }
    assert found["file"].size == len(OLD)
    assert found["file"] == fs.stat(("file",))


def test_a_file_that_was_moved_and_edited_is_told_from_one_that_got_its_inode(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    before = stamp_of(fs, ("file",))
    while stamp_of(fs, ("file",)).ctime_ns == before.ctime_ns:  # until the clock has ticked, as a reader waits
        person.write(("file",), EDITED)
    fs.move(("file",), ("moved",))
    person.write(("moved",), EDITED)
    assert fs.is_same_since(("moved",), before)
    person.delete(("moved",))
    for number in range(100):  # one of them gets the inode, where a disk gives it away again at once
        person.write((f"new {number}",), NEW)
    assert not any(fs.is_same_since((f"new {number}",), before) for number in range(100))
    with pytest.raises(OSError):
        fs.is_same_since(("moved",), before)


def test_what_is_not_there_or_no_folder_says_so(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    with pytest.raises(FileNotFoundError):
        fs.list_folder(("none",))
    with pytest.raises(NotADirectoryError):
        fs.list_folder(("file",))
    with pytest.raises(NotADirectoryError):
        fs.stat(("file", "below"))
    with pytest.raises(FileNotFoundError):
        fs.open(("none",))


def test_no_symbolic_link_is_followed_anywhere_in_a_path(world: World) -> None:
    fs, person = world
    person.mkdir(("folder",))
    person.write(("folder", "secret"), OLD)
    person.symlink(("link",), ("folder",))
    with pytest.raises(NotADirectoryError):
        fs.list_folder(("link",))
    for attempt in (
        lambda: fs.stat(("link", "secret")),
        lambda: fs.open(("link", "secret")),
        lambda: fs.open(("link",)),
        lambda: fs.trash(("link", "secret"), None),
        lambda: fs.make_folder(("link", "new")),
        lambda: fs.remove_folder(("link",)),
        lambda: fs.move(("folder", "secret"), ("link", "secret2")),
        lambda: put(fs, ("link", "new"), NEW),
    ):
        with pytest.raises(OSError):
            attempt()
    assert fs.stat(("link",)).kind is FileKind.SYMLINK
    assert person.names(("folder",)) == {"secret"}


@pytest.mark.parametrize(
    "path", [(OWN_FOLDER,), (OWN_FOLDER, "root.json"), ("..",), ("folder", "..", "x"), ("a/b",), ("",), ("a\0b",)]
)
def test_paths_that_lead_out_or_into_our_own_folder_are_refused(world: World, path: Path) -> None:
    fs, person = world
    person.mkdir(("folder",))
    for attempt in (
        lambda: fs.stat(path),
        lambda: fs.list_folder(path),
        lambda: fs.make_folder(path),
        lambda: fs.move(("folder",), path),
        lambda: put(fs, path, NEW),
    ):
        with pytest.raises(OSError):
            attempt()


def test_a_read_file_is_the_one_that_was_opened(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    with fs.open(("file",)) as file:
        person.save(("file",), NEW)
        buffer = bytearray(100)
        assert file.read_at(0, memoryview(buffer)) == len(OLD)
        assert buffer[: len(OLD)] == OLD
        assert file.read_at(4, memoryview(buffer)[:3]) == 3
        assert file.stat().inode != fs.stat(("file",)).inode


# --- placing ------------------------------------------------------------------------------------------------------


def test_place_gives_a_new_file_its_name_time_and_bit(world: World) -> None:
    fs, person = world
    temp = fs.open_temp("part")
    temp.write_at(4, NEW[4:])
    temp.write_at(0, NEW[:4])
    temp.set_mtime(-5_000_000_000)
    temp.set_executable(True)
    placed = fs.place(temp, ("file",), None)
    assert person.read(("file",)) == NEW
    assert placed == fs.stat(("file",))
    assert (placed.mtime_ns, placed.executable) == (-5_000_000_000, True)
    assert fs.list_temp() == []


def test_place_of_a_new_file_never_replaces(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    with pytest.raises(FileExistsError):
        put(fs, ("file",), NEW)
    assert person.read(("file",)) == OLD
    assert [name for name, _ in fs.list_temp()] == ["part"]


def test_place_replaces_the_expected_file_and_keeps_it_in_the_trash(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    placed = put(fs, ("file",), NEW, stamp_of(fs, ("file",)))
    assert placed == fs.stat(("file",))
    assert person.read(("file",)) == NEW
    assert person.trashed() == [OLD]
    assert person.names(()) == {"file"}


@pytest.mark.parametrize("how", ["write", "save"])
def test_place_leaves_an_edited_file_alone_and_keeps_the_part(world: World, how: str) -> None:
    fs, person = world
    person.write(("file",), OLD)
    expected = stamp_of(fs, ("file",))
    getattr(person, how)(("file",), EDITED)
    with pytest.raises(ChangedMeanwhile):
        put(fs, ("file",), NEW, expected)
    assert person.read(("file",)) == EDITED
    with fs.open_temp("part") as temp:
        assert temp.size() == len(NEW)
    assert person.names(()) == {"file"}


def test_place_over_a_file_that_vanished_or_became_a_folder(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    expected = stamp_of(fs, ("file",))
    person.delete(("file",))
    with pytest.raises(ChangedMeanwhile):
        put(fs, ("file",), NEW, expected)
    person.mkdir(("file",))
    with pytest.raises(ChangedMeanwhile):
        put(fs, ("file",), NEW, expected)
    with pytest.raises(FileNotFoundError):
        put(fs, ("none", "file"), NEW)
    assert [name for name, _ in fs.list_temp()] == ["part"]


def test_a_temporary_file_continues_where_it_was_left_and_has_one_opener(world: World) -> None:
    fs, _ = world
    with fs.open_temp("part") as temp:
        temp.write_at(0, NEW)
        with pytest.raises(BlockingIOError):
            fs.open_temp("part")
    with fs.open_temp("part") as temp:
        buffer = bytearray(len(NEW))
        assert temp.read_at(0, memoryview(buffer)) == len(NEW)
        assert buffer == NEW
        temp.truncate(3)
        assert temp.size() == 3
        temp.discard()
    assert fs.list_temp() == []


# --- moving, trashing, folders --------------------------------------------------------------------------------------


def test_move_renames_files_and_folders_and_never_replaces(world: World) -> None:
    fs, person = world
    person.mkdir(("folder",))
    person.write(("folder", "file"), OLD)
    person.write(("other",), NEW)
    moved = fs.move(("folder",), ("renamed",))
    assert moved.inode == fs.stat(("renamed",)).inode
    with pytest.raises(FileExistsError):
        fs.move(("renamed", "file"), ("other",))
    with pytest.raises(FileExistsError):
        fs.move(("other",), ("renamed",))
    fs.move(("renamed", "file"), ("file",), stamp_of(fs, ("renamed", "file")))
    with pytest.raises(FileNotFoundError):
        fs.move(("none",), ("any",))
    assert person.names(()) == {"file", "other", "renamed"}
    assert (person.read(("file",)), person.read(("other",))) == (OLD, NEW)


def test_move_takes_an_edit_along_but_no_other_file(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    expected = stamp_of(fs, ("file",))
    person.write(("file",), EDITED)
    fs.move(("file",), ("moved",), expected)
    assert person.read(("moved",)) == EDITED
    person.save(("moved",), NEW)
    with pytest.raises(ChangedMeanwhile):
        fs.move(("moved",), ("again",), expected)
    assert person.names(()) == {"moved"}


def test_move_does_not_pass_an_edit_for_what_was_expected(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    before = fs.stat(("file",))
    fs.set_executable(("file",), True, before.stamp())
    moved = fs.move(("file",), ("moved",), before.stamp())
    assert moved.ctime_ns != fs.stat(("moved",)).ctime_ns


def test_move_changes_only_the_spelling_of_a_name(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    fs.move(("file",), ("FILE",))
    assert person.names(()) == {"FILE"}


def test_move_does_not_take_two_hard_links_for_one_file(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    person.link(("file",), ("FILE",))
    with pytest.raises(FileExistsError):
        fs.move(("file",), ("FILE",))
    assert person.names(()) == {"file", "FILE"}


def test_trash_takes_exactly_the_expected_file(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    expected = stamp_of(fs, ("file",))
    person.write(("file",), EDITED)
    with pytest.raises(ChangedMeanwhile):
        fs.trash(("file",), expected)
    assert person.read(("file",)) == EDITED
    fs.trash(("file",), stamp_of(fs, ("file",)))
    assert person.names(()) == set()
    assert person.trashed() == [EDITED]
    with pytest.raises(FileNotFoundError):
        fs.trash(("file",), expected)


def test_trash_takes_links_but_no_folders(world: World) -> None:
    fs, person = world
    person.mkdir(("folder",))
    person.symlink(("link",), ("folder",))
    fs.trash(("link",), None)
    with pytest.raises(IsADirectoryError):
        fs.trash(("folder",), None)
    assert person.names(()) == {"folder"}


def test_a_file_with_the_same_stamp_twice_in_the_trash(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    person.link(("file",), ("link",))
    fs.trash(("file",), None)
    fs.trash(("link",), None)
    assert person.trashed() == [OLD, OLD]


def test_the_trash_is_listed_with_sizes_and_emptied_one_by_one(world: World) -> None:
    fs, person = world
    for data in (OLD, NEW):
        person.write(("file",), data)
        fs.trash(("file",), None)
    entries = fs.list_trash()
    assert sorted(entry.size for entry in entries) == sorted([len(OLD), len(NEW)])
    assert entries == sorted(entries)
    for entry in entries:
        fs.drop_trash(entry.key)
    assert fs.list_trash() == []
    assert person.trashed() == []


def test_folders_are_made_once_and_removed_only_when_empty(world: World) -> None:
    fs, person = world
    made = fs.make_folder(("folder",))
    assert made.kind is FileKind.FOLDER
    with pytest.raises(FileExistsError):
        fs.make_folder(("folder",))
    person.write(("folder", "file"), OLD)
    with pytest.raises(OSError) as caught:
        fs.remove_folder(("folder",))
    assert caught.value.errno == errno.ENOTEMPTY
    person.delete(("folder", "file"))
    fs.remove_folder(("folder",))
    assert person.names(()) == set()
    person.write(("file",), OLD)
    with pytest.raises(NotADirectoryError):
        fs.remove_folder(("file",))


def test_a_folder_cannot_be_moved_into_itself(world: World) -> None:
    fs, person = world
    person.mkdir(("folder",))
    with pytest.raises(OSError):
        fs.move(("folder",), ("folder", "below"))
    assert person.names(("folder",)) == set()


def test_set_executable_changes_only_the_expected_file(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    before = stamp_of(fs, ("file",))
    changed = fs.set_executable(("file",), True, before)
    assert changed == fs.stat(("file",))
    assert changed.executable
    with pytest.raises(ChangedMeanwhile):
        fs.set_executable(("file",), False, before)
    assert not fs.set_executable(("file",), False, changed.stamp()).executable


# --- our own folder ---------------------------------------------------------------------------------------------------


def test_the_marker_is_what_was_written_last(world: World) -> None:
    fs, person = world
    fs.write_marker(b"one")
    fs.write_marker(b"two")
    assert fs.read_marker() == b"two"
    assert person.again().read_marker() == b"two"


def test_one_client_at_a_time(world: World) -> None:
    fs, person = world
    fs.lock()
    second = person.again()
    with pytest.raises(BlockingIOError):
        second.lock()
    fs.close()
    second.lock()
    second.close()


def test_recover_has_nothing_to_do_after_a_clean_end(world: World) -> None:
    fs, person = world
    person.write(("file",), OLD)
    put(fs, ("file",), NEW, stamp_of(fs, ("file",)))
    fs.trash(("file",), None)
    assert fs.recover() == []
    assert sorted(person.trashed()) == sorted([OLD, NEW])


# --- files in use -----------------------------------------------------------------------------------------------------


def test_a_file_that_a_program_writes_to_stays_where_it_is(world: World, tmp_path: DiskPath) -> None:
    fs, person = world
    person.write(("file",), OLD)
    expected = stamp_of(fs, ("file",))
    holder = (
        person.disk.user.open_for_writing(("file",)) if isinstance(person, InMemory) else (tmp_path / "file").open("ab")
    )
    with holder:
        with pytest.raises(InUse):
            put(fs, ("file",), NEW, expected)
        with pytest.raises(InUse):
            fs.trash(("file",), expected)
    put(fs, ("file",), NEW, expected)
    assert person.read(("file",)) == NEW
