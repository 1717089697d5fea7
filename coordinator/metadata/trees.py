"""Folders and the tree's shape: make, move, copy, delete, restore.

Guarantees: each is one transaction under the namespace's row lock, decided by file ids, with its journal entries; no
byte moves. Two moves at once can never make a cycle. Locks are taken in the order namespace, account.
The caller has checked that the session may write there.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.metadata import db, journal, mass_deletes
from coordinator.metadata.arrays import Texts
from coordinator.metadata.entries import ENTRY, check_walk, entry_of, full_path, keys_of
from coordinator.metadata.values import ChangeOp, Entry, FileId, Head, Removed, Session, Target, Written
from coordinator.protocol.errors import (
    BadPath,
    BadRequest,
    IsAFolder,
    MoveIntoItself,
    NameTaken,
    NotAFolder,
    NotAllowed,
    NotFound,
    QuotaExceeded,
    TooLarge,
    VersionConflict,
)
from coordinator.protocol.names import DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX
from coordinator.protocol.types import Kind

COPY_FILES_MAX: Final = 100_000
RESTORED_NAMES_MAX: Final = 100


@dataclass(slots=True)
class _Namespace:
    """A namespace whose row this transaction holds; `seq` counts on with every journal entry."""

    id: int
    account_id: int
    epoch: int
    seq: int

    def head(self) -> Head:
        db.run("UPDATE namespace SET journal_seq = %s WHERE id = %s", (self.seq, self.id))
        return Head(self.id, self.epoch, self.seq)  # type: ignore[arg-type]  # as it came from the row


@dataclass(frozen=True, slots=True)
class _Place:
    """What a walk along a target's names has found."""

    id: FileId
    depth: int
    is_folder: bool
    path: str
    live: bool


def _lock(target: Target) -> _Namespace:
    return _Namespace(
        *db.one(
            "SELECT id, account_id, epoch, journal_seq FROM namespace WHERE id = %s FOR NO KEY UPDATE",
            (target.namespace_id,),
        )
    )


def _walk(target: Target, names: tuple[str, ...], trash: bool = False) -> _Place:
    return _Place(
        *db.one(
            "SELECT id, depth, is_folder, path, live FROM walk(%s, %s, %s::text[], %s)",
            (target.namespace_id, target.root_id, Texts(keys_of(names)), trash),
        )
    )


def _find(target: Target) -> _Place:
    place = _walk(target, target.names)
    check_walk(target, place.depth, place.is_folder)
    return place


def _entry(target: Target, file_id: int, path: str) -> Entry:
    row = db.one(f"SELECT {ENTRY} FROM file f WHERE f.namespace_id = %s AND f.id = %s", (target.namespace_id, file_id))
    return entry_of(row, full_path(target.mount_path, path))


def _journal(space: _Namespace, op: ChangeOp, file_id: int, path: str, session: Session) -> None:
    """A snapshot of the file row as it is now."""
    space.seq += 1
    db.run(
        """INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                                content_hash, executable, modified_at, client_modified_at, modified_by, device_id)
           SELECT f.namespace_id, %s, %s, f.id, f.parent_id, f.name, %s, f.is_folder, f.version, f.size_bytes,
                  f.content_hash, f.executable, f.modified_at, f.client_modified_at,
                  coalesce(f.deleted_by, f.modified_by), %s
           FROM file f WHERE f.namespace_id = %s AND f.id = %s""",
        (space.seq, op.value, path, session.device_id, space.id, file_id),
    )


def _charge(space: _Namespace, size_bytes: int) -> None:
    """Count `size_bytes` (negative: give back) for the namespace's owner. Raises QuotaExceeded."""
    if size_bytes == 0:
        return
    quota, used, pending = db.one(
        "SELECT quota_bytes, used_bytes, pending_bytes FROM user_account WHERE id = %s FOR NO KEY UPDATE",
        (space.account_id,),
    )
    if size_bytes > 0 and used + pending + size_bytes > quota:
        raise QuotaExceeded(used=used + pending, quota=quota)
    db.run("UPDATE user_account SET used_bytes = %s WHERE id = %s", (used + size_bytes, space.account_id))


def _measure(target: Target, file_id: int) -> tuple[int, int, int]:
    """Entries, files and bytes of a live subtree."""
    count, files, size = db.one(
        "SELECT o_count, o_files, o_bytes FROM measure_subtree(%s, %s)", (target.namespace_id, file_id)
    )
    return count, files, size


# --- folders ----------------------------------------------------------------------------------------------------


