"""From the disk to the local tree: what a scan finds, which known file each entry is, and what its contents are.

`Scanner` compares folders with the stored observations and yields what to write down, folder by folder; moves and
disappearances are told at the end, when everything was looked at. `read_content` hashes one file in a worker.

Guarantees: nothing is called gone unless its folder was listed and it is not found elsewhere; a folder that cannot be
read keeps its last observation. Symbolic links are never followed. Every yielded `Changes` may be stored by itself.
Does not: write (store.py does), retry (engine.py), watch (watch.py).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from client.fs.base import FileKind, FileSystem, Path, ReadFile, Stat
from client.sync.local.ignore import Ignore, platform_warning, unusable
from client.sync.tree import Content, LocalId, LocalNode, Stamp
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

KEPT: Final = "it was deleted in the service and is kept here because of files that are not synced"
UNREAD: Final = "it has not been read yet"  # the `problem` of a new file until its first hash is stored
UNMOUNTED: Final = "the disk that was mounted there is missing"
_CLASH: Final = "its name differs from that of"
_CLASH_END: Final = "only in case or Unicode form"
_UNSUPPORTED: Final = {
    FileKind.SYMLINK: "it is a symbolic link",
    FileKind.SPECIAL: "it is neither a file nor a folder",
}
_NOT_A_FILE_NOW: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ESTALE})
_RACY_NS: Final = 20_000_000  # longer than a tick of any kernel's clock for files
_GONE_PER_STEP: Final = 1000


class LocalTree(Protocol):
    """What a scan reads of the stored observations. It may see what was stored of earlier steps, or not."""

    local_root: LocalId

    def local(self, node_id: LocalId) -> LocalNode | None: ...
    def local_named(self, parent_id: LocalId, key: str) -> Iterable[LocalNode]: ...
    def local_children(self, parent_id: LocalId) -> Iterable[LocalNode]: ...
    def local_with_inode(self, inode: int) -> Iterable[LocalNode]:
        """Needs an index: asked for every file that is new or was replaced."""


class DirtyFolder(NamedTuple):
    """Something in this folder changed; `recursive`: or anywhere below it."""

    path: Path
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something cannot be synced, as the end of a sentence; a `warning` is synced all the same."""

    path: Path
    reason: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A file whose contents must be read: for `read_content` in a worker. A later task of the same id replaces it."""

    id: LocalId
    path: Path
    size: int


@dataclass(slots=True)
class Changes:
    """What one step found, to be stored in this order in one transaction.

    `upserts`: new or changed nodes, parents before children. A new file has no content and the problem UNREAD.
    `ignored`: known nodes that are there and are ignored now: drop the local *and* the synced row, with all below.
    `gone`: with everything below that no upsert moved away.
    `listed`: the folders that `problems` is complete for: forget what was known of their direct entries before.
    """

    upserts: list[LocalNode] = field(default_factory=list)
    ignored: list[LocalId] = field(default_factory=list)
    gone: list[LocalId] = field(default_factory=list)
    listed: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    to_read: list[ReadTask] = field(default_factory=list)


class Scanner:
    """Compares the disk with `tree`. `busy` holds the (folder, name) of places where an operation is under way: they
    are passed over, whoever carries the operation out has them looked at afterwards."""

    def __init__(
        self,
        fs: FileSystem,
        tree: LocalTree,
        ignore: Ignore,
        new_id: Callable[[], LocalId],
        busy: Container[tuple[LocalId, str]] = frozenset(),
    ) -> None:
        self._fs = fs
        self._tree = tree
        self._ignore = ignore
        self._new_id = new_id
        self._busy = busy

    def scan(self) -> Iterator[Changes]:
        """Everything; one folder per step. Raises OSError only for the root."""
        run = self._run()
        yield from run.walk_all()
        yield from run.settle()

    def scan_folders(self, dirty: Iterable[DirtyFolder]) -> Iterator[Changes]:
        """Only these folders, and what turns out to be new or to have moved."""
        run = self._run()
        for path, recursive in sorted(dirty):
            yield from run.look_at(path, recursive=recursive)
        yield from run.settle()

    def _run(self) -> _Run:
        return _Run(self._fs, self._tree, self._ignore, self._new_id, busy=self._busy)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to look at; `before` is what was stored of it when the scan came to it, None when it is new."""

    id: LocalId
    path: Path
    stat: Stat
    before: Stamp | None

    def below(self, node: LocalNode, stat: Stat, before: Stamp | None) -> _Folder:
        return _Folder(node.id, (*self.path, node.name), stat, before)


