"""Look-ups in the three trees as they lie in the database: for the control thread and, read-only, for workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from client.sync.store.database import Readable, Row
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

LOCAL_ROOT: Final = LocalId(1)
_IDS_AT_ONCE: Final = 1000
_INT64_MAX: Final = (1 << 63) - 1
_UINT64: Final = (1 << 64) - 1

_REMOTE: Final = "id, parent_id, name, is_folder, version, size, digest, executable, mtime_ns, skipped"
_LOCAL: Final = "id, parent_id, name, is_folder, size, mtime_ns, ctime_ns, inode, device, digest, executable, problem"
_SYNCED: Final = "id, local_id, parent_id, name, is_folder, version, digest, executable"

# Written once: sqlite3 keeps a statement prepared as long as its text is the same object's.
# ruff: noqa: S608  # the SQL is composed of this module's constants only
_GET_REMOTE: Final = f"SELECT {_REMOTE} FROM remote WHERE id = ?"
_REMOTE_CHILD: Final = f"SELECT {_REMOTE} FROM remote WHERE parent_id = ? AND key = ? ORDER BY id LIMIT 1"
_REMOTE_CHILDREN: Final = f"SELECT {_REMOTE} FROM remote WHERE parent_id = ? ORDER BY key, id"
_GET_LOCAL: Final = f"SELECT {_LOCAL} FROM local WHERE id = ?"
_LOCAL_NAMED: Final = f"SELECT {_LOCAL} FROM local WHERE parent_id = ? AND key = ? ORDER BY name, id"
_LOCAL_SPELT: Final = f"SELECT {_LOCAL} FROM local WHERE parent_id = ? AND key = ? AND name = ?"
_LOCAL_CHILDREN: Final = f"SELECT {_LOCAL} FROM local WHERE parent_id = ? ORDER BY key, name, id"
_LOCAL_INODE: Final = f"SELECT {_LOCAL} FROM local WHERE inode = ? ORDER BY id"
_GET_SYNCED: Final = f"SELECT {_SYNCED} FROM synced WHERE id = ?"
_GET_SYNCED_LOCAL: Final = f"SELECT {_SYNCED} FROM synced WHERE local_id = ?"
_SYNCED_CONTENT: Final = f"SELECT {_SYNCED} FROM synced WHERE digest = ? ORDER BY id LIMIT ?"
_DIRTY_REMOTE: Final = "SELECT id FROM dirty_remote WHERE id > ? ORDER BY id LIMIT ?"
_DIRTY_LOCAL: Final = "SELECT id FROM dirty_local WHERE id > ? ORDER BY id LIMIT ?"
_IS_DIRTY: Final = "SELECT EXISTS (SELECT 1 FROM dirty_remote) OR EXISTS (SELECT 1 FROM dirty_local)"
_DIRTY_COUNT: Final = "SELECT (SELECT count(*) FROM dirty_remote) + (SELECT count(*) FROM dirty_local)"
_COUNTS: Final = """SELECT (SELECT count(*) FROM remote WHERE NOT is_folder),
    (SELECT count(*) FROM local WHERE NOT is_folder), (SELECT count(*) FROM synced WHERE NOT is_folder)"""


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """How many files each tree holds, folders not counted."""

    remote: int
    local: int
    synced: int


class Lookups:
    """Implements the reading of client.sync.tree.Trees, and what others than the planner ask."""

    local_root: LocalId = LOCAL_ROOT

    def __init__(self, database: Readable) -> None:
        self._readable = database

    def remote(self, node_id: RemoteId) -> RemoteNode | None:
        row = self._readable.row(_GET_REMOTE, (node_id,))
        return None if row is None else _remote_of(row)

    def remote_child(self, parent_id: RemoteId, key: str) -> RemoteNode | None:
        row = self._readable.row(_REMOTE_CHILD, (parent_id, key))
        return None if row is None else _remote_of(row)

    def remote_children(self, parent_id: RemoteId) -> Iterator[RemoteNode]:
        return map(_remote_of, self._readable.rows(_REMOTE_CHILDREN, (parent_id,)))

    def local(self, node_id: LocalId) -> LocalNode | None:
        row = self._readable.row(_GET_LOCAL, (node_id,))
        return None if row is None else _local_of(row)

    def local_named(self, parent_id: LocalId, key: str) -> list[LocalNode]:
        return [_local_of(row) for row in self._readable.rows(_LOCAL_NAMED, (parent_id, key))]

    def local_children(self, parent_id: LocalId) -> Iterator[LocalNode]:
        return map(_local_of, self._readable.rows(_LOCAL_CHILDREN, (parent_id,)))

    def local_with_inode(self, inode: int) -> list[LocalNode]:
        """Hard links share one, and so may files of two devices."""
        return [_local_of(row) for row in self._readable.rows(_LOCAL_INODE, (wrapped(inode),))]

    def synced(self, node_id: RemoteId) -> SyncedNode | None:
        row = self._readable.row(_GET_SYNCED, (node_id,))
        return None if row is None else _synced_of(row)

    def synced_local(self, node_id: LocalId) -> SyncedNode | None:
        row = self._readable.row(_GET_SYNCED_LOCAL, (node_id,))
        return None if row is None else _synced_of(row)

    def synced_with(self, digest: bytes, limit: int) -> list[SyncedNode]:
        """Pairs that had this content."""
        return [_synced_of(row) for row in self._readable.rows(_SYNCED_CONTENT, (digest, limit))]

    def dirty_remote(self) -> Iterator[RemoteId]:
        return map(RemoteId, self._ids(_DIRTY_REMOTE))

    def dirty_local(self) -> Iterator[LocalId]:
        return map(LocalId, self._ids(_DIRTY_LOCAL))

    def _ids(self, sql: str) -> Iterator[int]:
        """In pieces: what differs may be everything."""
        last = -1
        while rows := self._readable.rows(sql, (last, _IDS_AT_ONCE)):
            yield from (row[0] for row in rows)
            last = rows[-1][0]

    def is_dirty(self) -> bool:
        """Whether any node may differ."""
        return self._readable.row(_IS_DIRTY) == (1,)

    def dirty_count(self) -> int:
        return sum(self._readable.row(_DIRTY_COUNT) or ())

    def counts(self) -> TreeCounts:
        """Reads the whole tables: for reports, not for every step."""
        return TreeCounts(*self._readable.row(_COUNTS) or (0, 0, 0))

    def local_path(self, node_id: LocalId) -> tuple[str, ...] | None:
        """The names from the root down; () for the root, None when the node or a folder above it is not known."""
        names: list[str] = []
        node = self.local(node_id)
        while node is not None and node.parent_id is not None:
            names.append(node.name)
            node = self.local(node.parent_id)
        return None if node is None else tuple(reversed(names))

    def remote_path(self, node_id: RemoteId) -> tuple[str, ...] | None:
        """The names below the synced root; () for it, None when the node or a folder above it is not known."""
        names: list[str] = []
        node = self.remote(node_id)
        while node is not None and node.parent_id is not None:
            names.append(node.name)
            node = self.remote(node.parent_id)
        return None if node is None else tuple(reversed(names))

    def local_at(self, path: Sequence[str]) -> LocalNode | None:
        """The local node with exactly this spelling."""
        node = self.local(self.local_root)
        for name in path:
            if node is None:
                return None
            row = self._readable.row(_LOCAL_SPELT, (node.id, name_key(name), name))
            node = None if row is None else _local_of(row)
        return node


# --- rows and values ----------------------------------------------------------------------------------------------


def _remote_of(row: Row) -> RemoteNode:
    node_id, parent_id, name, is_folder, version, size, digest, executable, mtime_ns, skipped = row
    kind = Kind.FOLDER if is_folder else Kind.FILE
    return RemoteNode(
        node_id, parent_id, name, kind, version, size, _content_of(digest, executable), mtime_ns, bool(skipped)
    )


def _local_of(row: Row) -> LocalNode:
    node_id, parent_id, name, is_folder, size, mtime_ns, ctime_ns, inode, device, digest, executable, problem = row
    kind = Kind.FOLDER if is_folder else Kind.FILE
    stamp = Stamp(size, mtime_ns, ctime_ns, inode & _UINT64, device & _UINT64)
    return LocalNode(node_id, parent_id, name, kind, stamp, _content_of(digest, executable), problem)


def _synced_of(row: Row) -> SyncedNode:
    node_id, local_id, parent_id, name, is_folder, version, digest, executable = row
    kind = Kind.FOLDER if is_folder else Kind.FILE
    return SyncedNode(node_id, local_id, parent_id, name, kind, version, _content_of(digest, executable))


def _content_of(digest: bytes | None, executable: int) -> Content | None:
    return None if digest is None else Content(digest, bool(executable))


def wrapped(number: int) -> int:
    """Inode and device numbers use all 64 bits; SQLite's integers are signed."""
    return number if number <= _INT64_MAX else number - (1 << 64)


def clamped(nanoseconds: int | None) -> int | None:
    """A time beyond the year 2262 is kept as that: it orders work and decides nothing."""
    return None if nanoseconds is None else max(-_INT64_MAX, min(_INT64_MAX, nanoseconds))
