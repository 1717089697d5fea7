"""Scans against a disk in memory: what is found, and what is never called gone."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from client.fs.base import OWN_FOLDER, FileKind, Path, ReadFile, Stat
from client.fs.fake import FakeFileSystem
from client.sync.local.clashes import is_clash
from client.sync.local.findings import UNREAD, DirtyFolder
from client.sync.local.ignore import Ignore
from client.sync.local.scan import MOUNTED
from tests.kit.scan_device import ROOT, Device, rescan


def test_what_is_unchanged_is_not_read_again(device: Device, how: str) -> None:
    before = device.ids()
    assert rescan(device, how) == before
    assert device.read == []


def test_new_files_are_unread_until_their_contents_are_stored(device: Device) -> None:
    device.user.write_in_place(("new",), b"x")
    nodes = [node for changes in device.scanner().scan() for node in changes.upserts]
    assert [(node.name, node.content, node.problem) for node in nodes] == [("new", None, UNREAD)]
    assert OWN_FOLDER not in device.ids()
    assert device.fs.stat(("new",)).kind is FileKind.FILE


# --- what cannot be synced --------------------------------------------------------------------------------------------


def test_links_and_bad_names_are_problems_and_no_nodes(device: Device, how: str) -> None:
    device.user.symlink(("link",))
    device.user.write_in_place(("bad\udcff",), b"x")
    device.user.write_in_place(("aux.txt",), b"x")
    before = set(device.ids())
    device.scan()
    assert set(device.ids()) == before | {"aux.txt"}
    assert device.problems[("link",)].reason == "it is a symbolic link"
    assert device.problems[("bad\udcff",)].reason == "its name is not valid UTF-8"
    assert device.problems[("aux.txt",)].warning
    device.user.delete(("link",))
    device.scan()
    assert ("link",) not in device.problems


def test_what_a_link_replaces_is_left_alone_and_not_gone(device: Device, how: str) -> None:
    before = device.ids()
    device.user.delete(("d2",))
    device.user.symlink(("d2",))
    device.scan()
    assert device.gone == []
    assert device.ids() == before
    assert device.tree.nodes[before["d2"]].problem == "it is a symbolic link"
    device.user.delete(("d2",))
    device.user.mkdir(("d2",))
    device.scan()
    device.check()
    assert device.ids()["d2"] == before["d2"]


def test_of_two_names_that_the_service_takes_for_one_the_known_one_stays(device: Device, how: str) -> None:
    device.user.write_in_place(("TOP",), b"x")
    device.scan()
    nodes = {node.name: node for node in device.tree.nodes.values()}
    assert nodes["top"].problem is None
    assert is_clash(nodes["TOP"].problem)
    assert device.problems[("TOP",)].reason == nodes["TOP"].problem
    device.scan()
    assert is_clash(device.tree.nodes[nodes["TOP"].id].problem)
    device.user.delete(("top",))
    device.scan()
    device.check()
    assert device.problems == {}


def test_a_clashing_folder_is_walked_when_its_name_is_free(device: Device, how: str) -> None:
    device.user.mkdir(("D1",))
    device.user.write_in_place(("D1", "inside"), b"x")
    device.scan()
    assert "D1/inside" not in device.ids()
    device.user.rename(("d1",), ("other",))
    rescan(device, how)


def test_ignored_files_are_not_seen_and_new_rules_forget_without_a_delete(device: Device, how: str) -> None:
    before = device.ids()
    device.user.write_in_place(("x.tmp~",), b"x")
    device.ignore = Ignore("/d2/\n*.txt\ntop\n")
    device.user.write_in_place(("d1", "new.txt"), b"x")
    device.scan()
    assert set(device.ids()) == {"d1", "d1/a", "d1/b"}
    assert sorted(device.ignored) == sorted([before["d2"], before["top"]])
    assert device.gone == []
    device.ignore = Ignore()
    device.scan()
    assert {"d2/sub/c", "top", "d1/new.txt"} <= set(device.ids())


def test_a_file_moved_to_an_ignored_name_is_gone(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("top~",))
    if how == "all":
        device.scan()
    else:
        device.scan_dirty()
    assert device.gone == [before["top"]]


# --- unknown is not gone ----------------------------------------------------------------------------------------------


class Refusing(FakeFileSystem):
    """Some folders, and some files, cannot be read."""

    refused: set[Path] = set()
    vanishing: set[Path] = set()

    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        if path in self.refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        if path in self.vanishing:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        return super().list_folder(path)

    def open(self, path: Path) -> ReadFile:
        if path in self.refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return super().open(path)


def test_a_folder_that_cannot_be_read_keeps_what_is_known_of_it(device: Device, how: str) -> None:
    before = device.ids()
    fs = Refusing(device.disk)
    fs.refused = {("d2",), ("d2", "sub")}
    device.fs = fs
    device.user.rename(("d2", "sub", "c"), ("c",))
    device.dirty.append(DirtyFolder(("d2",)))
    if how == "all":
        device.scan()
    else:
        device.scan_dirty()
    assert device.gone == []
    assert device.ids()["d2/sub/c"] == before["d2/sub/c"]
    assert device.problems[("d2",)].reason == "it cannot be read: permission denied"
    fs.refused = set()
    device.scan()
    assert device.problems == {}


def test_the_root_that_cannot_be_read_is_an_error(device: Device) -> None:
    fs = Refusing(device.disk)
    fs.refused = {()}
    device.fs = fs
    with pytest.raises(PermissionError):
        device.scan()
    fs.refused, fs.vanishing = set(), {()}
    with pytest.raises(FileNotFoundError):
        device.scan()


def test_a_file_that_cannot_be_read_is_tried_again(device: Device, how: str) -> None:
    fs = Refusing(device.disk)
    fs.refused = {("top",)}
    device.fs = fs
    device.user.write_in_place(("top",), b"secret")
    device.scan()
    assert device.tree.paths()[("top",)].problem == "it cannot be read: permission denied"
    fs.refused = set()
    device.scan()
    device.check()


def test_places_where_an_operation_is_under_way_are_passed_over(device: Device) -> None:
    before = device.ids()
    device.user.delete(("top",))
    device.user.write_in_place(("new",), b"x")
    device.absorb(device.scanner({(ROOT, "top"), (ROOT, "new"), (ROOT, "d1")}).scan())
    assert device.ids() == before
    device.scan()
    device.check()


class Mounted(FakeFileSystem):
    """Something else is mounted on `folder`: another folder with another device's number."""

    folder: Path = ()

    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        assert path != self.folder, "it is not ours"
        return [
            (name, found._replace(device=77, inode=2) if (*path, name) == self.folder else found)
            for name, found in super().list_folder(path)
        ]

    def stat(self, path: Path) -> Stat:
        found = super().stat(path)
        return found._replace(device=77, inode=2) if path == self.folder else found