def create_folder(session: Session, target: Target, parents: bool = False, parent_id: FileId | None = None) -> Written:
    """`parents`: make what is missing above, accept an existing one. Raises NameTaken, NotAFolder, NotFound, and
    VersionConflict where its parent is not `parent_id`."""
    with db.transaction():
        space = _lock(target)
        if parent_id is not None and target.names:
            _check_parent(_walk(target, target.names[:-1]), len(target.names) - 1, parent_id)
        place = _walk(target, target.names)
        if place.depth == len(target.names):
            if not (parents and place.is_folder):
                raise NameTaken()
            return Written(_entry(target, place.id, place.path), space.head())
        if not place.is_folder:
            raise NotAFolder()
        if place.depth < len(target.names) - 1 and not parents:
            raise NotFound(what="folder above it")
        return _make_folders(session, space, target, target.names)


def _make_folders(session: Session, space: _Namespace, target: Target, names: tuple[str, ...]) -> Written:
    space.seq, folder_id, path = db.one(
        "SELECT p_seq, o_id, o_path FROM make_folders(%s, %s, %s::text[], %s::text[], %s, %s, clock_timestamp(), %s)",
        (
            target.namespace_id,
            target.root_id,
            Texts(names),
            Texts(keys_of(names)),
            session.user_id,
            session.device_id,
            space.seq,
        ),
    )
    if folder_id is None:
        raise NotAFolder()
    return Written(_entry(target, folder_id, path), space.head())


# --- move and copy ----------------------------------------------------------------------------------------------


def move(  # noqa: PLR0917 - a move and its guards, passed through the door
    session: Session,
    source: Target,
    to: Target,
    base_version: int | None = None,
    replace: bool = False,
    file_id: FileId | None = None,
    parent_id: FileId | None = None,
) -> Written:
    """Rename or move within one namespace; `replace` lets a file take the place of a file (which goes to the trash).

    Guards: `base_version` and `file_id` of the source, `parent_id` of the target folder; where one does not hold
    VersionConflict is raised, unless `file_id` has been moved there already, which is an answer like the first.
    Raises NotFound, NameTaken, NotAFolder, MoveIntoItself, BadPath (too deep or too long below), NotAllowed (the root),
    BadRequest (between two namespaces: copy and delete instead).
    """
    _check_ends(source, to)
    with db.transaction():
        space = _lock(source)
        found = _walk(source, source.names)
        if file_id is not None and (found.depth < len(source.names) or found.id != file_id):
            return Written(_moved_already(source, found, to, file_id, parent_id), space.head())
        check_walk(source, found.depth, found.is_folder)
        before = _entry(source, found.id, found.path)
        _check_base(before, base_version)
        parent = _new_parent(to, parent_id)
        if found.is_folder and _is_within(to, parent.id, found.id):
            raise MoveIntoItself()
        path = f"{parent.path}/{to.names[-1]}"
        if before.parent_id == parent.id and before.name == to.names[-1]:
            return Written(before, space.head())
        _check_reach(space, found.id, found.is_folder, full_path(to.mount_path, path))
        _clear_place(session, space, to, before, replace=replace)
        db.run(
            "UPDATE file SET parent_id = %s, name = %s, name_key = %s WHERE namespace_id = %s AND id = %s",
            (parent.id, to.names[-1], keys_of(to.names)[-1], space.id, found.id),
        )
        _journal(space, ChangeOp.MOVE, found.id, path, session)
        return Written(_entry(to, found.id, path), space.head())


def _moved_already(source: Target, found: _Place, to: Target, file_id: FileId, parent_id: FileId | None) -> Entry:
    """What a repeated move by id is answered with; raises what stands against it where it was not made."""
    there = _walk(to, to.names)
    if there.depth == len(to.names) and there.id == file_id:
        entry = _entry(to, file_id, there.path)
        if entry.name == to.names[-1] and parent_id in (None, entry.parent_id):
            return entry
    check_walk(source, found.depth, found.is_folder)
    raise VersionConflict(current_version=None, guard="id")


