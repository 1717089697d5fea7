"""The few calls through which volumes touch a disk, as an object, so that tests can pass one that fails or forgets.

`RealDiskIO` is the operating system. It reads no configuration but one test hook: while the file named by
HOLDFAST_FAULT_FSYNC_FILE exists, `fdatasync` fails with EIO (node/README.md, "Test hooks").
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final, Protocol

from node.protocol.messages import Buffer

FAULT_FSYNC_VARIABLE: Final = "HOLDFAST_FAULT_FSYNC_FILE"

_PUNCH_HOLE_KEEP_SIZE: Final = 0x02 | 0x01


class DiskIO(Protocol):
    """All methods raise OSError."""

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write; gives the number of bytes written, which may be fewer than asked."""

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Read; fewer bytes than asked only at the end of the file."""

    def fdatasync(self, descriptor: int) -> None:
        """Make everything written so far durable."""

    def ftruncate(self, descriptor: int, size: int) -> None:
        """Cut or extend the file."""

    def punch_hole(self, descriptor: int, offset: int, size: int) -> None:
        """Give the space of a range back; it reads as zeros from then on."""

    def forget_cached(self, descriptor: int, offset: int, size: int) -> None:
        """Advise that the next read of this range should come from the medium."""


class RealDiskIO:
    """The operating system's calls."""

    def __init__(self) -> None:
        self._fault_file = os.environ.get(FAULT_FSYNC_VARIABLE)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(descriptor, buffers, offset)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        while (missing := size - sum(map(len, parts))) and (
            more := os.pread(descriptor, missing, offset + size - missing)
        ):
            parts.append(more)
        return b"".join(parts)

    def fdatasync(self, descriptor: int) -> None:
        if self._fault_file is not None and os.path.exists(self._fault_file):
            raise OSError(errno.EIO, "injected by the test hook")
        os.fdatasync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def punch_hole(self, descriptor: int, offset: int, size: int) -> None:
        result = _libc.fallocate(
            ctypes.c_int(descriptor), ctypes.c_int(_PUNCH_HOLE_KEEP_SIZE), ctypes.c_int64(offset), ctypes.c_int64(size)
        )
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def forget_cached(self, descriptor: int, offset: int, size: int) -> None:
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


_libc = ctypes.CDLL(None, use_errno=True)
