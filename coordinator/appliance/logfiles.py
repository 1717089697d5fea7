"""The log files of children: appended to by the children themselves, kept small by the supervisor.

A child writes to the file directly, so that a busy or dead supervisor never blocks it or loses a line. When a file has
grown too large its contents move to NAME.log.1 (and so on) and the file is emptied in place, since the child goes on
writing to what it has open; lines written during that instant are lost, which is why the limit is large.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 16 * 1024 * 1024
_OLD_KEPT: Final = 3


def open_log(path: Path) -> int:
    """A descriptor that appends to `path`; the caller closes it. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def rotate_large_logs(folder: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move the contents of every log in `folder` that is larger than `bytes_max` aside. Raises OSError."""
    for path in folder.glob("*.log"):
        if path.stat().st_size > bytes_max:
            _rotate(path)


def read_tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log, without reading all of it; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 400 * lines))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def _rotate(path: Path) -> None:
    for number in range(_OLD_KEPT, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
