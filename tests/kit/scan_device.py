"""A disk in memory and a tree in dictionaries, with a scanner between them: what its findings add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from client.fs.base import FileSystem, Path, Stat
from client.fs.fake import FakeDisk, FakeFileSystem, User
from client.sync.local.findings import Changes, DirtyFolder, Problem, ReadTask
from client.sync.local.ignore import Ignore
from client.sync.local.reading import ContentRead, Unreadable, read_content
from client.sync.local.scan import Scanner
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


def rescan(device: Device, how: str) -> dict[str, LocalId]:
    if how == "all":
        device.scan()
    else:
        device.scan_dirty()
    device.check()
    return device.ids()
