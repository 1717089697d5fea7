"""Resumable uploads: tus 1.0.0 with creation, creation-with-upload, creation-defer-length, checksum, expiration and
termination. An upload is made by tus's own POST or by our JSON one; its address speaks tus either way.

When the last byte has arrived the version is committed by the request that brought it. A newer HEAD or PATCH for the
same upload ends the older one: what that had received is kept first, so that the newer continues behind it.
Source: tus resumable upload protocol 1.0.0.
"""

from __future__ import annotations

import hmac
import logging
import re
from typing import Any, ClassVar, Final

from coordinator.access import resolve
from coordinator.api.base import JSON_BODY_BYTES_MAX
from coordinator.api.files import FileHandler, as_utc, parse_time
from coordinator.api.routes import RouteSpec, operation
from coordinator.api.tus_headers import (
    ALGORITHMS,
    check_fits,
    expiry_header,
    parse_checksum,
    parse_metadata,
    parse_number,
)
from coordinator.metadata import commits, uploads
from coordinator.metadata.values import Upload, UploadState
from coordinator.protocol.errors import (
    ApiError,
    BadRequest,
    ChecksumMismatch,
    NotFound,
    OffsetMismatch,
    SizeMismatch,
    TooLarge,
    TusVersion,
    UnsupportedMedia,
    UploadGone,
    UploadSuperseded,
)
from coordinator.protocol.types import SIZE_BYTES_MAX, VERSION_MAX, Role, UploadBody
from coordinator.upload import UploadStream, claim_upload

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
OFFSET_MEDIA: Final = "application/offset+octet-stream"

_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}")
_TUS_HEADERS: Final = frozenset({"tus-resumable", "upload-length", "upload-defer-length"})
_HEAD_ATTEMPTS: Final = 3
_OVERRIDES: Final = frozenset({"HEAD", "PATCH", "DELETE"})
_log = logging.getLogger("coordinator.api")


