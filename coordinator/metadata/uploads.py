"""Announced versions: what is coming, what has arrived of it, and who may append to it now.

Guarantees: nothing of an upload lives in a process: any coordinator continues from `offset`, which only ever advances
without a gap over durable blocks. An append under an epoch below the floor is refused, so a request that was taken over
can change nothing more, however late it wakes.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from coordinator import access
from coordinator.metadata import db
from coordinator.metadata.arrays import Bigints, Booleans, Bytes, Ints, Texts, Times
from coordinator.metadata.batches import Run, check_write, refusal, split_into_runs
from coordinator.metadata.entries import joined, keys_of, path_digest
from coordinator.metadata.rows import BLOCK, block_of
from coordinator.metadata.values import (
    Announced,
    AnnounceResults,
    Appended,
    Claim,
    FileWrite,
    Head,
    NamespaceId,
    Part,
    PartRow,
    Session,
    Target,
    Upload,
    UploadState,
)
from coordinator.protocol.errors import (
    ApiError,
    BadRequest,
    IsAFolder,
    NotFound,
    QuotaExceeded,
    UploadGone,
    UploadSuperseded,
)
from coordinator.protocol.hashing import content_hash
from coordinator.protocol.types import SIZE_BYTES_MAX, Role

EXPIRES_AFTER_S_DEFAULT: Final = 24 * 3600.0

_UPLOAD: Final = """q.id, q.namespace_id, q.names, q.user_id, q.streamed, q.size_bytes, q.base_version,
    q.client_modified_at, q.executable, q.client_metadata, q.offset_bytes, q.state, q.claim_epoch, q.active_epoch,
    q.expires_at, q.file_id, q.version"""
_ANNOUNCE: Final = """SELECT * FROM announce_files(
    %s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s::integer[], %s::text[], %s::text[], %s::text[], %s::bytea[],
    %s::bigint[], %s::bytea[], %s::integer[], %s::timestamptz[], %s::boolean[], %s::text[], %s::bigint[],
    %s::bigint[])"""


def new_id() -> str:
    """An upload's id stands in a URL and must not be guessed: 128 random bits as hex."""
    return secrets.token_hex(16)


# --- announcing -------------------------------------------------------------------------------------------------


def create(
    session: Session,
    target: Target,
    size_bytes: int | None,
    *,
    base_version: int | None = None,
    client_modified_at: datetime | None = None,
    executable: bool = False,
    client_metadata: str = "",
    expires_after_s: float = EXPIRES_AFTER_S_DEFAULT,
) -> tuple[Upload, Head]:
    """A streamed upload at offset 0 (size None: told later). Watchers learn of it by a "pending" journal entry.

    Raises VersionConflict, IsAFolder, NotAFolder, QuotaExceeded. `client_metadata` is kept as it is (tus).
    """
    if not target.names:
        raise IsAFolder()
    keys = keys_of(target.names)
    with db.transaction():
        found, head = db.rows(
            _ANNOUNCE,
            (
                *_caller(session, target),
                True,
                client_metadata,
                timedelta(seconds=expires_after_s),
                Texts([joined(keys[:-1])]),
                Ints([1]),
                Texts([joined(target.names)]),
                Texts([joined(keys)]),
                Texts([keys[-1]]),
                Bytes([path_digest(keys)]),
                Bigints([size_bytes]),
                Bytes([None]),
                Ints([base_version or 0]),
                Times([client_modified_at]),
                Booleans([executable]),
                Texts([new_id()]),
                Bigints([None]),
                Bigints([None]),
            ),
        )
        _, error, fact, fact2, upload_id = found
        if error is not None:
            raise refusal(error, fact, fact2)
        upload = _one(session, upload_id)
    return upload, Head(target.namespace_id, head[2], head[3])


