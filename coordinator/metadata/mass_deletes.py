"""Very many deletes in one go: noticed whatever client made them, told to everybody concerned, undone with one command.

A sync client asks before it deletes much (its breaker), but not every client does, and a person may say yes by mistake.
Nothing is refused here: what is deleted lies in the trash anyway. All that is needed is to notice it while it lies
there, and to find exactly that again.
"""

from __future__ import annotations

from typing import Final

from coordinator.metadata import db, notifications
from coordinator.metadata.arrays import Bigints
from coordinator.metadata.entries import full_path
from coordinator.metadata.files import paths_of
from coordinator.metadata.values import FileId, MassDelete, NamespaceId, Session
from coordinator.protocol.errors import NotFound
from coordinator.protocol.types import Role

FILES_MAX: Final = 50  # so many in one go are nobody's mistake that needs more than the trash
PAUSE: Final = "10 minutes"  # after a longer one it is another go
_FORGET: Final = "1 day"  # what was not told
_COMPARE_AGAIN: Final = 1.25  # so many times as many as when they were compared last
_LISTED_MAX: Final = 1000


def note(namespace_id: NamespaceId, session: Session, files: int) -> None:
    """In the transaction that deleted `files` files and holds the namespace: tells when that, with what the same device
    has deleted just before, is more than FILES_MAX and more than what is left."""
    if files == 0:
        return
    going_on = db.row(
        f"""UPDATE mass_delete SET files = files + %(files)s, last_at = clock_timestamp() WHERE id = (
                SELECT id FROM mass_delete WHERE namespace_id = %(namespace)s AND user_id = %(user)s
                   AND device_id IS NOT DISTINCT FROM %(device)s AND undone_at IS NULL
                   AND last_at > clock_timestamp() - interval '{PAUSE}' ORDER BY id DESC LIMIT 1)
            RETURNING id, files, compared, told_at IS NOT NULL""",  # noqa: S608  # a constant of this module
        {
            "namespace": namespace_id,
            "user": session.user_id,
            "device": session.device_id,
            "files": files,
        },
    ) or _begin(namespace_id, session, files)
    number, total, compared, told = going_on
    if told or total <= FILES_MAX or total < compared * _COMPARE_AGAIN:
        return
    if _count_left(namespace_id, total) >= total:
        db.run("UPDATE mass_delete SET compared = %s WHERE id = %s", (total, number))
        return
    db.run("UPDATE mass_delete SET told_at = clock_timestamp() WHERE id = %s", (number,))
    concerned = db.rows("SELECT user_id FROM membership WHERE namespace_id = %s", (namespace_id,))
    notifications.add(
        [row[0] for row in concerned],
        "mass_delete",
        f"More than half of the files were deleted, by {session.email}, {total} up to now. They lie in the trash."
        f" If that was a mistake, stop what deletes them and run: holdfast undelete {number}",
    )


def _begin(namespace_id: NamespaceId, session: Session, files: int) -> db.Row:
    db.run(
        f"""DELETE FROM mass_delete WHERE namespace_id = %s AND told_at IS NULL
            AND last_at < clock_timestamp() - interval '{_FORGET}'""",  # noqa: S608  # a constant of this module
        (namespace_id,),
    )
    return db.one(
        """INSERT INTO mass_delete (namespace_id, user_id, device_id, began_at, last_at, files)
           VALUES (%s, %s, %s, now(), clock_timestamp(), %s) RETURNING id, files, compared, false""",
        (namespace_id, session.user_id, session.device_id, files),
    )


def _count_left(namespace_id: NamespaceId, limit: int) -> int:
    """How many files the tree still has, counted up to `limit`."""
    (count,) = db.one(
        """WITH RECURSIVE below AS (
               SELECT f.id, f.is_folder FROM file f WHERE f.namespace_id = %(namespace)s AND f.parent_id IS NULL
               UNION ALL
               SELECT f.id, f.is_folder FROM below b CROSS JOIN LATERAL (
                   SELECT * FROM file c WHERE c.namespace_id = %(namespace)s AND c.parent_id = b.id
                      AND c.deleted_at IS NULL OFFSET 0) f
               WHERE b.is_folder
           )
           SELECT count(*) FROM (SELECT 1 FROM below WHERE NOT is_folder LIMIT %(limit)s) counted""",
        {"namespace": namespace_id, "limit": limit},
    )
    return int(count)


def list_told(session: Session) -> list[MassDelete]:
    """Those that were told, in all that the caller may write to, newest first."""
    found = db.rows(
        """SELECT m.id, m.namespace_id, a.email, coalesce(d.name, ''), m.began_at, m.last_at, m.files, m.undone_at
           FROM mass_delete m JOIN user_account a ON a.id = m.user_id LEFT JOIN device d ON d.id = m.device_id
           WHERE m.told_at IS NOT NULL AND m.namespace_id = ANY (%s::bigint[]) ORDER BY m.id DESC LIMIT %s""",
        (Bigints(sorted(_writable(session))), _LISTED_MAX),
    )
    return [MassDelete(*row) for row in found]


def list_deleted(session: Session, number: int, limit: int) -> list[tuple[FileId, str]]:
    """The last `limit` of what that mass delete has put into the trash and what still lies there, with where it lay.
    What was deleted last comes first, since folders are deleted after what is in them. Raises NotFound."""
    namespaces = _writable(session)
    row = db.row(
        """SELECT namespace_id, user_id, began_at, last_at FROM mass_delete
           WHERE id = %s AND told_at IS NOT NULL AND namespace_id = ANY (%s::bigint[])""",
        (number, Bigints(sorted(namespaces))),
    )
    if row is None:
        raise NotFound(what="mass delete")
    namespace_id, user_id, began_at, last_at = row
    found = db.rows(
        """SELECT id, parent_id, name FROM file WHERE namespace_id = %s AND deleted_at BETWEEN %s AND %s
           AND deleted_by = %s ORDER BY deleted_at DESC, id DESC LIMIT %s""",
        (namespace_id, began_at, last_at, user_id, limit),
    )
    above = paths_of([(namespace_id, FileId(parent_id)) for _, parent_id, _ in found])
    return [
        (FileId(file_id), full_path(namespaces[namespace_id], f"{above.get((namespace_id, parent_id), '')}/{name}"))
        for file_id, parent_id, name in found
    ]


def end(number: int) -> None:
    """All of it is undone; what the same device deletes from now on is another go."""
    db.run("UPDATE mass_delete SET undone_at = clock_timestamp() WHERE id = %s", (number,))


def _writable(session: Session) -> dict[NamespaceId, str]:
    """Where the caller's tree has them."""
    return {mount.namespace_id: mount.path for mount in session.mounts if mount.role is not Role.VIEWER}
