"""Carries out one operation of a plan: on the disk, or in the service. Runs in workers.

Guarantees: an operation is carried out only where everything is still as the plan saw it, which the file system checks
by inode and stamp and the service by id, version and parent; otherwise nothing is changed and the outcome is Stale.
Everything that is reported as done is durable. An operation may have been carried out although the outcome says
otherwise (an answer that was lost, a crash before the outcome was stored): each is made so that the next look at the
disk and the change feed then finds both sides equal, or that it fails harmlessly when it is done again.

Crash by crash: a folder or a download that is in place and not stored is found by the scan as new, with the service's
content, and adopted. An upload whose answer was lost is recognised by what was noted before it was sent
(Uploads.begin). A move of one side that was not stored is seen as both sides having moved to the same place. A
delete that was not stored is seen as both sides being gone. A file is taken out of its pair durably before it gets a
conflicted copy's name, so the worst that a crash leaves is a file of its old name that is met as new.
Does not: touch the store, retry, decide.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from client.errors import ClientError, Refused, Unreachable, Untrusted, sentence
from client.fs.base import ChangedMeanwhile, FileKind, FileSystem, InUse, Path
from client.sync.planner import conflicts
from client.sync.planner.conflicts import Naming
from client.sync.remote.service import Service
from client.sync.tree import RemoteId, Stamp
from coordinator.protocol.types import Kind, Metadata


@dataclass(frozen=True, slots=True)
class Told:
    """The service did it: this is the file or folder now."""

    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Placed:
    """The disk holds it: this is its stamp now."""

    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Gone:
    """It is not there any more."""


@dataclass(frozen=True, slots=True)
class NotEmpty:
    """The folder holds something that is not synced, so it stays; `name` is some of it."""

    name: str


@dataclass(frozen=True, slots=True)
class Stale:
    """One side is not as the plan saw it: look there again. `in_use`: a program is still writing."""

    local: bool = False
    remote: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Stuck:
    """It cannot be done now and looking again will not help: `reason` is a sentence. Tried again later. `blocks_all`:
    the same will stop others of its kind (no space, no quota)."""

    reason: str
    code: str
    blocks_all: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The service does not answer, or not to this device."""

    error: ClientError


Outcome = Told | Placed | Gone | NotEmpty | Stale | Stuck | Unavailable

# What a refusal says about the plan: it was made from an older state of the service.
_STALE: Final = frozenset(
    {
        *("version_conflict", "name_taken", "not_found", "not_a_folder", "is_a_folder", "move_into_itself"),
        *("upload_gone", "upload_superseded", "blocks_missing"),
    }
)
_OFFLINE: Final = frozenset({"unavailable", "too_many_requests", "not_logged_in"})
_FULL: Final = frozenset({"quota_exceeded", "cluster_full", "cannot_take_write"})
_COPIES_MAX: Final = 1000
_MOVED_ON: Final = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


# --- in the service ---------------------------------------------------------------------------------------------


def make_remote_folder(service: Service, path: str, parent_id: RemoteId) -> Outcome:
    return asking(lambda: Told(service.create_folder(path, parent_id=parent_id)))


def move_remote(service: Service, node_id: RemoteId, path: str, target: str, parent_id: RemoteId) -> Outcome:
    return asking(lambda: Told(service.move_id(node_id, path, target, parent_id=parent_id)))


def delete_remote(service: Service, node_id: RemoteId, path: str, version: int | None, cursor: str | None) -> Outcome:
    """`version` of a file; `cursor` for a folder: nothing in it may have changed since."""

    def ask() -> Outcome:
        try:
            service.delete(path, file_id=node_id, base_version=version, unchanged_since=cursor)
        except Refused as refusal:
            # Gone already, or gone from this path only: the feed will tell, but a feed that has told it all will not.
            if refusal.code == "not_found" and service.find_id(node_id) is None:
                return Gone()
            raise
        return Gone()

    return asking(ask)


