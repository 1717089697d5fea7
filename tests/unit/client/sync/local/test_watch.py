"""The watcher on real folders. Each test waits until what it expects is told: nothing is left to luck."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path as RootPath

import pytest

from client.fs.base import OWN_FOLDER, Path
from client.sync.local import inotify
from client.sync.local.findings import DirtyFolder
from client.sync.local.ignore import Ignore
from client.sync.local.inotify import Event, Inotify, WatchLimit
from client.sync.local.watch import Watcher, kind_of_mount
from tests.kit.faults import can_mount, small_disk


@pytest.fixture
def watcher(tmp_path: RootPath) -> Iterator[Watcher]:
    for folder in ("d1/deep", "d2", "ignored/below", f"{OWN_FOLDER}/temp"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "d1/file").write_bytes(b"x")
    watcher = Watcher(tmp_path, Ignore("/ignored/\n").is_ignored)
    watcher.start()
    yield watcher
    watcher.close()


def told(watcher: Watcher, *wanted: Path) -> dict[Path, bool]:
    """What was told until all of `wanted` was."""
    found: dict[Path, bool] = {}
    while not set(wanted) <= set(found):
        batch = watcher.wait()
        assert batch is not None
        for path, deep in batch:
            found[path] = found.get(path, False) or deep
    return found


def told_all(watcher: Watcher) -> None:
    while watcher.wait() is not None:
        pass


def test_every_kind_of_change_is_told_with_its_folder(watcher: Watcher, tmp_path: RootPath) -> None:
    d1, d2 = tmp_path / "d1", tmp_path / "d2"
    (d1 / "new").write_bytes(b"x")
    assert told(watcher, ("d1",)) == {("d1",): False}
    with (d1 / "file").open("ab") as file:
        file.write(b"more")
    told(watcher, ("d1",))
    os.chmod(d1 / "file", 0o755)
    told(watcher, ("d1",))
    os.utime(d1 / "file", ns=(1, 1))
    told(watcher, ("d1",))
    (d1 / "file").rename(d2 / "moved")
    told(watcher, ("d1",), ("d2",))
    (d2 / "moved").unlink()
    assert told(watcher, ("d2",)) == {("d2",): False}


def test_a_change_through_a_mapping_is_told(watcher: Watcher, tmp_path: RootPath) -> None:
    (tmp_path / "d2/mapped").write_bytes(bytes(4096))
    told(watcher, ("d2",))
    with (tmp_path / "d2/mapped").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[0] = 1
    told(watcher, ("d2",))


def test_a_program_that_keeps_writing_is_told_without_closing(watcher: Watcher, tmp_path: RootPath) -> None:
    with (tmp_path / "d2/log").open("wb", buffering=0) as file:
        told(watcher, ("d2",))
        file.write(b"line")
        told(watcher, ("d2",))


def test_a_folder_that_cannot_be_watched_ends_nothing_and_is_said_so(
    watcher: Watcher, tmp_path: RootPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Inotify, folder: int, **_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Inotify, "add", refuse)
    (tmp_path / "new").mkdir()
    told(watcher, ("new",))
    (tmp_path / "d2/file").write_bytes(b"x")
    told(watcher, ("d2",))
    assert watcher.limitation is not None


def test_a_new_folder_is_told_with_all_in_it_and_then_watched(watcher: Watcher, tmp_path: RootPath) -> None:
    for number in range(50):
        (tmp_path / f"new{number}/a/b").mkdir(parents=True)
        (tmp_path / f"new{number}/a/b/file").write_bytes(b"x")
    found = told(watcher, *[(f"new{number}",) for number in range(50)])
    assert all(found[(f"new{number}",)] for number in range(50))
    for number in range(50):
        (tmp_path / f"new{number}/a/b/file").write_bytes(b"again")
    told(watcher, *[(f"new{number}", "a", "b") for number in range(50)])


def test_a_moved_folder_is_told_where_it_is_now(watcher: Watcher, tmp_path: RootPath) -> None:
    (tmp_path / "d1").rename(tmp_path / "d2/moved")
    assert told(watcher, (), ("d2",), ("d2", "moved"))[("d2", "moved")]
    (tmp_path / "d2/moved/deep/file").write_bytes(b"x")
    told(watcher, ("d2", "moved", "deep"))


def test_swapped_folders_are_told_where_they_are_now(watcher: Watcher, tmp_path: RootPath) -> None:
    (tmp_path / "d1").rename(tmp_path / "aside")
    (tmp_path / "d2").rename(tmp_path / "d1")
    (tmp_path / "aside").rename(tmp_path / "d2")
    told(watcher, ("d1",), ("d2",))
    (tmp_path / "d2/deep/file").write_bytes(b"x")
    told(watcher, ("d2", "deep"))


def test_a_folder_that_left_is_no_longer_watched(
    watcher: Watcher, tmp_path: RootPath, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = watcher.folders
    outside = tmp_path_factory.mktemp("outside") / "d1"
    (tmp_path / "d1").rename(outside)
    told(watcher, ())
    (tmp_path / "d2/sign").write_bytes(b"x")
    told(watcher, ("d2",))
    assert watcher.folders == before - 2
    (outside / "deep/file").write_bytes(b"x")
    (tmp_path / "d2/sign").write_bytes(b"y")
    assert set(told(watcher, ("d2",))) <= {(), ("d2",)}


def test_a_deleted_folder_is_told_with_its_parent(watcher: Watcher, tmp_path: RootPath) -> None:
    (tmp_path / "d1/deep").rmdir()
    told(watcher, ("d1",))
    (tmp_path / "d1/deep").mkdir()
    assert told(watcher, ("d1", "deep"))[("d1", "deep")]
    (tmp_path / "d1/deep/file").write_bytes(b"x")
    told(watcher, ("d1", "deep"))


def test_ignored_folders_and_our_own_are_silent_until_the_rules_change(watcher: Watcher, tmp_path: RootPath) -> None:
    (tmp_path / "ignored/below/file").write_bytes(b"x")
    (tmp_path / OWN_FOLDER / "temp/part").write_bytes(b"x")
    (tmp_path / "d2/sign").write_bytes(b"x")
    assert set(told(watcher, ("d2",))) == {("d2",)}
    watcher.refresh(Ignore().is_ignored)
    told_all(watcher)
    (tmp_path / "ignored/below/file").write_bytes(b"y")
    told(watcher, ("ignored", "below"))


def test_links_to_folders_are_not_followed(watcher: Watcher, tmp_path: RootPath) -> None:
    before = watcher.folders
    (tmp_path / "link").symlink_to(tmp_path / "d1", target_is_directory=True)
    told(watcher, ())
    watcher.refresh(Ignore("/ignored/\n").is_ignored)
    told_all(watcher)
    assert watcher.folders == before


def test_lost_events_are_told_and_what_they_hid_is_watched(
    watcher: Watcher, tmp_path: RootPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Inotify.read
    lost: list[Event] = []

    def read(self: Inotify) -> Iterator[Event]:
        if lost:
            yield from real(self)
        else:
            lost.extend(real(self))
            if lost:
                yield Event(-1, inotify.OVERFLOW, "")

    monkeypatch.setattr(Inotify, "read", read)
    (tmp_path / "hidden").mkdir()
    told_all(watcher)
    (tmp_path / "hidden/file").write_bytes(b"x")
    told(watcher, ("hidden",))


def test_the_root_that_goes_is_told(watcher: Watcher, tmp_path: RootPath) -> None:
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    told_all(watcher)


def test_too_few_watches_are_said_and_everything_is_told_again_and_again(
    tmp_path: RootPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    real = Inotify.add
    given: list[int] = []

    def add(self: Inotify, folder: int, *, only_end: bool = False) -> int:
        if len(given) == 2:
            raise WatchLimit
        given.append(folder)
        return real(self, folder)

    monkeypatch.setattr(Inotify, "add", add)
    watcher = Watcher(tmp_path, Ignore().is_ignored, poll_s=0.01)
    watcher.start()
    assert watcher.limitation is not None
    assert "max_user_watches" in watcher.limitation
    told_all(watcher)
    told_all(watcher)
    watcher.close()


def test_without_inotify_everything_is_told_again_and_again(
    tmp_path: RootPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Inotify) -> None:
        raise WatchLimit

    monkeypatch.setattr(Inotify, "__init__", refuse)
    watcher = Watcher(tmp_path, Ignore().is_ignored, poll_s=0.01)
    watcher.start()
    told_all(watcher)
    told_all(watcher)
    watcher.close()


def test_very_many_changed_folders_are_told_as_everything(
    watcher: Watcher, tmp_path: RootPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.sync.local.watch._FOLDERS_MAX", 10)
    for number in range(20):
        (tmp_path / f"new{number}").mkdir()
    told_all(watcher)


def test_a_closed_watcher_tells_nothing(tmp_path: RootPath) -> None:
    watcher = Watcher(tmp_path, Ignore().is_ignored)
    watcher.start()
    watcher.close()
    assert watcher.wait() == []
    assert DirtyFolder(()) == ((), False)


def test_network_file_systems_are_known_by_their_mount() -> None:
    mounts = [
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
        "40 22 0:41 / /mnt/share rw,relatime shared:2 - nfs4 server:/export rw",
    ]
    assert kind_of_mount(mounts, "0:41") == "nfs4"
    assert kind_of_mount(mounts, "254:0") is None
    assert kind_of_mount(mounts, "9:9") is None


@pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system, as root")
def test_changes_on_another_disk_are_not_told_but_its_going_is(watcher: Watcher, tmp_path: RootPath) -> None:
    with small_disk(tmp_path / "d1", 1 << 20):
        watcher.refresh(Ignore().is_ignored)  # also what finds a mount: nothing tells of one
        told_all(watcher)
        (tmp_path / "d1" / "elsewhere").write_bytes(b"x")
        (tmp_path / "d2" / "here").write_bytes(b"x")
        assert ("d1",) not in told(watcher, ("d2",))
    assert told(watcher, ("d1",))[("d1",)], "what it hid is to be looked at"
    (tmp_path / "d1" / "again").write_bytes(b"x")
    told(watcher, ("d1",))
