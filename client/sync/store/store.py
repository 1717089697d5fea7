"""The three trees on disk: one SQLite file for each synced folder.

Guarantees: what one `transaction` wrote is there as a whole or not at all, also after `kill -9`; after a power cut the
file may be some transactions older but never torn, except that a durable transaction and all before it survive. Which
nodes differ (`dirty_*`) is kept up to date inside the same transaction. Memory does not grow with the trees. A file
that is no database any more is set aside and an empty one takes its place: then everything is new on both sides and is
adopted by its hash, and nothing is deleted.
Does not: look at the disk or the service, or decide anything. The control thread owns it; only `Reader` may be used
by other threads.

An older database is harmless because the trees are observations: a scan and the change feed bring them up to date, and
where both sides are equal the planner only records it. The one step that must be known before it is done is taking a
file out of its pair (`detach`), so that is durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import peewee

from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

FORMAT_VERSION: Final = 1
LOCAL_ROOT: Final = LocalId(1)
ERRORS_KEPT: Final = 100
CHECKED_BYTES_MAX: Final = (
    64 << 20
)  # checked whole at every start (0.2 s); damage in a larger file shows when it is met
_INT64_MAX: Final = (1 << 63) - 1
UNWRITTEN_NS: Final = 60 * 10**9  # how long a kernel may keep written bytes in memory only, doubled
_DIGEST_BYTES: Final = 32
_IDS_AT_ONCE: Final = 1000

_NEW_ROOT: Final = LocalNode(LOCAL_ROOT, None, "", Kind.FOLDER, Stamp(0, 0, 0, 0, 0))  # until it is looked at

_database: Final = peewee.DatabaseProxy()


# --- the schema -------------------------------------------------------------------------------------------------
# The models define the tables; the look-ups below are plain SQL, since a look-up through a model takes ten times as
# long and a plan needs many.


class _Table(peewee.Model):
    class Meta:
        database = _database
        legacy_table_names = False


class Remote(_Table):
    id = peewee.IntegerField(primary_key=True)
    parent_id = peewee.IntegerField(null=True)
    name = peewee.TextField()
    key = peewee.TextField()
    is_folder = peewee.IntegerField()
    version = peewee.IntegerField()
    size = peewee.IntegerField()
    digest = peewee.BlobField(null=True)
    executable = peewee.IntegerField()
    mtime_ns = peewee.IntegerField(null=True)
    skipped = peewee.IntegerField()

    class Meta:
        indexes = ((("parent_id", "key"), False),)


class Local(_Table):
    id = peewee.IntegerField(primary_key=True)
    parent_id = peewee.IntegerField(null=True)
    name = peewee.TextField()
    key = peewee.TextField()
    is_folder = peewee.IntegerField()
    size = peewee.IntegerField()
    mtime_ns = peewee.IntegerField()
    ctime_ns = peewee.IntegerField()
    inode = peewee.IntegerField()
    device = peewee.IntegerField()
    digest = peewee.BlobField(null=True)
    executable = peewee.IntegerField()
    problem = peewee.TextField(null=True)

    class Meta:
        indexes = ((("parent_id", "key"), False), (("inode",), False))


class Synced(_Table):
    id = peewee.IntegerField(primary_key=True)
    local_id = peewee.IntegerField(unique=True)
    parent_id = peewee.IntegerField(null=True, index=True)
    name = peewee.TextField()
    is_folder = peewee.IntegerField()
    version = peewee.IntegerField()
    digest = peewee.BlobField(null=True, index=True)
    executable = peewee.IntegerField()


class DirtyRemote(_Table):
    id = peewee.IntegerField(primary_key=True)


class DirtyLocal(_Table):
    id = peewee.IntegerField(primary_key=True)


class Listed(_Table):
    """Ids that the listing under way has told; only filled while one is (remote.py)."""

    id = peewee.IntegerField(primary_key=True)


class Sending(_Table):
    """What an upload was about to store, so that its unseen success is not taken for somebody else's edit."""

    local_id = peewee.IntegerField(primary_key=True)
    remote_id = peewee.IntegerField(null=True)
    digest = peewee.BlobField()
    executable = peewee.IntegerField()


class Pending(_Table):
    """Versions that other devices have announced."""

    upload_id = peewee.TextField(primary_key=True)
    remote_id = peewee.IntegerField()
    parent_id = peewee.IntegerField(null=True)
    name = peewee.TextField()
    size = peewee.IntegerField()
    digest = peewee.BlobField()
    executable = peewee.IntegerField()
    device_id = peewee.IntegerField(null=True)


class SentAs(_Table):
    """Under which id a version was announced that is not here yet: how it was sent may save fetching it whole."""

    remote_id = peewee.IntegerField(primary_key=True)
    version = peewee.IntegerField()
    upload_id = peewee.TextField()


class Recipe(_Table):
    """A local file's content as block hashes, 32 bytes each."""

    local_id = peewee.IntegerField(primary_key=True)
    digest = peewee.BlobField()
    hashes = peewee.BlobField()


class BlockPlace(_Table):
    """Where blocks lie in local files; `prefix` is the first eight bytes of the hash, the recipe tells the rest."""

    prefix = peewee.IntegerField()
    local_id = peewee.IntegerField()
    position = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("prefix", "local_id", "position")
        without_rowid = True


