"""Workers on one machine pass each other the blocks that they remember, instead of reading them from the nodes again.

A device that follows an upload meets any of the workers, the one that took the block or another one. With two workers,
reading the other half from the nodes took 1.5 CPU-seconds a GiB more than one worker alone needs.

Threads do it, with one call of the system for a block on each side: the event loop would turn thirty times for each,
since a socket takes 200 KB at once.

Guarantees: blocks pass only between processes of the same user (the kernel tells, on both sides); whatever goes wrong
is "not here", and the caller reads from the nodes. Bytes were verified by the worker that gives them.
Does not: know who has which block by itself (following.py tells).

A question is a block id, 16 bytes; the answer its size, 4 bytes big endian (0: not here), and the bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from coordinator.blocks.recent import RecentBlocks

_log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0
_ID_BYTES: Final = 16
_KNOWN_MAX: Final = 4096
_IDLE_MAX: Final = 8  # connections kept to one worker
_CONNECTIONS_MAX: Final = 64
_SIZE: Final = struct.Struct(">I")
_TIMEVAL: Final = struct.Struct("ll")
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class Siblings:
    """`address` is where this worker answers. `_known`, which says who has which block, belongs to the event loop; the
    connections (`_idle` to others, `_serving` from others) to any thread that holds `_lock`."""

    def __init__(self, recent: RecentBlocks) -> None:
        # In the abstract namespace: no file that a crash would leave behind.
        self.address = "holdfast-" + secrets.token_hex(16)
        self._recent = recent
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()
        self._idle: dict[str, list[socket.socket]] = {}
        self._serving: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        self._listener.bind("\0" + self.address)
        self._listener.listen()
        _start(self._accept)

    def close(self) -> None:
        """Ends the threads; one that is waiting for another worker ends when that answers, or after TIMEOUT_S."""
        with self._lock:
            self._closed = True
            for line in (self._listener, *self._serving):
                with suppress(OSError):  # it was never connected, or is not any more
                    line.shutdown(socket.SHUT_RDWR)  # unlike a close, it wakes the thread, which closes it
            for idle in self._idle.values():
                for line in idle:
                    line.close()
            self._idle.clear()

    def note(self, block_id: bytes, address: str) -> None:
        """The worker at `address` has this block."""
        if address != self.address:
            self._known[block_id] = address
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    async def fetch(self, block_id: bytes, size: int) -> bytearray | None:
        """The block's `size` bytes from the worker that is said to have it; None where that does not work out."""
        address = self._known.pop(block_id, None)
        return None if address is None else await asyncio.to_thread(self._fetch, address, block_id, size)

    def _fetch(self, address: str, block_id: bytes, size: int) -> bytearray | None:
        line = None
        try:
            line = self._take_idle(address) or _connect(address)
            plain = _ask(line, block_id, size)
        except (OSError, EOFError) as error:
            _log.info("sibling.not_asked", extra={"reason": str(error) or type(error).__name__})
            self._drop(address, line)
            return None
        with self._lock:
            idle = self._idle.setdefault(address, [])
            if len(idle) < _IDLE_MAX and not self._closed:
                idle.append(line)
            else:
                line.close()
        return plain

    def _take_idle(self, address: str) -> socket.socket | None:
        with self._lock:
            return idle.pop() if (idle := self._idle.get(address)) else None

    def _drop(self, address: str, line: socket.socket | None) -> None:
        """The worker is gone or does not answer: so are the other connections to it."""
        with self._lock:
            dropped = self._idle.pop(address, [])
        for one in dropped if line is None else [line, *dropped]:
            one.close()

    # --- for the others -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with self._listener, suppress(OSError):  # until it is shut down
            while True:
                line, _ = self._listener.accept()
                with self._lock:
                    taken = not self._closed and len(self._serving) < _CONNECTIONS_MAX
                    if taken:
                        self._serving.add(line)
                if taken:
                    _start(self._serve, line)
                else:
                    line.close()

    def _serve(self, line: socket.socket) -> None:
        try:
            _check_user(line)
            _limit(line, socket.SO_SNDTIMEO)
            while True:
                block_id = _receive(line, _ID_BYTES)
                plain = self._recent.get(bytes(block_id)) or b""
                line.sendall(_SIZE.pack(len(plain)))
                line.sendall(plain)
        except (OSError, EOFError):
            pass  # the other worker has gone, or is none
        finally:
            with self._lock:
                self._serving.discard(line)
            line.close()


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, name="siblings", daemon=True).start()


def _connect(address: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _limit(line, socket.SO_SNDTIMEO)
        _limit(line, socket.SO_RCVTIMEO)
        line.connect("\0" + address)
        _check_user(line)
    except BaseException:
        line.close()
        raise
    return line


def _limit(line: socket.socket, option: int) -> None:
    """The kernel's own time limit for a call: the socket stays blocking. Python's would wait for each piece."""
    seconds = int(TIMEOUT_S)
    line.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(seconds, int((TIMEOUT_S - seconds) * 1_000_000)))


def _check_user(line: socket.socket) -> None:
    """Raises PermissionError unless the process at the other end is of this user."""
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(raw)[1] != os.geteuid():
        raise PermissionError("a process of another user is at the other end")


def _ask(line: socket.socket, block_id: bytes, size: int) -> bytearray | None:
    line.sendall(block_id)
    (told,) = _SIZE.unpack(_receive(line, _SIZE.size))
    if told == 0:
        return None
    if told != size:
        raise EOFError("a block of another size")
    return _receive(line, size)


def _receive(line: socket.socket, size: int) -> bytearray:
    """Exactly `size` bytes. Raises EOFError when the other end closes before, BlockingIOError when it is silent."""
    buffer = bytearray(size)
    left = memoryview(buffer)
    while left:
        count = line.recv_into(left, flags=socket.MSG_WAITALL)
        if count == 0:
            raise EOFError("the connection was closed")
        left = left[count:]
    return buffer
