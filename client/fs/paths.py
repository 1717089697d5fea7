"""What every file system here refuses, and how a file that must not be lost is named when it comes back."""

from __future__ import annotations

import errno
import os

from client.fs.base import OWN_FOLDER, Path
from coordinator.protocol.names import NAME_BYTES_MAX


def check_path(path: Path) -> None:
    """Raises OSError for a path that leads out of the root or into our own folder. Names are data, never trusted."""
    if path and path[0] == OWN_FOLDER:
        raise PermissionError(errno.EPERM, "it is Holdfast's own", OWN_FOLDER)
    for name in path:
        check_component(name)


def check_component(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a name", name)


def split(path: Path) -> tuple[Path, str]:
    """The folder and the name. Raises OSError for the root, which has neither."""
    check_path(path)
    if not path:
        raise OSError(errno.EBUSY, "it is the root")
    return path[:-1], path[-1]


def recovered_name(name: str, attempt: int) -> str:
    """`name (recovered).ext`, with a number from the second attempt on; shortened where it would be too long."""
    stem, extension = os.path.splitext(name)
    mark = " (recovered)" if attempt == 1 else f" (recovered {attempt})"
    room = NAME_BYTES_MAX - len(os.fsencode(mark + extension))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return f"{stem}{mark}{extension}"