class Signature(_Table):
    """delta.py's signatures of a local file's content."""

    local_id = peewee.IntegerField(primary_key=True)
    digest = peewee.BlobField()
    data = peewee.BlobField()


class Conflict(_Table):
    id = peewee.AutoField()
    path = peewee.TextField()
    copy_path = peewee.TextField()
    at = peewee.FloatField()


class Problem(_Table):
    """Why a path is not synced now; `path` is relative to the folder."""

    path = peewee.TextField(primary_key=True)
    reason = peewee.TextField()
    source = peewee.TextField()


class Failure(_Table):
    """The last errors, newest last."""

    id = peewee.AutoField()
    at = peewee.FloatField()
    path = peewee.TextField(null=True)
    message = peewee.TextField()


class Fact(_Table):
    """Single values: the cursor, the remote root."""

    name = peewee.TextField(primary_key=True)
    value = peewee.TextField()


TABLES: Final = (
    *(Remote, Local, Synced, DirtyRemote, DirtyLocal, Listed, Sending, Pending, SentAs, Recipe, BlockPlace, Signature),
    *(Conflict, Problem, Failure, Fact),
)

# From format version n to n + 1, in place: MIGRATIONS[n].
MIGRATIONS: Final[dict[int, Callable[[peewee.Database], None]]] = {}

_REMOTE: Final = "id, parent_id, name, is_folder, version, size, digest, executable, mtime_ns, skipped"
_LOCAL: Final = "id, parent_id, name, is_folder, size, mtime_ns, ctime_ns, inode, device, digest, executable, problem"
_SYNCED: Final = "id, local_id, parent_id, name, is_folder, version, digest, executable"

# The look-ups, written once: sqlite3 keeps a statement prepared as long as its text is the same object's.
# ruff: noqa: S608  # the SQL is composed of this module's constants only
_GET_REMOTE: Final = f"SELECT {_REMOTE} FROM remote WHERE id = ?"
_REMOTE_CHILD: Final = f"SELECT {_REMOTE} FROM remote WHERE parent_id = ? AND key = ? ORDER BY id LIMIT 1"
_REMOTE_CHILDREN: Final = f"SELECT {_REMOTE} FROM remote WHERE parent_id = ? ORDER BY key, id"
_GET_LOCAL: Final = f"SELECT {_LOCAL} FROM local WHERE id = ?"
_LOCAL_NAMED: Final = f"SELECT {_LOCAL} FROM local WHERE parent_id = ? AND key = ? ORDER BY name, id"
_LOCAL_CHILDREN: Final = f"SELECT {_LOCAL} FROM local WHERE parent_id = ? ORDER BY key, name, id"
_LOCAL_INODE: Final = f"SELECT {_LOCAL} FROM local WHERE inode = ? ORDER BY id"
_GET_SYNCED: Final = f"SELECT {_SYNCED} FROM synced WHERE id = ?"
_GET_SYNCED_LOCAL: Final = f"SELECT {_SYNCED} FROM synced WHERE local_id = ?"
_BELOW: Final = """WITH RECURSIVE below(id) AS (
        SELECT ? UNION SELECT t.id FROM {table} t JOIN below b ON t.parent_id = b.id)
    SELECT id FROM below"""
_BELOW_REMOTE: Final = _BELOW.format(table="remote")
_BELOW_LOCAL: Final = _BELOW.format(table="local")
_FIND_CONTENT: Final = f"SELECT {_SYNCED} FROM synced WHERE digest = ? ORDER BY id LIMIT ?"
_GET_RECIPE: Final = "SELECT digest, hashes FROM recipe WHERE local_id = ?"
_GET_SIGNATURE: Final = "SELECT digest, data FROM signature WHERE local_id = ?"
_FIND_BLOCK: Final = """SELECT p.local_id, p.position FROM block_place p JOIN recipe r ON r.local_id = p.local_id
    WHERE p.prefix = ? AND substr(r.hashes, p.position * 32 + 1, 32) = ? LIMIT ?"""

_CLEAN_DIRTY_REMOTE: Final = "DELETE FROM dirty_remote WHERE id IN (SELECT id FROM touched_remote)"
_MARK_DIRTY_REMOTE: Final = """INSERT INTO dirty_remote
    SELECT t.id FROM touched_remote t LEFT JOIN remote r ON r.id = t.id LEFT JOIN synced s ON s.id = t.id
    WHERE t.id <> :root AND NOT CASE
        WHEN r.id IS NULL OR r.skipped THEN s.id IS NULL
        ELSE s.id IS NOT NULL AND r.parent_id IS s.parent_id AND r.name = s.name AND r.is_folder = s.is_folder
            AND r.version = s.version AND r.digest IS s.digest AND r.executable = s.executable
    END"""
