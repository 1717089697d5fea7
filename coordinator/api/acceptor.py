"""Takes connections off the listening sockets: a few in each turn of the loop, and none beyond a limit.

Guarantees: when there is no room, or the system has no descriptor left, accepting pauses instead of failing in a spin;
what waits meanwhile is taken by other workers, or later. Does not: speak TLS or HTTP (server.py).
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Final

log = logging.getLogger("coordinator.api")

# Workers share the socket. A worker that took all that waits would leave its fellows idle under a burst.
ACCEPTS_PER_TURN: Final = 16
PAUSE_S: Final = 0.2
DESCRIPTORS_KEPT: Final = 256  # for nodes, the database, files


class Acceptor:
    """Owned by the event loop, from `start` to `stop`."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        serve: Callable[[socket.socket, object], None],
        count: Callable[[], int],
        connections_max: int | None = None,
    ) -> None:
        """`serve(connection, address)` gets every connection, `count()` says how many are open.

        `connections_max` is by default what the process's limit of open files leaves.
        """
        self._sockets = sockets
        self._serve = serve
        self._count = count
        self._connections_max = connections_max
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def stop(self) -> None:
        """Accept nothing more and close the sockets; those that share them go on."""
        if self._paused is not None:
            self._paused.cancel()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(sock)
                sock.close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._count() >= self._limit():
                self._pause("too many connections")
                return
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # it was closed while it waited
            except OSError as error:
                self._pause(error.strerror or "unknown")
                return
            connection.setblocking(False)
            self._serve(connection, address)

    def _limit(self) -> int:
        if self._connections_max is not None:
            return self._connections_max
        return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_KEPT)

    def _pause(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        if self._paused is None:
            log.warning("accept.paused", extra={"reason": reason, "connections": self._count()})
        self._paused = loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self.start()
        if self._count() < self._limit():
            self._paused = None
