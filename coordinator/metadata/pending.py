"""Announced versions as other devices see them: what they consist of, which blocks have arrived, how they were sent.

Guarantees: whoever may read the namespace may read what is announced in it, as far as its announcer could commit it
now: naming a hash gives nobody a block that a version of it would not.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from coordinator.metadata import db, uploads
from coordinator.metadata.arrays import Bigints, Bytes, Ints
from coordinator.metadata.rows import BLOCK, block_of
from coordinator.metadata.values import (
    BlockRow,
    DeltaPlan,
    FileId,
    KeptDelta,
    NamespaceId,
    PendingRecipe,
    Session,
    UploadState,
)
from coordinator.protocol.delta import DELTA_KEPT_BYTES_MAX
from coordinator.protocol.errors import NotFound, UploadGone
from coordinator.protocol.hashing import HASH_BYTES

_GONE: Final = (UploadState.CANCELLED, UploadState.EXPIRED)

# The block with the hash, where the upload's owner may count on it: it was sent for this namespace, or stands in a
# version that its owner can read (commit_files asks the same).
_ARRIVED: Final = f"""
    SELECT {BLOCK} FROM block b WHERE b.account_id = q.account_id AND b.hash = %(hash)s
       AND ((SELECT 1 FROM staged_block s WHERE s.block_id = b.id AND s.user_id = q.user_id
                AND s.namespace_id = q.namespace_id LIMIT 1) IS NOT NULL
            OR (SELECT 1 FROM version_block v WHERE v.block_id = b.id AND v.namespace_id = ANY (ARRAY(
                    SELECT m.namespace_id FROM membership m WHERE m.user_id = q.user_id)) LIMIT 1) IS NOT NULL)
    LIMIT 1"""


def get_recipe(session: Session, upload_id: str) -> PendingRecipe:
    """What was announced. Raises NotFound (also for a streamed upload, whose content nobody knows yet), UploadGone."""
    row = db.row(
        """SELECT q.state, coalesce(q.version, q.base_version + 1), q.size_bytes, q.content_hash, r.hashes
           FROM upload q JOIN upload_recipe r ON r.upload_id = q.id
           WHERE q.id = %s AND q.namespace_id = ANY (%s::bigint[])""",
        (upload_id, Bigints(session.namespace_ids)),
    )
    _check(row)
    assert row is not None
    whole = row[4]
    hashes = tuple(whole[at : at + HASH_BYTES] for at in range(0, len(whole), HASH_BYTES))
    return PendingRecipe(version=row[1], size_bytes=row[2], content_hash=row[3], hashes=hashes)


def find_block(namespace_id: NamespaceId, upload_id: str, block_hash: bytes) -> BlockRow | None:
    """A block of what was announced in this namespace, None while it has not arrived. Access is resolved already.

    Raises NotFound (no such announcement here, or the block is no part of it), UploadGone.
    """
    row = db.row(
        f"""SELECT q.state, position(%(hash)s::bytea in r.hashes), a.*
            FROM upload q JOIN upload_recipe r ON r.upload_id = q.id LEFT JOIN LATERAL ({_ARRIVED}) a ON true
            WHERE q.id = %(upload)s AND q.namespace_id = %(namespace)s""",
        {"hash": block_hash, "upload": upload_id, "namespace": namespace_id},
    )
    _check(row)
    assert row is not None
    if row[1] == 0:
        raise NotFound(what="block")
    return None if row[2] is None else block_of(row[2:])


def _check(row: db.Row | None) -> None:
    if row is None:
        raise NotFound(what="announcement")
    if row[0] in _GONE:
        raise UploadGone()


# --- deltas -----------------------------------------------------------------------------------------------------


def plan_delta(  # noqa: PLR0917 - the parts of one question
    session: Session,
    upload_id: str,
    indexes: Sequence[int],
    base_id: FileId,
    base_version: int,
    base_indexes: Sequence[int],
) -> DeltaPlan:
    """The announced hashes of the blocks `indexes`, and the rows of the base version's blocks `base_indexes`.

    The upload is the caller's own and pending, the base version one that the caller may read. What lies beyond the end
    of either is left out. Raises NotFound, UploadGone, NotAllowed.
    """
    upload = uploads.get(session, upload_id)
    if upload.state is not UploadState.PENDING:
        raise UploadGone()
    hashes = db.rows(
        """SELECT e.index, CASE WHEN e.index < octet_length(r.hashes) / 32
                                THEN substr(r.hashes, e.index::integer * 32 + 1, 32) END
           FROM upload_recipe r CROSS JOIN unnest(%s::bigint[]) AS e(index) WHERE r.upload_id = %s""",
        (Bigints(indexes), upload_id),
    )
    if upload.size_bytes is None or (indexes and not hashes):
        raise NotFound(what="announcement")
    base = db.row(
        """SELECT v.namespace_id, v.size_bytes FROM file_version v
           WHERE v.namespace_id = ANY (%s::bigint[]) AND v.file_id = %s AND v.version = %s""",
        (Bigints(session.namespace_ids), base_id, base_version),
    )
    if base is None:
        raise NotFound(what="version")
    blocks = db.rows(
        f"""SELECT p.block_index, {BLOCK} FROM unnest(%s::bigint[]) AS e(index) CROSS JOIN LATERAL (
                SELECT * FROM version_block p WHERE p.namespace_id = %s AND p.file_id = %s AND p.version = %s
                   AND p.block_index = e.index LIMIT 1) p
            CROSS JOIN LATERAL (SELECT * FROM block b WHERE b.id = p.block_id LIMIT 1) b""",
        (Bigints(base_indexes), base[0], base_id, base_version),
    )
    return DeltaPlan(
        upload=upload,
        size_bytes=upload.size_bytes,
        hashes={index: block_hash for index, block_hash in hashes if block_hash is not None},
        base_size_bytes=base[1],
        base={row[0]: block_of(row[1:]) for row in blocks},
    )


def keep_delta(upload_id: str, base_id: FileId, base_version: int, ops: Mapping[int, bytes]) -> None:
    """How blocks (by index) were told as copies from this base, for the other devices. What was told from another base
    before is forgotten; beyond DELTA_KEPT_BYTES_MAX nothing more is kept. Nothing happens when the upload has ended."""
    with db.transaction():
        pending = db.row("SELECT 1 FROM upload WHERE id = %s AND state = 'pending' FOR KEY SHARE", (upload_id,))
        if pending is None:
            return
        db.run(
            "DELETE FROM upload_delta WHERE upload_id = %s AND (base_file_id, base_version) <> (%s, %s)",
            (upload_id, base_id, base_version),
        )
        (kept,) = db.one(
            "SELECT coalesce(sum(octet_length(ops)), 0)::bigint FROM upload_delta WHERE upload_id = %s", (upload_id,)
        )
        if kept + sum(map(len, ops.values())) > DELTA_KEPT_BYTES_MAX:
            return
        db.run(
            """INSERT INTO upload_delta (upload_id, block_index, base_file_id, base_version, ops)
               SELECT %s, e.index, %s, %s, e.ops FROM unnest(%s::integer[], %s::bytea[]) AS e(index, ops)
               ON CONFLICT ON CONSTRAINT upload_delta_pkey DO UPDATE SET ops = excluded.ops""",
            (upload_id, base_id, base_version, Ints(ops), Bytes(ops.values())),
        )


def drop_delta(upload_id: str, indexes: Sequence[int]) -> None:
    """These blocks did not become what was announced: they are going to be sent otherwise."""
    db.run(
        "DELETE FROM upload_delta WHERE upload_id = %s AND block_index = ANY (%s::integer[])",
        (upload_id, Ints(indexes)),
    )


def get_delta(session: Session, upload_id: str) -> KeptDelta:
    """How the announced version was sent. Raises NotFound (also when no block was sent as a delta), UploadGone."""
    row = db.row(
        "SELECT q.state FROM upload q WHERE q.id = %s AND q.namespace_id = ANY (%s::bigint[])",
        (upload_id, Bigints(session.namespace_ids)),
    )
    _check(row)
    found = db.rows(
        """SELECT base_file_id, base_version, block_index, ops FROM upload_delta WHERE upload_id = %s
           ORDER BY block_index""",
        (upload_id,),
    )
    if not found:
        raise NotFound(what="delta")
    return KeptDelta(found[0][0], found[0][1], tuple((row[2], row[3]) for row in found))
