"""The journal and the cursors into it: what changed in the namespaces that a session may read.

Guarantees: replaying all changes from an empty state gives the tree; a page repeats rather than omits (every entry is
a snapshot and may be applied twice); a parent is told before its children; cursors stay good for as long as the
journal is kept.

The first listing goes through a namespace by file id, not by path: a file that is moved while the pages are fetched
keeps its place in that order and so is neither missed nor needed twice.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from coordinator.metadata import db, sweeps
from coordinator.metadata.arrays import Bigints
from coordinator.metadata.cursors import Place, decode_cursor, encode_cursor
from coordinator.metadata.entries import ENTRY, entry_of, full_path
from coordinator.metadata.values import (
    ChangeOp,
    ChangePage,
    ChangeRow,
    DeviceId,
    Entry,
    FileId,
    Head,
    Mount,
    NamespaceId,
    Session,
)
from coordinator.protocol.types import Kind

_LOOK_BACK_MAX: Final = 100_000  # a cursor that is further behind is told to read first


def heads(namespace_ids: Collection[NamespaceId]) -> dict[NamespaceId, Head]:
    """Where each journal stands now, in one round trip."""
    found = db.rows(
        "SELECT id, epoch, journal_seq FROM namespace WHERE id = ANY (%s::bigint[])", (Bigints(namespace_ids),)
    )
    return {row[0]: Head(*row) for row in found}


def latest_cursor(session: Session) -> str:
    """A cursor that stands at this moment: only what changes from now on follows it."""
    now = heads(session.namespace_ids)
    return encode_cursor({head.namespace_id: Place(head.epoch, head.seq) for head in now.values()})


def is_behind(session: Session, cursor: str, now: Mapping[NamespaceId, Head]) -> bool:
    """Whether `changes` would have something to say after `cursor`; pure, no round trip. Raises BadCursor.

    `now` may lack namespaces that the caller knows nothing of yet. True also when memberships differ from the cursor's.
    """
    places = decode_cursor(cursor)
    if set(places) != set(session.namespace_ids):
        return True
    for namespace_id, place in places.items():
        head = now.get(namespace_id)
        if place.listed is not None or (head is not None and (head.epoch, head.seq) != (place.epoch, place.seq)):
            return True
    return False


def has_changed(namespace_id: NamespaceId, file_id: FileId, cursor: str) -> bool:
    """Whether anything at or below `file_id` changed after `cursor`; also when that can no longer be told. What is only
    announced does not count. The caller holds the namespace's row. Raises BadCursor.
    """
    place = decode_cursor(cursor).get(namespace_id)
    epoch, head, floor = db.one(
        "SELECT epoch, journal_seq, journal_floor FROM namespace WHERE id = %s", (namespace_id,)
    )
    if place is None or place.listed is not None or place.epoch != epoch or not floor <= place.seq <= head:
        return True
    if head - place.seq > _LOOK_BACK_MAX:
        return True
    (found,) = db.one(
        """WITH RECURSIVE told AS (
               SELECT j.file_id, j.parent_id FROM journal j
               WHERE j.namespace_id = %(namespace)s AND j.seq > %(seq)s AND j.op NOT IN ('pending', 'withdrawn')
           ), up AS (
               SELECT t.id FROM (SELECT file_id AS id FROM told UNION SELECT parent_id FROM told) t
               WHERE t.id IS NOT NULL
               UNION
               SELECT f.parent_id FROM up u CROSS JOIN LATERAL (
                   SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = u.id LIMIT 1) f
               WHERE f.parent_id IS NOT NULL
           )
           SELECT EXISTS (SELECT 1 FROM up WHERE id = %(file)s)""",
        {"namespace": namespace_id, "seq": place.seq, "file": file_id},
    )
    return bool(found)


def raise_epochs() -> int:
    """After the database was restored from a backup: every cursor given out so far is answered with a reset, and
    nothing is collected before a person has looked. How many namespaces there are."""
    with db.transaction():
        sweeps.hold("the database was restored from a backup")
        return db.run("UPDATE namespace SET epoch = epoch + 1")


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Page:
    """The page in the making; `places` is where each namespace's reader stands after it."""

    limit: int
    places: dict[NamespaceId, Place]
    changes: list[ChangeRow] = field(default_factory=list)
    has_more: bool = False

    @property
    def room(self) -> int:
        return max(0, self.limit - len(self.changes))