class TusHandler(FileHandler):
    """What all addresses that speak tus share: version check, headers, and taking a body into an upload."""

    body_bytes_max: ClassVar[int] = SIZE_BYTES_MAX
    takes_packed: ClassVar[bool] = False

    _stream: UploadStream | None = None
    _checksum: tuple[Any, bytes] | None = None
    _keep: bool = True  # what has arrived counts, also when the request breaks off

    async def prepare(self) -> None:
        override = self.request.headers.get("X-HTTP-Method-Override")
        if override is not None and self.request.method == "POST":
            if override.upper() not in _OVERRIDES:
                error = BadRequest(reason="X-HTTP-Method-Override is HEAD, PATCH or DELETE")
                if not self._discard_body(error):
                    raise error
                return
            self.request.method = override.upper()
        await super().prepare()

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self._headers["Tus-Resumable"] = VERSION

    def add_error_headers(self, error: ApiError) -> None:
        if isinstance(error, TusVersion):
            self._headers["Tus-Version"] = VERSION

    def check_version(self) -> None:
        if self.request.headers.get("Tus-Resumable") != VERSION:
            raise TusVersion

    def header_number(self, name: str) -> int | None:
        """The header as a number; None when absent. Raises BadRequest."""
        return parse_number(self.request.headers.get(name), name)

    def read_checksum(self) -> None:
        """What the body must come to. To be called before a claim, since it raises BadRequest."""
        self._checksum = parse_checksum(self.request.headers.get("Upload-Checksum"))
        self._keep = self._checksum is None

    async def open_stream(self, upload_id: str) -> Upload:
        """From now on the body goes into this upload, and nobody else's does; the upload as it stands."""
        upload, epoch = await claim_upload(self.services, self.session, upload_id)
        self._stream = UploadStream(
            self.services,
            self.session,
            upload,
            epoch,
            superseded=self._leave,
            hold_back=self._checksum is not None,
        )
        return upload

    def _leave(self) -> None:
        """A newer request takes over: cut the body here; `end` keeps what has arrived."""
        self.connection.close()

    async def receive(self, chunk: bytes) -> None:
        if self._stream is None:
            raise BadRequest(reason="this request carries no body")
        if self._checksum is not None:
            self._checksum[0].update(chunk)
        try:
            await self._stream.feed(chunk)
        except (SizeMismatch, TooLarge):
            self._keep = False  # a body that is not what was announced is not taken in part
            raise

    async def finish_stream(self) -> None:
        """The body is whole: keep it, commit when it was the last, and answer with the new offset."""
        assert self._stream is not None
        if self._checksum is not None and not hmac.compare_digest(self._checksum[0].digest(), self._checksum[1]):
            raise ChecksumMismatch
        self._keep = False  # `end` has nothing left to do, whatever becomes of this
        self._headers["Upload-Offset"] = str(await self._settle(self._stream))

    async def _settle(self, stream: UploadStream) -> int:
        """Make all that was fed durable, and a version of the upload when it is whole; the offset."""
        offset = await stream.finish()
        if offset == stream.upload.size_bytes:
            written = await self.services.db.run(commits.commit_upload, self.session, stream.upload.id)
            self.publish([written.head])
        return offset

    async def end(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            if self._keep:
                await self._settle(stream)  # broken off: every byte that arrived counts
        except ApiError as error:
            _log.info("upload.tail_not_kept", extra={"request": self.request_id, "code": error.code})
        finally:
            await stream.close()


class CreateHandler(TusHandler):
    """POST: a new upload, by tus's headers or by our JSON body; with tus a first part may come along."""

    async def prepare(self) -> None:
        self.login_required = self.request.method != "OPTIONS"  # type: ignore[misc]  # a question about the service
        await super().prepare()

    _upload: Upload | None = None
    _told: bool = False  # the client learns the upload's address

    async def begin(self) -> None:
        if self.request.method != "POST" or _TUS_HEADERS.isdisjoint(map(str.lower, self.request.headers)):
            return
        self.check_version()
        size = self.header_number("Upload-Length")
        deferred = self.request.headers.get("Upload-Defer-Length")
        if deferred not in (None, "1") or (size is None) == (deferred is None):
            raise BadRequest(reason="give either Upload-Length or Upload-Defer-Length: 1")
        metadata = self.request.headers.get("Upload-Metadata", "")
        told = parse_metadata(metadata)
        path = told.get("path") or told.get("filename")
        if not path:
            raise BadRequest(reason="Upload-Metadata must hold the path (or filename) of the file")
        body = UploadBody(
            path=path if path.startswith("/") else "/" + path,
            size=size,
            base_version=parse_number(told.get("base_version"), "base_version", VERSION_MAX),
            mtime=parse_time(told.get("mtime")),
            executable=told.get("executable") == "true",
        )
        brings_bytes = self.request.headers.get("Content-Type") == OFFSET_MEDIA
        if brings_bytes:
            check_fits(self.content_length, size)
            self.read_checksum()
        elif self.content_length:
            raise UnsupportedMedia(expected=OFFSET_MEDIA)
        upload = await self._create(body, metadata)
        if brings_bytes:
            self._upload = await self.open_stream(upload.id)

    async def receive(self, chunk: bytes) -> None:
        if self._upload is not None:
            await super().receive(chunk)
        elif self.bytes_in > JSON_BODY_BYTES_MAX:
            raise TooLarge(limit=JSON_BODY_BYTES_MAX)
        else:
            self._body.append(chunk)

    @operation("Begin a resumable upload; its Location speaks tus 1.0.0", body=UploadBody, status=201)
    async def post(self) -> None:
        upload = self._upload or await self._create(self.body(UploadBody), "")
        self._headers["Location"] = self._address(upload)
        self._headers["Upload-Expires"] = expiry_header(upload)
        if self._stream is not None:
            await self.finish_stream()
        elif upload.size_bytes == 0:
            written = await self.services.db.run(commits.commit_upload, self.session, upload.id)
            self.publish([written.head])
        self._told = True
        self.set_status(201)
        self.finish()

    async def end(self) -> None:
        """An upload whose address nobody was told could not be continued, but would take up space until it expires."""
        if self._upload is None or self._told:
            await super().end()
            return
        upload, self._upload = self._upload, None
        try:
            self._keep = False
            await super().end()
        finally:
            self.publish([await self.services.db.run(uploads.cancel, self.session, upload.id)])

    @operation("What this service supports of tus", status=204)
    def options(self, **_path: str) -> None:
        self._headers["Tus-Version"] = VERSION
        self._headers["Tus-Extension"] = EXTENSIONS
        self._headers["Tus-Max-Size"] = str(self.services.config.upload_bytes_max)
        self._headers["Tus-Checksum-Algorithm"] = ",".join(ALGORITHMS)
        self.answer_nothing()

    async def _create(self, body: UploadBody, metadata: str) -> Upload:
        limit = self.services.config.upload_bytes_max
        if body.size is not None and body.size > limit:
            raise TooLarge(limit=limit)
        target = resolve(self.session, body.path, Role.EDITOR)
        upload, head = await self.services.db.run(
            uploads.create,
            self.session,
            target,
            body.size,
            base_version=body.base_version,
            client_modified_at=as_utc(body.mtime),
            executable=body.executable,
            client_metadata=metadata,
        )
        self._upload = upload
        self.publish([head])
        return upload

    def _address(self, upload: Upload) -> str:
        scheme = self.services.config.public_url.partition("://")[0]
        return f"{scheme}://{self.request.host}/api/v1/uploads/{upload.id}"


class UploadAddress(TusHandler):
    """One upload: HEAD tells where to go on, PATCH appends, DELETE gives up."""

    options = CreateHandler.options

    async def prepare(self) -> None:
        self.login_required = self.request.method != "OPTIONS"  # type: ignore[misc]  # a question about the service
        await super().prepare()

    async def begin(self) -> None:
        if self.request.method == "OPTIONS":
            return
        self.check_version()
        upload_id = self.path_kwargs["upload"]
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise NotFound(what="upload")
        if self.request.method == "PATCH":
            await self._begin_patch(upload_id)

    async def _get(self, upload_id: str) -> Upload:
        """Raises NotFound also for a version whose blocks are sent by hash: it can be cancelled here, but not sent."""
        upload = await self.services.db.run(uploads.get, self.session, upload_id)
        if not upload.streamed:
            raise NotFound(what="upload")
        return upload

    async def _begin_patch(self, upload_id: str) -> None:
        if self.request.headers.get("Content-Type") != OFFSET_MEDIA:
            raise UnsupportedMedia(expected=OFFSET_MEDIA)
        offset = self.header_number("Upload-Offset")
        if offset is None:
            raise BadRequest(reason="a PATCH needs Upload-Offset")
        size = self.header_number("Upload-Length")
        self.read_checksum()
        self._upload = await self._get(upload_id)
        # Offsets only grow: what is behind already must not end the request that is at work.
        if self._upload.state is UploadState.PENDING and offset >= self._upload.offset:
            try:
                # From here on the claim is ours: `end` gives it back, whatever happens.
                self._upload = await self.open_stream(upload_id)
            except UploadGone:  # or the request before this one has completed it just now
                self._upload = await self.services.db.run(uploads.get, self.session, upload_id)
        if offset != self._upload.offset or (self._stream is None and self.content_length):
            raise OffsetMismatch(expected_offset=self._upload.offset)
        if self._stream is None:
            return  # complete, and nothing more is sent
        if size is not None:
            self._upload = await self.services.db.run(uploads.set_size, self.session, upload_id, size)
            self._stream.upload = self._upload
        check_fits(None if self.content_length is None else offset + self.content_length, self._upload.size_bytes)

    @operation("Where the upload continues: Upload-Offset")
    async def head(self, upload: str) -> None:
        found = await self._get(upload)
        for _ in range(_HEAD_ATTEMPTS):
            if found.state is not UploadState.PENDING:
                break
            if found.active_epoch is None and found.offset != found.size_bytes:
                break
            # Somebody still sends: end that request first, so that the offset told is the one to go on from. Or all has
            # arrived, and who brought the last byte died before it could commit: a client that is told this offset
            # sends nothing more and takes the file for stored.
            await self._take_stock(upload)
            found = await self.services.db.run(uploads.get, self.session, upload)
        self._headers["Upload-Offset"] = str(found.offset)
        if found.size_bytes is None:
            self._headers["Upload-Defer-Length"] = "1"
        else:
            self._headers["Upload-Length"] = str(found.size_bytes)
        if found.client_metadata:
            self._headers["Upload-Metadata"] = found.client_metadata
        self._headers["Upload-Expires"] = expiry_header(found)
        self.finish()

    async def _take_stock(self, upload_id: str) -> None:
        """Have everything stored that has arrived, and the version committed when that is all."""
        try:
            await self.open_stream(upload_id)
            assert self._stream is not None
            await self._settle(self._stream)
        except (UploadGone, UploadSuperseded):
            pass  # completed meanwhile, or a request that set out earlier came in later; clients give up on an error
        finally:
            self._keep = False
            await super().end()

    @operation("Append bytes at Upload-Offset", status=204)
    async def patch(self, upload: str) -> None:
        if self._stream is not None:
            await self.finish_stream()
        else:
            self._headers["Upload-Offset"] = str(self._upload.offset)
        self._headers["Upload-Expires"] = expiry_header(self._upload)
        self.answer_nothing()

    @operation("Give the upload up", status=204)
    async def delete(self, upload: str) -> None:
        self.publish([await self.services.db.run(uploads.cancel, self.session, upload)])
        self.answer_nothing()


ROUTES: Final = (
    RouteSpec("uploads", "/api/v1/uploads", CreateHandler),
    RouteSpec("uploads.one", "/api/v1/uploads/{upload}", UploadAddress),
)
