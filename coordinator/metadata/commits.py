"""Commits: the only writers of file versions.

Guarantees: a commit is one transaction that holds its namespace's row, so that the versions and journal entries of a
namespace form one total order; a version is visible with all its blocks or not at all; the first commit on a base wins.
"""

# ruff: noqa: S608  # the SQL is composed of this module's constants only

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from coordinator.metadata import blocks, db, files, uploads
from coordinator.metadata.arrays import Bigints, Booleans, Bytes, Ints, Texts, Times
from coordinator.metadata.batches import Run, check_write, refusal, split_into_runs
from coordinator.metadata.entries import full_path
from coordinator.metadata.values import (
    Announced,
    CommitResults,
    Entry,
    FileId,
    FileWrite,
    Head,
    NamespaceId,
    NewBlock,
    Session,
    Target,
    UploadState,
    Written,
)
from coordinator.protocol.errors import ApiError, NotFound, SizeMismatch, TooLarge, UploadGone
from coordinator.protocol.hashing import HASH_BYTES, content_hash
from coordinator.protocol.types import Kind

# Of all copies in one commit: what a body of the greatest length could have named. A copy names any number in a line.
_COPIED_HASHES_BYTES_MAX: Final = 32 * 1024 * 1024

_RESULT: Final = """c.o_ord, c.o_error, c.o_fact, c.o_fact2, c.o_missing, c.o_file, c.o_parent, c.o_path, c.o_name,
    c.o_version, c.o_modified_at, c.o_client_modified,
    (SELECT a.email FROM user_account a WHERE a.id = c.o_modified_by)"""
_COMMIT_FILES: Final = f"""SELECT {_RESULT} FROM commit_files(
    %s, %s, %s, %s, %s, %s::bigint[], %s, NULL, %s::text[], %s::text[], %s::integer[], %s::text[], %s::text[],
    %s::bytea[], %s::bigint[], %s::bytea[], %s::bytea[], %s::integer[], %s::timestamptz[], %s::boolean[], %s::bigint[],
    %s::bigint[], %s::text[]) c"""
_COMMIT_UPLOAD: Final = f"SELECT {_RESULT} FROM commit_upload(%s, %s, %s, %s::bigint[]) c"


def commit_files(session: Session, writes: Sequence[FileWrite], request_key: str | None = None) -> CommitResults:
    """Write each file or say why not; every entry succeeds or fails by itself. Missing parent folders are made.

    One round trip and one transaction for each namespace among the targets (more where the batch writes a path twice).
    An entry whose current content is already what it would write succeeds without a new version; so does the repeat of
    a commit with the same `request_key`, and of one of announced content that has become a version. The caller has
    checked that the session may write there.
    The errors: VersionConflict (`current_version`, `guard`), BlocksMissing (`missing`), QuotaExceeded, IsAFolder,
    NotAFolder, SizeMismatch, NotFound (the announcement, or the version to be copied), UploadGone, TooLarge.
    """
    results: dict[int, Entry | ApiError] = {}
    good = []
    announced = uploads.find_announced(session, [write.announced for write in writes if write.announced is not None])
    copied = files.find_recipes(session, {write.copied_from for write in writes if write.copied_from is not None})
    copied_bytes = 0
    for at, named in enumerate(writes):
        write: FileWrite | Entry | ApiError = named
        if named.announced is not None:
            write = _with_content(named, announced.get(named.announced))
        elif named.copied_from is not None:
            write = _with_copy(named, copied.get(named.copied_from))
            copied_bytes += HASH_BYTES * len(write.hashes) if isinstance(write, FileWrite) else 0
            if copied_bytes > _COPIED_HASHES_BYTES_MAX:
                write = TooLarge(limit=f"{_COPIED_HASHES_BYTES_MAX // HASH_BYTES} blocks of copies at once")
        if not isinstance(write, FileWrite):
            results[at] = write
        elif (error := check_write(write)) is not None:
            results[at] = error
        else:
            good.append((at, write))
    heads: dict[NamespaceId, Head] = {}
    for run in split_into_runs(good):
        outcome, head = _commit_run(session, run, request_key)
        results.update(zip(run.at, outcome, strict=True))
        heads[head.namespace_id] = head
    return CommitResults(tuple(results[at] for at in range(len(writes))), tuple(heads.values()))


def _with_content(write: FileWrite, announced: Announced | None) -> FileWrite | Entry | ApiError:
    """The write with the hashes that were announced for it; the entry where that has been committed already."""
    if announced is None or announced.namespace_id != write.target.namespace_id:
        return NotFound(what="upload")
    if announced.size_bytes != write.size_bytes:
        return SizeMismatch(received=announced.size_bytes, expected=write.size_bytes)
    if announced.file_id is not None and announced.version is not None:
        return _committed(write.target, announced.file_id, announced.version) or UploadGone()
    if announced.state is not UploadState.PENDING:
        return UploadGone()
    return replace(write, hashes=_split(announced.hashes))


def _with_copy(write: FileWrite, source: tuple[int, bytes] | None) -> FileWrite | ApiError:
    """The write with the hashes of the version that it copies."""
    if source is None:
        return NotFound(what="version")
    size, hashes = source
    return (
        replace(write, hashes=_split(hashes))
        if size == write.size_bytes
        else SizeMismatch(received=size, expected=write.size_bytes)
    )


