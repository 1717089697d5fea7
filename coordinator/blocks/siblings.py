"""Workers on one machine pass each other the blocks that they remember, instead of reading them from the nodes again.

A device that follows an upload meets any of the workers, the one that took the block or another one. With two workers,
reading the other half from the nodes took 1.5 CPU-seconds a GiB more than one worker alone needs.

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
from collections import OrderedDict
from typing import Final

from coordinator.blocks.recent import RecentBlocks

_log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0
_ID_BYTES: Final = 16
_KNOWN_MAX: Final = 4096
_IDLE_MAX: Final = 8  # connections kept to one worker
_CONNECTIONS_MAX: Final = 64
_BUFFER_BYTES: Final = 1024 * 1024
_SIZE: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class Siblings:
    """Owned by the event loop. `address` is where this worker answers; `_known` says who has which block."""

    def __init__(self, recent: RecentBlocks) -> None:
        # In the abstract namespace: no file that a crash would leave behind.
        self.address = "holdfast-" + secrets.token_hex(16)
        self._recent = recent
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._idle: dict[str, list[socket.socket]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._listener = _new_socket()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listener.bind("\0" + self.address)
        self._listener.listen()
        self._accepting = asyncio.create_task(self._accept(), name="siblings")

    async def close(self) -> None:
        tasks = [*self._serving, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._idle.clear()

    def note(self, block_id: bytes, address: str) -> None:
        """The worker at `address` has this block."""
        if address != self.address:
            self._known[block_id] = address
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    async def fetch(self, block_id: bytes, size: int) -> bytes | None:
        """The block's `size` bytes from the worker that is said to have it; None where that does not work out."""
        address = self._known.pop(block_id, None)
        if address is None:
            return None
        line = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                line = await self._connect(address)
                plain = await _ask(line, block_id, size)
        except (OSError, TimeoutError, EOFError) as error:
            _log.info("sibling.not_asked", extra={"reason": str(error) or type(error).__name__})
            self._drop(address, line)
            return None
        except asyncio.CancelledError:
            self._drop(address, line)
            raise
        idle = self._idle.setdefault(address, [])
        if len(idle) < _IDLE_MAX:
            idle.append(line)
        else:
            line.close()
        return plain

    async def _connect(self, address: str) -> socket.socket:
        if idle := self._idle.get(address):
            return idle.pop()
        line = _new_socket()
        try:
            await asyncio.get_running_loop().sock_connect(line, "\0" + address)
            _check_user(line)
        except BaseException:
            line.close()
            raise
        return line

    def _drop(self, address: str, line: socket.socket | None) -> None:
        """The worker is gone or does not answer: so are the other connections to it."""
        for other in self._idle.pop(address, []):
            other.close()
        if line is not None:
            line.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            line, _ = await loop.sock_accept(self._listener)
            line.setblocking(False)
            if len(self._serving) >= _CONNECTIONS_MAX:
                line.close()
                continue
            task = asyncio.create_task(self._serve(line))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with line:
            try:
                _check_user(line)
                while True:
                    block_id = await _receive(line, _ID_BYTES)
                    plain = self._recent.get(bytes(block_id)) or b""
                    await loop.sock_sendall(line, _SIZE.pack(len(plain)))
                    await loop.sock_sendall(line, plain)
            except (OSError, EOFError):
                return  # the other worker has gone, or is none


def _new_socket() -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.setblocking(False)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        line.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return line


def _check_user(line: socket.socket) -> None:
    """Raises PermissionError unless the process at the other end is of this user."""
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(raw)[1] != os.geteuid():
        raise PermissionError("a process of another user is at the other end")


async def _ask(line: socket.socket, block_id: bytes, size: int) -> bytes | None:
    await asyncio.get_running_loop().sock_sendall(line, block_id)
    (told,) = _SIZE.unpack(await _receive(line, _SIZE.size))
    if told == 0:
        return None
    if told != size:
        raise EOFError("a block of another size")
    return bytes(await _receive(line, size))


async def _receive(line: socket.socket, size: int) -> bytearray:
    """Exactly `size` bytes. Raises EOFError when the other end closes before."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(size)
    left = memoryview(buffer)
    while left:
        count = await loop.sock_recv_into(line, left)
        if count == 0:
            raise EOFError("the connection was closed")
        left = left[count:]
    return buffer
