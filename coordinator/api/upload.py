"""Whole files in one request: POST /files/upload, simple (the body is the file) or the start of a resumable one.

A simple upload that breaks off leaves nothing behind. A file of one block is written and committed at once; a larger
one is announced, streamed and then committed, so that other devices learn of it while it comes in.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from coordinator.access import resolve
from coordinator.api.arrivals import hold_room
from coordinator.api.files import parse_time
from coordinator.api.render import metadata_body
from coordinator.api.routes import RouteSpec, operation
from coordinator.api.tus import CreateHandler
from coordinator.blocks.write import PlainBlock
from coordinator.metadata import commits, uploads
from coordinator.metadata.values import FileWrite, NewBlock
from coordinator.protocol.errors import ApiError, BadRequest, SizeMismatch, TooLarge
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import VERSION_MAX, Metadata, Role, UploadBody
from coordinator.upload import UploadStream


class UploadHandler(CreateHandler):
    """POST /files/upload?uploadType=simple&path=…[&base_version=N][&mtime=…][&executable=true]; the body is the file.

    With uploadType=resumable it begins an upload instead, as POST /uploads does.
    """

    _simple: bool = False

    async def prepare(self) -> None:
        self._held = AsyncExitStack()
        await super().prepare()

    async def begin(self) -> None:
        kind = self.text("uploadType", "resumable")
        if kind not in ("simple", "resumable"):
            raise BadRequest(reason="uploadType is simple or resumable")
        self._simple = kind == "simple" and self.request.method == "POST"
        if not self._simple:
            await super().begin()
            return
        self._target = resolve(self.session, self.text("path"), Role.EDITOR)
        self._base_version = self.optional_integer("base_version", high=VERSION_MAX)
        self._mtime = parse_time(self.optional_text("mtime"))
        self._executable = self.flag("executable")
        size = self.content_length
        if size is not None and size > self.services.config.upload_bytes_max:
            raise TooLarge(limit=self.services.config.upload_bytes_max)
        if size is None or size > BLOCK_BYTES:
            await self._announce(size)
        else:
            await hold_room(self, self._held, size)
            self._plain = bytearray(size)
            self._filled = 0

    async def _announce(self, size: int | None) -> None:
        upload, head = await self.services.db.run(
            uploads.create,
            self.session,
            self._target,
            size,
            base_version=self._base_version,
            client_modified_at=self._mtime,
            executable=self._executable,
        )
        self._upload = upload
        self.publish([head])
        await self.open_stream(upload.id)

    async def receive(self, chunk: bytes) -> None:
        if not self._simple or self._stream is not None:
            await super().receive(chunk)
        else:
            end = self._filled + len(chunk)
            self._plain[self._filled : end] = chunk
            self._filled = end

    @operation(
        "Upload a whole file (simple), or begin a resumable upload",
        body=UploadBody,
        answer=Metadata,
        query={
            "uploadType": str,
            "path": str | None,
            "base_version": int | None,
            "mtime": str | None,
            "executable": bool | None,
        },
    )
    async def post(self) -> None:
        if not self._simple:
            await super().post()
        elif self._stream is not None:
            try:
                await self._commit_stream(self._stream)
            except ApiError:
                await super().end()  # before the answer: whoever is refused may use the space at once
                raise
        else:
            await self._commit_small()

    async def _commit_stream(self, stream: UploadStream) -> None:
        upload = stream.upload
        if upload.size_bytes is None:
            stream.upload = await self.services.db.run(uploads.set_size, self.session, upload.id, stream.received)
        elif stream.received != upload.size_bytes:
            raise SizeMismatch(received=stream.received, expected=upload.size_bytes)
        self._keep = False  # `end` has nothing left to do, whatever becomes of this
        await stream.finish()
        written = await self.services.db.run(commits.commit_upload, self.session, upload.id)
        self._told = True
        self.answer_written(written)

    async def _commit_small(self) -> None:
        target, plain, db = self._target, self._plain, self.services.db
        stored: list[NewBlock] = []
        if plain:
            # Refused by the commit it stays as if it had been sent by hash.
            await self.services.staging.take(self.session.user_id, target.account_id, len(plain))
            stored = await self.services.store.write(target.account_id, [PlainBlock(plain)])
        hashes = tuple(block.row.hash for block in stored)
        write = FileWrite(target, len(plain), hashes, self._base_version, self._mtime, self._executable)
        committed = await db.run(commits.commit_new, self.session, write, stored)
        self.publish(committed.heads)
        [result] = committed.results
        if isinstance(result, ApiError):
            raise result
        self.answer(metadata_body(result))

    async def end(self) -> None:
        try:
            await super().end()
        finally:
            await self._held.aclose()


ROUTES: Final = (RouteSpec("files.upload", "/api/v1/files/upload", UploadHandler),)