_CLEAN_DIRTY_LOCAL: Final = "DELETE FROM dirty_local WHERE id IN (SELECT id FROM touched_local)"
_MARK_DIRTY_LOCAL: Final = """INSERT INTO dirty_local
    SELECT t.id FROM touched_local t LEFT JOIN local l ON l.id = t.id LEFT JOIN synced s ON s.local_id = t.id
        LEFT JOIN synced p ON p.id = s.parent_id
    WHERE t.id <> :root AND NOT CASE
        WHEN l.id IS NULL THEN s.id IS NULL
        ELSE s.id IS NOT NULL AND l.parent_id IS p.local_id AND l.name = s.name AND l.is_folder = s.is_folder
            AND l.digest IS s.digest AND l.executable = s.executable
    END"""


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A version that another device has announced: file `remote_id` (0: a new one) named `name` in `parent_id`."""

    upload_id: str
    remote_id: RemoteId
    parent_id: RemoteId | None
    name: str
    size: int
    content: Content
    device_id: int | None


@dataclass(frozen=True, slots=True)
class SyncedContent:
    """Version `version` of the service's file `id` has the content, and so had the local file at `path`."""

    id: RemoteId
    version: int
    local_id: LocalId
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConflictRow:
    path: str
    copy_path: str
    at: float


@dataclass(frozen=True, slots=True)
class FailureRow:
    at: float
    path: str | None
    message: str


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """How many files each tree holds, folders not counted."""

    remote: int
    local: int
    synced: int


class StoreDamaged(Exception):
    """The file is no usable database any more: set it aside (`set_aside`) and open a new one."""