def copy(
    session: Session, source: Target, to: Target, base_version: int | None = None, replace: bool = False
) -> Written:
    """Copy a file, or a folder with everything below it (at most 100,000 files), by reference: zero bytes.

    Raises as `move` does, and QuotaExceeded, TooLarge, VersionConflict (`base_version`).
    """
    _check_ends(source, to)
    with db.transaction():
        space = _lock(source)
        found = _find(source)
        before = _entry(source, found.id, found.path)
        _check_base(before, base_version)
        parent = _new_parent(to)
        if found.is_folder and _is_within(to, parent.id, found.id):
            raise MoveIntoItself()
        _check_reach(space, found.id, found.is_folder, full_path(to.mount_path, f"{parent.path}/{to.names[-1]}"))
        _, files, size = _measure(source, found.id)
        if files > COPY_FILES_MAX:
            raise TooLarge(limit=f"{COPY_FILES_MAX} files at once")
        _clear_place(session, space, to, before, replace=replace, keep_self=True)
        _charge(space, size)
        new_id, space.seq = db.one(
            "SELECT o_id, p_seq FROM copy_below(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                space.id,
                found.id,
                parent.id,
                parent.path,
                to.names[-1],
                keys_of(to.names)[-1],
                session.user_id,
                session.device_id,
                space.seq,
            ),
        )
        return Written(_entry(to, new_id, f"{parent.path}/{to.names[-1]}"), space.head())


def _check_ends(source: Target, to: Target) -> None:
    if source.namespace_id != to.namespace_id:
        raise BadRequest(reason="the two places belong to different shared trees; download and upload it instead")
    if not source.names:
        raise NotAllowed()
    if not to.names:
        raise NameTaken()


def _check_base(entry: Entry, base_version: int | None) -> None:
    if base_version is not None and base_version != entry.version:
        raise VersionConflict(current_version=entry.version)


def _check_parent(parent: _Place, depth: int, parent_id: FileId) -> None:
    """Raises VersionConflict unless a walk of `depth` names has led to the folder `parent_id`."""
    if parent.depth < depth or parent.id != parent_id:
        raise VersionConflict(current_version=None, guard="parent_id")


def _new_parent(to: Target, parent_id: FileId | None = None) -> _Place:
    above = to.names[:-1]
    parent = _walk(to, above)
    if parent_id is not None:
        _check_parent(parent, len(above), parent_id)
    if not parent.is_folder:
        raise NotAFolder()
    if parent.depth < len(above):
        raise NotFound(what="target folder")
    return parent


def _is_within(target: Target, folder_id: FileId, ancestor_id: FileId) -> bool:
    """Whether `folder_id` is `ancestor_id` or lies below it. The namespace lock keeps the answer true until commit."""
    (found,) = db.one(
        """WITH RECURSIVE up AS (
               SELECT f.id, f.parent_id FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = %(folder)s
               UNION ALL
               SELECT f.id, f.parent_id FROM up u CROSS JOIN LATERAL (
                   SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = u.parent_id LIMIT 1) f
           )
           SELECT coalesce(bool_or(id = %(ancestor)s), false) FROM up""",
        {"namespace": target.namespace_id, "folder": folder_id, "ancestor": ancestor_id},
    )
    return bool(found)


def _check_reach(space: _Namespace, file_id: FileId, is_folder: bool, path: str) -> None:
    """Raises BadPath where the entry or something below it would have a path at `path` that no request could name.

    Asks the folders alone first, which have an index of their own: a tree has far fewer of them.
    """
    names, size = path.count("/"), len(path.encode())
    if is_folder:
        levels, longest = _reach(space, file_id, files=False)
        if names + levels + 1 > DEPTH_MAX or size + longest + 1 + NAME_BYTES_MAX > PATH_BYTES_MAX:
            levels, longest = _reach(space, file_id, files=True)
        names, size = names + levels, size + longest
    if names > DEPTH_MAX:
        raise BadPath(reason=f"something in it would be deeper than {DEPTH_MAX} folders")
    if size > PATH_BYTES_MAX:
        raise BadPath(reason=f"the path of something in it would be longer than {PATH_BYTES_MAX} bytes")


def _reach(space: _Namespace, folder_id: FileId, *, files: bool) -> tuple[int, int]:
    """How many levels, and how many bytes of names and slashes, the live folders (and files) below go down at most."""
    levels, longest = db.one(
        f"""WITH RECURSIVE below AS (
                SELECT %(folder)s::bigint AS id, 0 AS depth, 0 AS size
                UNION ALL
                SELECT f.id, b.depth + 1, b.size + 1 + octet_length(f.name) FROM below b CROSS JOIN LATERAL (
                    SELECT * FROM file c WHERE c.namespace_id = %(namespace)s AND c.parent_id = b.id
                       AND c.deleted_at IS NULL {"" if files else "AND c.is_folder"} OFFSET 0) f
            )
            SELECT max(depth), max(size) FROM below""",
        {"folder": folder_id, "namespace": space.id},
    )
    return levels, longest


