"""Metadata values as the API's bodies; pure."""

from __future__ import annotations

from coordinator.metadata.values import Deleted, Entry, VersionInfo
from coordinator.protocol.types import Metadata, TrashRow, VersionRow


def metadata_body(entry: Entry) -> Metadata:
    """A file or folder as the caller sees it."""
    return Metadata(
        id=entry.id,
        path=entry.path,
        kind=entry.kind,
        version=entry.version,
        size=entry.size_bytes,
        content_hash=None if entry.content_hash is None else entry.content_hash.hex(),
        modified_at=entry.modified_at,
        client_modified_at=entry.client_modified_at,
        modified_by=entry.modified_by,
        state="pending" if entry.pending else "complete",
        executable=entry.executable,
        parent_id=entry.parent_id,
    )


def version_body(version: VersionInfo) -> VersionRow:
    return VersionRow(
        version=version.version,
        size=version.size_bytes,
        content_hash=version.content_hash.hex(),
        modified_at=version.modified_at,
        client_modified_at=version.client_modified_at,
        modified_by=version.modified_by,
        executable=version.executable,
    )


def trash_body(row: Deleted) -> TrashRow:
    return TrashRow(
        id=row.id,
        path=row.path,
        kind=row.kind,
        size=row.size_bytes,
        version=row.version,
        deleted_at=row.deleted_at,
        deleted_by=row.deleted_by,
    )
