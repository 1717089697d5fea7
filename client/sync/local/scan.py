"""What lies on disk compared with the stored observations: listing folders, and what to write down of each.

`Scanner` yields its findings folder by folder; moves and disappearances are told at the end, when everything was looked
at and identity.py can say who is who.

Guarantees: nothing is called gone unless its folder was listed and it is not found elsewhere; a folder that cannot be
read keeps its last observation. Symbolic links are never followed, and other file systems that are mounted in the root
are left alone. Every yielded `Changes` may be stored by itself.
Does not: read contents (reading.py), write (disk.py), watch (watch.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from client.fs.base import FileKind, FileSystem, Path, Stat
from client.sync.local.clashes import find_clashes, is_clash
from client.sync.local.findings import (
    Changes,
    DirtyFolder,
    LocalTree,
    Problem,
    reason_of,
)
from client.sync.local.identity import Folder, Found, Whereabouts
from client.sync.local.ignore import Ignore, unusable
from client.sync.local.step import Step, is_unchanged
from client.sync.tree import LocalId, LocalNode
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

MOUNTED: Final = "it is on another file system than the synced folder"
_UNSUPPORTED: Final = {
    FileKind.SYMLINK: "it is a symbolic link",
    FileKind.SPECIAL: "it is neither a file nor a folder",
}
_GONE_PER_STEP: Final = 1000


@dataclass(frozen=True)
class Scanner:
    """Compares the disk with `tree`. `busy` holds the (folder, name) of places where an operation is under way: they
    are passed over, whoever carries the operation out has them looked at afterwards."""

    fs: FileSystem
    tree: LocalTree
    ignore: Ignore
    new_id: Callable[[], LocalId]
    busy: Container[tuple[LocalId, str]] = frozenset()

    def scan(self) -> Iterator[Changes]:
        """Everything; one folder per step. Raises OSError only for the root."""
        run = _Run(self)
        yield from run.walk_all()
        yield from run.settle()

    def scan_folders(self, dirty: Iterable[DirtyFolder]) -> Iterator[Changes]:
        """Only these folders, and what turns out to be new or to have moved."""
        run = _Run(self)
        for path, recursive in sorted(dirty):
            yield from run.look_at(path, recursive=recursive)
        yield from run.settle()


class _Run:
    """One scan. What lies where it was known to lie is dealt with at once; the rest, by far the smaller part, is kept
    in `_where` until everything was listed."""

    def __init__(self, scanner: Scanner) -> None:
        self._fs = scanner.fs
        self._tree = scanner.tree
        self._ignore = scanner.ignore
        self._new_id = scanner.new_id
        self._busy = scanner.busy
        self._listed: set[LocalId] = set()
        self._where = Whereabouts(self._fs, self._tree)

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

    def _walk(self, top: Folder) -> Iterator[Changes]:
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

    def _list_folder(self, folder: Folder) -> Step | None:
        """None when there is no such folder now, or another one is at its path."""
        path = folder.path
        if folder.id in self._listed:
            return self._step(folder)
        try:
            entries = self._fs.list_folder(path)
            if path and self._fs.stat(path).inode != folder.stat.inode:
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not path:
                raise
            step = self._step(folder)
            step.changes.problems.append(Problem(path, f"it cannot be read: {reason_of(error)}"))
            return step
        self._listed.add(folder.id)
        step = self._step(folder)
        step.changes.listed.append(path)
        known = self._known_in(folder, dict(entries))
        entries.sort()
        clashes = self._clashes(path, entries, known)
        for name, stat in entries:
            node = known.pop(name, None)
            if (folder.id, name) in self._busy:
                continue
            if node is not None and not clashes and is_unchanged(node, stat):
                if self._ignore.is_entry_ignored(path, name, is_folder=False):
                    step.changes.ignored.append(node.id)
                else:
                    step.warn(name)
                continue
            self._look_at_entry(step, name, stat, node=node, clash=clashes.get(name))
        self._where.missing.update(node.id for node in known.values() if (folder.id, node.name) not in self._busy)
        return step

    def _known_in(self, folder: Folder, entries: Mapping[str, Stat]) -> dict[str, LocalNode]:
        """The stored children of the folder, by name. A client that was killed while it stored a scan may have left two
        at one place: the one that is there is meant, and the others are missing."""
        known: dict[str, LocalNode] = {}
        for node in self._tree.local_children(folder.id):
            if not self._where.is_here(node, (*folder.path, node.name)):
                continue
            other, stat = known.get(node.name), entries.get(node.name)
            if other is None or (stat and (stat.inode, stat.kind.value) == (node.stamp.inode, node.kind.value)):
                known[node.name] = node
            if other is not None:
                self._where.missing.add(node.id if known[node.name] is other else other.id)
        return known

    def _look_at_entry(self, step: Step, name: str, stat: Stat, *, node: LocalNode | None, clash: str | None) -> None:
        path, changes = (*step.folder.path, name), step.changes
        if self._ignore.is_entry_ignored(step.folder.path, name, stat.kind is FileKind.FOLDER):
            if node is not None:
                changes.ignored.append(node.id)
            return
        reason = (
            _UNSUPPORTED.get(stat.kind) or unusable(path) or (MOUNTED if _is_elsewhere(stat, step.folder) else None)
        )
        if reason is not None:
            changes.problems.append(Problem(path, reason))
            if node is not None:
                self._where.blocked[node.id] = reason
            return
        step.warn(name)
        if clash is not None:
            changes.problems.append(Problem(path, clash))
        if node is not None and node.kind != stat.kind.value:
            self._where.missing.add(node.id)
            node = None
        if (node is None or node.stamp.inode != stat.inode) and any(self._where.candidates(stat, node)):
            if node is not None:
                self._where.displaced.add(node.id)
            self._where.found.append(Found(step.folder, name, stat, node, clash))
        elif node is None:
            step.add(name, stat, clash)
        else:
            step.keep(node, stat, clash)

    def _step(self, folder: Folder) -> Step:
        return Step(folder, self._new_id)

    def _clashes(self, path: Path, entries: list[tuple[str, Stat]], known: Mapping[str, LocalNode]) -> dict[str, str]:
        if all(name in known for name, _ in entries) and not any(is_clash(node.problem) for node in known.values()):
            return {}
        names = [name for name, stat in entries if stat.kind not in _UNSUPPORTED]
        return find_clashes(names, known, lambda name: self._ignore.is_entry_ignored(path, name, is_folder=False))

    # --- what was where, at the end -------------------------------------------------------------------------------

    def settle(self) -> Iterator[Changes]:
        """Give every kept entry its identity, folders first, since what is in them is found only then."""
        yield from self._look_at_old_places()
        while folders := self._where.take(FileKind.FOLDER):
            sure = self._where.assign(folders)
            for found in folders:
                if found.owner is not None and not self._where.is_available(found.owner):
                    found.owner = None  # the folder around it has just been placed, and another is at its place in that
                if not sure or found.owner is not None:
                    yield from self._place(found)
                else:
                    self._where.found.append(found)
            yield from self._look_at_old_places()
        files = self._where.take(FileKind.FILE)
        self._where.assign(files)
        for found in files:
            yield from self._place(found)
        yield from self._tell_gone()

    def _look_at_old_places(self) -> Iterator[Changes]:
        """List the folders in which the owners of found inodes were: are they still there?"""
        done = 0
        while done < len(self._where.found):
            found = self._where.found[done]
            done += 1
            for node in list(self._where.candidates(found.stat, found.occupant)):
                if node.parent_id is None or node.parent_id in self._listed or self._where.is_placed(node.id):
                    continue
                path = self._where.path_of(node.parent_id)
                if path is not None:
                    yield from self.look_at(path, recursive=False)

    def _place(self, found: Found) -> Iterator[Changes]:
        """Write down what the entry turned out to be, and walk it if it is a folder."""
        step = self._step(found.folder)
        node = found.owner
        if node is not None:
            self._where.place(node, found.path)
            step.move(node, found)
        elif found.occupant is not None:
            self._where.displaced.discard(found.occupant.id)
            step.keep(found.occupant, found.stat, found.problem)
        else:
            step.add(found.name, found.stat, found.problem)
        yield step.changes
        for folder in [*step.fresh, *step.known]:
            yield from self._walk(folder)

    def _tell_gone(self) -> Iterator[Changes]:
        changes = Changes()
        for node_id, reason in self._where.blocked.items():
            node = self._tree.local(node_id)
            if node is not None and node.problem != reason:
                changes.upserts.append(replace(node, problem=reason))
        for count, node_id in enumerate(sorted(self._where.missing), 1):
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
        parent = self._where.path_of(node.parent_id)
        if parent is None:
            return False
        try:
            stat = self._fs.stat((*parent, node.name))
            return stat.kind.value != node.kind or (stat.inode != node.stamp.inode and self._is_occupied(node))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _is_occupied(self, node: LocalNode) -> bool:
        """Whether another known node is at the node's place."""
        assert node.parent_id is not None
        named = self._tree.local_named(node.parent_id, node.key)
        return any(other.name == node.name and other.id not in self._where.missing for other in named)

    # --- paths ----------------------------------------------------------------------------------------------------

    def _root(self) -> Folder:
        node = self._tree.local(self._tree.local_root)
        return Folder(self._tree.local_root, (), self._fs.stat(()), node.stamp if node else None)

    def _resolve(self, path: Path) -> Folder | None:
        """The deepest folder on the way to `path` that is known and is the one that is there. None: what is on the way
        is not at its place, so it is walked when it was found elsewhere."""
        folder = self._root()
        for depth, name in enumerate(path, 1):
            named = self._tree.local_named(folder.id, name_key(name))
            node = next((each for each in named if each.name == name and each.kind is Kind.FOLDER), None)
            if node is None or (node.problem is not None and not node.is_kept):
                break
            if (folder.id, name) in self._busy or self._where.is_away(node):
                return None
            if not self._where.is_here(node, path[:depth]):
                return None
            try:
                stat = self._fs.stat(path[:depth])
            except OSError:
                break
            if stat.kind is not FileKind.FOLDER or stat.inode != node.stamp.inode or _is_elsewhere(stat, folder):
                break
            folder = Folder(node.id, path[:depth], stat, node.stamp)
        return folder


def _is_elsewhere(stat: Stat, parent: Folder) -> bool:
    """Whether a folder is on another file system than the one around it: nothing could be put there in one step, nor
    taken from there to the trash. Of files the number tells nothing: an overlay gives them those of its layers."""
    return stat.kind is FileKind.FOLDER and stat.device != parent.stat.device