def _clear_place(
    session: Session, space: _Namespace, to: Target, moving: Entry, *, replace: bool, keep_self: bool = False
) -> None:
    """Make sure that nothing stands at `to`: what does goes to the trash where `replace` allows. Raises NameTaken.

    A moved entry may stand there itself (another spelling of its name); a copied one (`keep_self`) may not.
    """
    there = _walk(to, to.names)
    if there.depth < len(to.names) or (there.id == moving.id and not keep_self):
        return
    if not replace or there.is_folder or moving.kind is Kind.FOLDER or there.id == moving.id:
        raise NameTaken()
    _trash(session, space, to, there)


def _trash(session: Session, space: _Namespace, target: Target, place: _Place) -> tuple[int, int]:
    """Into the trash with everything below; how many entries, and how many files, became unreachable."""
    count, files, size = _measure(target, place.id)
    _charge(space, -size)
    db.run(
        "UPDATE file SET deleted_at = clock_timestamp(), deleted_by = %s WHERE namespace_id = %s AND id = %s",
        (session.user_id, space.id, place.id),
    )
    _journal(space, ChangeOp.DELETE, place.id, place.path, session)
    return count, files


# --- delete and restore -----------------------------------------------------------------------------------------


def delete(
    session: Session,
    target: Target,
    base_version: int | None = None,
    file_id: FileId | None = None,
    unchanged_since: str | None = None,
) -> Removed:
    """Into the trash; a folder with all below it is one row. Raises NotFound, NotAllowed (root), and VersionConflict
    where the version, the id, or (after the cursor `unchanged_since`) anything below is not as the caller believes.
    """
    if not target.names:
        raise NotAllowed()
    with db.transaction():
        space = _lock(target)
        place = _find(target)
        entry = _entry(target, place.id, place.path)
        if file_id is not None and file_id != place.id:
            raise VersionConflict(current_version=entry.version or None, guard="id")
        _check_base(entry, base_version)
        if unchanged_since is not None and journal.has_changed(target.namespace_id, place.id, unchanged_since):
            raise VersionConflict(current_version=entry.version or None, guard="unchanged_since")
        count, files = _trash(session, space, target, place)
        mass_deletes.note(target.namespace_id, session, files)
        return Removed(count, space.head())


def restore(session: Session, target: Target, version: int | None = None) -> Written:
    """Make `version` the current one again (as a new version), or without it undelete what lay at that path.

    What lies in a deleted folder is taken out of it: the folders above are made anew. Raises NotFound (no such path or
    version; without `version` also when nothing is deleted there), IsAFolder (a version of a folder), QuotaExceeded,
    NameTaken, NotAFolder.
    """
    if not target.names:
        raise NotAllowed()
    with db.transaction():
        space = _lock(target)
        place = _walk(target, target.names, trash=True)
        check_walk(target, place.depth, place.is_folder)
        if version is not None and place.is_folder:
            raise IsAFolder()
        if place.live and version is None:
            raise NameTaken() if _has_trash(target) else NotFound(what="deleted file or folder")
        path = place.path
        if not place.live:
            names = (*target.names[:-1], place.path.rpartition("/")[2])  # its own spelling of the name
            path = _undelete(session, space, target, place, names)
        if version is not None:
            _restore_version(session, space, target, place.id, version)
            _journal(space, ChangeOp.PUT, place.id, path, session)
        else:
            _journal_tree(session, space, place, path)
        return Written(_entry(target, place.id, path), space.head())


def undelete(session: Session, target: Target, file_id: FileId) -> Written | None:
    """Take this file or folder of the target's namespace out of the trash, back into its folder wherever that is now
    (made anew where it is gone), under another name where its own is taken. None: it does not lie in the trash any
    more. Raises QuotaExceeded, BadPath, NotAFolder, NameTaken."""
    with db.transaction():
        space = _lock(target)
        row = db.row(
            """SELECT is_folder, name, path_of(namespace_id, parent_id) FROM file
               WHERE namespace_id = %s AND id = %s AND deleted_at IS NOT NULL""",
            (target.namespace_id, file_id),
        )
        if row is None:
            return None
        is_folder, name, above = row
        names = _free_name(target, (*above.split("/")[1:], name))
        place = _Place(file_id, len(names), is_folder, "", live=False)
        path = _undelete(session, space, target, place, names)
        _journal_tree(session, space, place, path)
        return Written(_entry(target, file_id, path), space.head())