@dataclass(slots=True)
class _Step:
    """What listing one folder told, and the folders in it: `fresh` ones must be walked in any case."""

    folder: _Folder
    changes: Changes = field(default_factory=Changes)
    fresh: list[_Folder] = field(default_factory=list)
    known: list[_Folder] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """An entry with the inode of a known node that should be elsewhere. `occupant` is the node of its own place,
    `owner` the one that it turned out to be."""

    folder: _Folder
    name: str
    stat: Stat
    occupant: LocalNode | None
    problem: str | None
    owner: LocalNode | None = None


class _Run:
    """One scan. What lies where it was known to lie is dealt with at once; the rest is kept, by far the smaller part,
    until everything was listed: then a node that is missing here and an inode that appeared there are seen together."""

    def __init__(
        self,
        fs: FileSystem,
        tree: LocalTree,
        ignore: Ignore,
        new_id: Callable[[], LocalId],
        *,
        busy: Container[tuple[LocalId, str]],
    ) -> None:
        self._fs = fs
        self._tree = tree
        self._ignore = ignore
        self._new_id = new_id
        self._busy = busy
        self._listed: set[LocalId] = set()
        self._missing: set[LocalId] = set()  # not at their place, which was listed
        self._displaced: set[LocalId] = set()  # another known node's inode is at their place: a `_Found` says so
        self._blocked: dict[LocalId, str] = {}  # a symbolic link or the like is at their place
        self._placed: dict[LocalId, Path] = {}  # found elsewhere in this run
        self._found: list[_Found] = []

    # --- listing --------------------------------------------------------------------------------------------------

    def walk_all(self) -> Iterator[Changes]:
        root = self._root()
        known = root.before
        if known is not None and (known.inode, known.device) != (root.stat.inode, root.stat.device):
            node = self._tree.local(root.id)
            assert node is not None
            yield Changes(upserts=[replace(node, stamp=root.stat.stamp())])
        yield from self._walk(root)

    def look_at(self, path: Path, *, recursive: bool) -> Iterator[Changes]:
        """A folder that may have changed; the next one above where it is not known, or not the one that is there."""
        if path and self._ignore.is_ignored(path, is_folder=True):
            return
        while True:
            folder = self._resolve(path)
            if folder is None or folder.id in self._listed:
                return
            if folder.path != path:
                recursive = False  # what is new in it is walked anyhow
            step = self._list_folder(folder)
            if step is not None:
                yield step.changes
                for below in [*step.fresh, *(step.known if recursive else [])]:
                    yield from self._walk(below)
                return
            if not folder.path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "the root")
            path, recursive = folder.path[:-1], False

    def _walk(self, top: _Folder) -> Iterator[Changes]:
        """A folder and everything below it."""
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            step = self._list_folder(folder)
            if step is None:
                if not folder.path:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "the root")
                continue  # it went while this scan ran: unknown, so the next one tells
            yield step.changes
            waiting += reversed([*step.fresh, *step.known])

    def _list_folder(self, folder: _Folder) -> _Step | None:
        """None when there is no such folder now, or another one is at its path."""
        path = folder.path
        if folder.id in self._listed:
            return _Step(folder)
        try:
            entries = self._fs.list_folder(path)
            if path and self._fs.stat(path).inode != folder.stat.inode:
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not path:
                raise
            return _Step(folder, Changes(problems=[Problem(path, f"it cannot be read: {_reason(error)}")]))
        self._listed.add(folder.id)
        step = _Step(folder, Changes(listed=[path]))
        known = {node.name: node for node in self._tree.local_children(folder.id) if self._is_here(node, path)}
        entries.sort()
        clashes = self._clashes(path, entries, known)
        for name, stat in entries:
            node = known.pop(name, None)
            if (folder.id, name) in self._busy:
                continue
            if node is not None and not clashes and _is_unchanged(node, stat):
                if self._ignore.is_entry_ignored(path, name, is_folder=False):
                    step.changes.ignored.append(node.id)
                else:
                    self._warn(step, name)
                continue
            self._look_at_entry(step, name, stat, node=node, clash=clashes.get(name))
        self._missing.update(node.id for node in known.values() if (folder.id, node.name) not in self._busy)
        return step

    def _is_here(self, node: LocalNode, parent: Path) -> bool:
        """Whether a stored child of the folder has not been found elsewhere in this scan."""
        return self._placed.get(node.id, (*parent, node.name)) == (*parent, node.name)

    def _look_at_entry(self, step: _Step, name: str, stat: Stat, *, node: LocalNode | None, clash: str | None) -> None:
        path, changes = (*step.folder.path, name), step.changes
        if self._ignore.is_entry_ignored(step.folder.path, name, stat.kind is FileKind.FOLDER):
            if node is not None:
                changes.ignored.append(node.id)
            return
        reason = _UNSUPPORTED.get(stat.kind) or unusable(path)
        if reason is not None:
            changes.problems.append(Problem(path, reason))
            if node is not None:
                self._blocked[node.id] = reason
            return
        self._warn(step, name)
        if clash is not None:
            changes.problems.append(Problem(path, clash))
        if node is not None and node.kind != stat.kind.value:
            self._missing.add(node.id)
            node = None
        if node is not None and node.kind is Kind.FOLDER and _is_unmounted(node, stat, step.folder):
            changes.problems.append(Problem(path, UNMOUNTED))
            if node.problem != UNMOUNTED:
                changes.upserts.append(replace(node, problem=UNMOUNTED))
            return
        if (node is None or node.stamp.inode != stat.inode) and any(self._candidates(stat, node)):
            if node is not None:
                self._displaced.add(node.id)
            self._found.append(_Found(step.folder, name, stat, node, clash))
        elif node is None:
            self._add(step, name, stat, clash)
        else:
            self._keep(step, node, stat, clash)

    def _add(self, step: _Step, name: str, stat: Stat, clash: str | None) -> None:
        """Something new."""
        is_folder = stat.kind is FileKind.FOLDER
        problem = clash or (None if is_folder else UNREAD)
        node = LocalNode(self._new_id(), step.folder.id, name, Kind(stat.kind.value), stat.stamp(), problem=problem)
        step.changes.upserts.append(node)
        if clash is None:
            if is_folder:
                step.fresh.append(step.folder.below(node, stat, None))
            else:
                self._read(step, node, stat)

    def _keep(self, step: _Step, node: LocalNode, stat: Stat, clash: str | None) -> None:
        """A known node at its own place; its inode, contents or problem may be new."""
        if clash is not None:
            if node.problem != clash:
                step.changes.upserts.append(replace(node, problem=clash))
        elif node.kind is Kind.FOLDER:
            is_same = (node.stamp.inode, node.stamp.device) == (stat.inode, stat.device)
            if is_same and is_kept(node.problem):
                step.changes.problems.append(Problem((*step.folder.path, node.name), node.problem or KEPT))
            elif not is_same or node.problem is not None:
                is_same = False
                step.changes.upserts.append(replace(node, stamp=stat.stamp(), problem=None))
            (step.known if is_same else step.fresh).append(step.folder.below(node, stat, node.stamp))
        elif not _is_unchanged(node, stat):
            self._read(step, node, stat)

    def _read(self, step: _Step, node: LocalNode, stat: Stat) -> None:
        step.changes.to_read.append(ReadTask(node.id, (*step.folder.path, node.name), stat.size))

    def _warn(self, step: _Step, name: str) -> None:
        warning = platform_warning(name)
        if warning is not None:
            step.changes.problems.append(Problem((*step.folder.path, name), warning, warning=True))

    def _clashes(self, path: Path, entries: list[tuple[str, Stat]], known: Mapping[str, LocalNode]) -> dict[str, str]:
        """The names in one folder that the service takes for the name of another, and why they are left alone. The one
        that is synced already stays; among new ones the first by name is taken."""
        if all(name in known for name, _ in entries) and not any(is_clash(node.problem) for node in known.values()):
            return {}
        groups: dict[str, list[str]] = {}
        for name, stat in entries:
            if stat.kind not in _UNSUPPORTED:
                groups.setdefault(name_key(name), []).append(name)
        clashes = {}
        for names in groups.values():
            if len(names) > 1:
                usable = [name for name in names if not self._ignore.is_entry_ignored(path, name, is_folder=False)]
                old = [name for name in usable if name in known and not is_clash(known[name].problem)]
                first = (old or usable or names)[0]
                clashes.update({name: f"{_CLASH} {first!r} {_CLASH_END}" for name in usable if name != first})
        return clashes

    # --- what was where, at the end -------------------------------------------------------------------------------

    def settle(self) -> Iterator[Changes]:
        """Give every kept entry its identity, folders first, since what is in them is found only then."""
        yield from self._look_at_old_places()
        while folders := self._take(FileKind.FOLDER):
            sure = self._assign(folders)
            for found in folders:
                if not sure or found.owner is not None:
                    yield from self._place(found)
                else:
                    self._found.append(found)
            yield from self._look_at_old_places()
        files = self._take(FileKind.FILE)
        self._assign(files)
        for found in files:
            yield from self._place(found)
        yield from self._tell_gone()

    def _take(self, kind: FileKind) -> list[_Found]:
        taken = [found for found in self._found if found.stat.kind is kind]
        self._found = [found for found in self._found if found.stat.kind is not kind]
        return taken

    def _look_at_old_places(self) -> Iterator[Changes]:
        """List the folders in which the owners of found inodes were: are they still there?"""
        done = 0
        while done < len(self._found):
            found = self._found[done]
            done += 1
            for node in list(self._candidates(found.stat, found.occupant)):
                if node.parent_id is None or node.parent_id in self._listed or node.id in self._placed:
                    continue
                path = self._path_of(node.parent_id)
                if path is not None:
                    yield from self.look_at(path, recursive=False)

    def _candidates(self, stat: Stat, here: LocalNode | None) -> Iterator[LocalNode]:
        # By inode alone: a device's number may change at every boot, and more than the inode is compared.
        for node in self._tree.local_with_inode(stat.inode):
            if node.kind == stat.kind.value and (here is None or node.id != here.id):
                yield node

    def _assign(self, entries: list[_Found]) -> bool:
        """Set each entry's `owner` where identity follows the inode. True when any was set.

        It does when the owner is missing from its own place; and where places were swapped or shifted, when everyone
        who was displaced has been found elsewhere. Whoever was displaced and is found nowhere keeps the place: its
        contents were replaced, as editors do by renaming.
        """
        taken: set[LocalId] = set()
        elsewhere = {each.stat.inode for each in self._found}
        for found in entries:
            found.owner = None
            for node in self._candidates(found.stat, found.occupant):
                if node.id not in taken and self._is_available(node) and self._is_same(node, found, elsewhere):
                    found.owner = node
                    taken.add(node.id)
                    break
        stable = False
        while not stable:
            stable = True
            kept = {each.occupant.id for each in entries if each.occupant is not None and each.owner is None}
            for found in entries:
                if found.owner is None:
                    continue
                occupant = found.occupant
                homeless = occupant is not None and occupant.id not in taken and occupant.id not in self._placed
                if homeless or found.owner.id in kept:
                    taken.discard(found.owner.id)
                    found.owner = None
                    stable = False
        return bool(taken)

    def _is_available(self, node: LocalNode) -> bool:
        if node.id in self._placed:
            return False
        away = node.id in self._missing or node.id in self._displaced or node.id in self._blocked
        return away or self._is_lost(node)

    def _is_lost(self, node: LocalNode) -> bool:
        """Whether a folder above it is missing, and was not found elsewhere."""
        parent_id = node.parent_id
        while parent_id is not None and parent_id not in self._placed:
            if parent_id in self._missing:
                return True
            parent = self._tree.local(parent_id)
            parent_id = parent.parent_id if parent else None
        return False

    def _is_same(self, node: LocalNode, found: _Found, elsewhere: Container[int]) -> bool:
        """An inode's number is given away again: what else tells that this is the same file or folder? `elsewhere` are
        the inodes of what was found and has no identity yet."""
        if node.kind is Kind.FILE:
            return (node.stamp.size, node.stamp.mtime_ns) == (found.stat.size, found.stat.mtime_ns)
        children = [child for child in self._tree.local_children(node.id) if child.id not in self._placed]
        before = {child.stamp.inode for child in children if child.stamp.inode not in elsewhere}
        if not before:
            return True
        try:
            return any(stat.inode in before for _, stat in self._fs.list_folder((*found.folder.path, found.name)))
        except OSError:
            return False

    def _place(self, found: _Found) -> Iterator[Changes]:
        """Write down what the entry turned out to be, and walk it if it is a folder."""
        step = _Step(found.folder)
        node = found.owner
        if node is not None:
            self._move(step, node, found)
        elif found.occupant is not None:
            self._displaced.discard(found.occupant.id)
            self._keep(step, found.occupant, found.stat, found.problem)
        else:
            self._add(step, found.name, found.stat, found.problem)
        yield step.changes
        for folder in [*step.fresh, *step.known]:
            yield from self._walk(folder)

    def _move(self, step: _Step, node: LocalNode, found: _Found) -> None:
        stat = found.stat
        self._placed[node.id] = (*found.folder.path, found.name)
        self._missing.discard(node.id)
        self._displaced.discard(node.id)
        self._blocked.pop(node.id, None)
        is_folder = node.kind is Kind.FOLDER
        problem = found.problem
        if problem is None and not is_folder and node.problem is not None:
            problem = UNREAD
        # A file keeps the stamp of its last reading: a crash before the next one must not lose the doubt.
        stamp = stat.stamp() if is_folder else node.stamp
        moved = replace(node, parent_id=found.folder.id, name=found.name, stamp=stamp, problem=problem)
        step.changes.upserts.append(moved)
        if found.problem is None:
            if is_folder:
                step.fresh.append(found.folder.below(moved, stat, node.stamp))
            elif not _is_unchanged(node, stat):
                self._read(step, moved, stat)

    def _tell_gone(self) -> Iterator[Changes]:
        changes = Changes()
        for node_id, reason in self._blocked.items():
            node = self._tree.local(node_id)
            if node is not None and node.problem != reason:
                changes.upserts.append(replace(node, problem=reason))
        for count, node_id in enumerate(sorted(self._missing), 1):
            if self._is_gone(node_id):
                changes.gone.append(node_id)
            if count % _GONE_PER_STEP == 0:
                yield changes
                changes = Changes()
        yield changes

    def _is_gone(self, node_id: LocalId) -> bool:
        """A second look: an operation, or the person, may have brought it back since its folder was listed."""
        node = self._tree.local(node_id)
        if node is None or node.parent_id is None or (node.parent_id, node.name) in self._busy:
            return False
        parent = self._path_of(node.parent_id)
        if parent is None:
            return False
        try:
            return self._fs.stat((*parent, node.name)).kind.value != node.kind
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    # --- paths ----------------------------------------------------------------------------------------------------

    def _root(self) -> _Folder:
        node = self._tree.local(self._tree.local_root)
        return _Folder(self._tree.local_root, (), self._fs.stat(()), node.stamp if node else None)

    def _resolve(self, path: Path) -> _Folder | None:
        """The deepest folder on the way to `path` that is known and is the one that is there. None: what is on the way
        is not at its place, so it is walked when it was found elsewhere."""
        folder = self._root()
        for depth, name in enumerate(path, 1):
            named = self._tree.local_named(folder.id, name_key(name))
            node = next((each for each in named if each.name == name and each.kind is Kind.FOLDER), None)
            if node is None or (node.problem is not None and not is_kept(node.problem)):
                break
            if (folder.id, name) in self._busy or node.id in self._missing:
                return None
            if node.id in self._displaced or node.id in self._blocked:
                return None
            if self._placed.get(node.id, path[:depth]) != path[:depth]:
                return None
            try:
                stat = self._fs.stat(path[:depth])
            except OSError:
                break
            if stat.kind is not FileKind.FOLDER or stat.inode != node.stamp.inode:
                break
            folder = _Folder(node.id, path[:depth], stat, node.stamp)
        return folder

    def _path_of(self, node_id: LocalId) -> Path | None:
        names: list[str] = []
        while node_id != self._tree.local_root:
            if node_id in self._placed:
                return (*self._placed[node_id], *reversed(names))
            node = self._tree.local(node_id)
            if node is None or node.parent_id is None:
                return None
            names.append(node.name)
            node_id = node.parent_id
        return tuple(reversed(names))