def asking(ask: Callable[[], Outcome]) -> Outcome:
    """What `ask` gives, with the service's refusals as outcomes."""
    try:
        return ask()
    except ClientError as error:
        return refused(error)


def refused(error: ClientError) -> Outcome:
    """What a failed call means for the operation."""
    if isinstance(error, Unreachable | Untrusted):
        return Unavailable(error)
    if isinstance(error, Refused):
        if error.code in _STALE:
            return Stale(remote=True)
        if error.code in _FULL:
            return Stuck(sentence(error), error.code, blocks_all=True)
        if error.code in _OFFLINE or error.status in (401, 429, 502, 503, 504):
            return Unavailable(error)
    return Stuck(sentence(error), error.code)


# --- on the disk ------------------------------------------------------------------------------------------------


def make_local_folder(fs: FileSystem, path: Path) -> Outcome:
    return touching(path, lambda: Placed(fs.make_folder(path).stamp()))


def move_local(fs: FileSystem, source: Path, target: Path, stamp: Stamp) -> Outcome:
    return touching(target, lambda: Placed(fs.move(source, target, stamp).stamp()))


def delete_local(fs: FileSystem, path: Path, kind: Kind, stamp: Stamp, is_junk: Callable[[str], bool]) -> Outcome:
    """`is_junk` tells what may go together with its folder."""
    return touching(path, lambda: _delete_folder(fs, path, is_junk) if kind is Kind.FOLDER else _trash(fs, path, stamp))


def set_executable(fs: FileSystem, path: Path, executable: bool, stamp: Stamp) -> Outcome:
    return touching(path, lambda: Placed(fs.set_executable(path, executable, stamp).stamp()))


def clear_way(fs: FileSystem, path: Path, naming: Naming) -> Path | None:
    """Give a symbolic link or a special file that has this name another one, the name of a conflicted copy. Returns
    its new path; None when nothing of the kind is there, or it cannot be moved."""
    try:
        if fs.stat(path).kind not in (FileKind.SYMLINK, FileKind.SPECIAL):
            return None
        for counter in range(1, _COPIES_MAX):
            copy = (*path[:-1], conflicts.make(path[-1], naming, counter))
            try:
                fs.move(path, copy)
            except FileExistsError:
                continue
            return copy
    except (OSError, ChangedMeanwhile):
        pass  # it is told as standing in the way, and tried again
    return None


def _trash(fs: FileSystem, path: Path, stamp: Stamp) -> Outcome:
    try:
        fs.trash(path, stamp)
    except FileNotFoundError:
        return Stale(local=True)
    return Gone()


def _delete_folder(fs: FileSystem, path: Path, is_junk: Callable[[str], bool]) -> Outcome:
    found = fs.list_folder(path)
    for name, stat in found:
        if stat.kind == "folder" or not is_junk(name):
            return NotEmpty(name)
    for name, _ in found:
        fs.trash((*path, name), None)
    try:
        fs.remove_folder(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return Stale(local=True)
        raise
    return Gone()


def touching(path: Path, touch: Callable[[], Outcome]) -> Outcome:
    """What `touch` gives, with what the disk refuses as outcomes. `path` is what it is about."""
    try:
        return touch()
    except (InUse, BlockingIOError):
        return Stale(local=True, in_use=True)
    except (ChangedMeanwhile, *_MOVED_ON):
        return Stale(local=True)
    except OSError as error:
        return disk_trouble(path, error)


def disk_trouble(path: Path, error: OSError) -> Outcome:
    """What the operating system's refusal means for the operation."""
    name = "/".join(path).encode("utf-8", "backslashreplace").decode("utf-8")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Stuck("This computer's disk is full. What is missing is fetched when there is space.", "disk_full", True)
    if error.errno == errno.ELOOP:
        return Stale(local=True)
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    return Stuck(f"{name} on this computer cannot be changed: {reason}.", "disk_refused")