def _free_name(target: Target, names: tuple[str, ...]) -> tuple[str, ...]:
    """The last one changed where it is taken. Raises NameTaken where the changed ones are as well."""
    *above, name = names
    stem, dot, suffix = name.rpartition(".") if "." in name.lstrip(".") else (name, "", "")
    for number in range(RESTORED_NAMES_MAX):
        mark = "" if number == 0 else f" (restored{'' if number == 1 else f' {number}'})"
        room = NAME_BYTES_MAX - len(f"{mark}{dot}{suffix}".encode())
        tried = (*above, f"{stem.encode()[:room].decode(errors='ignore')}{mark}{dot}{suffix}" if mark else name)
        if _walk(target, tried).depth < len(tried):
            return tried
    raise NameTaken()


def _journal_tree(session: Session, space: _Namespace, place: _Place, path: str) -> None:
    """Everything that has just come back at `path`."""
    if not place.is_folder:
        _journal(space, ChangeOp.PUT, place.id, path, session)
        return
    (space.seq,) = db.one(
        "SELECT journal_subtree(%s, %s, %s, %s, %s)", (space.id, place.id, path, space.seq, session.device_id)
    )


def _has_trash(target: Target) -> bool:
    """Whether something that was deleted once had the place of what stands there now."""
    parent = _walk(target, target.names[:-1])
    row = db.row(
        """SELECT 1 FROM file WHERE namespace_id = %s AND parent_id = %s AND name_key = %s COLLATE "C"
           AND deleted_at IS NOT NULL LIMIT 1""",
        (target.namespace_id, parent.id, keys_of(target.names)[-1]),
    )
    return row is not None


def _undelete(session: Session, space: _Namespace, target: Target, place: _Place, names: tuple[str, ...]) -> str:
    """Take the entry out of the trash to where `names` lead now; its path there. The caller journals it."""
    *above_names, name = names
    parent = _walk(target, tuple(above_names))
    _check_reach(space, place.id, place.is_folder, full_path(target.mount_path, "/" + "/".join(names)))
    if parent.depth < len(above_names):
        made = _make_folders(session, space, target, tuple(above_names))
        parent_id, above = made.entry.id, made.entry.path.removeprefix(target.mount_path)
    else:
        parent_id, above = parent.id, parent.path
    db.run(
        """UPDATE file SET deleted_at = NULL, deleted_by = NULL, parent_id = %s, name = %s, name_key = %s
           WHERE namespace_id = %s AND id = %s""",
        (parent_id, name, keys_of((name,))[0], space.id, place.id),
    )
    _, _, size = _measure(target, place.id)
    _charge(space, size)
    return f"{above}/{name}"


def _restore_version(session: Session, space: _Namespace, target: Target, file_id: FileId, version: int) -> None:
    """Append a version with the blocks of an earlier one; nothing happens where that one is current."""
    row = db.row(
        """SELECT v.size_bytes, f.size_bytes, f.version FROM file f JOIN file_version v
           ON v.namespace_id = f.namespace_id AND v.file_id = f.id AND v.version = %s
           WHERE f.namespace_id = %s AND f.id = %s""",
        (version, space.id, file_id),
    )
    if row is None:
        raise NotFound(what="version")
    size, current_size, current = row
    if version == current:
        return
    _charge(space, size - current_size)
    params = {
        "namespace": space.id,
        "file": file_id,
        "from": version,
        "to": current + 1,
        "user": session.user_id,
        "device": session.device_id,
    }
    db.run(
        """INSERT INTO file_version (namespace_id, file_id, version, size_bytes, content_hash, executable, modified_at,
                                     client_modified_at, modified_by, device_id)
           SELECT namespace_id, file_id, %(to)s, size_bytes, content_hash, executable, clock_timestamp(),
                  client_modified_at, %(user)s, %(device)s
           FROM file_version WHERE namespace_id = %(namespace)s AND file_id = %(file)s AND version = %(from)s""",
        params,
    )
    db.run(
        """INSERT INTO version_block (namespace_id, file_id, version, block_index, block_id)
           SELECT namespace_id, file_id, %(to)s, block_index, block_id FROM version_block
           WHERE namespace_id = %(namespace)s AND file_id = %(file)s AND version = %(from)s""",
        params,
    )
    db.run(
        """UPDATE file f SET version = v.version, size_bytes = v.size_bytes, content_hash = v.content_hash,
                  executable = v.executable, modified_at = v.modified_at, client_modified_at = v.client_modified_at,
                  modified_by = v.modified_by
           FROM file_version v WHERE v.namespace_id = f.namespace_id AND v.file_id = f.id AND v.version = %(to)s
             AND f.namespace_id = %(namespace)s AND f.id = %(file)s""",
        params,
    )