def changes(session: Session, cursor: str | None, limit: int) -> ChangePage:
    """Up to about `limit` changes after `cursor`; without one the whole tree as "put" and "folder" entries.

    A namespace that the caller may read since the cursor was made is delivered as a whole; one that it may not read any
    more ends with a "delete" of its root (path "", file id 0). A cursor of another namespace epoch, or from beyond the
    journal, is answered with `reset` and a cursor to start again with. Raises BadCursor.
    """
    before = decode_cursor(cursor) if cursor else {}
    mounts = {mount.namespace_id: mount for mount in session.mounts}
    page = _Page(limit, {})
    page.changes += (_lost(namespace_id) for namespace_id in sorted(set(before) - set(mounts)))
    # The heads are read first: whatever is written while the rows below are fetched follows in the next page.
    bounds = db.rows(
        "SELECT id, epoch, journal_seq, journal_floor FROM namespace WHERE id = ANY (%s::bigint[]) ORDER BY id",
        (Bigints(mounts),),
    )
    for namespace_id, epoch, head_seq, floor in bounds:
        place = before.get(namespace_id)
        if place is None:
            place = Place(epoch, head_seq, FileId(0))
        elif place.epoch != epoch or not floor <= place.seq <= head_seq:
            return ChangePage((), encode_cursor({}), has_more=True, reset=True)
        _read_namespace(page, mounts[namespace_id], place, head_seq)
    return ChangePage(tuple(page.changes), encode_cursor(page.places), page.has_more, reset=False)


def _read_namespace(page: _Page, mount: Mount, place: Place, head_seq: int) -> None:
    """Fill the page with what follows `place` in one namespace and note how far it came."""
    if place.listed is not None:
        place = _list(page, mount, place)
    if place.listed is None and place.seq < head_seq:
        place = _follow(page, mount, place, head_seq)
    page.places[mount.namespace_id] = place
    page.has_more |= place.listed is not None or place.seq < head_seq


def _lost(namespace_id: NamespaceId) -> ChangeRow:
    """The caller is no member any more: its copy of the tree ends.

    Nothing is looked up for it: a cursor is no proof that its holder ever was a member, anybody can make one.
    """
    return ChangeRow(0, namespace_id, ChangeOp.DELETE, FileId(0), None, "", "", None, None, None)


def _follow(page: _Page, mount: Mount, place: Place, head_seq: int) -> Place:
    """Journal entries after `place`, up to the head that stood when the page began."""
    if not page.room:
        return place
    found = db.rows(
        """SELECT j.seq, j.op, j.upload_id, j.device_id, j.path, j.namespace_id, j.file_id, j.parent_id, j.name,
                  j.is_folder, j.version, j.size_bytes, j.content_hash, j.modified_at, j.client_modified_at,
                  (SELECT a.email FROM user_account a WHERE a.id = j.modified_by), j.executable
           FROM journal j WHERE j.namespace_id = %s AND j.seq > %s AND j.seq <= %s ORDER BY j.seq LIMIT %s""",
        (mount.namespace_id, place.seq, head_seq, page.room),
    )
    page.changes += (_change(mount, row) for row in found)
    return Place(place.epoch, found[-1][0] if found else head_seq)


