"""How rows become entries: the columns that every query for files selects; paths as the SQL functions take them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from coordinator.metadata.db import Row
from coordinator.metadata.values import Entry, Target, VersionInfo
from coordinator.protocol.errors import NotAFolder, NotFound
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

# Of a file row `f`. The author's address is a scalar subquery: one look-up by key for each row, whatever the planner
# believes of the tables' sizes.
ENTRY: Final = """f.namespace_id, f.id, f.parent_id, f.name, f.is_folder, f.version, f.size_bytes, f.content_hash,
    f.modified_at, f.client_modified_at, (SELECT a.email FROM user_account a WHERE a.id = f.modified_by),
    f.executable"""
ENTRY_COLUMNS: Final = 12

# Of a file_version row `v`.
VERSION: Final = """v.version, v.size_bytes, v.content_hash, v.modified_at, v.client_modified_at,
    (SELECT a.email FROM user_account a WHERE a.id = v.modified_by), v.executable"""
VERSION_COLUMNS: Final = 7


def entry_of(row: Row, path: str) -> Entry:
    """An entry from ENTRY's columns; `path` is absolute in the caller's tree."""
    namespace_id, file_id, parent_id, name, is_folder, version, size, content_hash, at, client_at, by, executable = row
    return Entry(
        namespace_id=namespace_id,
        id=file_id,
        parent_id=parent_id,
        path=path,
        name=name,
        kind=Kind.FOLDER if is_folder else Kind.FILE,
        version=version,
        size_bytes=size,
        content_hash=content_hash,
        modified_at=at,
        client_modified_at=client_at,
        modified_by=by or "",
        executable=executable,
    )


def version_of(row: Row) -> VersionInfo:
    """From VERSION's columns."""
    version, size, content_hash, modified_at, client_modified_at, modified_by, executable = row
    return VersionInfo(version, size, content_hash, modified_at, client_modified_at, modified_by or "", executable)


def keys_of(names: Sequence[str]) -> list[str]:
    return [name_key(name) for name in names]


def joined(names: Sequence[str]) -> str:
    """As SQL takes paths in arrays: a name holds no slash, nor does its key."""
    return "/".join(names)


def path_digest(keys: Sequence[str]) -> bytes:
    """Stands for a path (its name keys) in an index, however long it is."""
    return hashlib.sha256(joined(keys).encode()).digest()[:16]


def full_path(mount_path: str, path: str) -> str:
    """`path` from the namespace's root ("" for the root itself) in the caller's tree."""
    return f"{mount_path}{path}" or "/"


def check_walk(target: Target, depth: int, is_folder: bool) -> None:
    """Raises NotFound or NotAFolder when a walk along the target's names ended before its end."""
    if depth < len(target.names):
        if not is_folder:
            raise NotAFolder()
        raise NotFound(what="file or folder")
