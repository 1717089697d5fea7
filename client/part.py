"""A file on its way in: filled under a name of its own beside the target, and given the target's name when whole.

Guarantees: the target's name never shows half a file; when `finish` has returned, contents and name survive power loss
(the name once its folder is synced, where the caller does that for many at once). One `get` at a time fills a part; the
lock ends with the process, the part stays for the next run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from client.errors import LocalConflict, LocalMissing
from client.source import local_error, mtime_ns_of
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, hash_block
from node.base.durable import sync_directory

PART_SUFFIX: Final = ".holdfast-part"
RANGE_SUFFIX: Final = ".holdfast-range"
_NAME_BYTES_MAX: Final = 255


class PartFile:
    """An open, locked part. `read_block` and `write` are safe from any number of threads."""

    def __init__(self, target: Path, *, suffix: str = PART_SUFFIX) -> None:
        """Opens or continues the part for `target`. Raises LocalMissing (its folder), LocalConflict, LocalTrouble."""
        self.target = target
        self._path = part_path(target, suffix)
        self._mode = _mode_of(target)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._path, flags, self._mode)
        except FileNotFoundError:
            raise LocalMissing(path=target.parent) from None
        except OSError as error:
            raise local_error(self._path, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise LocalConflict(path=target, reason="another run of this client is writing it") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def hash_of(self, size_bytes: int, index: int, buffer: bytearray) -> str:
        """The hash of what stands where block `index` of a file of `size_bytes` belongs."""
        wanted = memoryview(buffer)[: block_size(size_bytes, index)]
        try:
            count = os.preadv(self._descriptor, [wanted], index * BLOCK_BYTES)
        except OSError as error:
            raise local_error(self._path, error) from error
        return hash_block(wanted[:count]).hex()

    def write(self, offset: int, plain: bytes | memoryview) -> None:
        rest = memoryview(plain)
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as error:
            raise local_error(self._path, error) from error

    def flush(self) -> None:
        """Make what was written so far durable, so that the end of a large file does not wait for all of it, and leave
        the memory that it took to others."""
        try:
            os.fdatasync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise local_error(self._path, error) from error

    def finish(self, size_bytes: int, mtime: datetime | None, *, executable: bool, sync_folder: bool = True) -> None:
        """Give the part the target's name, time and executable bit."""
        try:
            os.ftruncate(self._descriptor, size_bytes)
            os.fchmod(self._descriptor, with_executable(self._mode, executable))
            if mtime is not None:
                stamp_ns = mtime_ns_of(mtime)
                os.utime(self._descriptor, ns=(stamp_ns, stamp_ns))
            os.fsync(self._descriptor)
            os.replace(self._path, self.target)
            if sync_folder:
                sync_directory(self.target.parent)
        except IsADirectoryError:
            self.discard()
            raise LocalConflict(path=self.target, reason="it is a folder") from None
        except OSError as error:
            raise local_error(self.target, error) from error

    def discard(self) -> None:
        """Remove a part that is not worth continuing."""
        with suppress(FileNotFoundError):
            self._path.unlink()


def part_path(target: Path, suffix: str = PART_SUFFIX) -> Path:
    """`.NAME.holdfast-part` beside the target; a name too long for that is replaced by its hash."""
    name = f".{target.name}{suffix}"
    if len(os.fsencode(name)) > _NAME_BYTES_MAX:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()}{suffix}"
    return target.with_name(name)


def with_executable(mode: int, executable: bool) -> int:
    """`mode` with the executable bit wherever it may be read, or nowhere."""
    return mode & 0o666 | ((mode & 0o444) >> 2 if executable else 0)


def _mode_of(target: Path) -> int:
    """The permissions of the file that is replaced, so that a private one stays private; else the umask's."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except OSError:
        return 0o666 & ~_UMASK


def _read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


_UMASK: Final = _read_umask()  # can only be read by setting it, so once, before there are threads