def _change(mount: Mount, row: db.Row) -> ChangeRow:
    seq, op_name, upload_id, device_id, path = row[:5]
    op = ChangeOp(op_name)
    entry = entry_of(row[5:], full_path(mount.path, path))
    return ChangeRow(
        seq=seq,
        namespace_id=mount.namespace_id,
        op=op,
        file_id=entry.id,
        parent_id=entry.parent_id,
        name=_name(mount, entry),
        path=entry.path,
        entry=None if op in (ChangeOp.DELETE, ChangeOp.WITHDRAWN) else _as_seen(mount, entry, op),
        upload_id=upload_id,
        by_device=DeviceId(device_id) if device_id is not None else None,
    )


def _as_seen(mount: Mount, entry: Entry, op: ChangeOp) -> Entry:
    return replace(entry, name=_name(mount, entry), pending=op is ChangeOp.PENDING)


def _name(mount: Mount, entry: Entry) -> str:
    """A root is called what the caller mounts it as."""
    return mount.path.rpartition("/")[2] if entry.id == mount.root_id else entry.name


# --- the first listing ------------------------------------------------------------------------------------------


def _list(page: _Page, mount: Mount, place: Place) -> Place:
    """Live files and folders in the order of their ids, each after its parents; where the listing stands then."""
    if not page.room:
        return place
    room = page.room
    found = db.rows(
        # What is deleted is filtered here: a condition on it would tempt the planner to another index and a sort.
        f"""SELECT f.deleted_at IS NOT NULL, {ENTRY} FROM file f WHERE f.namespace_id = %s AND f.id > %s
            ORDER BY f.id LIMIT %s""",
        (mount.namespace_id, place.listed, room),
    )
    live = [row[1:] for row in found if not row[0]]
    folders = _ancestors(mount, {row[2] for row in live if row[2] is not None})
    told: set[FileId] = set()
    for row in live:
        chain = _chain(row, folders)
        if chain is None:
            continue  # lies in a deleted folder
        path = ""
        for above in chain:
            path = f"{path}/{above[3]}" if above[2] is not None else ""
            # A parent with a smaller id has been told already; one with a greater id (moved here, or made later) is
            # told now, and a second time when its own turn comes.
            if above is row or (above[1] > row[1] and above[1] not in told):
                told.add(above[1])
                page.changes.append(_listed(mount, above, path))
    if len(found) < room:
        return Place(place.epoch, place.seq)
    return Place(place.epoch, place.seq, found[-1][2])


def _ancestors(mount: Mount, ids: Collection[FileId]) -> dict[FileId, tuple[db.Row, bool]]:
    """The folders `ids` and all above them: ENTRY's columns, and whether it is deleted."""
    found = db.rows(
        f"""WITH RECURSIVE up AS (
                SELECT f.* FROM unnest(%(ids)s::bigint[]) AS e(id) CROSS JOIN LATERAL (
                    SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = e.id LIMIT 1) f
                UNION
                SELECT f.* FROM up u CROSS JOIN LATERAL (
                    SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = u.parent_id LIMIT 1) f
            )
            SELECT f.deleted_at IS NOT NULL, {ENTRY} FROM up f""",
        {"ids": Bigints(sorted(ids)), "namespace": mount.namespace_id},
    )
    return {row[2]: (row[1:], row[0]) for row in found}


def _chain(row: db.Row, folders: Mapping[FileId, tuple[db.Row, bool]]) -> list[db.Row] | None:
    """The rows from the root down to `row`; None when one of them is deleted, or was purged just now."""
    chain = [row]
    while chain[-1][2] is not None:
        above, deleted = folders.get(chain[-1][2], ((), True))
        if deleted:
            return None
        chain.append(above)
    return chain[::-1]


def _listed(mount: Mount, row: db.Row, path: str) -> ChangeRow:
    plain = entry_of(row, full_path(mount.path, path))
    op = ChangeOp.FOLDER if plain.kind is Kind.FOLDER else ChangeOp.PUT
    entry = _as_seen(mount, plain, op)
    return ChangeRow(0, mount.namespace_id, op, entry.id, entry.parent_id, entry.name, entry.path, entry, None, None)
