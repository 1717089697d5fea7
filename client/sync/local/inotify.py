"""Linux's inotify through ctypes: which watched folder an event is of.

Guarantees: folders are watched through their open descriptors, so no symbolic link is followed and no path is too long.
Does not: know paths or subfolders (watch.py). Not for several threads at once, but `read` may wait while one adds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
IS_FOLDER: Final = 0x40000000
_ONLY_FOLDERS: Final = 0x1000000
_EXCLUDE_UNLINKED: Final = 0x4000000
_MASK: Final = (MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF) | (
    _ONLY_FOLDERS | _EXCLUDE_UNLINKED
)
_END_MASK: Final = DELETE_SELF | _ONLY_FOLDERS  # UNMOUNT is told in any case
_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 256 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    watch: int  # -1 with OVERFLOW
    mask: int
    name: str  # of the entry in the folder; "" when it is about the folder itself


class WatchLimit(Exception):
    """The system gives no more watches (or none at all)."""


class Inotify:
    def __init__(self) -> None:
        """Raises WatchLimit where there is no inotify or this user has too many instances."""
        try:
            self.descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            raise WatchLimit from None
        if self.descriptor < 0:
            raise WatchLimit

    def add(self, folder: int, *, only_end: bool = False) -> int:
        """Watch the folder that is open as descriptor `folder`; the same number again for one that is watched already.
        `only_end`: nothing but that it goes, as by being unmounted. Raises WatchLimit, OSError (the folder cannot be
        read, or has gone)."""
        mask = _END_MASK if only_end else _MASK
        watch: int = _libc.inotify_add_watch(self.descriptor, f"/proc/self/fd/{folder}".encode(), mask)
        if watch < 0:
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.ENOMEM):
                raise WatchLimit
            raise OSError(number, os.strerror(number))
        return watch

    def remove(self, watch: int) -> None:
        _libc.inotify_rm_watch(self.descriptor, watch)  # it may have ended by itself: no error is of interest

    def read(self) -> Iterator[Event]:
        """What has happened until now; nothing when nothing has."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            yield Event(watch, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
            offset += length

    def close(self) -> None:
        os.close(self.descriptor)
