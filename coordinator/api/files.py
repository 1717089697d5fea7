"""Files and folders: look, make, move, copy, delete, restore, and commit what blocks were sent for.

The bytes go elsewhere: blocks.py (by hash), upload.py and tus.py (streamed), download.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Final, TypeVar

import msgspec

from coordinator.access import resolve
from coordinator.api.base import ApiHandler, parse_upload_id
from coordinator.api.errors import error_object
from coordinator.api.render import metadata_body, trash_body, version_body
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import blocks, commits, files, mass_deletes, pending, trees, uploads
from coordinator.metadata.values import (
    AccountId,
    FileId,
    FileWrite,
    Head,
    NamespaceId,
    PendingRecipe,
    Session,
    Source,
    Upload,
    VersionInfo,
    Written,
)
from coordinator.protocol.errors import ApiError, BadRequest, SizeMismatch
from coordinator.protocol.hashing import BLOCK_BYTES, count_blocks
from coordinator.protocol.types import (
    PAGE_ENTRIES_MAX,
    VERSION_MAX,
    AnnounceAnswer,
    AnnounceBody,
    AnnounceResult,
    BlockList,
    CommitAnswer,
    CommitBody,
    CommitEntry,
    CommitResult,
    CopyBody,
    CopySource,
    CreateFolderBody,
    DeleteBody,
    Deleted,
    FolderPage,
    MassDelete,
    MassDeleteList,
    Metadata,
    MoveBody,
    RestoreBody,
    Role,
    Time,
    TrashList,
    UndeleteBody,
    Undeleted,
    VersionList,
)

# A commit's body holds a hash of 67 characters for every 4 MiB: 64 MiB describe four terabytes.
_COMMIT_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
UNDELETED_AT_ONCE: Final = 200

_T = TypeVar("_T")


class FileHandler(ApiHandler):
    """What the handlers of files share: telling the hub what moved."""

    def publish(self, heads: Iterable[Head | None]) -> None:
        for head in heads:
            if head is not None:
                self.services.hub.published(head.namespace_id, head.seq)

    def answer_written(self, written: Written, status: int = 200) -> None:
        self.publish([written.head])
        self.answer(metadata_body(written.entry), status)


class MetadataHandler(FileHandler):
    @operation(
        "One file or folder, by its path or its id", answer=Metadata, query={"path": str | None, "id": int | None}
    )
    async def get(self) -> None:
        file_id = self.optional_integer("id", low=1)
        if file_id is not None:
            if self.optional_text("path") is not None:
                raise BadRequest(reason="a file is named by its path or its id, not by both")
            self.answer(metadata_body(await self.services.db.run(files.get_entry_by_id, self.session, FileId(file_id))))
            return
        target = resolve(self.session, self.text("path"), Role.VIEWER)
        self.answer(metadata_body(await self.services.db.run(files.get_entry, target)))


class ListFolderHandler(FileHandler):
    @operation(
        "A folder's entries by name, or everything below it",
        answer=FolderPage,
        query={"path": str | None, "recursive": bool | None, "limit": int | None, "page": str | None},
    )
    async def get(self) -> None:
        target = resolve(self.session, self.text("path", "/"), Role.VIEWER)
        limit = self.integer("limit", PAGE_ENTRIES_MAX, low=1, high=PAGE_ENTRIES_MAX)
        page = self.optional_text("page")
        if self.flag("recursive"):
            found = await self.services.db.run(files.list_tree, target, limit, page)
        else:
            found = await self.services.db.run(files.list_folder, self.session, target, limit, page)
        await self.answer_large(
            FolderPage(entries=[metadata_body(entry) for entry in found.entries], next_page=found.next_page)
        )


class ListRevisionsHandler(FileHandler):
    @operation(
        "A file's versions, newest first",
        answer=VersionList,
        query={"path": str, "limit": int | None, "before": int | None},
    )
    async def get(self) -> None:
        target = resolve(self.session, self.text("path"), Role.VIEWER)
        limit = self.integer("limit", 100, low=1, high=PAGE_ENTRIES_MAX)
        before = self.optional_integer("before", low=1, high=VERSION_MAX)
        versions = await self.services.db.run(files.list_versions, target, limit, before)
        self.answer(VersionList(versions=[version_body(version) for version in versions]))


class RecipeHandler(FileHandler):
    @operation(
        "A version's blocks, or those of an announced one",
        answer=BlockList,
        query={"path": str | None, "version": int | None, "upload": str | None},
    )
    async def get(self) -> None:
        upload_id = self.optional_text("upload")
        if upload_id is not None:
            announced = await self.services.db.run(pending.get_recipe, self.session, parse_upload_id(upload_id))
            await self.answer_large(_block_list(announced, announced.hashes))
            return
        target = resolve(self.session, self.text("path"), Role.VIEWER)
        wanted = self.optional_integer("version", low=1, high=VERSION_MAX)
        version, hashes = await self.services.db.run(files.list_hashes, target, wanted)
        await self.answer_large(_block_list(version, hashes))


def _block_list(version: VersionInfo | PendingRecipe, hashes: Iterable[bytes]) -> BlockList:
    return BlockList(
        version=version.version,
        size=version.size_bytes,
        content_hash=version.content_hash.hex(),
        blocks=[digest.hex() for digest in hashes],
    )


class TrashHandler(FileHandler):
    @operation("What was deleted", answer=TrashList, query={"limit": int | None, "page": str | None})
    async def get(self) -> None:
        limit = self.integer("limit", PAGE_ENTRIES_MAX, low=1, high=PAGE_ENTRIES_MAX)
        found = await self.services.db.run(files.list_trash, self.session, limit, self.optional_text("page"))
        self.answer(TrashList(entries=[trash_body(row) for row in found.entries], next_page=found.next_page))


class CreateFolderHandler(FileHandler):
    @operation("Make a folder", body=CreateFolderBody, answer=Metadata)
    async def post(self) -> None:
        body = self.body(CreateFolderBody)
        target = resolve(self.session, body.path, Role.EDITOR)
        self.answer_written(
            await self.services.db.run(
                trees.create_folder, self.session, target, body.parents, _file_id(body.parent_id)
            )
        )


class MoveHandler(FileHandler):
    @operation("Move or rename", body=MoveBody, answer=Metadata)
    async def post(self) -> None:
        body = self.body(MoveBody)
        source = resolve(self.session, body.from_path, Role.EDITOR)
        to = resolve(self.session, body.to_path, Role.EDITOR)
        self.answer_written(
            await self.services.db.run(
                trees.move,
                self.session,
                source,
                to,
                body.base_version,
                body.replace,
                _file_id(body.id),
                _file_id(body.parent_id),
            )
        )


class CopyHandler(FileHandler):
    @operation("Copy without sending a byte", body=CopyBody, answer=Metadata)
    async def post(self) -> None:
        body = self.body(CopyBody)
        source = resolve(self.session, body.from_path, Role.VIEWER)
        to = resolve(self.session, body.to_path, Role.EDITOR)
        self.answer_written(
            await self.services.db.run(trees.copy, self.session, source, to, body.base_version, body.replace)
        )


class DeleteHandler(FileHandler):
    @operation("Move to the trash", body=DeleteBody, answer=Deleted)
    async def post(self) -> None:
        body = self.body(DeleteBody)
        target = resolve(self.session, body.path, Role.EDITOR)
        removed = await self.services.db.run(
            trees.delete, self.session, target, body.base_version, _file_id(body.id), body.unchanged_since
        )
        self.publish([removed.head])
        self.answer(Deleted(deleted=removed.count))


class RestoreHandler(FileHandler):
    @operation("Make an older version current, or undelete", body=RestoreBody, answer=Metadata)
    async def post(self) -> None:
        body = self.body(RestoreBody)
        target = resolve(self.session, body.path, Role.EDITOR)
        self.answer_written(await self.services.db.run(trees.restore, self.session, target, body.version))


class MassDeletesHandler(FileHandler):
    @operation("Very many deletes in one go that were noticed", answer=MassDeleteList)
    async def get(self) -> None:
        rows = await self.services.db.run(mass_deletes.list_told, self.session)
        self.answer(
            MassDeleteList(
                mass_deletes=[
                    MassDelete(
                        id=row.id,
                        deleted_by=row.email,
                        device=row.device,
                        began_at=row.began_at,
                        last_at=row.last_at,
                        files=row.files,
                        undone_at=row.undone_at,
                    )
                    for row in rows
                ]
            )
        )


class UndeleteHandler(FileHandler):
    @operation("Bring back what a mass delete put into the trash", body=UndeleteBody, answer=Undeleted)
    async def post(self) -> None:
        body, db = self.body(UndeleteBody), self.services.db
        found = await db.run(mass_deletes.list_deleted, self.session, body.id, UNDELETED_AT_ONCE + 1)
        restored = 0
        for file_id, path in found[:UNDELETED_AT_ONCE]:
            target = resolve(self.session, path, Role.EDITOR)
            written = await db.run(trees.undelete, self.session, target, file_id)
            if written is not None:
                restored += 1
                self.publish([written.head])
        has_more = len(found) > UNDELETED_AT_ONCE
        if not has_more:
            await db.run(mass_deletes.end, body.id)
        self.answer(Undeleted(restored=restored, has_more=has_more))


class AnnounceHandler(FileHandler):
    """What is coming, told before its blocks: other devices may begin to wait, and the caller learns what to send."""

    body_bytes_max: ClassVar[int] = _COMMIT_BODY_BYTES_MAX

    @operation("Tell what is coming; which blocks to send", body=AnnounceBody, answer=AnnounceAnswer)
    async def post(self) -> None:
        body = self.body(AnnounceBody)
        writes = [_announced_write(self.session, entry) for entry in body.entries]
        announced = await self.services.db.run(uploads.announce, self.session, _good(writes))
        self.publish(announced.heads)
        missing = await self._missing(_good(writes))
        results = _weave(writes, announced.results)
        await self.answer_large(
            AnnounceAnswer(
                results=[
                    AnnounceResult(error=error_object(result, self.request_id))
                    if isinstance(result, ApiError)
                    else _announced(result, write, missing, as_ranges=body.as_ranges)
                    for write, result in zip(writes, results, strict=True)
                ]
            )
        )

    async def _missing(self, writes: Sequence[FileWrite]) -> set[bytes]:
        """Which of all the entries' blocks must be sent, found with one query for each namespace."""
        missing: set[bytes] = set()
        wanted: dict[tuple[AccountId, NamespaceId], dict[bytes, None]] = {}
        for write in writes:
            place = (write.target.account_id, write.target.namespace_id)
            wanted.setdefault(place, {}).update(dict.fromkeys(write.hashes))
        for (account_id, namespace_id), hashes in wanted.items():
            if hashes:
                missing.update(
                    await self.services.db.run(
                        blocks.find_missing, self.session, account_id, namespace_id, list(hashes)
                    )
                )
        return missing


