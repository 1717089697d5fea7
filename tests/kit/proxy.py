"""A TCP proxy on the loopback address whose line a test can slow down, freeze or cut. TLS passes through untouched."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.kit.cluster import wait_until

_PIECE_BYTES = 64 * 1024


class TcpProxy:
    """`with TcpProxy(port) as proxy:` and connect to `proxy.port`.

    Threads: one accepts, two for each connection copy. `_lock` guards `_open`; the switches are plain flags that the
    copying threads read before each piece.
    """

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0  # before each piece, either way
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self._cut_after_bytes: int | None = None
        self._forwarded_bytes = 0
        self._answered_bytes = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        # close() alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.thaw()
        self.cut()

    @property
    def forwarded_bytes(self) -> int:
        """Bytes that went from the client towards the server."""
        return self._forwarded_bytes

    @property
    def answered_bytes(self) -> int:
        """Bytes that went from the server towards the client."""
        return self._answered_bytes

    def wait_for_bytes(self, count_bytes: int, *, timeout_s: float = 60.0) -> None:
        """Wait until so many bytes in all have gone to the server."""
        wait_until(lambda: self._forwarded_bytes >= count_bytes, timeout_s=timeout_s, what="traffic", every_s=0.005)

    def cut(self) -> None:
        """Break every open connection; new ones are taken."""
        with self._lock:
            open_now, self._open = self._open, set()
        for line in open_now:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count_bytes: int | None) -> None:
        """Break all connections once so many bytes in all have gone to the server, and again at once for new ones."""
        self._cut_after_bytes = count_bytes

    def freeze(self) -> None:
        """Let nothing through, without breaking anything, until `thaw`."""
        self._flowing.clear()

    def thaw(self) -> None:
        """End a freeze."""
        self._flowing.set()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, counted in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._copy, args=(source, sink, counted), name="proxy", daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._flowing.wait()
                if counted:
                    self._forwarded_bytes += len(piece)
                    if self._cut_after_bytes is not None and self._forwarded_bytes > self._cut_after_bytes:
                        self.cut()
                        break
                else:
                    self._answered_bytes += len(piece)
                sink.sendall(piece)
        for line in (source, sink):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        with self._lock:
            self._open -= {source, sink}
