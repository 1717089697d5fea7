"""Scans against a disk in memory: what is found, which known file it is, and what is never called gone."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from client.fs.base import OWN_FOLDER, FileKind, FileSystem, Path, ReadFile, Stat
from client.fs.fake import FakeDisk, FakeFileSystem, User
from client.sync.local.ignore import Ignore
from client.sync.local.scan import (
    UNMOUNTED,
    UNREAD,
    Changes,
    ContentRead,
    DirtyFolder,
    Problem,
    ReadTask,
    Scanner,
    Unreadable,
    Unsettled,
    is_clash,
    read_content,
)
from client.sync.tree import LocalId, LocalNode
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from coordinator.protocol.types import Kind

ROOT = LocalId(1)


class StillClock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> float:
        return 1_700_000_000.0


class Tree:
    """The stored observations, in dictionaries."""

    local_root = ROOT

    def __init__(self, root: Stat) -> None:
        self.nodes = {ROOT: LocalNode(ROOT, None, "", Kind.FOLDER, root.stamp())}
        self.last = int(ROOT)

    def local(self, node_id: LocalId) -> LocalNode | None:
        return self.nodes.get(node_id)

    def local_named(self, parent_id: LocalId, key: str) -> Iterable[LocalNode]:
        return [node for node in self.local_children(parent_id) if node.key == key]

    def local_children(self, parent_id: LocalId) -> Iterable[LocalNode]:
        return [node for node in self.nodes.values() if node.parent_id == parent_id and node.id != ROOT]

    def local_with_inode(self, inode: int) -> Iterable[LocalNode]:
        return [node for node in self.nodes.values() if node.stamp.inode == inode]

    def new_id(self) -> LocalId:
        self.last += 1
        return LocalId(self.last)

    def path(self, node: LocalNode) -> Path:
        names = []
        while node.parent_id is not None:
            names.append(node.name)
            node = self.nodes[node.parent_id]
        return tuple(reversed(names))

    def drop(self, node_id: LocalId) -> None:
        for child in list(self.local_children(node_id)):
            self.drop(child.id)
        self.nodes.pop(node_id, None)

    def paths(self) -> dict[Path, LocalNode]:
        return {self.path(node): node for node in self.nodes.values() if node.id != ROOT}


class Device:
    """A disk, its stored observations, and what the last scan told. `late`: steps are stored only after the last."""

    def __init__(self, rules: str = "", *, late: bool = False) -> None:
        self.disk = FakeDisk(StillClock())
        self.fs: FileSystem = FakeFileSystem(self.disk)
        self.tree = Tree(self.fs.stat(()))
        self.ignore = Ignore(rules)
        self.late = late
        self.dirty: list[DirtyFolder] = []
        self.disk.on_event = lambda path, recursive: self.dirty.append(DirtyFolder(path, recursive))
        self.problems: dict[Path, Problem] = {}
        self.ignored: list[LocalId] = []
        self.gone: list[LocalId] = []
        self.read: list[Path] = []

    @property
    def user(self) -> User:
        return self.disk.user

    def scanner(self, busy: set[tuple[LocalId, str]] | None = None) -> Scanner:
        return Scanner(self.fs, self.tree, self.ignore, self.tree.new_id, busy or set())

    def scan(self) -> None:
        self.absorb(self.scanner().scan())

    def scan_dirty(self) -> None:
        """As after the watcher told what changed."""
        dirty, self.dirty = self.dirty, []
        self.absorb(self.scanner().scan_folders(dirty))

    def absorb(self, steps: Iterator[Changes]) -> None:
        self.read, self.gone = [], []
        tasks: dict[LocalId, ReadTask] = {}
        if self.late:
            steps = iter(list(steps))
        for changes in steps:
            self.store(changes)
            tasks.update({task.id: task for task in changes.to_read})
        for task in tasks.values():
            self.read.append(task.path)
            done = read_content(self.fs, task, now=self.disk.clock.now, pause=lambda _: None)
            node = self.tree.nodes[task.id]
            assert self.tree.path(node) == task.path
            if isinstance(done, ContentRead):
                self.tree.nodes[task.id] = replace(node, stamp=done.stamp, content=done.content, problem=None)
            elif isinstance(done, Unreadable):
                self.tree.nodes[task.id] = replace(node, stamp=done.stamp or node.stamp, problem=done.problem)

    def store(self, changes: Changes) -> None:
        for node in changes.upserts:
            assert node.parent_id is None or node.parent_id in self.tree.nodes, "parents come first"
            self.tree.nodes[node.id] = node
        for node_id in changes.ignored:
            self.ignored.append(node_id)
            self.tree.drop(node_id)
        for node_id in changes.gone:
            self.gone.append(node_id)
            self.tree.drop(node_id)
        for folder in changes.listed:
            self.problems = {path: each for path, each in self.problems.items() if path[:-1] != folder}
        self.problems.update({problem.path: problem for problem in changes.problems})

    def ids(self) -> dict[str, LocalId]:
        return {"/".join(path): node.id for path, node in self.tree.paths().items()}

    def check(self) -> None:
        """The stored tree is what is on the disk."""
        files = self.user.files()
        folders = set(self.user.folders())
        stored = self.tree.paths()
        assert len(stored) == len(self.tree.nodes) - 1, "two nodes at one place"
        assert {path for path, node in stored.items() if node.kind is Kind.FILE} == set(files)
        assert {path for path, node in stored.items() if node.kind is Kind.FOLDER} == folders
        for path, data in files.items():
            node = stored[path]
            assert node.problem is None
            assert node.content is not None
            assert node.content.digest == digest(data)
            assert node.stamp.inode == self.disk.find(path).number
        for path in folders:
            assert stored[path].stamp.inode == self.disk.find(path).number


def digest(data: bytes) -> bytes:
    return content_hash([hash_block(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)])


@pytest.fixture(params=["all", "dirty"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["at once", "late"])
def device(request: pytest.FixtureRequest) -> Device:
    """With d1/{a,b}, d2/sub/c and top, all scanned."""
    device = Device(late=request.param)
    for folder in (("d1",), ("d2",), ("d2", "sub")):
        device.user.mkdir(folder)
    for number, path in enumerate((("d1", "a"), ("d1", "b"), ("d2", "sub", "c"), ("top",))):
        device.user.write_in_place(path, b"contents of " * (number + 1))
    device.scan()
    device.check()
    device.dirty.clear()
    return device


def rescan(device: Device, how: str) -> dict[str, LocalId]:
    if how == "all":
        device.scan()
    else:
        device.scan_dirty()
    device.check()
    return device.ids()


# --- identity ---------------------------------------------------------------------------------------------------------


def test_what_is_unchanged_is_not_read_again(device: Device, how: str) -> None:
    before = device.ids()
    assert rescan(device, how) == before
    assert device.read == []


def test_an_edit_keeps_the_file(device: Device, how: str) -> None:
    before = device.ids()
    device.user.write_in_place(("top",), b"edited")
    device.user.save_by_rename(("d1", "a"), b"edited too")
    assert rescan(device, how) == before
    assert sorted(device.read) == [("d1", "a"), ("top",)]


def test_a_renamed_and_a_moved_file_stay_themselves(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("TOP",))
    device.user.rename(("d1", "a"), ("d2", "sub", "moved"))
    after = rescan(device, how)
    assert after["TOP"] == before["top"]
    assert after["d2/sub/moved"] == before["d1/a"]
    assert device.gone == []


def test_a_moved_folder_is_one_move(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2",), ("d1", "moved"))
    after = rescan(device, how)
    assert after["d1/moved"] == before["d2"]
    assert after["d1/moved/sub/c"] == before["d2/sub/c"]
    assert (device.read, device.gone) == ([], [])


def test_parent_and_child_that_changed_places(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2", "sub"), ("sub",))
    device.user.rename(("d2",), ("sub", "d2"))
    after = rescan(device, how)
    assert (after["sub"], after["sub/d2"], after["sub/c"]) == (before["d2/sub"], before["d2"], before["d2/sub/c"])


def test_files_and_folders_that_were_swapped(device: Device, how: str) -> None:
    before = device.ids()
    for one, other in ((("top",), ("d1", "b")), (("d1",), ("d2",))):
        device.user.rename(one, ("aside",))
        device.user.rename(other, one)
        device.user.rename(("aside",), other)
    after = rescan(device, how)
    assert (after["d2"], after["d1"]) == (before["d1"], before["d2"])
    assert (after["d2/b"], after["top"]) == (before["top"], before["d1/b"])
    assert after["d1/sub/c"] == before["d2/sub/c"]


def test_a_chain_of_renames(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d1", "b"), ("d1", "c"))
    device.user.rename(("d1", "a"), ("d1", "b"))
    after = rescan(device, how)
    assert (after["d1/b"], after["d1/c"]) == (before["d1/a"], before["d1/b"])


def test_a_known_file_renamed_over_another_is_an_edit_of_that(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d1", "b"), ("d1", "a"))
    after = rescan(device, how)
    assert after["d1/a"] == before["d1/a"]
    assert device.gone == [before["d1/b"]]


def test_a_backup_by_rename_leaves_the_name_its_identity(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("top.bak",))
    device.user.write_in_place(("top",), b"saved anew")
    after = rescan(device, how)
    assert after["top"] == before["top"]
    assert after["top.bak"] not in before.values()


def test_a_new_file_with_a_used_inode_is_new(device: Device, how: str) -> None:
    before, number = device.ids(), device.disk.find(("top",)).number
    device.user.delete(("top",))
    device.user.write_in_place(("other",), b"something else")
    assert device.disk.find(("other",)).number == number
    after = rescan(device, how)
    assert after["other"] not in before.values()
    assert device.gone == [before["top"]]


def test_a_new_folder_with_a_used_inode_is_new(device: Device, how: str) -> None:
    before, number = device.ids(), device.disk.find(("d1",)).number
    device.user.delete(("d1",))
    for name in ("x", "y", "z", "w"):
        device.user.mkdir((name,))
    assert number in {device.disk.find((name,)).number for name in ("x", "y", "z", "w")}
    device.user.write_in_place(("x", "new"), b"new")
    after = rescan(device, how)
    assert device.gone == [before["d1"]]
    assert {"x", "y", "z", "w", "x/new"} <= set(after)


def test_a_file_moved_out_of_a_deleted_folder(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2", "sub", "c"), ("saved",))
    device.user.delete(("d2",))
    after = rescan(device, how)
    assert after["saved"] == before["d2/sub/c"]
    assert device.gone == [before["d2"]]


def test_a_file_that_became_a_folder_and_the_other_way(device: Device, how: str) -> None:
    before = device.ids()
    device.user.delete(("top",))
    device.user.mkdir(("top",))
    device.user.delete(("d1",))
    device.user.write_in_place(("d1",), b"now a file")
    after = rescan(device, how)
    assert {before["top"], before["d1"]} == set(device.gone)
    assert after["top"] not in before.values()


def test_hard_links_are_two_files(device: Device, how: str) -> None:
    before = device.ids()
    device.user.link(("top",), ("link",))
    after = rescan(device, how)
    assert after["top"] == before["top"]
    assert after["link"] not in before.values()


def test_a_folder_made_and_filled_at_once(device: Device) -> None:
    device.user.mkdir(("new",))
    device.user.mkdir(("new", "deep"))
    device.user.write_in_place(("new", "deep", "file"), b"x")
    device.dirty = [DirtyFolder((), recursive=False)]  # all that a watcher could have seen
    device.scan_dirty()
    device.check()


def test_a_batch_finds_the_old_place_of_a_moved_file_by_itself(device: Device) -> None:
    before = device.ids()
    device.user.rename(("d1", "a"), ("d2", "a"))
    device.dirty = [DirtyFolder(("d2",))]
    device.scan_dirty()
    device.check()
    assert device.ids()["d2/a"] == before["d1/a"]


def test_a_batch_about_a_path_that_is_gone_looks_above(device: Device) -> None:
    before = device.ids()
    device.user.delete(("d2",))
    device.dirty = [DirtyFolder(("d2", "sub"), recursive=True)]
    device.scan_dirty()
    device.check()
    assert device.gone == [before["d2"]]


def test_a_batch_below_a_swapped_folder_does_not_mix_the_two(device: Device) -> None:
    device.user.mkdir(("d1", "sub"))
    device.user.write_in_place(("d1", "sub", "c"), b"another c")
    device.scan_dirty()
    before = device.ids()
    device.user.rename(("d1",), ("aside",))
    device.user.rename(("d2",), ("d1",))
    device.user.rename(("aside",), ("d2",))
    device.dirty = [DirtyFolder(("d1", "sub"))]
    device.scan_dirty()
    device.check()
    after = device.ids()
    assert (after["d1"], after["d1/sub/c"]) == (before["d2"], before["d2/sub/c"])
    assert (after["d2"], after["d2/sub/c"]) == (before["d1"], before["d1/sub/c"])


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_user_does_the_tree_is_the_disk(seed: int) -> None:
    """Random histories, looked at by full scans or by batches; identities through renames are kept where sure."""
    rng = random.Random(seed)
    device = Device(late=rng.random() < 0.5)
    for _ in range(rng.randint(3, 12)):
        for _ in range(rng.randint(1, 8)):
            act(rng, device)
        if rng.random() < 0.5:
            device.dirty.clear()
            device.scan()
        else:
            device.scan_dirty()
        try:
            device.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def act(rng: random.Random, device: Device) -> None:
    user = device.user
    files, folders = list(user.files()), [(), *user.folders()]
    target = (*rng.choice(folders), rng.choice("abcde"))
    try:
        match rng.randrange(7):
            case 0 | 1:
                user.write_in_place(target, rng.randbytes(rng.randint(0, 5)))
            case 2:
                user.save_by_rename(target, rng.randbytes(rng.randint(0, 5)))
            case 3:
                user.mkdir(target)
            case 4:
                user.delete(rng.choice(files + folders[1:]))
            case _:
                user.rename(rng.choice(files + folders[1:]), target)
    except (OSError, IndexError):
        pass  # what the disk refuses, the user did not do


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


def test_a_missing_mount_is_unknown(device: Device, how: str) -> None:
    before = device.ids()
    for name in ("d2", "d2/sub", "d2/sub/c"):
        node = device.tree.nodes[before[name]]
        device.tree.nodes[node.id] = replace(node, stamp=replace(node.stamp, device=77))
    device.user.delete(("d2",))
    for name in ("x", "y", "z"):  # so that the folder under the mount has another inode than what was mounted
        device.user.mkdir((name,))
    device.user.mkdir(("d2",))
    device.scan()
    assert device.gone == []
    assert device.tree.nodes[before["d2"]].problem == UNMOUNTED
    assert "d2/sub/c" in device.ids()


def test_new_device_numbers_after_a_boot_change_nothing(device: Device) -> None:
    before = device.ids()
    for node in list(device.tree.nodes.values()):
        device.tree.nodes[node.id] = replace(node, stamp=replace(node.stamp, device=77))
    device.scan()
    device.check()
    assert device.ids() == before
    assert device.read == []
    assert device.problems == {}


# --- reading ----------------------------------------------------------------------------------------------------------


def read(device: Device, path: Path, **options: Any) -> ContentRead | Unsettled | Unreadable:
    task = ReadTask(LocalId(5), path, 0)
    return read_content(device.fs, task, now=device.disk.clock.now, pause=lambda _: None, **options)


def test_a_file_is_read_by_blocks(device: Device) -> None:
    data = random.Random(1).randbytes(BLOCK_BYTES + 5)
    device.user.write_in_place(("big",), data)
    device.user.chmod(("big",), True)
    done = read(device, ("big",))
    assert isinstance(done, ContentRead)
    assert done.blocks == (hash_block(data[:BLOCK_BYTES]), hash_block(data[BLOCK_BYTES:]))
    assert done.content.digest == digest(data)
    assert done.content.executable
    assert done.stamp == device.fs.stat(("big",)).stamp()


def test_an_empty_file_has_no_blocks(device: Device) -> None:
    device.user.write_in_place(("empty",), b"")
    done = read(device, ("empty",))
    assert isinstance(done, ContentRead)
    assert done.blocks == ()


@pytest.mark.parametrize("change", ["write_in_place", "save_by_rename"])
def test_a_file_that_changes_while_it_is_read_is_unsettled(device: Device, change: str) -> None:
    def on_call(name: str) -> None:
        if name == "file.read_at":
            getattr(device.user, change)(("top",), b"changed while it is read, and longer than it was before")

    device.fs = FakeFileSystem(device.disk, on_call=on_call)
    assert isinstance(read(device, ("top",)), Unsettled)


def test_what_is_no_file_any_more_is_unsettled(device: Device) -> None:
    device.user.symlink(("link",))
    for path in (("none",), ("d1",), ("link",), ("top", "below")):
        assert isinstance(read(device, path), Unsettled)


def test_a_file_written_this_instant_is_given_time_to_show_a_later_change(device: Device) -> None:
    device.user.write_in_place(("top",), b"fresh")
    written = device.fs.stat(("top",)).mtime_ns
    paused: list[float] = []
    task = ReadTask(LocalId(5), ("top",), 5)
    read_content(device.fs, task, now=lambda: written / 1e9 + 0.005, pause=paused.append)
    assert 0.01 < paused[0] <= 0.02
    read_content(device.fs, task, now=lambda: written / 1e9 + 0.05, pause=paused.append)
    assert len(paused) == 1


def test_new_files_are_unread_until_their_contents_are_stored(device: Device) -> None:
    device.user.write_in_place(("new",), b"x")
    nodes = [node for changes in device.scanner().scan() for node in changes.upserts]
    assert [(node.name, node.content, node.problem) for node in nodes] == [("new", None, UNREAD)]
    assert OWN_FOLDER not in device.ids()
    assert device.fs.stat(("new",)).kind is FileKind.FILE