class Store:
    """The trees of one synced folder. `remote_root` is 0 until `set_remote_root` has been called once.

    Owned by the control thread. `_depth` counts nested transactions; `_touched_*` are the ids whose difference is
    computed anew at the end of the outermost one.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or create the file (None: in memory, for tests). Raises StoreDamaged."""
        self.path = path
        self._database = peewee.SqliteDatabase(
            ":memory:" if path is None else str(path),
            pragmas=[("journal_mode", "wal"), ("synchronous", "normal"), ("cache_size", -16_000)],
            timeout=30,
            thread_safe=False,
            check_same_thread=False,
        )
        self._depth = 0
        self._durable = False
        self._touched_remote: set[int] = set()
        self._touched_local: set[int] = set()
        try:
            self._open()
        except (peewee.DatabaseError, sqlite3.DatabaseError) as error:
            with suppress(peewee.DatabaseError, sqlite3.DatabaseError):
                self._database.close()
            if isinstance(error, peewee.OperationalError | sqlite3.OperationalError):
                raise  # locked, no space, unreadable: not the file's contents
            raise StoreDamaged(str(error)) from error
        self.remote_root = RemoteId(int(self.fact("remote_root") or 0))
        self.local_root = LOCAL_ROOT
        (last_id,) = self._sql.execute(
            "SELECT max((SELECT coalesce(max(id), 1) FROM local), (SELECT coalesce(max(local_id), 1) FROM synced))"
        ).fetchone()
        self._last_local_id = int(last_id)
        if self.local(self.local_root) is None:
            with self.transaction():
                self.put_local(_NEW_ROOT)

    def _open(self) -> None:
        self._database.connect()
        self._sql: sqlite3.Connection = self._database.connection()  # type: ignore[no-untyped-call]  # peewee's own
        (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            raise StoreDamaged(f"it is of format {version}, which a newer client has written")
        small = self.path is None or self.path.stat().st_size <= CHECKED_BYTES_MAX
        if small and self._sql.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreDamaged("its pages contradict each other")
        with self._database.atomic(), self._database.bind_ctx(TABLES):
            if version == 0:
                self._database.create_tables(TABLES)
            else:
                for step in range(version, FORMAT_VERSION):
                    MIGRATIONS[step](self._database)
            self._sql.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        self._sql.execute("CREATE TEMP TABLE touched_remote (id INTEGER PRIMARY KEY)")
        self._sql.execute("CREATE TEMP TABLE touched_local (id INTEGER PRIMARY KEY)")

    def close(self) -> None:
        self._database.close()

    # --- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Everything inside is written as a whole. Only the outermost one counts; `durable`: it survives power loss
        when this returns."""
        if self._depth:
            assert self._durable or not durable, "a durable transaction inside one that is not"
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        if durable:
            self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("BEGIN IMMEDIATE")
        self._depth, self._durable = 1, durable
        try:
            yield
            self._update_dirty()
            self._sql.execute("COMMIT")
        except BaseException:
            self._touched_remote.clear()
            self._touched_local.clear()
            with suppress(sqlite3.Error):
                self._sql.execute("ROLLBACK")
            raise
        finally:
            self._depth, self._durable = 0, False
            if durable:
                self._sql.execute("PRAGMA synchronous = NORMAL")

    def make_durable(self) -> None:
        """What was written so far survives power loss."""
        with self.transaction(durable=True):
            self.set_fact("made_durable", str(int(self.fact("made_durable") or 0) + 1))

    def begin_session(self) -> None:
        """To be called once, before anything is written. When the last session did not end with `end_session`, the
        computer may have lost power: then files may hold older bytes than were read, under the same stamp. Those that
        changed shortly before are to be read again."""
        if self.fact("ended") is None:
            with self.transaction():
                self._write(
                    "UPDATE local SET ctime_ns = 0"
                    " WHERE NOT is_folder AND ctime_ns >= (SELECT max(ctime_ns) FROM local) - ?",
                    (UNWRITTEN_NS,),
                )
            return
        with self.transaction(durable=True):
            self.set_fact("ended", None)

    def end_session(self) -> None:
        with self.transaction(durable=True):
            self.set_fact("ended", "1")

    def _update_dirty(self) -> None:
        for name, touched, clean, mark, root in (
            ("touched_remote", self._touched_remote, _CLEAN_DIRTY_REMOTE, _MARK_DIRTY_REMOTE, self.remote_root),
            ("touched_local", self._touched_local, _CLEAN_DIRTY_LOCAL, _MARK_DIRTY_LOCAL, self.local_root),
        ):
            if not touched:
                continue
            self._sql.execute(f"DELETE FROM {name}")
            self._sql.executemany(f"INSERT INTO {name} VALUES (?)", ((node_id,) for node_id in sorted(touched)))
            self._sql.execute(clean)
            self._sql.execute(mark, {"root": root})
            touched.clear()

    def _write(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        assert self._depth, "writes belong into a transaction"
        return self._sql.execute(sql, parameters)

    # --- reading (Trees) ----------------------------------------------------------------------------------------

    def remote(self, node_id: RemoteId) -> RemoteNode | None:
        row = self._sql.execute(_GET_REMOTE, (node_id,)).fetchone()
        return None if row is None else _remote_of(row)

    def remote_child(self, parent_id: RemoteId, key: str) -> RemoteNode | None:
        row = self._sql.execute(_REMOTE_CHILD, (parent_id, key)).fetchone()
        return None if row is None else _remote_of(row)

    def remote_children(self, parent_id: RemoteId) -> Iterator[RemoteNode]:
        return map(_remote_of, self._sql.execute(_REMOTE_CHILDREN, (parent_id,)).fetchall())

    def local(self, node_id: LocalId) -> LocalNode | None:
        row = self._sql.execute(_GET_LOCAL, (node_id,)).fetchone()
        return None if row is None else _local_of(row)

    def local_named(self, parent_id: LocalId, key: str) -> list[LocalNode]:
        return [_local_of(row) for row in self._sql.execute(_LOCAL_NAMED, (parent_id, key))]

    def local_children(self, parent_id: LocalId) -> Iterator[LocalNode]:
        return map(_local_of, self._sql.execute(_LOCAL_CHILDREN, (parent_id,)).fetchall())

    def local_with_inode(self, inode: int) -> list[LocalNode]:
        """Hard links share one, and so may files of two devices."""
        return [_local_of(row) for row in self._sql.execute(_LOCAL_INODE, (_wrapped(inode),))]

    def synced(self, node_id: RemoteId) -> SyncedNode | None:
        row = self._sql.execute(_GET_SYNCED, (node_id,)).fetchone()
        return None if row is None else _synced_of(row)

    def synced_local(self, node_id: LocalId) -> SyncedNode | None:
        row = self._sql.execute(_GET_SYNCED_LOCAL, (node_id,)).fetchone()
        return None if row is None else _synced_of(row)

    def dirty_remote(self) -> Iterator[RemoteId]:
        return map(RemoteId, self._ids("SELECT id FROM dirty_remote WHERE id > ? ORDER BY id LIMIT ?"))

    def dirty_local(self) -> Iterator[LocalId]:
        return map(LocalId, self._ids("SELECT id FROM dirty_local WHERE id > ? ORDER BY id LIMIT ?"))

    def _ids(self, sql: str) -> Iterator[int]:
        """In pieces: a statement that stays open for as long as a plan is carried out would let the journal grow."""
        last = -1
        while rows := self._sql.execute(sql, (last, _IDS_AT_ONCE)).fetchall():
            yield from (row[0] for row in rows)
            last = rows[-1][0]

    # --- reading, beyond what the planner needs ------------------------------------------------------------------

    def is_dirty(self) -> bool:
        """Whether any node may differ."""
        (found,) = self._sql.execute(
            "SELECT EXISTS (SELECT 1 FROM dirty_remote) OR EXISTS (SELECT 1 FROM dirty_local)"
        ).fetchone()
        return bool(found)

    def dirty_count(self) -> int:
        (found,) = self._sql.execute(
            "SELECT (SELECT count(*) FROM dirty_remote) + (SELECT count(*) FROM dirty_local)"
        ).fetchone()
        return int(found)

    def counts(self) -> TreeCounts:
        """Reads the whole tables: for reports, not for every step."""
        row = self._sql.execute(
            """SELECT (SELECT count(*) FROM remote WHERE NOT is_folder),
                (SELECT count(*) FROM local WHERE NOT is_folder),
                (SELECT count(*) FROM synced WHERE NOT is_folder)"""
        ).fetchone()
        return TreeCounts(*row)

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
            row = self._sql.execute(
                f"SELECT {_LOCAL} FROM local WHERE parent_id = ? AND key = ? AND name = ?",
                (node.id, name_key(name), name),
            ).fetchone()
            node = None if row is None else _local_of(row)
        return node

    # --- writing nodes ------------------------------------------------------------------------------------------

    def new_local_id(self) -> LocalId:
        """Never given before, as long as this object lives, nor held by any stored node."""
        self._last_local_id += 1
        return LocalId(self._last_local_id)

    def set_remote_root(self, root: RemoteId, root_stamp: Stamp) -> None:
        """Begin a new pair of trees: the roots are each other's pair and never differ."""
        with self.transaction():
            self.remote_root = root
            self.set_fact("remote_root", str(root))
            self.put_remote(RemoteNode(root, None, "", Kind.FOLDER))
            if self.local(self.local_root) == _NEW_ROOT:
                self.put_local(replace(_NEW_ROOT, stamp=root_stamp))
            self.put_synced(SyncedNode(root, self.local_root, None, "", Kind.FOLDER))

    def put_remote(self, node: RemoteNode) -> None:
        digest, executable = _content_columns(node.content)
        self._write(
            "INSERT OR REPLACE INTO remote (id, parent_id, name, key, is_folder, version, size, digest, executable,"
            " mtime_ns, skipped) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(node.id, node.parent_id, node.name, name_key(node.name), node.kind is Kind.FOLDER, node.version),
                *(node.size, digest, executable, _clamped(node.mtime_ns), node.skipped),
            ),
        )
        self._touched_remote.add(node.id)

    def drop_remote(self, node_id: RemoteId) -> list[RemoteId]:
        """The node and everything below it is not there any more. Returns them."""
        gone = [RemoteId(row[0]) for row in self._write(_BELOW_REMOTE, (node_id,)).fetchall()]
        self._sql.executemany("DELETE FROM remote WHERE id = ?", ((found,) for found in gone))
        self._sql.executemany("DELETE FROM sent_as WHERE remote_id = ?", ((found,) for found in gone))
        self._touched_remote.update(gone)
        return gone

    def put_local(self, node: LocalNode) -> None:
        stamp = node.stamp
        digest, executable = _content_columns(node.content)
        self._write(
            "INSERT OR REPLACE INTO local (id, parent_id, name, key, is_folder, size, mtime_ns, ctime_ns, inode,"
            " device, digest, executable, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(node.id, node.parent_id, node.name, name_key(node.name), node.kind is Kind.FOLDER, stamp.size),
                *(_clamped(stamp.mtime_ns), _clamped(stamp.ctime_ns), _wrapped(stamp.inode), _wrapped(stamp.device)),
                *(digest, executable, node.problem),
            ),
        )
        self._touched_local.add(node.id)
        self._last_local_id = max(self._last_local_id, node.id)

    def drop_local(self, node_id: LocalId) -> None:
        """The node and everything below it is not there any more."""
        assert node_id != self.local_root, "the root is only ever unknown, never gone"
        gone = [row[0] for row in self._write(_BELOW_LOCAL, (node_id,)).fetchall()]
        self._sql.executemany("DELETE FROM local WHERE id = ?", ((found,) for found in gone))
        for found in gone:
            self._drop_blocks(found)
        self._touched_local.update(gone)

    def ignore_local(self, node_id: LocalId) -> None:
        """The node and everything below it is there and is none of ours any more: its pairs are forgotten as well."""
        for row in self._write(_BELOW_LOCAL, (node_id,)).fetchall():
            if (pair := self.synced_local(row[0])) is not None:
                self.drop_synced(pair.id)
        self.drop_local(node_id)

    def put_synced(self, node: SyncedNode) -> None:
        """Both sides agreed on this; an earlier pair of either side is over."""
        before = self.synced(node.id)
        other = self.synced_local(node.local_id)
        if other is not None and other.id != node.id:
            self.drop_synced(other.id)
        if before is not None:
            self._touched_local.add(before.local_id)
        digest, executable = _content_columns(node.content)
        self._write(
            "INSERT OR REPLACE INTO synced (id, local_id, parent_id, name, is_folder, version, digest, executable)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(node.id, node.local_id, node.parent_id, node.name, node.kind is Kind.FOLDER, node.version),
                *(digest, executable),
            ),
        )
        self._touched_remote.add(node.id)
        self._touched_local.add(node.local_id)
        if node.kind is Kind.FOLDER and (before is None or before.local_id != node.local_id):
            self._touch_children(node.id)
        if node.version > 1:
            self._write("DELETE FROM sent_as WHERE remote_id = ? AND version <= ?", (node.id, node.version))

    def drop_synced(self, node_id: RemoteId) -> None:
        """Forget that the two belonged together."""
        before = self.synced(node_id)
        if before is None:
            return
        assert node_id != self.remote_root, "the roots always belong together"
        self._write("DELETE FROM synced WHERE id = ?", (node_id,))
        self._touched_remote.add(node_id)
        self._touched_local.add(before.local_id)
        if before.kind is Kind.FOLDER:
            self._touch_children(node_id)

    def drop_all_synced(self) -> None:
        """Forget every pair but the roots': then all is met as new, adopted where equal, and nothing is deleted."""
        with self.transaction():
            rows = self._sql.execute("SELECT id, local_id FROM synced WHERE id <> ?", (self.remote_root,)).fetchall()
            self._touched_remote.update(row[0] for row in rows)
            self._touched_local.update(row[1] for row in rows)
            self._write("DELETE FROM synced WHERE id <> ?", (self.remote_root,))
            self._write("DELETE FROM sending")

    def detach(self, node_id: LocalId) -> None:
        """Forget the local node's pair, durably, before it is given another name: otherwise that name would be taken
        for the person's wish for the file on the service as well."""
        with self.transaction(durable=True):
            if (pair := self.synced_local(node_id)) is not None:
                self.drop_synced(pair.id)

    def _touch_children(self, folder_id: RemoteId) -> None:
        """Where a synced child's place is depends on which local folder its parent belongs to."""
        self._touched_local.update(
            row[0] for row in self._sql.execute("SELECT local_id FROM synced WHERE parent_id = ?", (folder_id,))
        )

    # --- a whole listing (remote.py) ----------------------------------------------------------------------------

    def begin_listing(self) -> None:
        """From now on every `put_remote` of the listing is noted with `note_listed`."""
        self._write("DELETE FROM listed")

    def note_listed(self, node_id: RemoteId) -> None:
        self._write("INSERT OR IGNORE INTO listed VALUES (?)", (node_id,))

    def end_listing(self) -> None:
        """Forget what the listing did not tell. Nothing is deleted anywhere: a pair is kept only where the service
        holds what both sides agreed on, otherwise the two sides meet as if each were new."""
        self._write("INSERT OR IGNORE INTO listed VALUES (?)", (self.remote_root,))
        unlisted = "SELECT id FROM remote WHERE id NOT IN (SELECT id FROM listed)"
        self._touched_remote.update(row[0] for row in self._sql.execute(unlisted))
        self._write(f"DELETE FROM remote WHERE id IN ({unlisted})")
        self._write("DELETE FROM sent_as WHERE remote_id NOT IN (SELECT id FROM remote)")
        doubtful = self._sql.execute(
            """SELECT s.id FROM synced s LEFT JOIN remote r ON r.id = s.id
               WHERE s.id <> ? AND (r.id IS NULL OR r.is_folder <> s.is_folder OR r.digest IS NOT s.digest
                                    OR (r.is_folder AND r.name <> s.name))""",
            (self.remote_root,),
        ).fetchall()
        for (node_id,) in doubtful:
            self.drop_synced(RemoteId(node_id))
        self._write("DELETE FROM listed")

    # --- what uploads are under way -----------------------------------------------------------------------------

    def note_sending(self, local_id: LocalId, remote_id: RemoteId | None, content: Content) -> None:
        """Before an upload may be carried out: the service may store it without this client hearing of it."""
        self._write(
            "INSERT OR REPLACE INTO sending (local_id, remote_id, digest, executable) VALUES (?, ?, ?, ?)",
            (local_id, remote_id, content.digest, content.executable),
        )

    def sent(self, local_id: LocalId) -> tuple[RemoteId | None, Content] | None:
        """The last upload of this file whose outcome is not known: of which remote file (None: a new one), and what."""
        row = self._sql.execute(
            "SELECT remote_id, digest, executable FROM sending WHERE local_id = ?", (local_id,)
        ).fetchone()
        return None if row is None else (row[0], Content(row[1], bool(row[2])))

    def forget_sending(self, local_id: LocalId) -> None:
        self._write("DELETE FROM sending WHERE local_id = ?", (local_id,))

    def unsettled(self) -> list[LocalId]:
        """Local files whose upload began and whose outcome is not known."""
        return [LocalId(row[0]) for row in self._sql.execute("SELECT local_id FROM sending ORDER BY local_id")]

    # --- announced versions -------------------------------------------------------------------------------------

    def put_pending(self, row: PendingUpload) -> None:
        self._write(
            "INSERT OR REPLACE INTO pending (upload_id, remote_id, parent_id, name, size, digest, executable,"
            " device_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.upload_id, row.remote_id, row.parent_id, row.name, row.size, row.content.digest),
                *(row.content.executable, row.device_id),
            ),
        )

    def drop_pending(self, upload_id: str) -> None:
        self._write("DELETE FROM pending WHERE upload_id = ?", (upload_id,))

    def drop_pending_of(self, digest: bytes, parent_id: RemoteId | None, name: str) -> None:
        """The announced version has arrived."""
        self._write("DELETE FROM pending WHERE digest = ? AND parent_id IS ? AND name = ?", (digest, parent_id, name))

    def note_sent_as(self, node_id: RemoteId, version: int, upload_id: str) -> None:
        """A version that replaces another is there, and this is what it was announced as."""
        if version > 1:
            self._write(
                "INSERT OR REPLACE INTO sent_as (remote_id, version, upload_id) VALUES (?, ?, ?)",
                (node_id, version, upload_id),
            )

    def sent_as(self, node_id: RemoteId, version: int) -> str | None:
        """What a version that is not here yet was announced as, where that is known."""
        row = self._sql.execute(
            "SELECT upload_id FROM sent_as WHERE remote_id = ? AND version = ?", (node_id, version)
        ).fetchone()
        return None if row is None else str(row[0])

    def drop_all_pending(self) -> None:
        self._write("DELETE FROM pending")

    def pending(self) -> list[PendingUpload]:
        found = self._sql.execute(
            "SELECT upload_id, remote_id, parent_id, name, size, digest, executable, device_id FROM pending"
            " ORDER BY upload_id"
        )
        return [
            PendingUpload(upload, RemoteId(remote), parent, name, size, Content(digest, bool(executable)), device)
            for upload, remote, parent, name, size, digest, executable, device in found
        ]

    # --- blocks and signatures ----------------------------------------------------------------------------------

    def put_blocks(self, local_id: LocalId, digest: bytes, hashes: Sequence[bytes]) -> None:
        """The local file's content is `digest`, of these blocks."""
        self._drop_blocks(local_id, keep_signature=digest)
        if not hashes:
            return
        self._write(
            "INSERT OR REPLACE INTO recipe (local_id, digest, hashes) VALUES (?, ?, ?)",
            (local_id, digest, b"".join(hashes)),
        )
        self._sql.executemany(
            "INSERT OR REPLACE INTO block_place (prefix, local_id, position) VALUES (?, ?, ?)",
            ((_prefix(block), local_id, position) for position, block in enumerate(hashes)),
        )

    def blocks_of(self, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
        """The content hash and the block hashes of a local file, as last read; None when they are not known."""
        row = self._sql.execute(_GET_RECIPE, (local_id,)).fetchone()
        return None if row is None else (row[0], _split(row[1]))

    def find_block(self, block: bytes, limit: int = 4) -> list[tuple[LocalId, int]]:
        """Local files that held this block when they were last read, and its position in them. To be verified."""
        return [(LocalId(row[0]), row[1]) for row in self._sql.execute(_FIND_BLOCK, (_prefix(block), block, limit))]

    def put_signature(self, local_id: LocalId, digest: bytes, data: bytes) -> None:
        self._write(
            "INSERT OR REPLACE INTO signature (local_id, digest, data) VALUES (?, ?, ?)", (local_id, digest, data)
        )

    def signature(self, local_id: LocalId) -> tuple[bytes, bytes] | None:
        """(content hash, delta.py's signatures of that content)."""
        row = self._sql.execute(_GET_SIGNATURE, (local_id,)).fetchone()
        return None if row is None else (row[0], row[1])

    def _drop_blocks(self, local_id: int, *, keep_signature: bytes | None = None) -> None:
        row = self._sql.execute("SELECT hashes FROM recipe WHERE local_id = ?", (local_id,)).fetchone()
        if row is not None:
            self._sql.executemany(
                "DELETE FROM block_place WHERE prefix = ? AND local_id = ? AND position = ?",
                ((_prefix(block), local_id, position) for position, block in enumerate(_split(row[0]))),
            )
            self._write("DELETE FROM recipe WHERE local_id = ?", (local_id,))
        if keep_signature is None:
            self._write("DELETE FROM signature WHERE local_id = ?", (local_id,))
            self._write("DELETE FROM sending WHERE local_id = ?", (local_id,))

    # --- what is told to people ---------------------------------------------------------------------------------

    def add_conflict(self, path: str, copy_path: str, at: float) -> None:
        self._write("INSERT INTO conflict (path, copy_path, at) VALUES (?, ?, ?)", (path, copy_path, at))

    def drop_conflict(self, copy_path: str) -> None:
        self._write("DELETE FROM conflict WHERE copy_path = ?", (copy_path,))

    def conflicts(self) -> list[ConflictRow]:
        """Oldest first."""
        return [ConflictRow(*row) for row in self._sql.execute("SELECT path, copy_path, at FROM conflict ORDER BY id")]

    def set_problem(self, path: str, reason: str | None, source: str) -> None:
        """`source` is which part of the client says so and may take it back: with `reason` None."""
        if reason is None:
            self._write("DELETE FROM problem WHERE path = ? AND source = ?", (path, source))
        else:
            self._write(
                "INSERT OR REPLACE INTO problem (path, reason, source) VALUES (?, ?, ?)", (path, reason, source)
            )

    def drop_problems(self, source: str) -> None:
        self._write("DELETE FROM problem WHERE source = ?", (source,))

    def drop_problems_in(self, folder: str, source: str) -> None:
        """Of the entries that lie directly in the folder ("" is the root)."""
        prefix = folder + "/" if folder else ""
        found = self._write(
            "SELECT path FROM problem WHERE source = ? AND path >= ? AND path < ?",
            (source, prefix, prefix + "\U0010ffff"),
        ).fetchall()
        self._sql.executemany(
            "DELETE FROM problem WHERE path = ? AND source = ?",
            ((path, source) for (path,) in found if "/" not in path[len(prefix) :]),
        )

    def problems(self, limit: int = 1000) -> list[tuple[str, str]]:
        """(path, reason), by path."""
        return self._sql.execute("SELECT path, reason FROM problem ORDER BY path LIMIT ?", (limit,)).fetchall()

    def add_failure(self, at: float, path: str | None, message: str) -> None:
        """Into the list of the last errors."""
        self._write("INSERT INTO failure (at, path, message) VALUES (?, ?, ?)", (at, path, message))
        self._write("DELETE FROM failure WHERE id <= (SELECT max(id) FROM failure) - ?", (ERRORS_KEPT,))

    def failures(self, limit: int = 10) -> list[FailureRow]:
        """Newest first."""
        found = self._sql.execute("SELECT at, path, message FROM failure ORDER BY id DESC LIMIT ?", (limit,))
        return [FailureRow(*row) for row in found]

    def fact(self, name: str) -> str | None:
        row = self._sql.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str | None) -> None:
        if value is None:
            self._write("DELETE FROM fact WHERE name = ?", (name,))
        else:
            self._write("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))


class Reader:
    """What workers may read beside the control thread: the local tree as it was last written, and where blocks lie.
    Safe for any number of threads; every answer may be outdated when it arrives, so what is made of it is checked."""

    local_root: LocalId = LOCAL_ROOT

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = (
            None
            if store.path is None
            else peewee.SqliteDatabase(str(store.path), pragmas=[("query_only", 1)], timeout=30)
        )

    def _rows(self, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        # Fetched whole: an open statement would keep its thread's view of the database where it is.
        connection = self._store._sql if self._database is None else self._database.connection()  # type: ignore[no-untyped-call]  # peewee ships no types
        found: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
        return found

    def local(self, node_id: LocalId) -> LocalNode | None:
        rows = self._rows(_GET_LOCAL, (node_id,))
        return _local_of(rows[0]) if rows else None

    def local_named(self, parent_id: LocalId, key: str) -> list[LocalNode]:
        return [_local_of(row) for row in self._rows(_LOCAL_NAMED, (parent_id, key))]

    def local_children(self, parent_id: LocalId) -> list[LocalNode]:
        return [_local_of(row) for row in self._rows(_LOCAL_CHILDREN, (parent_id,))]

    def local_with_inode(self, inode: int) -> list[LocalNode]:
        return [_local_of(row) for row in self._rows(_LOCAL_INODE, (_wrapped(inode),))]

    def find_block(self, block: bytes, limit: int = 4) -> list[tuple[tuple[str, ...], int]]:
        """Paths of files that held the block when they were last read, and its position in them."""
        places = []
        for local_id, position in self._rows(_FIND_BLOCK, (_prefix(block), block, limit)):
            if (path := self._path(local_id)) is not None:
                places.append((path, position))
        return places

    def find_content(self, digest: bytes, limit: int = 3) -> list[SyncedContent]:
        """Files that had this content when both sides last agreed on them."""
        found = []
        for row in self._rows(_FIND_CONTENT, (digest, limit)):
            node = _synced_of(row)
            if (path := self._path(node.local_id)) is not None:
                found.append(SyncedContent(node.id, node.version, node.local_id, path))
        return found

    def blocks_of(self, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
        """Content hash and block hashes of a local file as it was last read."""
        rows = self._rows(_GET_RECIPE, (local_id,))
        return (rows[0][0], _split(rows[0][1])) if rows else None

    def signature(self, local_id: LocalId) -> tuple[bytes, bytes] | None:
        """Content hash and delta.py's signatures of what was last synced of a local file."""
        rows = self._rows(_GET_SIGNATURE, (local_id,))
        return (rows[0][0], rows[0][1]) if rows else None

    def _path(self, local_id: LocalId) -> tuple[str, ...] | None:
        names: list[str] = []
        node = self.local(local_id)
        while node is not None and node.parent_id is not None:
            names.append(node.name)
            node = self.local(node.parent_id)
        return None if node is None else tuple(reversed(names))

    def close(self) -> None:
        """Of the calling thread; the others' connections end with their threads."""
        if self._database is not None:
            self._database.close()


def open_store(path: Path) -> tuple[Store, Path | None]:
    """The store at `path`; a damaged file is renamed and replaced by an empty one: then also its new name."""
    try:
        return Store(path), None
    except StoreDamaged:
        aside = set_aside(path)
        return Store(path), aside


def set_aside(path: Path) -> Path:
    """Rename a damaged database, so that a person can look at it. Its journal goes with it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


# --- rows to values ---------------------------------------------------------------------------------------------


def _remote_of(row: tuple[Any, ...]) -> RemoteNode:
    node_id, parent_id, name, is_folder, version, size, digest, executable, mtime_ns, skipped = row
    kind = Kind.FOLDER if is_folder else Kind.FILE
    content = None if digest is None else Content(digest, bool(executable))
    return RemoteNode(node_id, parent_id, name, kind, version, size, content, mtime_ns, bool(skipped))


def _local_of(row: tuple[Any, ...]) -> LocalNode:
    node_id, parent_id, name, is_folder, size, mtime_ns, ctime_ns, inode, device, digest, executable, problem = row
    kind = Kind.FOLDER if is_folder else Kind.FILE
    stamp = Stamp(size, mtime_ns, ctime_ns, inode & _UINT64, device & _UINT64)
    content = None if digest is None else Content(digest, bool(executable))
    return LocalNode(node_id, parent_id, name, kind, stamp, content, problem)


def _synced_of(row: tuple[Any, ...]) -> SyncedNode:
    node_id, local_id, parent_id, name, is_folder, version, digest, executable = row
    content = None if digest is None else Content(digest, bool(executable))
    return SyncedNode(node_id, local_id, parent_id, name, Kind.FOLDER if is_folder else Kind.FILE, version, content)


def _content_columns(content: Content | None) -> tuple[bytes | None, bool]:
    return (None, False) if content is None else (content.digest, content.executable)


_UINT64: Final = (1 << 64) - 1


def _wrapped(number: int) -> int:
    """Inode and device numbers use all 64 bits; SQLite's integers are signed."""
    return number if number <= _INT64_MAX else number - (1 << 64)


def _clamped(nanoseconds: int | None) -> int | None:
    """A time beyond the year 2262 is kept as that: it orders work and decides nothing."""
    return None if nanoseconds is None else max(-_INT64_MAX, min(_INT64_MAX, nanoseconds))


def _prefix(block: bytes) -> int:
    return int.from_bytes(block[:8], "big", signed=True)


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _DIGEST_BYTES] for at in range(0, len(hashes), _DIGEST_BYTES)]
