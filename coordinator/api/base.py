"""The handler that every resource's handlers derive from: request id, session, typed bodies, errors, accounting.

A handler declares what it needs in class attributes and implements `get`, `post`, …, which parse, authorise, call and
`answer`. What it raises is answered: an ApiError with its code, anything else as internal_error with one traceback in
the log.

Every body is received through `receive`, after the session has been checked, so that nobody who is not logged in makes
us keep bytes. The default collects up to `body_bytes_max` bytes for `body()`; a handler that streams overrides
`receive` (and `begin`, for what can be refused before the first byte) and raises from it like from anywhere else;
`end` runs last, whatever happened. A body with `Content-Encoding: gzip` is unpacked on the way, within the same bound,
where the handler takes such (`takes_packed`).

Does not: decide who may do what in a namespace (coordinator.access), know routes (server.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import secrets
import socket
import ssl
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from coordinator.api.errors import as_api_error, error_body, error_headers
from coordinator.api.packing import PACK_FROM_BYTES, PACK_HERE_BYTES_MAX, Unpacker, pack, takes_gzip
from coordinator.api.routes import CLIENT_GONE, Finished, Route
from coordinator.metadata import accounts
from coordinator.metrics import REQUESTS_RUNNING
from coordinator.protocol.errors import (
    ApiError,
    BadRequest,
    NotAllowed,
    NotFound,
    NotLoggedIn,
    TooLarge,
    UnsupportedMedia,
)

if TYPE_CHECKING:
    from coordinator.metadata.values import Session
    from coordinator.notify.longpoll import Lot
    from coordinator.services import Services

log = logging.getLogger("coordinator.api")

JSON_BODY_BYTES_MAX: Final = 1024 * 1024
# A refused body of at most this much is read and thrown away before the answer: closing a connection while its client
# still sends makes the kernel reset it, and the client may never see why.
DISCARD_BYTES_MAX: Final = 8 * 1024 * 1024
TOKEN_CHARS_MAX: Final = 256
_SENT_WITH_HEADERS_MAX: Final = 256 * 1024  # a copy that saves a packet

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")

_T = TypeVar("_T")
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


class Running:
    """The requests being worked on by this worker. Owned by the event loop."""

    def __init__(self, lot: Lot) -> None:
        """`lot` is where connections wait that need no handler meanwhile."""
        self.lot = lot
        self.draining = False
        self._handlers: set[ApiHandler] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._handlers)

    def enter(self, handler: ApiHandler) -> None:
        self._handlers.add(handler)
        self._idle.clear()
        REQUESTS_RUNNING.inc()

    def leave(self, handler: ApiHandler) -> None:
        self._handlers.discard(handler)
        REQUESTS_RUNNING.dec()
        if not self._handlers:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when no request is being worked on."""
        await self._idle.wait()

    def close_stalled(self, idle_s: float) -> None:
        """Close the connections of requests whose body has brought no byte for `idle_s` seconds."""
        for handler in self._handlers:
            if handler.stalled_s > idle_s:
                handler.give_up()