def _split(hashes: bytes) -> tuple[bytes, ...]:
    return tuple(hashes[end - HASH_BYTES : end] for end in range(HASH_BYTES, len(hashes) + 1, HASH_BYTES))


def _committed(target: Target, file_id: FileId, version: int) -> Entry | None:
    """The file as it was written then, at its place of now; None when that version is no more."""
    row = db.row(
        """SELECT f.parent_id, f.name, path_of(f.namespace_id, f.id), v.size_bytes, v.content_hash, v.modified_at,
                  v.client_modified_at, (SELECT a.email FROM user_account a WHERE a.id = v.modified_by), v.executable
           FROM file f JOIN file_version v ON v.namespace_id = f.namespace_id AND v.file_id = f.id AND v.version = %s
           WHERE f.namespace_id = %s AND f.id = %s""",
        (version, target.namespace_id, file_id),
    )
    if row is None:
        return None
    parent_id, name, path, size, content, at, client_at, by, executable = row
    return Entry(
        namespace_id=target.namespace_id,
        id=file_id,
        parent_id=parent_id,
        path=full_path(target.mount_path, path),
        name=name,
        kind=Kind.FILE,
        version=version,
        size_bytes=size,
        content_hash=content,
        modified_at=at,
        client_modified_at=client_at,
        modified_by=by or "",
        executable=executable,
    )


def commit_new(session: Session, write: FileWrite, new_blocks: Sequence[NewBlock]) -> CommitResults:
    """Record blocks that have just been made durable and commit the file that they make up, in one transaction.

    What refuses the file leaves the blocks recorded: they are kept for the caller as if they had been sent by hash.
    """
    target = write.target
    with db.transaction():
        blocks.record(target.account_id, target.namespace_id, session.user_id, None, new_blocks)
        return commit_files(session, [write])


def _commit_run(session: Session, run: Run, request_key: str | None) -> tuple[list[Entry | ApiError], Head]:
    target = run.writes[0].target
    folder_names, folder_keys, folder = run.folders()
    contents = [content_hash(write.hashes) for write in run.writes]
    *found, head = db.rows(
        _COMMIT_FILES,
        (
            target.namespace_id,
            target.account_id,
            target.root_id,
            session.user_id,
            session.device_id,
            Bigints(session.namespace_ids),
            request_key,
            Texts(folder_names),
            Texts(folder_keys),
            Ints(folder),
            Texts(write.target.names[-1] for write in run.writes),
            Texts(keys[-1] for keys in run.keys),
            Bytes(run.digests()),
            Bigints(write.size_bytes for write in run.writes),
            Bytes(b"".join(write.hashes) for write in run.writes),
            Bytes(contents),
            Ints(write.base_version or 0 for write in run.writes),
            Times(write.client_modified_at for write in run.writes),
            Booleans(write.executable for write in run.writes),
            Bigints(write.file_id for write in run.writes),
            Bigints(write.parent_id for write in run.writes),
            Texts(write.announced for write in run.writes),
        ),
    )
    outcome = [
        _outcome(row, write.target, write.size_bytes, content, write.executable)
        for row, write, content in zip(found, run.writes, contents, strict=True)
    ]
    return outcome, Head(target.namespace_id, head[2], head[3])


def _outcome(row: db.Row, target: Target, size: int, content: bytes | None, executable: bool) -> Entry | ApiError:
    _, error, fact, fact2, missing, file_id, parent_id, path, name, version, at, client_at, by = row
    if error == "size_mismatch":
        return refusal(error, size, fact)
    if error is not None:
        return refusal(error, fact, fact2, missing)
    return Entry(
        namespace_id=target.namespace_id,
        id=file_id,
        parent_id=parent_id,
        path=full_path(target.mount_path, path),
        name=name,
        kind=Kind.FILE,
        version=version,
        size_bytes=size,
        content_hash=content,
        modified_at=at,
        client_modified_at=client_at,
        modified_by=by or "",
        executable=executable,
    )


def commit_upload(session: Session, upload_id: str) -> Written:
    """Make a streamed upload whose every byte has arrived the file's new version. Repeating it answers the same.

    The last stretch must have been joined to one block. Raises UploadGone, NotFound (not the caller's), NotAllowed,
    OffsetMismatch (bytes are missing), and what commit_files names; on those the upload stays as it was.
    """
    upload = uploads.get(session, upload_id)
    found = db.rows(
        _COMMIT_UPLOAD,
        (upload_id, session.user_id, session.device_id, Bigints(session.namespace_ids)),
    )
    target = upload.target
    if found[0][1] is not None:
        if found[0][1] == "size_mismatch":
            raise refusal("size_mismatch", upload.size_bytes, found[0][2])
        raise refusal(*found[0][1:5])
    version = db.row(
        """SELECT size_bytes, content_hash, executable FROM file_version
           WHERE namespace_id = %s AND file_id = %s AND version = %s""",
        (target.namespace_id, found[0][5], found[0][9]),
    )
    if version is None:
        raise UploadGone()
    path = found[0][7] if found[0][7] is not None else "".join(f"/{name}" for name in target.names)
    entry = _outcome((*found[0][:7], path, *found[0][8:]), target, *version)
    assert isinstance(entry, Entry)
    return Written(entry, Head(target.namespace_id, found[1][2], found[1][3]))
