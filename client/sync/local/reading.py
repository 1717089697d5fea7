"""Reading the contents of a file that a scan found to be new or changed.

Guarantees: what is told as read is the whole file in one state, and a later change of it is sure to show in its stamp.
Does not: try again (disk.py).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from client.fs.base import FileSystem, Path, ReadFile
from client.sync.local.findings import ReadTask, reason_of
from client.sync.tree import Content, LocalId, Stamp
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block

_NOT_A_FILE_NOW: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ESTALE})
_RACY_NS: Final = 20_000_000  # longer than a tick of any kernel's clock for files


@dataclass(frozen=True, slots=True)
class ContentRead:
    """The whole file in one state: store content and stamp in its node, with problem None."""

    id: LocalId
    path: Path
    stamp: Stamp
    content: Content
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """It changed while it was read, or is another file by now: look at it again a little later."""

    id: LocalId
    path: Path


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Store `stamp` and the problem; a change of the file, or the next full scan, tries again."""

    id: LocalId
    path: Path
    stamp: Stamp | None
    problem: str


def read_content(
    fs: FileSystem,
    task: ReadTask,
    *,
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> ContentRead | Unsettled | Unreadable:
    """Hash a file by blocks. Never raises OSError: what vanished is Unsettled (a scan tells what became of it).

    `pause` lets a file rest that was written within the last clock tick: only then is a later change sure to show.
    """
    stamp = None
    try:
        with fs.open(task.path) as file:
            before = file.stat()
            age_ns = int(now() * 1e9) - before.mtime_ns
            if 0 <= age_ns < _RACY_NS:
                pause((_RACY_NS - age_ns) / 1e9)
                before = file.stat()
            stamp = before.stamp()
            blocks = _hash_blocks(file, before.size)
            if blocks is None or file.stat() != before or fs.stat(task.path).inode != before.inode:
                return Unsettled(task.id, task.path)
    except OSError as error:
        if error.errno in _NOT_A_FILE_NOW:
            return Unsettled(task.id, task.path)
        return Unreadable(task.id, task.path, stamp, f"it cannot be read: {reason_of(error)}")
    content = Content(content_hash(blocks), before.executable)
    return ContentRead(task.id, task.path, stamp, content, blocks)


def _hash_blocks(file: ReadFile, size: int) -> tuple[bytes, ...] | None:
    """None when it got shorter meanwhile."""
    buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
    hashes = []
    for index in range(count_blocks(size)):
        wanted = buffer[: block_size(size, index)]
        if file.read_at(index * BLOCK_BYTES, wanted) != len(wanted):
            return None
        hashes.append(hash_block(wanted))
    return tuple(hashes)
