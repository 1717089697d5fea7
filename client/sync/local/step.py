"""What looking at one folder tells: entries become nodes to write down, folders to walk and files to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from client.fs.base import FileKind, Stat
from client.sync.local.findings import UNREAD, Changes, Problem, ReadTask
from client.sync.local.identity import Folder, Found
from client.sync.local.ignore import platform_warning
from client.sync.tree import KEPT, LocalId, LocalNode
from coordinator.protocol.types import Kind


@dataclass(slots=True)
class Step:
    """`fresh` and `known` are the folders in it: `fresh` ones must be walked in any case."""

    folder: Folder
    new_id: Callable[[], LocalId]
    changes: Changes = field(default_factory=Changes)
    fresh: list[Folder] = field(default_factory=list)
    known: list[Folder] = field(default_factory=list)

    def add(self, name: str, stat: Stat, clash: str | None) -> None:
        """Something new."""
        is_folder = stat.kind is FileKind.FOLDER
        problem = clash or (None if is_folder else UNREAD)
        node = LocalNode(self.new_id(), self.folder.id, name, Kind(stat.kind.value), stat.stamp(), problem=problem)
        self.changes.upserts.append(node)
        if clash is None:
            if is_folder:
                self.fresh.append(self.folder.below(node, stat, None))
            else:
                self._read(node, stat)

    def keep(self, node: LocalNode, stat: Stat, clash: str | None) -> None:
        """A known node at its own place; its inode, contents or problem may be new."""
        if clash is not None:
            if node.problem != clash:
                self.changes.upserts.append(replace(node, problem=clash))
        elif node.kind is Kind.FOLDER:
            is_same = (node.stamp.inode, node.stamp.device) == (stat.inode, stat.device)
            if is_same and node.is_kept:
                self.changes.problems.append(Problem((*self.folder.path, node.name), node.problem or KEPT))
            elif not is_same or node.problem is not None:
                is_same = False
                self.changes.upserts.append(replace(node, stamp=stat.stamp(), problem=None))
            (self.known if is_same else self.fresh).append(self.folder.below(node, stat, node.stamp))
        elif not is_unchanged(node, stat):
            self._read(node, stat)

    def _read(self, node: LocalNode, stat: Stat) -> None:
        self.changes.to_read.append(ReadTask(node.id, (*self.folder.path, node.name), stat.size))

    def warn(self, name: str) -> None:
        """Of a name that other systems cannot hold."""
        warning = platform_warning(name)
        if warning is not None:
            self.changes.problems.append(Problem((*self.folder.path, name), warning, warning=True))

    def move(self, node: LocalNode, found: Found) -> None:
        """A known node that was elsewhere."""
        stat = found.stat
        is_folder = node.kind is Kind.FOLDER
        problem = found.problem
        if problem is None and not is_folder and node.problem is not None:
            problem = UNREAD
        # A file keeps the stamp of its last reading: a crash before the next one must not lose the doubt.
        stamp = stat.stamp() if is_folder else node.stamp
        moved = replace(node, parent_id=self.folder.id, name=found.name, stamp=stamp, problem=problem)
        self.changes.upserts.append(moved)
        if found.problem is None:
            if is_folder:
                self.fresh.append(self.folder.below(moved, stat, node.stamp))
            elif not is_unchanged(node, stat):
                self._read(moved, stat)


def is_unchanged(node: LocalNode, stat: Stat) -> bool:
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
