"""Reading the tree: entries, folder pages, versions, the trash, and the recipes that downloads follow.

Every call is one round trip (the trash: two) and follows indexes only, so that it takes as long at a million files as
at a thousand.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from coordinator.metadata import db
from coordinator.metadata.arrays import Bigints, Bytes, Ints, Texts
from coordinator.metadata.entries import (
    ENTRY,
    ENTRY_COLUMNS,
    VERSION,
    VERSION_COLUMNS,
    check_walk,
    entry_of,
    full_path,
    keys_of,
    version_of,
)
from coordinator.metadata.pages import decode_page, encode_page
from coordinator.metadata.rows import BLOCK, BLOCK_COLUMNS, block_of
from coordinator.metadata.values import (
    BlockRow,
    Deleted,
    Entry,
    EntryPage,
    FileId,
    Mount,
    NamespaceId,
    Recipe,
    Session,
    Source,
    Target,
    TrashPage,
    VersionInfo,
)
from coordinator.protocol.errors import IsAFolder, NotAFolder, NotFound
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import Kind, Role

_WALK: Final = "walk(%(namespace)s, %(root)s, %(keys)s::text[], false) w"
_WALK_TRASH: Final = "walk(%(namespace)s, %(root)s, %(keys)s::text[], true) w"
_FILE_OF_WALK: Final = "(SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = w.id LIMIT 1) f"


def _walk(target: Target, **more: object) -> dict[str, object]:
    keys = keys_of(target.names)
    return {"namespace": target.namespace_id, "root": target.root_id, "keys": Texts(keys), **more}


def get_entry(target: Target) -> Entry:
    """Raises NotFound, NotAFolder (a file stands where the path needs a folder)."""
    depth, is_folder, path, *entry = db.one(
        f"""SELECT w.depth, w.is_folder, w.path, {ENTRY}
            FROM {_WALK} CROSS JOIN LATERAL {_FILE_OF_WALK}""",
        _walk(target),
    )
    check_walk(target, depth, is_folder)
    found = entry_of(tuple(entry), full_path(target.mount_path, path))
    # A root is called what the caller mounts it as.
    return found if target.names else replace(found, name=target.mount_path.rpartition("/")[2])


def get_entry_by_id(session: Session, file_id: FileId) -> Entry:
    """A live file or folder wherever it is among what the caller may read. Raises NotFound."""
    found = db.rows(
        f"""WITH RECURSIVE up AS (
                SELECT f.namespace_id, f.parent_id, f.deleted_at IS NULL AS live,
                       CASE WHEN f.parent_id IS NULL THEN '' ELSE '/' || f.name END AS path
                FROM unnest(%(readable)s::bigint[]) AS n(id) CROSS JOIN LATERAL (
                    SELECT * FROM file f WHERE f.namespace_id = n.id AND f.id = %(file)s LIMIT 1) f
                UNION ALL
                SELECT u.namespace_id, f.parent_id, u.live AND f.deleted_at IS NULL,
                       CASE WHEN f.parent_id IS NULL THEN u.path ELSE '/' || f.name || u.path END
                FROM up u CROSS JOIN LATERAL (
                    SELECT * FROM file f WHERE f.namespace_id = u.namespace_id AND f.id = u.parent_id LIMIT 1) f
            )
            SELECT u.path, {ENTRY} FROM up u JOIN file f ON f.namespace_id = u.namespace_id AND f.id = %(file)s
            WHERE u.parent_id IS NULL AND u.live""",
        {"readable": Bigints(session.namespace_ids), "file": file_id},
    )
    if not found:
        raise NotFound(what="file or folder")
    [(path, *row)] = found
    mount = next(mount for mount in session.mounts if mount.namespace_id == row[0])
    entry = entry_of(tuple(row), full_path(mount.path, path))
    return entry if path else replace(entry, name=mount.path.rpartition("/")[2])


# --- folders ----------------------------------------------------------------------------------------------------


def list_folder(session: Session, target: Target, limit: int, page: str | None = None) -> EntryPage:
    """Entries in name-key order, mounted namespaces among them. Raises NotFound, NotAFolder, BadRequest (page)."""
    after = decode_page(page, str) if page else ""
    found = db.rows(
        f"""SELECT w.depth, w.is_folder, w.path, f.name_key, {ENTRY}
            FROM {_WALK} LEFT JOIN LATERAL (
                SELECT * FROM file f WHERE w.depth = cardinality(%(keys)s::text[]) AND w.is_folder
                   AND f.namespace_id = %(namespace)s AND f.parent_id = w.id AND f.deleted_at IS NULL
                   AND f.name_key > %(after)s COLLATE "C"
                ORDER BY f.name_key LIMIT %(limit)s) f ON true""",
        _walk(target, after=after, limit=limit + 1),
    )
    depth, is_folder, path = found[0][:3]
    check_walk(target, depth, is_folder)
    if not is_folder:
        raise NotAFolder()
    above = full_path(target.mount_path, path).removesuffix("/")
    keyed = [(row[3], entry_of(row[4:], f"{above}/{row[7]}")) for row in found if row[3] is not None]
    mounted = _mounted_below(session, target, above, after)
    hidden = {key for key, _ in mounted}  # a mount stands in front of a folder of the same name
    # Python orders text by code points, which is the order of the UTF-8 bytes that the C collation compares.
    merged = sorted([*(pair for pair in keyed if pair[0] not in hidden), *mounted], key=lambda pair: pair[0])
    more = len(keyed) > limit or len(merged) > limit
    shown = merged[:limit]
    return EntryPage(tuple(entry for _, entry in shown), encode_page(shown[-1][0]) if more and shown else None)


def _mounted_below(session: Session, target: Target, above: str, after: str) -> list[tuple[str, Entry]]:
    """The namespaces that are mounted directly in this folder, as folders, with their name keys."""
    here = tuple(keys_of([*target.mount_path.split("/")[1:], *target.names]))
    mounts = [mount for mount in session.mounts if mount.keys and mount.keys[:-1] == here and mount.keys[-1] > after]
    if not mounts:
        return []
    found = db.rows(
        f"""SELECT {ENTRY} FROM unnest(%s::bigint[], %s::bigint[]) AS m(namespace_id, id)
            CROSS JOIN LATERAL (
                SELECT * FROM file f WHERE f.namespace_id = m.namespace_id AND f.id = m.id LIMIT 1) f""",
        (Bigints(mount.namespace_id for mount in mounts), Bigints(mount.root_id for mount in mounts)),
    )
    by_namespace = {row[0]: row for row in found}
    return [(mount.keys[-1], _mount_entry(mount, by_namespace[mount.namespace_id], above)) for mount in mounts]


def _mount_entry(mount: Mount, row: db.Row, above: str) -> Entry:
    name = mount.path.rpartition("/")[2]
    return entry_of((*row[:3], name, *row[4:]), f"{above}/{name}")


def list_tree(target: Target, limit: int, page: str | None = None) -> EntryPage:
    """Everything below a folder, depth first in name-key order, parents before children; one namespace only."""
    after = decode_page(page, list[str]) if page else []
    found = db.rows(
        f"""SELECT w.depth, w.is_folder, w.path, b.o_keys, b.o_path, {ENTRY}
            FROM {_WALK} LEFT JOIN LATERAL list_below(%(namespace)s,
                     CASE WHEN w.is_folder AND w.depth = cardinality(%(keys)s::text[]) THEN w.id END,
                     %(after)s::text[], %(limit)s) b ON true
            LEFT JOIN LATERAL (
                SELECT * FROM file f WHERE f.namespace_id = %(namespace)s AND f.id = b.o_id LIMIT 1) f ON true""",
        _walk(target, after=Texts(after), limit=limit + 1),
    )
    depth, is_folder, path = found[0][:3]
    check_walk(target, depth, is_folder)
    if not is_folder:
        raise NotAFolder()
    above = full_path(target.mount_path, path).removesuffix("/")
    entries = [(row[3], entry_of(row[5:], above + row[4])) for row in found if row[3] is not None]
    shown = entries[:limit]
    more = len(entries) > limit
    return EntryPage(tuple(entry for _, entry in shown), encode_page(shown[-1][0]) if more else None)


# --- versions ---------------------------------------------------------------------------------------------------


def list_versions(target: Target, limit: int, before: int | None = None) -> list[VersionInfo]:
    """Newest first, those below version `before`. Also of a file that lies in the trash. Raises NotFound, IsAFolder."""
    found = db.rows(
        f"""SELECT w.depth, w.is_folder, {VERSION} FROM {_WALK_TRASH} LEFT JOIN LATERAL (
                SELECT * FROM file_version v WHERE v.namespace_id = %(namespace)s AND v.file_id = w.id
                   AND v.version < %(before)s ORDER BY v.version DESC LIMIT %(limit)s) v ON true""",
        _walk(target, before=before if before is not None else 2**31 - 1, limit=limit),
    )
    _check_file(target, *found[0][:2])
    return [version_of(row[2:]) for row in found if row[2] is not None]


def _check_file(target: Target, depth: int, is_folder: bool) -> None:
    check_walk(target, depth, is_folder)
    if is_folder:
        raise IsAFolder()


_VERSION_COLUMNS_END: Final = 3 + ENTRY_COLUMNS + VERSION_COLUMNS


def get_recipe(target: Target, version: int | None, first_block: int, count: int) -> Recipe:
    """The current (or the named) version of a file and `count` of its blocks from `first_block` on, in one round trip.

    A named version of a file in the trash is found, too. Raises NotFound, IsAFolder.
    """
    found = db.rows(
        f"""SELECT w.depth, w.is_folder, w.path, {ENTRY}, {VERSION}, {BLOCK}
            FROM {_WALK if version is None else _WALK_TRASH}
            CROSS JOIN LATERAL {_FILE_OF_WALK}
            LEFT JOIN LATERAL (
                SELECT * FROM file_version v WHERE v.namespace_id = f.namespace_id AND v.file_id = f.id
                   AND v.version = coalesce(%(version)s::integer, f.version) LIMIT 1) v ON true
            LEFT JOIN LATERAL ({_BLOCKS_OF_V}) b ON true""",
        _walk(target, version=version, first=first_block, after=first_block + count),
    )
    _check_file(target, *found[0][:2])
    path, version_row = found[0][2], found[0][3 + ENTRY_COLUMNS : _VERSION_COLUMNS_END]
    if version_row[0] is None:
        raise NotFound(what="version")
    return Recipe(
        entry=entry_of(found[0][3 : 3 + ENTRY_COLUMNS], full_path(target.mount_path, path)),
        version=version_of(version_row),
        first_block=first_block,
        blocks=_blocks(found, _VERSION_COLUMNS_END),
    )


# The blocks of version `v` in order. The inner OFFSET 0 keeps the planner on one index range and a look-up for each.
_BLOCKS_OF_V: Final = """
    SELECT b.* FROM (
        SELECT p.block_id, p.block_index FROM version_block p WHERE p.namespace_id = v.namespace_id
           AND p.file_id = v.file_id AND p.version = v.version
           AND p.block_index >= %(first)s AND p.block_index < %(after)s
        ORDER BY p.block_index) p
    CROSS JOIN LATERAL (SELECT * FROM block b WHERE b.id = p.block_id LIMIT 1) b
    ORDER BY p.block_index"""


def _blocks(found: Sequence[db.Row], start: int) -> tuple[BlockRow, ...]:
    return tuple(block_of(row[start : start + BLOCK_COLUMNS]) for row in found if row[start] is not None)


def get_more_recipe(namespace_id: NamespaceId, file_id: FileId, version: int, first_block: int, count: int) -> Recipe:
    """The following blocks of a version that get_recipe named; the path may have changed meanwhile (it is "" here).

    Raises NotFound when retention has removed the version since.
    """
    found = db.rows(
        f"""SELECT {ENTRY}, {VERSION}, {BLOCK} FROM file f JOIN file_version v
            ON v.namespace_id = f.namespace_id AND v.file_id = f.id AND v.version = %(version)s
            LEFT JOIN LATERAL ({_BLOCKS_OF_V}) b ON true
            WHERE f.namespace_id = %(namespace)s AND f.id = %(file)s""",
        {
            "namespace": namespace_id,
            "file": file_id,
            "version": version,
            "first": first_block,
            "after": first_block + count,
        },
    )
    if not found:
        raise NotFound(what="version")
    start = ENTRY_COLUMNS + VERSION_COLUMNS
    return Recipe(
        entry=entry_of(found[0][:ENTRY_COLUMNS], ""),
        version=version_of(found[0][ENTRY_COLUMNS:start]),
        first_block=first_block,
        blocks=_blocks(found, start),
    )


def list_hashes(target: Target, version: int | None) -> tuple[VersionInfo, list[bytes]]:
    """All block hashes of a version in order. Raises NotFound, IsAFolder."""
    found = db.rows(
        f"""SELECT w.depth, w.is_folder, {VERSION}, h.hashes FROM {_WALK if version is None else _WALK_TRASH}
            CROSS JOIN LATERAL {_FILE_OF_WALK}
            LEFT JOIN LATERAL (
                SELECT * FROM file_version v WHERE v.namespace_id = f.namespace_id AND v.file_id = f.id
                   AND v.version = coalesce(%(version)s::integer, f.version) LIMIT 1) v ON true
            LEFT JOIN LATERAL (
                SELECT string_agg(b.hash, ''::bytea ORDER BY p.block_index) AS hashes FROM (
                    SELECT * FROM version_block p WHERE p.namespace_id = v.namespace_id AND p.file_id = v.file_id
                       AND p.version = v.version OFFSET 0) p
                CROSS JOIN LATERAL (SELECT b.hash FROM block b WHERE b.id = p.block_id LIMIT 1) b) h ON true""",
        _walk(target, version=version),
    )
    _check_file(target, *found[0][:2])
    if found[0][2] is None:
        raise NotFound(what="version")
    whole = found[0][-1] or b""
    return version_of(found[0][2:-1]), [whole[at : at + 32] for at in range(0, len(whole), 32)]


def find_recipes(session: Session, sources: Collection[Source]) -> dict[Source, tuple[int, bytes]]:
    """(size, all block hashes) of the versions that the caller may read and that are as told; others are left out."""
    if not sources:
        return {}
    found = db.rows(
        """SELECT v.file_id, v.version, v.content_hash, v.size_bytes, h.hashes
           FROM unnest(%s::bigint[], %s::integer[], %s::bytea[]) AS q(file_id, version, content)
           CROSS JOIN LATERAL unnest(%s::bigint[]) AS n(id)
           CROSS JOIN LATERAL (
               SELECT * FROM file_version v WHERE v.namespace_id = n.id AND v.file_id = q.file_id
                  AND v.version = q.version AND v.content_hash = q.content LIMIT 1) v
           LEFT JOIN LATERAL (
               SELECT string_agg(b.hash, ''::bytea ORDER BY p.block_index) AS hashes FROM (
                   SELECT * FROM version_block p WHERE p.namespace_id = v.namespace_id AND p.file_id = v.file_id
                      AND p.version = v.version OFFSET 0) p
               CROSS JOIN LATERAL (SELECT b.hash FROM block b WHERE b.id = p.block_id LIMIT 1) b) h ON true""",
        (
            Bigints(source.file_id for source in sources),
            Ints(source.version for source in sources),
            Bytes(source.content_hash for source in sources),
            Bigints(session.namespace_ids),
        ),
    )
    return {Source(*row[:3]): (row[3], row[4] or b"") for row in found}


# --- the trash --------------------------------------------------------------------------------------------------


def find_small(session: Session, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], BlockRow]:
    """The block of each (file id, version) that the caller may read and that has just one; others are left out."""
    found = db.rows(
        f"""SELECT v.file_id, v.version, {BLOCK}
            FROM unnest(%s::bigint[], %s::integer[]) AS q(file_id, version)
            CROSS JOIN LATERAL unnest(%s::bigint[]) AS n(id)
            CROSS JOIN LATERAL (
                SELECT * FROM file_version v WHERE v.namespace_id = n.id AND v.file_id = q.file_id
                   AND v.version = q.version LIMIT 1) v
            CROSS JOIN LATERAL (
                SELECT * FROM version_block p WHERE p.namespace_id = v.namespace_id AND p.file_id = v.file_id
                   AND p.version = v.version AND p.block_index = 0 LIMIT 1) p
            CROSS JOIN LATERAL (SELECT * FROM block b WHERE b.id = p.block_id LIMIT 1) b
            WHERE v.size_bytes <= {BLOCK_BYTES}""",
        (
            Bigints(file_id for file_id, _ in wanted),
            Ints(version for _, version in wanted),
            Bigints(session.namespace_ids),
        ),
    )
    return {(row[0], row[1]): block_of(row[2:]) for row in found}


def list_trash(session: Session, limit: int, page: str | None = None) -> TrashPage:
    """What was deleted in the namespaces that the caller may write to, newest first; a folder is one row."""
    mounts = {mount.namespace_id: mount for mount in session.mounts if mount.role is not Role.VIEWER}
    before_at, before_id = decode_page(page, tuple[datetime, int]) if page else (None, 0)
    found = db.rows(
        """SELECT t.namespace_id, t.id, t.parent_id, t.name, t.is_folder, t.size_bytes, t.version, t.deleted_at,
                  (SELECT a.email FROM user_account a WHERE a.id = t.deleted_by)
           FROM unnest(%(namespaces)s::bigint[]) AS n(id) CROSS JOIN LATERAL (
               SELECT * FROM file f WHERE f.namespace_id = n.id AND f.deleted_at IS NOT NULL
                  AND (f.deleted_at, f.id) < (coalesce(%(at)s::timestamptz, 'infinity'), %(id)s::bigint)
               ORDER BY f.deleted_at DESC, f.id DESC LIMIT %(limit)s) t
           ORDER BY t.deleted_at DESC, t.id DESC LIMIT %(limit)s""",
        {"namespaces": Bigints(sorted(mounts)), "at": before_at, "id": before_id, "limit": limit + 1},
    )
    shown = found[:limit]
    above = paths_of([(NamespaceId(row[0]), FileId(row[2])) for row in shown])
    entries = tuple(
        Deleted(
            namespace_id=row[0],
            id=row[1],
            path=full_path(mounts[row[0]].path, f"{above.get((row[0], row[2]), '')}/{row[3]}"),
            kind=Kind.FOLDER if row[4] else Kind.FILE,
            size_bytes=row[5],
            version=row[6],
            deleted_at=row[7],
            deleted_by=row[8] or "",
        )
        for row in shown
    )
    last = shown[-1] if len(found) > limit else None
    return TrashPage(entries, encode_page((last[7], last[1])) if last else None)


def paths_of(folders: Sequence[tuple[NamespaceId, FileId]]) -> dict[tuple[NamespaceId, FileId], str]:
    """Where these folders stand or stood, from their namespaces' roots ("" for a root); in one round trip."""
    distinct = sorted(set(folders))
    found = db.rows(
        """WITH RECURSIVE up AS (
               SELECT e.ord, f.namespace_id, f.parent_id,
                      CASE WHEN f.parent_id IS NULL THEN '' ELSE '/' || f.name END AS path
               FROM unnest(%s::bigint[], %s::bigint[]) WITH ORDINALITY AS e(namespace_id, id, ord) CROSS JOIN LATERAL (
                   SELECT * FROM file f WHERE f.namespace_id = e.namespace_id AND f.id = e.id LIMIT 1) f
               UNION ALL
               SELECT u.ord, f.namespace_id, f.parent_id,
                      CASE WHEN f.parent_id IS NULL THEN u.path ELSE '/' || f.name || u.path END
               FROM up u CROSS JOIN LATERAL (
                   SELECT * FROM file f WHERE f.namespace_id = u.namespace_id AND f.id = u.parent_id LIMIT 1) f
           )
           SELECT ord, path FROM up WHERE parent_id IS NULL""",
        (Bigints(namespace for namespace, _ in distinct), Bigints(folder for _, folder in distinct)),
    )
    return {distinct[ord_ - 1]: path for ord_, path in found}
