"""What a scan reads, and what it tells: values that pass between the worker that scans and the control thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from client.fs.base import Path
from client.sync.tree import LocalId, LocalNode

UNREAD: Final = "it has not been read yet"  # the `problem` of a new file until its first hash is stored


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


def reason_of(error: OSError) -> str:
    """As the end of a sentence."""
    return (error.strerror or str(error)).lower()
