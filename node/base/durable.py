"""Small files that are either the old or the new one after a crash, never half of both.

Guarantees: when `write_file_durably` has returned, the new contents survive power loss. Does not: lock; two writers of
one file must agree among themselves.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_file_durably(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file `path` by `data`. Raises OSError and then leaves the old file as it was.

    `mode` holds from the first byte on (0o600 for secrets), whatever the umask says.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    # Without this the rename itself may be gone after power loss.
    sync_directory(target.parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make creations, renames and deletions inside the directory `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