def announce(
    session: Session, writes: Sequence[FileWrite], expires_after_s: float = EXPIRES_AFTER_S_DEFAULT
) -> AnnounceResults:
    """Pending versions whose blocks will be sent by hash; the same path and content again is the earlier upload."""
    results: dict[int, Upload | ApiError] = {}
    good = []
    for at, write in enumerate(writes):
        if (error := check_write(write)) is not None:
            results[at] = error
        else:
            good.append((at, write))
    heads: dict[NamespaceId, Head] = {}
    for run in split_into_runs(good):
        outcome, head = _announce_run(session, run, expires_after_s)
        results.update(zip(run.at, outcome, strict=True))
        heads[head.namespace_id] = head
    return AnnounceResults(tuple(results[at] for at in range(len(writes))), tuple(heads.values()))


def _announce_run(session: Session, run: Run, expires_after_s: float) -> tuple[list[Upload | ApiError], Head]:
    target = run.writes[0].target
    _, folder_keys, folder = run.folders()
    with db.transaction():
        *found, head = db.rows(
            _ANNOUNCE,
            (
                *_caller(session, target),
                False,
                "",
                timedelta(seconds=expires_after_s),
                Texts(folder_keys),
                Ints(folder),
                Texts(joined(write.target.names) for write in run.writes),
                Texts(joined(keys) for keys in run.keys),
                Texts(keys[-1] for keys in run.keys),
                Bytes(run.digests()),
                Bigints(write.size_bytes for write in run.writes),
                Bytes(content_hash(write.hashes) for write in run.writes),
                Ints(write.base_version or 0 for write in run.writes),
                Times(write.client_modified_at for write in run.writes),
                Booleans(write.executable for write in run.writes),
                Texts(new_id() for _ in run.writes),
                Bigints(write.file_id for write in run.writes),
                Bigints(write.parent_id for write in run.writes),
            ),
        )
        ids = [row[4] for row in found if row[4] is not None]
        _keep_recipes(
            {row[4]: write.hashes for row, write in zip(found, run.writes, strict=True) if row[4] is not None}
        )
        rows = db.rows(f"SELECT {_UPLOAD} FROM upload q WHERE q.id = ANY (%s::text[])", (ids,))
    uploads = {row[0]: _upload(session, row) for row in rows}
    outcome = [uploads[row[4]] if row[1] is None else refusal(row[1], row[2], row[3]) for row in found]
    return outcome, Head(target.namespace_id, head[2], head[3])


def _keep_recipes(hashes: Mapping[str, Sequence[bytes]]) -> None:
    """What the uploads consist of. An earlier one that is continued has it already."""
    db.run(
        """INSERT INTO upload_recipe (upload_id, hashes) SELECT * FROM unnest(%s::text[], %s::bytea[])
           ON CONFLICT DO NOTHING""",
        (Texts(hashes), Bytes(b"".join(one) for one in hashes.values())),
    )


def _caller(session: Session, target: Target) -> tuple[int, ...]:
    return (target.namespace_id, target.account_id, target.root_id, session.user_id, session.device_id)


# --- looking ----------------------------------------------------------------------------------------------------


def get(session: Session, upload_id: str) -> Upload:
    """Raises NotFound (also for another user's), UploadGone (cancelled or expired), NotAllowed (not any more)."""
    upload = _one(session, upload_id)
    if upload.state in (UploadState.CANCELLED, UploadState.EXPIRED):
        raise UploadGone()
    return upload


def _one(session: Session, upload_id: str) -> Upload:
    row = db.row(f"SELECT {_UPLOAD} FROM upload q WHERE q.id = %s AND q.user_id = %s", (upload_id, session.user_id))
    if row is None:
        raise NotFound(what="upload")
    return _upload(session, row)


def _upload(session: Session, row: db.Row) -> Upload:
    (upload_id, namespace_id, names, user_id, streamed, size, base, client_at, executable, metadata, *progress) = row
    offset, state, claim_epoch, active_epoch, expires_at, file_id, version = progress
    return Upload(
        id=upload_id,
        target=access.resolve_in(session, namespace_id, tuple(names), Role.EDITOR),
        user_id=user_id,
        streamed=streamed,
        size_bytes=size,
        base_version=base,
        client_modified_at=client_at,
        executable=executable,
        client_metadata=metadata,
        offset=offset,
        state=UploadState(state),
        claim_epoch=claim_epoch,
        active_epoch=active_epoch,
        expires_at=expires_at,
        file_id=file_id,
        version=version,
    )


