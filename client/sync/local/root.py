"""The synced root's marker, and the housekeeping in OWN_FOLDER: what tells our folder from an empty mount point.

Guarantees: `check` raises unless the root is there and is the one that the local database is about; nothing is planned
before it, so that an unmounted, replaced or swapped folder never looks like a mass delete.
Does not: hold the lock (FileSystem.lock), or say what becomes of a database that does not fit (its owner does).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path as RootPath
from typing import Final

import msgspec

from client.errors import ClientError
from client.fs.base import OWN_FOLDER, FileSystem, TrashEntry
from node.base.clock import Clock

TRASH_DAYS: Final = 30
TRASH_BYTES_MAX: Final = 10 << 30
PART_DAYS: Final = 7  # a temporary file untouched for so long belongs to nothing that still goes on
_DAY_S: Final = 86_400


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What `.holdfast/root.json` says. `generation` rises at every start, here and in the local database."""

    folder_id: str  # random; names this root in the client's state
    service: str  # its URL
    user_id: int
    remote_root: int  # the id of the folder that is synced
    generation: int = 0
    format: int = 1


class RootMissing(ClientError):
    code = "root_missing"
    template = (
        "The synced folder is not there, or is not the one that was set up: is its disk mounted? Nothing was changed. "
        "If this is the right folder, run: holdfast sync DIR --set-up-anew"
    )


class RootForeign(ClientError):
    code = "root_foreign"
    template = (
        "This folder was set up to sync with something else ({what}). Nothing was changed. To compare both sides and "
        "begin anew, without deleting anything, run: holdfast sync DIR --set-up-anew"
    )


def read(fs: FileSystem) -> Marker | None:
    """The root's marker; None for a folder that was never synced. Raises RootMissing, RootForeign (unreadable)."""
    try:
        data = fs.read_marker()
    except FileNotFoundError:
        raise RootMissing from None
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Marker)
    except msgspec.DecodeError:
        raise RootForeign(what="its marker cannot be read") from None


def write(fs: FileSystem, marker: Marker) -> None:
    fs.write_marker(msgspec.json.format(msgspec.json.encode(marker)))


def check(fs: FileSystem, expected: Marker) -> Marker:
    """The marker of the root, which is the expected one but for its generation. Raises RootMissing, RootForeign."""
    marker = read(fs)
    if marker is None:
        raise RootMissing
    for what in ("format", "service", "user_id", "remote_root", "folder_id"):
        if getattr(marker, what) != getattr(expected, what):
            raise RootForeign(what=f"{what.replace('_', ' ')} {getattr(marker, what)}")
    return marker


def fits(marker_generation: int, store_generation: int) -> bool:
    """Whether the local database is about the root as it is now: neither was restored from a backup since.

    At every start the database's generation is raised first, the marker's after it: a crash in between is no restore.
    """
    return store_generation in (marker_generation, marker_generation + 1)


def enclosing_root(path: RootPath) -> RootPath | None:
    """The synced root that `path` lies in, if any: a root inside another one would be synced twice."""
    return next((above for above in path.parents if (above / OWN_FOLDER / "root.json").exists()), None)


def remove_old_parts(fs: FileSystem, clock: Clock) -> int:
    """Discard temporary files that nothing has touched for PART_DAYS; how many. One in use is left alone."""
    oldest_ns = int((clock.now() - PART_DAYS * _DAY_S) * 1e9)
    removed = 0
    for name, stat in fs.list_temp():
        if stat.ctime_ns < oldest_ns:
            try:
                fs.open_temp(name).discard()
            except (BlockingIOError, FileNotFoundError):
                continue
            removed += 1
    return removed


def empty_trash(fs: FileSystem, clock: Clock, *, days: int = TRASH_DAYS, bytes_max: int = TRASH_BYTES_MAX) -> int:
    """Remove what is too old or too much; how many entries."""
    today = datetime.fromtimestamp(clock.now(), UTC)
    doomed = choose_expired(fs.list_trash(), (today - timedelta(days=days)).strftime("%Y-%m-%d"), bytes_max)
    dropped = 0
    for entry in doomed:
        with suppress(OSError):  # it may hold what somebody else has put there: the others go all the same
            fs.drop_trash(entry.key)
            dropped += 1
    return dropped


def choose_expired(entries: Sequence[TrashEntry], oldest_day: str, bytes_max: int) -> list[TrashEntry]:
    """Everything from before `oldest_day`, and of the rest the oldest until what stays is at most `bytes_max`."""
    size = sum(entry.size for entry in entries if entry.day >= oldest_day)
    doomed = []
    for entry in entries:
        if entry.day < oldest_day:
            doomed.append(entry)
        elif size > bytes_max:
            doomed.append(entry)
            size -= entry.size
    return doomed
