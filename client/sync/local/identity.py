"""Who is who: entries on disk that may be known nodes from elsewhere, in one scan.

A file or folder keeps its identity when it is moved, and an editor that saves by writing a new file over the old name
has edited that file. Both show as an inode where another was before, so it is decided only when everything was listed:
then a node that is missing here and an inode that appeared there are seen together.
Does not: list anything but to compare two folders, write down what it decided (scan.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass

from client.fs.base import FileKind, FileSystem, Path, Stat
from client.sync.local.findings import LocalTree
from client.sync.tree import LocalId, LocalNode, Stamp
from coordinator.protocol.types import Kind


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to look at; `before` is what was stored of it when the scan came to it, None when it is new."""

    id: LocalId
    path: Path
    stat: Stat
    before: Stamp | None

    def below(self, node: LocalNode, stat: Stat, before: Stamp | None) -> Folder:
        return Folder(node.id, (*self.path, node.name), stat, before)


@dataclass(slots=True)
class Found:
    """An entry with the inode of a known node that should be elsewhere. `occupant` is the node of its own place,
    `owner` the one that it turned out to be."""

    folder: Folder
    name: str
    stat: Stat
    occupant: LocalNode | None
    problem: str | None
    owner: LocalNode | None = None

    @property
    def path(self) -> Path:
        return (*self.folder.path, self.name)


class Whereabouts:
    """Of known nodes that are not where they were. `missing`: not at their place, which was listed. `displaced`:
    another known node's inode is at their place, a `Found` says so. `blocked`: a symbolic link or the like is there,
    and why that is none of ours. `found`: entries whose identity is still to be decided."""

    def __init__(self, fs: FileSystem, tree: LocalTree) -> None:
        self._fs = fs
        self._tree = tree
        self.missing: set[LocalId] = set()
        self.displaced: set[LocalId] = set()
        self.blocked: dict[LocalId, str] = {}
        self.found: list[Found] = []
        self._placed: dict[LocalId, Path] = {}  # found elsewhere in this scan

    def is_here(self, node: LocalNode, path: Path) -> bool:
        """Whether a node that was stored with this path has not been found elsewhere."""
        return self._placed.get(node.id, path) == path

    def is_placed(self, node_id: LocalId) -> bool:
        return node_id in self._placed

    def is_away(self, node: LocalNode) -> bool:
        """Whether something else, or nothing, is at its place."""
        return node.id in self.missing or node.id in self.displaced or node.id in self.blocked

    def place(self, node: LocalNode, path: Path) -> None:
        """It was found here."""
        self._placed[node.id] = path
        self.missing.discard(node.id)
        self.displaced.discard(node.id)
        self.blocked.pop(node.id, None)

    def take(self, kind: FileKind) -> list[Found]:
        taken = [found for found in self.found if found.stat.kind is kind]
        self.found = [found for found in self.found if found.stat.kind is not kind]
        return taken

    def candidates(self, stat: Stat, here: LocalNode | None) -> Iterator[LocalNode]:
        """Known nodes that the entry may be, beside the one of its own place."""
        # By inode alone: a device's number may change at every boot, and more than the inode is compared.
        for node in self._tree.local_with_inode(stat.inode):
            if node.kind == stat.kind.value and (here is None or node.id != here.id):
                yield node

    def assign(self, entries: list[Found]) -> bool:
        """Set each entry's `owner` where identity follows the inode. True when any was set.

        It does when the owner is missing from its own place; and where places were swapped or shifted, when everyone
        who was displaced has been found elsewhere. Whoever was displaced and is found nowhere keeps the place: its
        contents were replaced, as editors do by renaming.
        """
        taken: set[LocalId] = set()
        elsewhere = {each.stat.inode for each in self.found}
        for found in entries:
            found.owner = None
            for node in self.candidates(found.stat, found.occupant):
                if node.id not in taken and self.is_available(node) and self._is_same(node, found, elsewhere):
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

    def is_available(self, node: LocalNode) -> bool:
        """Whether an entry elsewhere may be this node: each that is placed may change that for others."""
        return node.id not in self._placed and (self.is_away(node) or self._is_lost(node))

    def _is_lost(self, node: LocalNode) -> bool:
        """Whether a folder above it is missing, and was not found elsewhere."""
        parent_id = node.parent_id
        while parent_id is not None and parent_id not in self._placed:
            if parent_id in self.missing:
                return True
            parent = self._tree.local(parent_id)
            parent_id = parent.parent_id if parent else None
        return False

    def _is_same(self, node: LocalNode, found: Found, elsewhere: Container[int]) -> bool:
        """An inode's number is given away again: what else tells that this is the same file or folder? `elsewhere` are
        the inodes of what was found and has no identity yet."""
        if node.kind is Kind.FILE:
            if (node.stamp.size, node.stamp.mtime_ns) == (found.stat.size, found.stat.mtime_ns):
                return True
            with suppress(OSError):
                return self._fs.is_same_since(found.path, node.stamp)  # it was edited as well
            return False
        children = [child for child in self._tree.local_children(node.id) if child.id not in self._placed]
        before = {child.stamp.inode for child in children if child.stamp.inode not in elsewhere}
        if not before:
            return True
        try:
            return any(stat.inode in before for _, stat in self._fs.list_folder(found.path))
        except OSError:
            return False

    def path_of(self, node_id: LocalId) -> Path | None:
        """Where the node is now, as far as this scan has seen."""
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