class CommitHandler(FileHandler):
    body_bytes_max: ClassVar[int] = _COMMIT_BODY_BYTES_MAX

    @operation("Write many files whose blocks have arrived", body=CommitBody, answer=CommitAnswer)
    async def post(self) -> None:
        body = self.body(CommitBody)
        writes = [_file_write(self.session, entry) for entry in body.entries]
        committed = await self.services.db.run(commits.commit_files, self.session, _good(writes), body.request_key)
        self.publish(committed.heads)
        await self.answer_large(
            CommitAnswer(
                results=[
                    CommitResult(error=error_object(result, self.request_id))
                    if isinstance(result, ApiError)
                    else CommitResult(metadata=metadata_body(result))
                    for result in _weave(writes, committed.results)
                ]
            )
        )


def _file_write(session: Session, entry: CommitEntry) -> FileWrite | ApiError:
    """One entry as the metadata takes it, or why it cannot be taken; the others are not touched by that."""
    try:
        target = resolve(session, entry.path, Role.EDITOR)
        if bool(entry.blocks) + (entry.upload_id is not None) + (entry.copy_of is not None) > 1:
            raise BadRequest(reason="an entry names its blocks, an upload or a version to copy, and only one of them")
        if entry.upload_id is None and entry.copy_of is None and len(entry.blocks) != count_blocks(entry.size):
            raise SizeMismatch(received=len(entry.blocks) * BLOCK_BYTES, expected=entry.size)
        modified_at = as_utc(entry.mtime)
    except ApiError as error:
        return error
    return FileWrite(
        target=target,
        size_bytes=entry.size,
        hashes=tuple(bytes.fromhex(block) for block in entry.blocks),
        base_version=entry.base_version,
        client_modified_at=modified_at,
        executable=entry.executable,
        file_id=_file_id(entry.id),
        parent_id=_file_id(entry.parent_id),
        announced=entry.upload_id,
        copied_from=None if entry.copy_of is None else _source(entry.copy_of),
    )


