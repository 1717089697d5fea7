"""What lies in a local folder tree, and what of it cannot be stored. Follows no symbolic links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator.protocol.errors import BadPath
from coordinator.protocol.names import check_name, name_key


@dataclass(frozen=True)
class LocalFolder:
    """`names` lead to it from the tree's root; () is the root itself. `empty`: nothing in it will be stored."""

    names: tuple[str, ...]
    empty: bool


@dataclass(frozen=True)
class LocalFile:
    names: tuple[str, ...]
    path: Path
    size: int


@dataclass(frozen=True)
class Skipped:
    """`reason` completes "PATH was left out: …"."""

    path: str
    reason: str


Found = LocalFolder | LocalFile | Skipped


def walk(root: Path) -> Iterator[Found]:
    """Everything below `root`, folders before what is in them, in name order. Lists one folder at a time."""
    waiting: list[tuple[tuple[str, ...], Path]] = [((), root)]
    while waiting:
        names, folder = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(printable(str(folder)), (error.strerror or str(error)).lower())
            continue
        found = list(_sort_out(names, entries))
        yield LocalFolder(names, empty=not any(isinstance(item, LocalFile | LocalFolder) for item in found))
        yield from (item for item in found if not isinstance(item, LocalFolder))
        below = [item.names for item in found if isinstance(item, LocalFolder)]
        waiting.extend((deeper, folder / deeper[-1]) for deeper in reversed(below))


def printable(path: str) -> str:
    """A local path for people and JSON: what is not UTF-8 in it is shown escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _sort_out(names: tuple[str, ...], entries: list[os.DirEntry[str]]) -> Iterator[Found]:
    taken: dict[str, str] = {}
    for entry in entries:
        reason = _unusable(entry) or _clash(entry.name, taken)
        if reason is not None:
            yield Skipped(printable(entry.path), reason)
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield LocalFolder((*names, entry.name), empty=False)
            else:
                size = entry.stat(follow_symlinks=False).st_size
                yield LocalFile((*names, entry.name), Path(entry.path), size)
        except OSError as error:
            yield Skipped(printable(entry.path), (error.strerror or str(error)).lower())


def _unusable(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "it is a symbolic link"
    if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
        return "it is neither a file nor a folder"
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    try:
        check_name(entry.name)
    except BadPath as error:
        return str(error.facts["reason"])
    return None


def _clash(name: str, taken: dict[str, str]) -> str | None:
    """The service holds one of two names that differ only in case or Unicode form; the first one in order goes."""
    other = taken.setdefault(name_key(name), name)
    return None if other == name else f"its name differs from that of {other!r} only in case or Unicode form"
