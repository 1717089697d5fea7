"""The HTTP server of a worker: its connections, their limits, and how it stops.

Guarantees: a connection that brings nothing for `idle_connection_s` is closed; a certificate that was replaced on disk
is used for new connections within seconds; after `stop_accepting` nothing new is taken, and `close` ends what is left.
Does not: know the routes (application.py) or when to stop (daemon.py).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from coordinator.api.acceptor import Acceptor
from coordinator.api.application import ROUTES, Api
from coordinator.api.base import Running
from coordinator.api.bulk import BulkTlsStream
from coordinator.api.listener import Tls, open_listener
from coordinator.api.routes import RouteSpec
from coordinator.metrics import CONNECTIONS
from coordinator.notify.longpoll import Lot
from coordinator.protocol.types import SIZE_BYTES_MAX
from coordinator.services import Services

# Bodies arrive in pieces of this size: fewer turns of the loop for an upload, yet small beside a block.
CHUNK_BYTES: Final = 256 * 1024
BUFFER_BYTES_MAX: Final = 1024 * 1024  # what one connection may make us hold unread
HEADER_BYTES_MAX: Final = 64 * 1024  # a path of 16 KiB is up to 48 KiB when it is percent-encoded
TEND_S: Final = 10.0  # how often stalled connections and the certificate's files are looked at
_BUFFERS: Final = {"max_buffer_size": BUFFER_BYTES_MAX, "read_chunk_size": CHUNK_BYTES}


class Server:
    """One worker's listener and its connections. Owned by the event loop."""

    def __init__(self, services: Services, *, routes: Sequence[RouteSpec] = ROUTES, tls: bool = True) -> None:
        """`tls` False serves plain HTTP whatever the configuration says."""
        config = services.config
        self.hub = services.hub
        self._lot = Lot(services.hub, self._resume)
        self.running = Running(self._lot)
        self._idle_s = config.idle_connection_s
        self._tls = Tls(config) if tls else None
        self._http = HTTPServer(
            Api(services, self.running, routes),
            chunk_size=CHUNK_BYTES,
            max_header_size=HEADER_BYTES_MAX,
            max_body_size=SIZE_BYTES_MAX,  # each handler has its own, lower bound
            idle_connection_timeout=config.idle_connection_s,
        )
        self._acceptor: Acceptor | None = None
        self._tending: asyncio.Task[None] | None = None
        if routes is ROUTES:
            CONNECTIONS.set_function(self.count_connections)

    def listen(self, address: str) -> None:
        """Accept connections on "host:port" or on the inherited socket "fd:N". Raises ListenError."""
        self._acceptor = Acceptor(open_listener(address), self._serve, self.count_connections)
        self._acceptor.start()
        self._tending = asyncio.create_task(self._tend(), name="tend-connections")

    def count_connections(self) -> int:
        return len(self._http._connections) + self.hub.waiting + self._lot.unsettled

    def stop_accepting(self) -> None:
        """Leave new connections to the other workers; the next answer on each open one says `Connection: close`."""
        self.running.draining = True
        if self._acceptor is not None:
            self._acceptor.stop()

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
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        if self._acceptor is not None:
            self._acceptor.stop()
        self._lot.close()
        await self._http.close_all_connections()

    def _serve(self, connection: socket.socket, address: object) -> None:
        """Speak HTTP, over TLS where that is configured, on an accepted connection."""
        stream: IOStream
        context = self._tls.context if self._tls is not None else None
        if context is None:
            stream = IOStream(connection, **_BUFFERS)
        else:
            try:
                wrapped = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it was closed at once, as by a port scan
                connection.close()
                return
            stream = BulkTlsStream(wrapped, ssl_options=context, **_BUFFERS)
        assert isinstance(address, tuple)
        self._http.handle_stream(stream, address)

    def _resume(self, taken: socket.socket) -> None:
        """Speak HTTP again on a connection whose socket a handler had taken."""
        try:
            address = taken.getpeername()
        except OSError:  # the client has gone
            taken.close()
            return
        if self.running.draining:
            taken.close()
        elif isinstance(taken, ssl.SSLSocket):
            self._http.handle_stream(BulkTlsStream(taken, ssl_options=taken.context, **_BUFFERS), address)
        else:
            self._http.handle_stream(IOStream(taken, **_BUFFERS), address)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(min(TEND_S, self._idle_s))
            self.running.close_stalled(self._idle_s)
            if self._tls is not None:
                self._tls.refresh()