def _source(source: CopySource) -> Source:
    return Source(FileId(source.id), source.version, bytes.fromhex(source.content_hash))


def _announced_write(session: Session, entry: CommitEntry) -> FileWrite | ApiError:
    if entry.upload_id is not None or entry.copy_of is not None:
        return BadRequest(reason="an announcement names its blocks")
    return _file_write(session, entry)


def _file_id(number: int | None) -> FileId | None:
    return None if number is None else FileId(number)


def _good(writes: Sequence[FileWrite | ApiError]) -> list[FileWrite]:
    return [write for write in writes if isinstance(write, FileWrite)]


def _weave(writes: Sequence[FileWrite | ApiError], results: Sequence[_T | ApiError]) -> list[_T | ApiError]:
    """The results of the good writes at the places of all, the refused ones between them."""
    good = iter(results)
    return [write if isinstance(write, ApiError) else next(good) for write in writes]


def _announced(upload: Upload, write: FileWrite | ApiError, missing: set[bytes], *, as_ranges: bool) -> AnnounceResult:
    assert isinstance(write, FileWrite)
    first: dict[bytes, int] = {}
    for index, digest in enumerate(write.hashes):
        if digest in missing:
            first.setdefault(digest, index)
    if as_ranges:
        return AnnounceResult(upload_id=upload.id, missing_ranges=_ranges(first.values()))
    return AnnounceResult(upload_id=upload.id, missing=[digest.hex() for digest in first])


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as [start, stop) ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time with its zone, in UTC. Raises BadRequest."""
    if text is None:
        return None
    try:
        return as_utc(msgspec.convert(text, Time))
    except msgspec.ValidationError:
        raise BadRequest(reason="a time is written like 2026-01-31T12:00:00Z") from None


def as_utc(time: datetime | None) -> datetime | None:
    """The time as the metadata keeps it. Raises BadRequest for one whose zone takes it out of the years 1 to 9999:
    the database would keep it, and then nobody could read its folder.
    """
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        raise BadRequest(reason="a time lies in the years 1 to 9999, in UTC") from None


ROUTES: Final = (
    RouteSpec("files.commit", "/api/v1/files/commit", CommitHandler),
    RouteSpec("files.announce", "/api/v1/files/announce", AnnounceHandler),
    RouteSpec("files.metadata", "/api/v1/files/metadata", MetadataHandler),
    RouteSpec("files.list_folder", "/api/v1/files/list_folder", ListFolderHandler),
    RouteSpec("files.list_revisions", "/api/v1/files/list_revisions", ListRevisionsHandler),
    RouteSpec("files.blocks", "/api/v1/files/blocks", RecipeHandler),
    RouteSpec("files.trash", "/api/v1/files/trash", TrashHandler),
    RouteSpec("files.create_folder", "/api/v1/files/create_folder", CreateFolderHandler),
    RouteSpec("files.move", "/api/v1/files/move", MoveHandler),
    RouteSpec("files.copy", "/api/v1/files/copy", CopyHandler),
    RouteSpec("files.delete", "/api/v1/files/delete", DeleteHandler),
    RouteSpec("files.restore", "/api/v1/files/restore", RestoreHandler),
    RouteSpec("files.mass_deletes", "/api/v1/files/mass_deletes", MassDeletesHandler),
    RouteSpec("files.undelete", "/api/v1/files/undelete", UndeleteHandler),
)