def _is_unchanged(node: LocalNode, stat: Stat) -> bool:
    """Whether a file needs no reading: it has been read, and nothing tells of a change. A folder needs a look."""
    stamp = node.stamp
    return (
        stamp.mtime_ns == stat.mtime_ns
        and stamp.ctime_ns == stat.ctime_ns
        and stamp.inode == stat.inode
        and stamp.size == stat.size
        and node.problem is None
        and stat.kind is FileKind.FILE
        and node.kind is Kind.FILE
    )


def _is_unmounted(node: LocalNode, stat: Stat, parent: _Folder) -> bool:
    """Whether another file system was mounted here and only the folder under it is left: that is not empty, it is
    unknown. Its device was not that of the folder around it, and is now."""
    return (
        parent.before is not None
        and stat.inode != node.stamp.inode
        and stat.device == parent.stat.device
        and node.stamp.device != parent.before.device
    )


def is_clash(problem: str | None) -> bool:
    """Whether this problem of a node is that its name is taken, except for case or Unicode form."""
    return problem is not None and problem.startswith(_CLASH)


def is_kept(problem: str | None) -> bool:
    """Whether a folder is here only for what is not synced: until something in it is to be synced."""
    return problem is not None and problem.startswith(KEPT)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True, slots=True)
class ContentRead:
    """The whole file in one state: store content and stamp in its node, with problem None."""

    id: LocalId
    path: Path
    stamp: Stamp
    content: Content
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """It changed while it was read, or is another file by now: look at it again a little later."""

    id: LocalId
    path: Path


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Store `stamp` and the problem; a change of the file, or the next full scan, tries again."""

    id: LocalId
    path: Path
    stamp: Stamp | None
    problem: str


def read_content(
    fs: FileSystem,
    task: ReadTask,
    *,
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> ContentRead | Unsettled | Unreadable:
    """Hash a file by blocks. Never raises OSError: what vanished is Unsettled (a scan tells what became of it).

    `pause` lets a file rest that was written within the last clock tick: only then is a later change sure to show.
    """
    stamp = None
    try:
        with fs.open(task.path) as file:
            before = file.stat()
            age_ns = int(now() * 1e9) - before.mtime_ns
            if 0 <= age_ns < _RACY_NS:
                pause((_RACY_NS - age_ns) / 1e9)
                before = file.stat()
            stamp = before.stamp()
            blocks = _hash_blocks(file, before.size)
            if blocks is None or file.stat() != before or fs.stat(task.path).inode != before.inode:
                return Unsettled(task.id, task.path)
    except OSError as error:
        if error.errno in _NOT_A_FILE_NOW:
            return Unsettled(task.id, task.path)
        return Unreadable(task.id, task.path, stamp, f"it cannot be read: {_reason(error)}")
    content = Content(content_hash(blocks), before.executable)
    return ContentRead(task.id, task.path, stamp, content, blocks)


def _hash_blocks(file: ReadFile, size: int) -> tuple[bytes, ...] | None:
    """None when it got shorter meanwhile."""
    buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
    hashes = []
    for index in range(count_blocks(size)):
        wanted = buffer[: block_size(size, index)]
        if file.read_at(index * BLOCK_BYTES, wanted) != len(wanted):
            return None
        hashes.append(hash_block(wanted))
    return tuple(hashes)