@stream_request_body
class ApiHandler(RequestHandler):
    """One request. Everything belongs to the event loop."""

    login_required: ClassVar[bool] = True
    admin_required: ClassVar[bool] = False
    body_bytes_max: ClassVar[int] = JSON_BODY_BYTES_MAX
    takes_packed: ClassVar[bool] = True  # False: the body is content, which is taken as it is

    services: Services
    session: Session  # set before `begin` where login_required
    request_id: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    waited: bool = False  # for something else than our own work: the request's time says nothing
    _detached: bool = False

    def initialize(self, services: Services, route: Route, running: Running) -> None:
        self.services = services
        self.route = route
        self.running = running
        self._started = time.monotonic()
        self._body: list[bytes] = []
        self._unpacker: Unpacker | None = None
        self.waits_since = math.inf  # since when the client owes us bytes; never while we are at work ourselves

    # --- for subclasses: the request ---------------------------------------------------------------------------

    async def begin(self) -> None:
        """Called with the session, before the body: raise here what can be refused without reading it."""

    async def receive(self, chunk: bytes) -> None:
        """Take a part of the body. The client is not read from until this returns."""
        self._body.append(chunk)

    async def end(self) -> None:
        """Called once at the end, whatever happened: release what `begin` and `receive` hold."""

    def body(self, kind: type[_T]) -> _T:
        """The JSON body as a `kind`. Raises BadRequest, UnsupportedMedia."""
        self.end_unpacking()
        media = self.request.headers.get("Content-Type", "application/json")
        if media.partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMedia(expected="application/json")
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind)
        try:
            return decoder.decode(b"".join(self._body))  # type: ignore[no-any-return]  # the cache is keyed by kind
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(reason=_reason(error)) from error

    def end_unpacking(self) -> None:
        """The whole body has been received: raises BadRequest where a compressed one was cut off."""
        if self._unpacker is not None:
            self._unpacker.finish()

    def text(self, name: str, default: str | None = None) -> str:
        """The query argument `name`, exactly as sent. Raises BadRequest when absent without default, or not UTF-8."""
        values = self.request.query_arguments.get(name)
        if not values:
            if default is None:
                raise BadRequest(reason=f"the argument {name!r} is missing")
            return default
        if len(values) > 1:
            raise BadRequest(reason=f"the argument {name!r} is given twice")
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            raise BadRequest(reason=f"the argument {name!r} is not UTF-8") from None

    def optional_text(self, name: str) -> str | None:
        """Like `text`; None when absent."""
        return self.text(name) if name in self.request.query_arguments else None

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """The query argument `name`, within low..high. Raises BadRequest."""
        value = self.optional_integer(name, low=low, high=high)
        if value is not None:
            return value
        if default is None:
            raise BadRequest(reason=f"the argument {name!r} is missing")
        return default

    def optional_integer(self, name: str, *, low: int = 0, high: int = (1 << 63) - 1) -> int | None:
        """Like `integer`; None when absent."""
        text = self.optional_text(name)
        if text is None:
            return None
        if not _INTEGER.fullmatch(text) or not low <= (value := int(text)) <= high:
            raise BadRequest(reason=f"the argument {name!r} must be a number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """The query argument `name`: "true" or "false", absent is false. Raises BadRequest."""
        text = self.text(name, "false")
        if text not in ("true", "false"):
            raise BadRequest(reason=f"the argument {name!r} must be true or false")
        return text == "true"

    @property
    def client_address(self) -> str:
        """The client's IP address; behind a proxy that the configuration trusts, what that proxy says."""
        address = self.request.remote_ip or ""
        trusted = self.services.config.trusted_proxies
        if address not in trusted:
            return address
        hops = self.request.headers.get("X-Forwarded-For", "").split(",")
        return next((hop.strip() for hop in reversed(hops) if hop.strip() and hop.strip() not in trusted), address)

    @property
    def stalled_s(self) -> float:
        """For how many seconds the client has owed us the next byte of the body; 0 while it does not."""
        body = self.request._body_future
        return 0.0 if body is None or body.done() else max(0.0, time.monotonic() - self.waits_since)

    def give_up(self) -> None:
        """Wait no longer for the rest of the body."""
        self.connection.close()

    @property
    def connection(self) -> HTTP1Connection:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        return connection

    @property
    def content_length(self) -> int | None:
        """What the request says about its body's size; None where it says nothing (no body, or chunked)."""
        text = self.request.headers.get("Content-Length")
        if text is None or not (text.isascii() and text.isdigit()):
            return None  # tornado refuses what is no number when it comes to the body
        return int(text)

    # --- for subclasses: the answer ----------------------------------------------------------------------------

    def answer(self, value: object, status: int = 200) -> None:
        """End the request with `value` (a msgspec struct) as JSON, packed where the client asks and it is not large."""
        content = self._encoded(value, status)
        if self.is_to_be_packed(content) and len(content) <= PACK_HERE_BYTES_MAX:
            content = self._packed(content, pack(content))
        self.finish(content)

    async def answer_large(self, value: object, status: int = 200) -> None:
        """As `answer`, for what may be long: packed in the CPU pool."""
        content = self._encoded(value, status)
        if self.is_to_be_packed(content):
            content = await self.pack(content)
        await self.finish(content)

    async def pack(self, content: bytes) -> bytes:
        """`content` as gzip, with the headers that say so; as it is where that saves nothing."""
        here = len(content) <= PACK_HERE_BYTES_MAX
        return self._packed(content, pack(content) if here else await self.services.cpu.run(pack, content))

    def _encoded(self, value: object, status: int) -> bytes:
        self.set_status(status)
        self._headers["Content-Type"] = "application/json"
        return msgspec.json.encode(value)

    def is_to_be_packed(self, content: bytes) -> bool:
        """Whether the client asks for packed answers and this one is worth it."""
        self._headers["Vary"] = "Accept-Encoding"
        return len(content) >= PACK_FROM_BYTES and takes_gzip(self.request.headers.get("Accept-Encoding", ""))

    def _packed(self, content: bytes, smaller: bytes | None) -> bytes:
        if smaller is None:
            return content
        self._headers["Content-Encoding"] = "gzip"
        return smaller

    async def send(self, content: bytes | bytearray | memoryview) -> None:
        """A piece of a body whose Content-Length is set, without the copies that `write` makes; it is not changed any
        more."""
        if not self._headers_written:
            if len(content) <= _SENT_WITH_HEADERS_MAX:
                self.write(bytes(content))
                await self.flush()
                return
            await self.flush()
        self.bytes_out += len(content)
        await self.connection.write(content)  # type: ignore[arg-type]  # any buffer will do

    def answer_nothing(self) -> None:
        """End the request with 204."""
        self.set_status(204)
        self.finish()

    # --- the course of a request -------------------------------------------------------------------------------

    async def prepare(self) -> None:
        try:
            self._check_body_size()
            if self.login_required:
                self.session = await self.read_session()
                if self.admin_required and not self.session.is_admin:
                    raise NotAllowed
            await self.begin()
        except (ApiError, HTTPError) as error:
            if not self._discard_body(error):
                raise
        self.waits_since = time.monotonic()

    def _check_body_size(self) -> None:
        length = self.content_length
        if length is not None and length > self.body_bytes_max:
            raise TooLarge(limit=self.body_bytes_max)
        self.connection.set_max_body_size(max(self.body_bytes_max, DISCARD_BYTES_MAX))
        encoding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if self.takes_packed and encoding == "gzip":
            self._unpacker = Unpacker(self.body_bytes_max)
        elif self.takes_packed and encoding != "identity":
            raise UnsupportedMedia(expected="bodies in gzip or without a content coding")

    async def read_session(self) -> Session:
        """The session of the token that the request carries. Raises NotLoggedIn."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_CHARS_MAX:
            raise NotLoggedIn
        # No cache: a device that was signed out is out at its next request.
        session: Session | None = await self.services.db.run(accounts.get_session, hash_token(token))
        if session is None:
            raise NotLoggedIn
        self.services.hub.seen(session.device_id)
        return session

    async def data_received(self, chunk: bytes) -> None:
        self.waits_since = math.inf
        self.bytes_in += len(chunk)
        try:
            if self.bytes_in > self.body_bytes_max:
                raise TooLarge(limit=self.body_bytes_max)
            await self._receive_unpacked(chunk)
        except Exception as error:  # noqa: BLE001 -- answered here or, when discarded, by tornado; both log it
            if not self._discard_body(error):
                self.log_exception(*sys.exc_info())
                self.send_error(exc_info=sys.exc_info())
        self.waits_since = time.monotonic()

    async def _receive_unpacked(self, chunk: bytes) -> None:
        if self._unpacker is None:
            await self.receive(chunk)
            return
        for piece in self._unpacker.feed(chunk):
            await self.receive(piece)
            await asyncio.sleep(0)  # a chunk may hold a thousand times its size: others have their turn in between

    def _discard_body(self, error: Exception) -> bool:
        """Let the rest of the body go by and answer `error` then; False when that is too much or nothing is left."""
        length = self.content_length
        left = 0 if length is None else length - self.bytes_in  # None is chunked, of unknown size, or no body
        invited = self.request.headers.get("Expect", "").lower() != "100-continue" or self.bytes_in > 0
        if not invited or not 0 < left <= DISCARD_BYTES_MAX:
            return False

        def discard(_chunk: bytes) -> None:
            self.waits_since = time.monotonic()

        def refuse(*_args: str, **_named: str) -> None:
            raise error

        # Instance attributes stand before the class's methods: tornado goes on as if nothing had happened.
        self.data_received = discard  # type: ignore[method-assign, assignment]  # for this request only
        setattr(self, (self.request.method or "get").lower(), refuse)
        return True

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        # Wrapped instead of on_finish, which does not run when the client leaves or a handler keeps the connection:
        # drain must know of every handler that still works.
        self.running.enter(self)
        try:
            await super()._execute(transforms, *args, **kwargs)
        finally:
            self._account()
            try:
                await self.end()
            finally:
                self.running.leave(self)

    def _account(self) -> None:
        """Count and log the request; called once, at its end. A detached one is accounted for by who took it over."""
        if self._detached:
            return
        session: Session | None = getattr(self, "session", None)
        self.route.account(
            Finished(
                self.request_id,
                self.request.method or "",
                session.user_id if session else None,
                self._status_code if self._finished else CLIENT_GONE,
                time.monotonic() - self._started,
                self.bytes_in,
                self.bytes_out,
            ),
            waited=self.waited,
        )

    def detach_socket(self) -> socket.socket | None:
        """Take the bare socket away from the server; who has it answers, and accounts for the request.

        None (and nothing has happened) when the connection is closed, or holds bytes that belong to other requests.
        """
        stream = self.connection.stream
        if stream.closed() or stream.writing() or stream._read_buffer_size:
            return None
        taken = stream.socket
        if isinstance(taken, ssl.SSLSocket) and taken.pending():
            return None
        self._detached = True
        stream.io_loop.remove_handler(taken)
        self.detach()
        assert isinstance(taken, socket.socket)
        return taken

    def set_default_headers(self) -> None:
        if not self.request_id:
            offered = self.request.headers.get("X-Request-ID", "")
            self.request_id = offered if _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)
        headers = self._headers
        headers["Server"] = "holdfast"
        headers["X-Request-ID"] = self.request_id
        headers["Cache-Control"] = "no-store"
        headers["X-Content-Type-Options"] = "nosniff"

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        assert isinstance(chunk, bytes)
        self.bytes_out += len(chunk)
        super().write(chunk)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Any:
        # An answer before the body's end makes tornado close the connection; a client that is not told so would send
        # its next request into the void.
        if self.running.draining or not self.connection._read_finished:
            self._headers["Connection"] = "close"
        return super().finish(chunk)

    def compute_etag(self) -> str | None:
        return None  # what has an ETag sets its own

    # --- failures ----------------------------------------------------------------------------------------------

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(value, ApiError | HTTPError | HTTPInputError | StreamClosedError):
            return  # decisions and departures are in the request's own line
        log.error(
            "request.failed",
            exc_info=(typ, value, tb) if typ and value else None,
            extra={"request": self.request_id, "route": self.route.name},
        )

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        cause = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if self._headers_written or isinstance(cause, StreamClosedError):
            # Half an answer cannot become an error. Cut it, so that nobody takes it for the whole.
            self.connection.close()
            return
        error = as_api_error(cause, method=self.request.method or "")
        self.clear()
        self.set_status(error.status, "Checksum Mismatch" if error.status == 460 else None)
        self._headers["Content-Type"] = "application/json"
        for name, value in error_headers(error).items():
            self._headers[name] = value
        if error.status == 405:
            self._headers["Allow"] = ", ".join(self._allowed_methods())
        self.add_error_headers(error)
        self.finish(None if self.request.method == "HEAD" else error_body(error, self.request_id))

    def add_error_headers(self, error: ApiError) -> None:
        """For protocols that want headers of their own on errors too (tus)."""

    def _allowed_methods(self) -> list[str]:
        unimplemented = RequestHandler._unimplemented_method
        return [name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not unimplemented]


class UnknownAddress(ApiHandler):
    """Everything that is not in the routes table."""

    login_required = False

    async def begin(self) -> None:
        raise HTTPError(404)


def parse_id(text: str, what: str) -> int:
    """An id out of a path. Raises NotFound for what cannot be one."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFound(what=what)
    return int(text)


def parse_upload_id(text: str) -> str:
    """An upload's id out of a query. Raises NotFound for what cannot be one."""
    if not _UPLOAD_ID.fullmatch(text):
        raise NotFound(what="announcement")
    return text


def hash_token(token: str) -> bytes:
    """What is stored of a device's token."""
    return hashlib.sha256(token.encode()).digest()


def _reason(error: Exception) -> str:
    """A decoder's complaint as the end of a sentence, without its full stop."""
    text = str(error).replace("`", "'").rstrip(".")
    return text[:1].lower() + text[1:] if text else "the body is not JSON"
