"""Commits: the only writers of file versions.

Guarantees: a commit is one transaction that holds its namespace's row, so that the versions and journal entries of a
namespace form one total order; a version is visible with all its blocks or not at all; the first commit on a base wins.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.metadata.values import CommitResults, FileWrite, Session, Written


def commit_files(session: Session, writes: Sequence[FileWrite], request_key: str | None = None) -> CommitResults:
    """Write each file or say why not; every entry succeeds or fails by itself. Missing parent folders are made.

    One round trip and one transaction for each namespace among the targets. An entry whose current content is already
    what it would write succeeds without a new version; so does the repeat of a commit with the same `request_key`.
    The errors: VersionConflict (`current_version`), BlocksMissing (`missing`), QuotaExceeded, IsAFolder, NotAFolder,
    SizeMismatch, BadRequest.
    """
    raise NotImplementedError


def commit_upload(session: Session, upload_id: str) -> Written:
    """Make a streamed upload whose every byte has arrived the file's new version. Repeating it answers the same.

    The last stretch must have been joined to one block. Raises UploadGone, NotFound (not the caller's), OffsetMismatch
    (bytes are missing), and what commit_files names; on those the upload stays as it was.
    """
    raise NotImplementedError