def find_announced(session: Session, upload_ids: Collection[str]) -> dict[str, Announced]:
    """What the caller has announced by hashes under these ids, whatever has become of it; others are left out."""
    if not upload_ids:
        return {}
    found = db.rows(
        """SELECT q.id, q.namespace_id, q.state, q.size_bytes, r.hashes, q.file_id, q.version
           FROM upload q JOIN upload_recipe r ON r.upload_id = q.id
           WHERE q.id = ANY (%s::text[]) AND q.user_id = %s""",
        (Texts(upload_ids), session.user_id),
    )
    return {row[0]: Announced(row[1], UploadState(row[2]), *row[3:]) for row in found}


def list_parts(upload_id: str, from_start: int = 0) -> list[PartRow]:
    """Stored parts that begin at `from_start` or later, in order; the open block's segments are the last ones."""
    found = db.rows(
        f"""SELECT p.start_offset, p.length, {BLOCK} FROM upload_block p CROSS JOIN LATERAL (
                SELECT * FROM block b WHERE b.id = p.block_id LIMIT 1) b
            WHERE p.upload_id = %s AND p.start_offset >= %s ORDER BY p.start_offset""",
        (upload_id, from_start),
    )
    return [PartRow(row[0], row[1], block_of(row[2:])) for row in found]


# --- appending --------------------------------------------------------------------------------------------------


def set_size(session: Session, upload_id: str, size_bytes: int) -> Upload:
    """Tell the deferred length. Raises BadRequest (another is told already, more has arrived), QuotaExceeded."""
    if not 0 <= size_bytes <= SIZE_BYTES_MAX:
        raise BadRequest(reason=f"a file has at most {SIZE_BYTES_MAX} bytes")
    upload = get(session, upload_id)
    with db.transaction():
        quota, used, pending = db.one(
            """SELECT quota_bytes, used_bytes, pending_bytes FROM user_account WHERE id = %s FOR NO KEY UPDATE""",
            (upload.target.account_id,),
        )
        told, offset, replaced, reserved = db.one(
            "SELECT size_bytes, offset_bytes, replaced_bytes, reserved_bytes FROM upload WHERE id = %s FOR UPDATE",
            (upload_id,),
        )
        if told not in (None, size_bytes) or offset > size_bytes:
            raise BadRequest(reason=f"the upload has another length ({told or offset} bytes)")
        if told is None:
            reserve = max(0, size_bytes - replaced)
            if reserve > reserved and used + pending - reserved + reserve > quota:
                raise QuotaExceeded(used=used + pending - reserved, quota=quota)
            db.run(
                "UPDATE user_account SET pending_bytes = %s WHERE id = %s",
                (pending - reserved + reserve, upload.target.account_id),
            )
            db.run(
                "UPDATE upload SET size_bytes = %s, reserved_bytes = %s WHERE id = %s AND state = 'pending'",
                (size_bytes, reserve, upload_id),
            )
        return _one(session, upload_id)


def claim(session: Session, upload_id: str) -> Claim:
    """Ask to be the one who appends. Where `previous_active`, wait for its release (get(...).active_epoch is None), at
    most as long as you like, then `force`. Otherwise the claim holds at once. Raises as `get`, and UploadGone when the
    upload is complete.
    """
    row = db.row(
        f"""UPDATE upload q SET claim_epoch = q.claim_epoch + 1,
                   active_epoch = coalesce(q.active_epoch, q.claim_epoch + 1),
                   floor_epoch = CASE WHEN q.active_epoch IS NULL THEN q.claim_epoch + 1 ELSE q.floor_epoch END
            WHERE q.id = %s AND q.user_id = %s AND q.state = 'pending' RETURNING {_UPLOAD}""",
        (upload_id, session.user_id),
    )
    if row is None:
        get(session, upload_id)
        raise UploadGone()
    upload = _upload(session, row)
    return Claim(upload, upload.claim_epoch, previous_active=upload.active_epoch != upload.claim_epoch)


