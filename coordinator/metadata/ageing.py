"""What the retention job does to the database: old versions, the old trash, old journal entries.

The only place that deletes history: each transaction says so to the append-only triggers, is fenced by the job's lease,
and holds the namespace row, so that nothing is restored from under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from coordinator.metadata import db, leases
from coordinator.metadata.arrays import Bigints, Ints
from coordinator.metadata.values import FileId, Lease, NamespaceId

FileName = tuple[int, int]  # namespace and file id


@dataclass(frozen=True, slots=True)
class VersionAge:
    """One version that is not the current one."""

    namespace_id: NamespaceId
    file_id: FileId
    version: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class OldVersions:
    """One page of the crawl; `last` is where it goes on, None at the end."""

    versions: tuple[VersionAge, ...]
    last: FileName | None


@dataclass(frozen=True, slots=True)
class TrashedFile:
    namespace_id: NamespaceId
    id: FileId


@contextmanager
def _retention(lease: Lease, namespace_id: NamespaceId) -> Iterator[None]:
    """A transaction that may delete history of one namespace."""
    with db.transaction():
        leases.check(lease)
        db.run("SET LOCAL holdfast.retention = 'on'")
        db.rows("SELECT 1 FROM namespace WHERE id = %s FOR NO KEY UPDATE", (namespace_id,))
        yield


def list_old_versions(after: FileName, limit: int) -> OldVersions:
    """The earlier versions of the next `limit` files after the given one, by file and then oldest first."""
    files = db.rows(
        """SELECT f.namespace_id, f.id FROM file f WHERE (f.namespace_id, f.id) > (%s, %s)
           ORDER BY f.namespace_id, f.id LIMIT %s""",
        (*after, limit),
    )
    found = db.rows(
        """SELECT v.namespace_id, v.file_id, v.version, v.modified_at
           FROM unnest(%s::bigint[], %s::bigint[]) AS e(namespace_id, id)
           CROSS JOIN LATERAL (
               SELECT * FROM file f WHERE f.namespace_id = e.namespace_id AND f.id = e.id AND f.version > 1 LIMIT 1) f
           CROSS JOIN LATERAL (
               SELECT * FROM file_version v WHERE v.namespace_id = f.namespace_id AND v.file_id = f.id
                  AND v.version < f.version OFFSET 0) v
           ORDER BY v.namespace_id, v.file_id, v.version""",
        (Bigints(row[0] for row in files), Bigints(row[1] for row in files)),
    )
    last = (files[-1][0], files[-1][1]) if len(files) == limit else None
    return OldVersions(tuple(VersionAge(*row) for row in found), last)


def drop_versions(lease: Lease, namespace_id: NamespaceId, dropped: Collection[VersionAge]) -> int:
    """Remove versions of one namespace; how many. Whatever has become current meanwhile stays."""
    with _retention(lease, namespace_id):
        found = db.rows(
            """SELECT e.id, e.version FROM unnest(%s::bigint[], %s::integer[]) AS e(id, version)
               CROSS JOIN LATERAL (
                   SELECT 1 FROM file f WHERE f.namespace_id = %s AND f.id = e.id AND e.version < f.version
                   LIMIT 1) f""",
            (Bigints(age.file_id for age in dropped), Ints(age.version for age in dropped), namespace_id),
        )
        return _delete_versions(namespace_id, [row[0] for row in found], [row[1] for row in found])


def _delete_versions(namespace_id: NamespaceId, files: list[int], versions: list[int]) -> int:
    for table in ("version_block", "file_version"):
        count = db.run(
            f"""DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                    SELECT t.ctid FROM unnest(%s::bigint[], %s::integer[]) AS e(id, version) CROSS JOIN LATERAL (
                        SELECT ctid FROM {table} t WHERE t.namespace_id = %s AND t.file_id = e.id
                           AND t.version = e.version OFFSET 0) t))""",  # noqa: S608  # the two names above
            (Bigints(files), Ints(versions), namespace_id),
        )
    return count


# --- the trash --------------------------------------------------------------------------------------------------


def list_old_trash(older_than_s: float, limit: int) -> list[TrashedFile]:
    """What has lain in the trash for longer, oldest first within each namespace."""
    found = db.rows(
        """SELECT f.namespace_id, f.id FROM namespace n CROSS JOIN LATERAL (
               SELECT * FROM file f WHERE f.namespace_id = n.id AND f.deleted_at IS NOT NULL
                  AND f.deleted_at < now() - make_interval(secs => %s)
               ORDER BY f.deleted_at LIMIT %s) f
           LIMIT %s""",
        (older_than_s, limit, limit),
    )
    return [TrashedFile(*row) for row in found]


def purge(lease: Lease, trashed: TrashedFile, older_than_s: float, limit: int = 1000) -> tuple[int, bool]:
    """Remove up to `limit` rows of what was deleted, the deepest first: (how many, whether it is all gone).

    Repeat until it is. Stops where somebody has taken it out of the trash meanwhile.
    """
    with _retention(lease, trashed.namespace_id):
        still = db.row(
            """SELECT 1 FROM file f WHERE f.namespace_id = %s AND f.id = %s
               AND f.deleted_at < now() - make_interval(secs => %s)""",
            (trashed.namespace_id, trashed.id, older_than_s),
        )
        if still is None:
            return 0, True
        folder: int = trashed.id
        batch: list[int] = [folder]
        while batch:
            # Go down until a folder is found all of whose (first) children have none themselves.
            children = _children(trashed.namespace_id, folder, limit)
            if not children:
                break
            with_children = [child for child, is_folder in children if is_folder and _children_exist(trashed, child)]
            if not with_children:
                batch = [child for child, _ in children]
                break
            folder, batch = with_children[0], [with_children[0]]
        _delete_files(trashed.namespace_id, batch)
        return len(batch), batch == [trashed.id]


def _children(namespace_id: NamespaceId, folder: int, limit: int) -> list[tuple[int, bool]]:
    # Two questions: each has its own partial index.
    return db.rows(
        """(SELECT id, is_folder FROM file WHERE namespace_id = %(ns)s AND parent_id = %(folder)s
               AND deleted_at IS NULL LIMIT %(limit)s)
           UNION ALL
           (SELECT id, is_folder FROM file WHERE namespace_id = %(ns)s AND parent_id = %(folder)s
               AND deleted_at IS NOT NULL LIMIT %(limit)s)
           LIMIT %(limit)s""",
        {"ns": namespace_id, "folder": folder, "limit": limit},
    )


def _children_exist(trashed: TrashedFile, folder: int) -> bool:
    return bool(_children(trashed.namespace_id, folder, 1))


def _delete_files(namespace_id: NamespaceId, files: Sequence[int]) -> None:
    versions = db.rows(
        "SELECT file_id, version FROM file_version WHERE namespace_id = %s AND file_id = ANY (%s::bigint[])",
        (namespace_id, Bigints(files)),
    )
    _delete_versions(namespace_id, [row[0] for row in versions], [row[1] for row in versions])
    db.run(
        "DELETE FROM share_link WHERE namespace_id = %s AND file_id = ANY (%s::bigint[])",
        (namespace_id, Bigints(files)),
    )
    db.run("DELETE FROM file WHERE namespace_id = %s AND id = ANY (%s::bigint[])", (namespace_id, Bigints(files)))


# --- the journal ------------------------------------------------------------------------------------------------


def list_namespaces() -> list[NamespaceId]:
    return [row[0] for row in db.rows("SELECT id FROM namespace ORDER BY id")]


def trim_journal(lease: Lease, namespace_id: NamespaceId, older_than_s: float, limit: int = 5000) -> int:
    """Remove up to `limit` of the oldest entries that are older; how many. Cursors before them are answered `reset`."""
    with _retention(lease, namespace_id):
        (last,) = db.one(
            """SELECT max(j.seq) FROM (
                   SELECT seq, at FROM journal WHERE namespace_id = %s ORDER BY seq LIMIT %s) j
               WHERE j.at < now() - make_interval(secs => %s)""",
            (namespace_id, limit, older_than_s),
        )
        if last is None:
            return 0
        db.run("UPDATE namespace SET journal_floor = %s WHERE id = %s", (last, namespace_id))
        return db.run("DELETE FROM journal WHERE namespace_id = %s AND seq <= %s", (namespace_id, last))


def trim_notices(read_older_than_s: float, limit: int = 5000) -> int:
    """Remove notifications that were read long ago; how many."""
    return db.run(
        """DELETE FROM notification WHERE id IN (
               SELECT id FROM notification WHERE read_at < now() - make_interval(secs => %s) LIMIT %s)""",
        (read_older_than_s, limit),
    )
