"""From the disk to the local tree: what a scan finds, which known file each entry is, and what its contents are.

`Scanner` compares folders with the stored observations and yields what to write down, folder by folder; moves and
disappearances are told at the end, when everything was looked at. `read_content` hashes one file in a worker.

Guarantees: nothing is called gone unless its folder was listed and it is not found elsewhere; a folder that cannot be
read keeps its last observation. Symbolic links are never followed. Every yielded `Changes` may be stored by itself.
Does not: write (store.py does), retry (engine.py), watch (watch.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from client.fs.base import FileSystem, Path
from client.sync.ignore import Ignore
from client.sync.tree import Content, LocalId, LocalNode, Stamp

UNREAD: Final = "it has not been read yet"  # the `problem` of a new file until its first hash is stored


class LocalTree(Protocol):
    """What a scan reads of the stored observations. Whether it sees what was stored of earlier steps does not matter."""

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
    ) -> None: ...

    def scan(self) -> Iterator[Changes]:
        """Everything; one folder per step. Raises OSError only for the root."""
        raise NotImplementedError

    def scan_folders(self, dirty: Iterable[DirtyFolder]) -> Iterator[Changes]:
        """Only these folders, and what turns out to be new or to have moved."""
        raise NotImplementedError


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
    """Hash a file by blocks. Never raises OSError: a file that vanished is Unsettled (a scan tells what became of it)."""
    raise NotImplementedError
