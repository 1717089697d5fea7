"""What the Linux kernel can do and `os` does not offer: renames that never replace, exchanges, who is writing, and when
a file was made.

Guarantees: `rename_new` never replaces anything, `exchange` is one step. Both raise Unsupported where kernel or file
system lack them (some network, FUSE and old ZFS mounts; other systems than Linux), and change nothing then.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
from typing import Final

from client.fs.steps import Unsupported

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_NOT_FOLLOWED: Final = 0x100  # AT_SYMLINK_NOFOLLOW
_STATX_INODE, _STATX_BIRTH = 0x100, 0x800
_STATX: Final = struct.Struct("=I28xQ40xqI164x")  # mask, inode, seconds and nanoseconds of birth
_libc = ctypes.CDLL(None, use_errno=True)


def rename_new(source_folder: int, source: str, target_folder: int, target: str) -> None:
    """Rename unless the target exists (FileExistsError). The folders are descriptors."""
    _renameat2(source_folder, source, target_folder, target, _NOREPLACE)


def exchange(one_folder: int, one: str, other_folder: int, other: str) -> None:
    """Swap two names; FileNotFoundError unless both exist."""
    _renameat2(one_folder, one, other_folder, other, _EXCHANGE)


def is_open_for_writing(folder: int, name: str) -> bool:
    """Whether any process could still write to this file through a descriptor or a mapping that it holds.

    Asks for a read lease, which the kernel refuses while there are writers. False where it cannot be known: no
    leases on this file system, or another user's file.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        # Whoever opens the file meanwhile makes the kernel send this; the default, SIGIO, would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def inode_and_birth(folder: int, name: str) -> tuple[int, int | None]:
    """When the file was made, in nanoseconds; None where the kernel or the file system does not know."""
    call = getattr(_libc, "statx", None)
    if call is None:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino, None
    facts = ctypes.create_string_buffer(_STATX.size)
    if call(folder, os.fsencode(name), _NOT_FOLLOWED, _STATX_INODE | _STATX_BIRTH, facts) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    mask, inode, seconds, nanoseconds = _STATX.unpack(facts.raw)
    return inode, seconds * 10**9 + nanoseconds if mask & _STATX_BIRTH else None


def _renameat2(source_folder: int, source: str, target_folder: int, target: str, flag: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise Unsupported
    if call(source_folder, os.fsencode(source), target_folder, os.fsencode(target), flag) == 0:
        return
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        raise Unsupported
    raise OSError(number, os.strerror(number), source, None, target)
