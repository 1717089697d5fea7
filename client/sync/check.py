"""Whether disk, database and service say the same: what the trees rest on, looked at anew and independently.

Three comparisons: the disk with the local tree, the service's own listing with the remote tree, and the trees with each
other. The database is read as of one moment, beside a client that may be running; the disk and the service go on
meanwhile, so a difference counts only when it is found again (`lasting`).
Guarantees: nothing is changed anywhere. Memory: eight bytes for each of the service's files.
Does not: mend (the engine does, by looking again where something differs), read contents unless it is asked to.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path as DiskPath
from typing import Any, Final

from client.fs.base import FileKind, FileSystem, Path, Stat
from client.sync.local.ignore import unusable
from client.sync.local.selection import Selection
from client.sync.tree import LocalId
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from coordinator.protocol.types import Kind, Metadata


class Between(StrEnum):
    DISK_AND_DATABASE = "disk and database"
    SERVICE_AND_DATABASE = "service and database"
    BOTH_SIDES = "this computer and the service"


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """`what` is a sentence's end: "PATH: what"."""

    path: str
    between: Between
    what: str


@dataclass(frozen=True, slots=True)
class Checked:
    """How much was looked at, and what differs."""

    files: int
    differences: list[Difference]


def check(
    database: DiskPath, fs: FileSystem, entries: Iterable[Metadata], selection: Selection, *, contents: bool = False
) -> Checked:
    """All three comparisons; `entries` is the service's recursive listing of the synced folder, `contents` also reads
    every file. Raises OSError, sqlite3.Error, and what fetching the entries raises."""
    with _snapshot(database) as trees:
        found = [
            *_compare_service(trees, entries),
            *_compare_disk(trees, fs, selection, contents=contents),
            *_compare_sides(trees),
        ]
        return Checked(trees.count("local"), sorted(set(found)))


def lasting(earlier: Iterable[Difference], later: Iterable[Difference]) -> list[Difference]:
    """What two checks in a row have found: the rest was a change on its way."""
    return sorted(set(earlier) & set(later))


# --- the database as of one moment ------------------------------------------------------------------------------


