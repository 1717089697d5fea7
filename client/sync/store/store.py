"""The three trees of a synced folder, and what goes with them, in one SQLite file.

Guarantees: which nodes differ (`dirty_*`) is kept up to date inside the transaction that changes them. Memory does not
grow with the trees. A file that is no database any more is set aside and an empty one takes its place: then everything
is new on both sides and is adopted by its hash, and nothing is deleted.
Does not: look at the disk or the service, or decide anything. The control thread owns it; workers have a `Reader`.

An older database (database.py says when) is harmless because the trees are observations: a scan and the change feed
bring them up to date, and where both sides are equal the planner only records it. The one step that must be known
before it is done is taking a file out of its pair (`detach`), so that is durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from client.sync.store.blocks import Blocks
from client.sync.store.database import Database, StoreDamaged, set_aside
from client.sync.store.lookups import LOCAL_ROOT, Lookups, clamped, wrapped
from client.sync.store.told import Told
from client.sync.store.uploads import Uploads
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

UNWRITTEN_NS: Final = 60 * 10**9  # how long a kernel may keep written bytes in memory only, doubled

_NEW_ROOT: Final = LocalNode(LOCAL_ROOT, None, "", Kind.FOLDER, Stamp(0, 0, 0, 0, 0))  # until it is looked at

# ruff: noqa: S608  # the SQL is composed of this module's constants only
_BELOW: Final = """WITH RECURSIVE below(id) AS (
        SELECT ? UNION SELECT t.id FROM {table} t JOIN below b ON t.parent_id = b.id)
    SELECT id FROM below"""
_BELOW_REMOTE: Final = _BELOW.format(table="remote")
_BELOW_LOCAL: Final = _BELOW.format(table="local")
_LAST_LOCAL_ID: Final = (
    "SELECT max((SELECT coalesce(max(id), 1) FROM local), (SELECT coalesce(max(local_id), 1) FROM synced),"
    " (SELECT coalesce(max(local_id), 1) FROM sending))"
)

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


class Store(Lookups):
    """The trees of one synced folder; `blocks`, `uploads` and `told` are written in its transactions, too.
    `remote_root` is 0 until `set_remote_root` has been called once.

    `_touched_*` are the ids whose difference is computed anew at the end of the outermost transaction.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or create the file (None: in memory, for tests). Raises StoreDamaged."""
        self.path = path
        self.database = Database(path)
        super().__init__(self.database)
        self.blocks = Blocks(self.database)
        self.uploads = Uploads(self.database)
        self.told = Told(self.database)
        self._touched_remote: set[int] = set()
        self._touched_local: set[int] = set()
        with self.database.transaction():
            self.database.write("CREATE TEMP TABLE touched_remote (id INTEGER PRIMARY KEY)")
            self.database.write("CREATE TEMP TABLE touched_local (id INTEGER PRIMARY KEY)")
        self.remote_root = RemoteId(int(self.fact("remote_root") or 0))
        (last_id,) = self.database.row(_LAST_LOCAL_ID) or (LOCAL_ROOT,)
        self._last_local_id = int(last_id)
        if self.local(self.local_root) is None:
            with self.transaction():
                self.put_local(_NEW_ROOT)

    def close(self) -> None:
        self.database.close()

    # --- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Everything inside is written as a whole. Only the outermost one counts; `durable`: it survives power loss
        when this returns."""
        outermost = not self.database.in_transaction
        with self.database.transaction(durable=durable):
            try:
                yield
                if outermost:
                    self._update_dirty()
            finally:
                if outermost:
                    self._touched_remote.clear()
                    self._touched_local.clear()

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
                self.database.write(
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
            self.database.write(f"DELETE FROM {name}")
            self.database.write_many(f"INSERT INTO {name} VALUES (?)", ((node_id,) for node_id in sorted(touched)))
            self.database.write(clean)
            self.database.write(mark, {"root": root})

    # --- single values ------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        row = self.database.row("SELECT value FROM fact WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str | None) -> None:
        if value is None:
            self.database.write("DELETE FROM fact WHERE name = ?", (name,))
        else:
            self.database.write("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))

    # --- nodes --------------------------------------------------------------------------------------------------

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
        self.database.write(
            "INSERT OR REPLACE INTO remote (id, parent_id, name, key, is_folder, version, size, digest, executable,"
            " mtime_ns, skipped) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(node.id, node.parent_id, node.name, name_key(node.name), node.kind is Kind.FOLDER, node.version),
                *(node.size, digest, executable, clamped(node.mtime_ns), node.skipped),
            ),
        )
        self._touched_remote.add(node.id)

    def drop_remote(self, node_id: RemoteId) -> list[RemoteId]:
        """The node and everything below it is not there any more. Returns them."""
        gone = [RemoteId(row[0]) for row in self.database.rows(_BELOW_REMOTE, (node_id,))]
        self.database.write_many("DELETE FROM remote WHERE id = ?", ((found,) for found in gone))
        for found in gone:
            self.uploads.forget_announced(found)
        self._touched_remote.update(gone)
        return gone

    def put_local(self, node: LocalNode) -> None:
        stamp = node.stamp
        digest, executable = _content_columns(node.content)
        self.database.write(
            "INSERT OR REPLACE INTO local (id, parent_id, name, key, is_folder, size, mtime_ns, ctime_ns, inode,"
            " device, digest, executable, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(node.id, node.parent_id, node.name, name_key(node.name), node.kind is Kind.FOLDER, stamp.size),
                *(clamped(stamp.mtime_ns), clamped(stamp.ctime_ns), wrapped(stamp.inode), wrapped(stamp.device)),
                *(digest, executable, node.problem),
            ),
        )
        self._touched_local.add(node.id)
        self._last_local_id = max(self._last_local_id, node.id)

    def drop_local(self, node_id: LocalId) -> None:
        """The node and everything below it is not there any more; whether an upload of it has arrived is still open."""
        assert node_id != self.local_root, "the root is only ever unknown, never gone"
        gone = [row[0] for row in self.database.rows(_BELOW_LOCAL, (node_id,))]
        self.database.write_many("DELETE FROM local WHERE id = ?", ((found,) for found in gone))
        for found in gone:
            self.blocks.forget(found)
        self._touched_local.update(gone)

    def ignore_local(self, node_id: LocalId) -> None:
        """The node and everything below it is there and is none of ours any more: its pairs are forgotten as well."""
        for row in self.database.rows(_BELOW_LOCAL, (node_id,)):
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
        self.database.write(
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
            self.uploads.forget_announced(node.id, node.version)

    def drop_synced(self, node_id: RemoteId) -> None:
        """Forget that the two belonged together."""
        before = self.synced(node_id)
        if before is None:
            return
        assert node_id != self.remote_root, "the roots always belong together"
        self.database.write("DELETE FROM synced WHERE id = ?", (node_id,))
        self._touched_remote.add(node_id)
        self._touched_local.add(before.local_id)
        if before.kind is Kind.FOLDER:
            self._touch_children(node_id)

    def drop_all_synced(self) -> None:
        """Forget every pair but the roots': then all is met as new, adopted where equal, and nothing is deleted."""
        with self.transaction():
            rows = self.database.rows("SELECT id, local_id FROM synced WHERE id <> ?", (self.remote_root,))
            self._touched_remote.update(row[0] for row in rows)
            self._touched_local.update(row[1] for row in rows)
            self.database.write("DELETE FROM synced WHERE id <> ?", (self.remote_root,))
            self.uploads.settle_all()

    def detach(self, node_id: LocalId) -> None:
        """Forget the local node's pair, durably, before it is given another name: otherwise that name would be taken
        for the person's wish for the file on the service as well."""
        with self.transaction(durable=True):
            if (pair := self.synced_local(node_id)) is not None:
                self.drop_synced(pair.id)

    def _touch_children(self, folder_id: RemoteId) -> None:
        """Where a synced child's place is depends on which local folder its parent belongs to."""
        self._touched_local.update(
            row[0] for row in self.database.rows("SELECT local_id FROM synced WHERE parent_id = ?", (folder_id,))
        )

    # --- a whole listing (remote/side.py) -----------------------------------------------------------------------

    def begin_listing(self) -> None:
        """From now on every `put_remote` of the listing is noted with `note_listed`."""
        self.database.write("DELETE FROM listed")

    def note_listed(self, node_id: RemoteId) -> None:
        self.database.write("INSERT OR IGNORE INTO listed VALUES (?)", (node_id,))

    def end_listing(self) -> None:
        """Forget what the listing did not tell. Nothing is deleted anywhere: a pair is kept only where the service
        holds what both sides agreed on, otherwise the two sides meet as if each were new."""
        self.database.write("INSERT OR IGNORE INTO listed VALUES (?)", (self.remote_root,))
        unlisted = "SELECT id FROM remote WHERE id NOT IN (SELECT id FROM listed)"
        self._touched_remote.update(row[0] for row in self.database.rows(unlisted))
        self.database.write(f"DELETE FROM remote WHERE id IN ({unlisted})")
        self.uploads.forget_unknown()
        doubtful = self.database.rows(
            """SELECT s.id FROM synced s LEFT JOIN remote r ON r.id = s.id
               WHERE s.id <> ? AND (r.id IS NULL OR r.is_folder <> s.is_folder OR r.digest IS NOT s.digest
                                    OR (r.is_folder AND r.name <> s.name))""",
            (self.remote_root,),
        )
        for (node_id,) in doubtful:
            self.drop_synced(RemoteId(node_id))
        self.database.write("DELETE FROM listed")


def open_store(path: Path) -> tuple[Store, Path | None]:
    """The store at `path`; a damaged file is renamed and replaced by an empty one: then also its new name."""
    try:
        return Store(path), None
    except StoreDamaged:
        aside = set_aside(path)
        return Store(path), aside


def _content_columns(content: Content | None) -> tuple[bytes | None, bool]:
    return (None, False) if content is None else (content.digest, content.executable)
