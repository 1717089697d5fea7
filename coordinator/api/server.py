"""The HTTP server of a worker: its connections, their limits, and how it stops.

Guarantees: a connection that brings nothing for `idle_connection_s` is closed; after `stop_accepting` nothing new is
taken, and `close` ends what is left. Does not: know the routes (application.py) or when to stop (daemon.py).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from tornado.iostream import IOStream, SSLIOStream

from coordinator.api.application import ROUTES, Api
from coordinator.api.base import Running
from coordinator.api.bulk import BulkHTTPServer
from coordinator.api.listener import make_tls_context, open_listener
from coordinator.api.routes import RouteSpec
from coordinator.metrics import CONNECTIONS
from coordinator.notify.longpoll import Lot
from coordinator.protocol.types import SIZE_BYTES_MAX
from coordinator.services import Services

# Bodies arrive in pieces of this size: fewer turns of the loop for an upload, yet small beside a block.
CHUNK_BYTES: Final = 256 * 1024
BUFFER_BYTES_MAX: Final = 1024 * 1024  # what one connection may make us hold unread
HEADER_BYTES_MAX: Final = 64 * 1024  # a path of 16 KiB is up to 48 KiB when it is percent-encoded
STALL_CHECK_S: Final = 10.0
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
        self._tls = make_tls_context(config) if tls else None
        self._http = BulkHTTPServer(
            Api(services, self.running, routes),
            ssl_options=self._tls,
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
        self._lot.close()
        await self._http.close_all_connections()

    def _resume(self, taken: socket.socket) -> None:
        """Serve on a connection whose socket a handler had taken."""
        try:
            address = taken.getpeername()
        except OSError:  # the client has gone
            taken.close()
            return
        if self.running.draining:
            taken.close()
        elif isinstance(taken, ssl.SSLSocket):
            stream = SSLIOStream(taken, ssl_options=self._tls, **_BUFFERS)
            self._http.handle_stream(stream, address)
        else:
            self._http.handle_stream(IOStream(taken, **_BUFFERS), address)

    async def _close_stalled(self) -> None:
        while True:
            await asyncio.sleep(STALL_CHECK_S)
            self.running.close_stalled(self._idle_s)
