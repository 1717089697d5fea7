"""The HTTP server of a worker: the table of routes, TLS, limits, and how it stops.

Guarantees: every address answers in the API's error form; a connection that brings nothing for `idle_connection_s` is
closed; after `stop_accepting` nothing new is taken, and `close` ends what is left.
Does not: know what the routes do (one module for each resource) or when to stop (daemon.py).
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Final, NamedTuple

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets
from tornado.routing import URLSpec
from tornado.web import Application

from coordinator.api import (
    admin,
    auth,
    blocks,
    changes,
    devices,
    download,
    files,
    health,
    notifications,
    openapi,
    tus,
    upload,
)
from coordinator.api.base import Running, UnknownAddress
from coordinator.api.routes import Route, RouteSpec
from coordinator.config import CoordinatorConfig
from coordinator.metrics import CONNECTIONS
from coordinator.protocol.types import SIZE_BYTES_MAX
from coordinator.services import Services

log = logging.getLogger("coordinator.api")

ROUTES: Final[tuple[RouteSpec, ...]] = (
    # The busiest first: tornado looks through them in order.
    *blocks.ROUTES,
    *changes.ROUTES,
    *files.ROUTES,
    *upload.ROUTES,
    *download.ROUTES,
    *tus.ROUTES,
    *auth.ROUTES,
    *devices.ROUTES,
    *notifications.ROUTES,
    *admin.ROUTES,
    *health.ROUTES,
    *openapi.ROUTES,
)

# Bodies arrive in pieces of this size: fewer turns of the loop for an upload, yet small beside a block.
CHUNK_BYTES: Final = 256 * 1024
BUFFER_BYTES_MAX: Final = 1024 * 1024  # what one connection may make us hold unread
HEADER_BYTES_MAX: Final = 64 * 1024  # a path of 16 KiB is up to 48 KiB when it is percent-encoded
BACKLOG: Final = 1024
STALL_CHECK_S: Final = 10.0


class ListenError(Exception):
    """The configured address cannot be listened on; the message says why."""


class Server:
    """One worker's listener and its connections. Owned by the event loop."""

    def __init__(self, services: Services, *, routes: Sequence[RouteSpec] = ROUTES, tls: bool = True) -> None:
        """`tls` False serves plain HTTP whatever the configuration says."""
        config = services.config
        self.hub = services.hub
        self.running = Running(self._resume)
        self._idle_s = config.idle_connection_s
        self._http = HTTPServer(
            make_application(services, self.running, routes),
            ssl_options=make_tls_context(config) if tls else None,
            chunk_size=CHUNK_BYTES,
            max_header_size=HEADER_BYTES_MAX,
            max_body_size=SIZE_BYTES_MAX,  # each handler has its own, lower bound
            max_buffer_size=BUFFER_BYTES_MAX,
            idle_connection_timeout=config.idle_connection_s,
        )
        self._sockets: list[socket.socket] = []
        self._stall_check: asyncio.Task[None] | None = None
        if routes is ROUTES:
            CONNECTIONS.set_function(lambda: len(self._http._connections) + services.hub.waiting)

    def listen(self, address: str) -> None:
        """Accept connections on "host:port" or on the inherited socket "fd:N". Raises ListenError."""
        self._sockets = open_listener(address)
        self._http.add_sockets(self._sockets)
        self._stall_check = asyncio.create_task(self._close_stalled(), name="stall-check")

    @property
    def ports(self) -> list[int]:
        return [sock.getsockname()[1] for sock in self._sockets]

    def stop_accepting(self) -> None:
        """Leave new connections to the other workers; the next answer on each open one says `Connection: close`."""
        self.running.draining = True
        self._http.stop()

    async def finish(self, timeout_s: float) -> bool:
        """Wait until no request is being worked on; False when `timeout_s` was not enough."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.running.wait_until_idle()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close every connection, whatever it is doing."""
        if self._stall_check is not None:
            self._stall_check.cancel()
            await asyncio.gather(self._stall_check, return_exceptions=True)
        self._http.stop()
        await self._http.close_all_connections()

    def _resume(self, stream: IOStream, address: object) -> None:
        """Serve on a connection that a handler had taken over."""
        assert isinstance(address, tuple)
        if self.running.draining:
            stream.close()
        else:
            self._http.handle_stream(stream, address)

    async def _close_stalled(self) -> None:
        while True:
            await asyncio.sleep(STALL_CHECK_S)
            self.running.close_stalled(self._idle_s)


class _Place(NamedTuple):
    """An address to listen on: an inherited descriptor, or a host and a port."""

    descriptor: int | None
    host: str
    port: int


def parse_listen(address: str) -> _Place:
    """Raises ListenError."""
    if match := re.fullmatch(r"fd:([0-9]{1,6})", address):
        return _Place(int(match[1]), "", 0)
    if match := re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", address):
        return _Place(None, match[1] or match[2], int(match[3]))
    raise ListenError(f"{address!r} is neither host:port nor fd:number")


def open_listener(address: str) -> list[socket.socket]:
    """Listening sockets for `address`. Raises ListenError."""
    place = parse_listen(address)
    try:
        if place.descriptor is None:
            return bind_sockets(place.port, place.host or None, backlog=BACKLOG)
        inherited = socket.socket(fileno=place.descriptor)
        inherited.setblocking(False)
        if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(f"{address} is not a listening socket")
        return [inherited]
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error


def make_tls_context(config: CoordinatorConfig) -> ssl.SSLContext | None:
    """TLS 1.2 and 1.3 with the configured certificate; None for plain HTTP. Raises ListenError."""
    if config.tls_cert_file is None and config.tls_key_file is None:
        return None
    if config.tls_cert_file is None or config.tls_key_file is None:
        raise ListenError("tls_cert_file and tls_key_file belong together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # TLS 1.2; those of 1.3 are all fine
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except OSError as error:
        raise ListenError(f"the TLS certificate or key cannot be used: {error}") from error
    return context


def make_application(services: Services, running: Running, routes: Sequence[RouteSpec]) -> Application:
    """Tornado's application: the routes in order, then everything unknown."""
    specs = [
        URLSpec(
            route_pattern(route.path),
            route.handler,
            {"services": services, "route": Route(route.name, route.log_level), "running": running},
            name=route.name,
        )
        for route in routes
    ]
    return Application(
        specs,
        default_handler_class=UnknownAddress,
        default_handler_args={"services": services, "route": Route("unknown"), "running": running},
        log_function=_log_nothing,
        routes=routes,
    )


def route_pattern(path: str) -> str:
    """The regular expression for a path template: `{name}` stands for one part of the path."""
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)) + "$"


def _log_nothing(_handler: object) -> None:
    """ApiHandler writes the access log itself."""