def test_what_is_mounted_in_the_folder_is_left_alone(device: Device, how: str) -> None:
    device.user.mkdir(("mnt",))
    fs = Mounted(device.disk)
    fs.folder = ("mnt",)
    device.fs = fs
    before = set(device.ids())
    device.scan() if how == "all" else device.scan_dirty()
    assert set(device.ids()) == before
    assert device.problems[("mnt",)].reason == MOUNTED
    device.absorb(device.scanner().scan_folders([DirtyFolder(("mnt",), True)]))
    assert set(device.ids()) == before


def test_what_a_mount_hides_is_not_gone_and_is_seen_again_afterwards(device: Device, how: str) -> None:
    before = device.ids()
    plain, fs = device.fs, Mounted(device.disk)
    fs.folder = ("d2",)
    device.fs = fs
    device.dirty.append(DirtyFolder((), False))
    device.scan() if how == "all" else device.scan_dirty()
    assert device.gone == []
    assert device.ids() == before
    assert device.tree.nodes[before["d2"]].problem == MOUNTED
    device.fs = plain
    device.dirty.append(DirtyFolder((), False))
    assert rescan(device, how) == before
    assert device.tree.nodes[before["d2"]].problem is None
    assert device.problems == {}


def test_new_device_numbers_after_a_boot_change_nothing(device: Device) -> None:
    before = device.ids()
    for node in list(device.tree.nodes.values()):
        device.tree.nodes[node.id] = replace(node, stamp=replace(node.stamp, device=77))
    device.scan()
    device.check()
    assert device.ids() == before
    assert device.read == []
    assert device.problems == {}
