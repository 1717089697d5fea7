"""What only a real disk has: permissions, pipes, roots that move, and names that the kernel compares."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client.fs import kernel
from client.fs.base import OWN_FOLDER, FileKind
from client.fs.real import RealFileSystem
from node.base.clock import SystemClock

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def fs(root: Path) -> Iterator[RealFileSystem]:
    fs = RealFileSystem(root, SystemClock())
    fs.write_marker(b"{}")
    yield fs
    fs.close()


def test_a_root_that_was_replaced_is_missing_and_is_not_written_to(fs: RealFileSystem, root: Path) -> None:
    root.rename(root.with_name("moved"))
    with pytest.raises(FileNotFoundError):
        fs.read_marker()
    root.mkdir()
    with pytest.raises(FileNotFoundError):
        fs.read_marker()
    fs.make_folder(("folder",))
    assert os.listdir(root) == []


def test_nothing_is_written_where_our_own_folder_is_missing(root: Path) -> None:
    fs = RealFileSystem(root, SystemClock())
    assert fs.read_marker() is None
    with pytest.raises(FileNotFoundError):
        fs.open_temp("part")
    assert os.listdir(root) == []
    fs.close()


def test_a_link_in_the_place_of_our_own_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / OWN_FOLDER).symlink_to(tmp_path / "elsewhere")
    fs = RealFileSystem(root, SystemClock())
    for attempt in (lambda: fs.open_temp("part"), lambda: fs.write_marker(b"{}"), fs.lock):
        with pytest.raises(OSError):
            attempt()
    assert fs.read_marker() is None
    assert os.listdir(tmp_path / "elsewhere") == []
    fs.close()


def test_a_private_file_stays_private_when_it_is_replaced(fs: RealFileSystem, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "file").chmod(0o600)
    temp = fs.open_temp("part")
    temp.write_at(0, b"new")
    temp.set_executable(True)
    fs.place(temp, ("file",), fs.stat(("file",)).stamp())
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / OWN_FOLDER).stat().st_mode) == 0o700


def test_a_new_file_has_the_permissions_that_the_umask_says(fs: RealFileSystem, root: Path) -> None:
    (root / "by hand").write_bytes(b"x")
    with fs.open_temp("part") as temp:
        fs.place(temp, ("placed",), None)
    assert (root / "placed").stat().st_mode == (root / "by hand").stat().st_mode


def test_pipes_and_sockets_are_special_and_never_opened(fs: RealFileSystem, root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert fs.stat(("pipe",)).kind is FileKind.SPECIAL
    with pytest.raises(OSError):
        fs.open(("pipe",))


def test_names_that_are_not_utf8_are_kept_as_they_are(fs: RealFileSystem, root: Path) -> None:
    raw = os.path.join(os.fsencode(root), b"bad\xff")
    with open(raw, "wb") as file:
        file.write(b"x")
    [(name, _)] = fs.list_folder(())
    fs.move((name,), ("good",))
    fs.move(("good",), (name,))
    assert os.path.exists(raw)


def test_paths_longer_than_the_kernel_takes_at_once_work(fs: RealFileSystem) -> None:
    path: tuple[str, ...] = ()
    for _ in range(40):
        path = (*path, "x" * 200)
        fs.make_folder(path)
    with fs.open_temp("part") as temp:
        placed = fs.place(temp, (*path, "file"), None)
    assert fs.stat((*path, "file")) == placed
    fs.trash((*path, "file"), placed.stamp())


def test_the_contents_of_the_file_that_was_opened_are_read_though_another_took_its_place(
    fs: RealFileSystem, root: Path
) -> None:
    (root / "file").write_bytes(b"x" * 10)
    with fs.open(("file",)) as file:
        (root / "file").unlink()
        assert file.read_at(5, memoryview(bytearray(100))) == 5


def test_a_temporary_file_that_another_discarded_is_made_anew(fs: RealFileSystem, root: Path) -> None:
    first = fs.open_temp("part")
    first.write_at(0, b"first")
    first.discard()
    with fs.open_temp("part") as second:
        assert second.size() == 0


def test_renames_never_replace_and_an_exchange_needs_both(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    folder = os.open(root, os.O_RDONLY)
    with pytest.raises(FileExistsError):
        kernel.rename_new(folder, "a", folder, "b")
    with pytest.raises(FileNotFoundError):
        kernel.exchange(folder, "a", folder, "none")
    kernel.exchange(folder, "a", folder, "b")
    assert (root / "a").read_bytes() == b"b"
    os.close(folder)


def test_a_mapping_counts_as_open_for_writing(root: Path) -> None:
    (root / "file").write_bytes(bytes(100))
    folder = os.open(root, os.O_RDONLY)
    assert not kernel.is_open_for_writing(folder, "file")
    with (root / "file").open("rb"):
        assert not kernel.is_open_for_writing(folder, "file")
    with (root / "file").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 100)
    assert kernel.is_open_for_writing(folder, "file")
    mapped.close()
    assert not kernel.is_open_for_writing(folder, "file")
    os.close(folder)


def test_what_others_leave_in_our_own_folder_stops_nothing(fs: RealFileSystem, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    fs.trash(("a",), None)
    own = root / OWN_FOLDER
    (day,) = (own / "trash").iterdir()
    (own / "moving" / "folder").mkdir()
    for folder in (own / "trash", day, own / "moving"):
        (folder / ".DS_Store").write_bytes(b"x")
    assert fs.recover() == []
    (entry,) = fs.list_trash()
    fs.drop_trash(entry.key)
    assert fs.list_trash() == []


def test_a_large_file_on_its_way_in_does_not_stay_in_memory(fs: RealFileSystem) -> None:
    """So that it takes no memory from what the person works with; a small one is likely to be opened soon."""
    piece, first = bytes(MIB), memoryview(bytearray(4096))
    with fs.open_temp("part") as temp:
        temp.write_at(0, piece)
        temp.sync()
        assert _is_cached(fs, first)
        for number in range(32):
            temp.write_at(number * MIB, piece)
        temp.sync()
        assert not _is_cached(fs, first)
        assert temp.read_at(0, first) == len(first)


def _is_cached(fs: RealFileSystem, buffer: memoryview) -> bool:
    descriptor = os.open(fs._path / OWN_FOLDER / "temp" / "part", os.O_RDONLY)
    try:
        return os.preadv(descriptor, [buffer], 0, os.RWF_NOWAIT) == len(buffer)
    except BlockingIOError:
        return False
    except OSError as error:
        pytest.skip(f"this file system does not tell: {error}")
    finally:
        os.close(descriptor)


def test_where_the_kernel_does_not_tell_when_a_file_was_made_none_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with closing(RealFileSystem(tmp_path, SystemClock())) as fs:
        stamp = fs.stat(("file",)).stamp()
        assert fs.is_same_since(("file",), stamp)
        monkeypatch.setattr(kernel, "_libc", object())
        assert not fs.is_same_since(("file",), stamp)