class _Trees:
    """The three trees in one read transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        (self.remote_root,) = self.one("SELECT value FROM fact WHERE name = 'remote_root'") or ("0",)
        self.remote_root = int(self.remote_root)

    def one(self, sql: str, *parameters: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._sql.execute(sql, parameters).fetchone()
        return row

    def all(self, sql: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        return iter(self._sql.execute(sql, parameters))

    def count(self, table: str) -> int:
        row = self.one(f"SELECT count(*) FROM {table} WHERE NOT is_folder")  # noqa: S608  # one of our own tables
        return int(row[0]) if row is not None else 0

    def path(self, table: str, node_id: int) -> str:
        """What of the path is known, for people."""
        names: list[str] = []
        at: int | None = node_id
        while at is not None:
            row = self.one(f"SELECT parent_id, name FROM {table} WHERE id = ?", at)  # noqa: S608  # our own tables
            if row is None:
                names.append("…")
                break
            at, name = row
            names.append(name)
        return "/".join(_shown(name) for name in reversed(names[:-1] if at is None else names))


@contextmanager
def _snapshot(database: DiskPath) -> Iterator[_Trees]:
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN")
        yield _Trees(connection)


# --- the service ------------------------------------------------------------------------------------------------

_REMOTE: Final = "SELECT parent_id, name, is_folder, version, digest, executable FROM remote WHERE id = ?"


def _compare_service(trees: _Trees, entries: Iterable[Metadata]) -> Iterator[Difference]:
    seen = array("q")
    for entry in entries:
        if entry.state != "complete":
            continue
        seen.append(entry.id)
        what = _against_remote(trees, entry)
        if what is not None:
            yield Difference(entry.path, Between.SERVICE_AND_DATABASE, what)
    ordered = array("q", sorted(seen))
    for (node_id,) in trees.all("SELECT id FROM remote WHERE id <> ? ORDER BY id", trees.remote_root):
        at = bisect_left(ordered, node_id)
        if at == len(ordered) or ordered[at] != node_id:
            path = trees.path("remote", node_id)
            yield Difference(path, Between.SERVICE_AND_DATABASE, "the database has it, the service has not")


def _against_remote(trees: _Trees, entry: Metadata) -> str | None:
    row = trees.one(_REMOTE, entry.id)
    if row is None:
        return "the service has it, the database has not"
    parent_id, name, is_folder, version, digest, executable = row
    if bool(is_folder) != (entry.kind is Kind.FOLDER):
        return "one has a folder, the other a file"
    if name != entry.path.rpartition("/")[2] or (entry.parent_id is not None and parent_id != entry.parent_id):
        return f"the database has it as {_shown(trees.path('remote', entry.id))}"
    if not is_folder and version != entry.version:
        return f"the service has version {entry.version}, the database {version}"
    if (
        not is_folder
        and digest is not None
        and (digest.hex(), bool(executable))
        != (
            entry.content_hash,
            entry.executable,
        )
    ):
        return "the same version has different contents"
    return None


# --- the disk ---------------------------------------------------------------------------------------------------

_CHILDREN: Final = """SELECT id, name, is_folder, size, mtime_ns, inode, digest, executable, problem FROM local
    WHERE parent_id = ?"""


def _compare_disk(trees: _Trees, fs: FileSystem, selection: Selection, *, contents: bool) -> Iterator[Difference]:
    waiting: list[tuple[LocalId, Path]] = [(LocalId(1), ())]
    while waiting:
        folder_id, path = waiting.pop()
        known = {row[1]: row for row in trees.all(_CHILDREN, folder_id)}
        for name, stat in sorted(fs.list_folder(path)):
            here = (*path, name)
            row = known.pop(name, None)
            if row is None:
                if _should_be_known(here, stat, selection):
                    yield _disk(here, "it is on disk and not in the database")
                continue
            node_id, _, is_folder, *_ = row
            if bool(is_folder) != (stat.kind is FileKind.FOLDER):
                yield _disk(here, "one has a folder, the other a file")
            elif is_folder:
                waiting.append((LocalId(node_id), here))
            elif row[8] is None:
                what = _against_stamp(row, stat) or (_against_contents(row, fs, here) if contents else None)
                if what is not None:
                    yield _disk(here, what)
        for name in known:
            yield _disk((*path, name), "it is in the database and not on disk")


def _should_be_known(path: Path, stat: Stat, selection: Selection) -> bool:
    if stat.kind not in (FileKind.FILE, FileKind.FOLDER) or unusable(path) is not None:
        return False  # told as a problem, and never synced
    return not selection.is_entry_ignored(path[:-1], path[-1], stat.kind is FileKind.FOLDER)


def _against_stamp(row: tuple[Any, ...], stat: Stat) -> str | None:
    size, mtime_ns, inode = row[3:6]
    if (size, inode & _UINT64) != (stat.size, stat.inode) or mtime_ns != stat.mtime_ns:
        return "it was changed on disk and has not been read since"
    return None


def _against_contents(row: tuple[Any, ...], fs: FileSystem, path: Path) -> str | None:
    digest = row[6]
    try:
        with fs.open(path) as file:
            if digest is not None and _hash(file.stat().size, file.read_at) != digest:
                return "its contents are not what the database says, though its size and time are"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _hash(size: int, read_at: Any) -> bytes:
    buffer = bytearray(min(size, BLOCK_BYTES))
    hashes = []
    for offset in range(0, size, BLOCK_BYTES):
        count = read_at(offset, memoryview(buffer))
        hashes.append(hash_block(memoryview(buffer)[:count]))
    return content_hash(hashes)


def _disk(path: Path, what: str) -> Difference:
    return Difference("/".join(_shown(name) for name in path), Between.DISK_AND_DATABASE, what)


# --- the two sides ----------------------------------------------------------------------------------------------

_NOT_HERE: Final = """SELECT r.id FROM remote r LEFT JOIN synced s ON s.id = r.id LEFT JOIN local l ON l.id = s.local_id
    WHERE NOT r.skipped AND r.id <> ? AND l.id IS NULL"""
_NOT_THERE: Final = """SELECT l.id FROM local l LEFT JOIN synced s ON s.local_id = l.id
    LEFT JOIN remote r ON r.id = s.id
    WHERE l.problem IS NULL AND l.id <> 1 AND r.id IS NULL"""
_UNEQUAL: Final = """SELECT l.id FROM synced s JOIN remote r ON r.id = s.id JOIN local l ON l.id = s.local_id
    LEFT JOIN synced p ON p.local_id = l.parent_id
    WHERE s.id <> ? AND NOT r.skipped AND l.problem IS NULL AND (r.digest IS NOT l.digest
        OR r.executable <> l.executable OR r.parent_id IS NOT p.id OR r.is_folder <> l.is_folder)"""


def _compare_sides(trees: _Trees) -> Iterator[Difference]:
    for (node_id,) in trees.all(_NOT_HERE, trees.remote_root):
        yield Difference(trees.path("remote", node_id), Between.BOTH_SIDES, "only the service has it")
    for (node_id,) in trees.all(_NOT_THERE):
        yield Difference(trees.path("local", node_id), Between.BOTH_SIDES, "only this computer has it")
    for (node_id,) in trees.all(_UNEQUAL, trees.remote_root):
        yield Difference(trees.path("local", node_id), Between.BOTH_SIDES, "the two sides differ")


_UINT64: Final = (1 << 64) - 1


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