def force(session: Session, upload_id: str, epoch: int) -> Upload:
    """Take over: whatever an older epoch still sends is refused from now on; the answer holds the offset to go on from.

    Also to be called after the previous holder has released. Raises UploadSuperseded when a newer claim exists.
    """
    row = db.row(
        f"""UPDATE upload q SET floor_epoch = %(epoch)s, active_epoch = %(epoch)s
            WHERE q.id = %(id)s AND q.user_id = %(user)s AND q.claim_epoch = %(epoch)s AND q.state = 'pending'
            RETURNING {_UPLOAD}""",
        {"epoch": epoch, "id": upload_id, "user": session.user_id},
    )
    if row is not None:
        return _upload(session, row)
    if get(session, upload_id).state is UploadState.PENDING:
        raise UploadSuperseded()
    raise UploadGone()


def release(upload_id: str, epoch: int) -> None:
    """The claim is over; nothing happens when it was over before."""
    db.run("UPDATE upload SET active_epoch = NULL WHERE id = %s AND active_epoch = %s", (upload_id, epoch))


def append(upload_id: str, epoch: int, offset: int, parts: Sequence[Part]) -> Appended:
    """Record durable parts. `offset` is the one that the caller believes in; `parts` follow each other without a gap.

    The first part starts at `offset`, or before it at the start of stored parts which the new ones then replace (the
    segments of a block that is now whole, or one merged segment). Pushes the expiry back.
    Raises UploadSuperseded (not the one who may append), OffsetMismatch (`expected_offset`), UploadGone, QuotaExceeded
    (deferred length), SizeMismatch (beyond the announced size).
    """
    assert parts, "an append has parts"
    assert all(one.start + one.length == two.start for one, two in pairwise(parts)), "parts must not leave a gap"
    error, fact, fact2, reached, superseded, expires_at = db.one(
        "SELECT * FROM append_parts(%s, %s, %s, %s::bigint[], %s::integer[], %s::bytea[])",
        (
            upload_id,
            epoch,
            offset,
            Bigints(part.start for part in parts),
            Ints(part.length for part in parts),
            Bytes(part.block_id for part in parts),
        ),
    )
    if error is not None:
        raise refusal(error, fact, fact2)
    return Appended(reached, superseded, expires_at)


# --- ending -----------------------------------------------------------------------------------------------------


def cancel(session: Session, upload_id: str) -> Head | None:
    """Give up; its space and blocks become free. None when it was already over. Raises NotFound."""
    _one(session, upload_id)
    return _end(upload_id, UploadState.CANCELLED, session.device_id)


def expire(limit: int = 100) -> list[Head]:
    """End uploads whose time is over, at most `limit`; the heads of the namespaces that were told."""
    due = db.rows(
        "SELECT id FROM upload WHERE state = 'pending' AND expires_at <= now() ORDER BY expires_at LIMIT %s", (limit,)
    )
    return [head for (upload_id,) in due if (head := _end(upload_id, UploadState.EXPIRED, None)) is not None]


def _end(upload_id: str, state: UploadState, device_id: int | None) -> Head | None:
    row = db.row("SELECT * FROM end_upload(%s, %s, %s)", (upload_id, state.value, device_id))
    return Head(*row) if row is not None else None


def forget_ended(older_than_s: float, limit: int = 1000) -> int:
    """Remove the rows of uploads that ended longer ago: until then their URLs still say what became of them."""
    return db.run(
        """DELETE FROM upload WHERE id IN (
               SELECT id FROM upload WHERE state <> 'pending' AND ended_at < now() - make_interval(secs => %s)
               ORDER BY ended_at LIMIT %s)""",
        (older_than_s, limit),
    )
