"""The file system as the sync client sees it: one synced root, and everything it may do there.

A path is a tuple of names below the root, () being the root itself; names are as `os` gives them (surrogateescape).
Real in real.py, in memory and crashable in fake.py, failing on purpose in failing.py; one contract suite holds them
equal.

Guarantees of every implementation:
- No symbolic link is ever followed, wherever in a path it stands (the root's own path excepted).
- What a changing call did is durable when it has returned, except for what is written to a temporary file.
- Nothing that a person wrote is lost: a file that makes way goes to the trash, and one that turns out to be other than
  expected is put back before ChangedMeanwhile is raised. What a crash interrupts, `recover` ends.
- A call that raised OSError or ChangedMeanwhile changed nothing that a person sees.
- Safe from any number of threads.

Does not: retry, decide, know what is ignored. Paths below OWN_FOLDER are refused (PermissionError): it has calls of its
own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol, Self

from client.sync.tree import Stamp

Path = tuple[str, ...]

OWN_FOLDER: Final = ".holdfast"  # ours in every root: the marker, temporary files, the trash


class FileKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    SPECIAL = "special"  # pipes, sockets, devices


class Stat(NamedTuple):
    kind: FileKind
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    executable: bool
    links: int

    def stamp(self) -> Stamp:
        return Stamp(self.size, self.mtime_ns, self.ctime_ns, self.inode, self.device)


class TrashEntry(NamedTuple):
    key: str  # for `drop_trash`; sorts by age
    day: str  # YYYY-MM-DD, UTC
    size: int


class ChangedMeanwhile(Exception):
    """What is at the path is not what was expected there, or has vanished. Nothing was changed."""


class InUse(ChangedMeanwhile):
    """A program has the file open for writing: what it still writes would go to the trash with the file. Try later."""


class ReadFile(Protocol):
    """An open regular file: the one that was opened, whatever stands under its name later."""

    def stat(self) -> Stat: ...
    def read_at(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; the number of bytes read is less than its length only at the file's end."""

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class TempFile(Protocol):
    """A file on its way in. It survives `close`, a crash and `place`'s refusal, for the next `open_temp` of its name;
    what of it survives a power cut is unknown without `sync`."""

    name: str

    def size(self) -> int: ...
    def read_at(self, offset: int, buffer: memoryview) -> int: ...
    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`; beyond the end it leaves a hole of zeros."""

    def truncate(self, size: int) -> None: ...
    def set_mtime(self, mtime_ns: int) -> None: ...
    def set_executable(self, executable: bool) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...
    def discard(self) -> None:
        """Close it and remove it."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class FileSystem(Protocol):
    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        """What is in one folder, in no order; OWN_FOLDER is left out of the root. What vanishes meanwhile is left out.

        Raises FileNotFoundError, NotADirectoryError (also for a symbolic link in the path), OSError.
        """

    def stat(self, path: Path) -> Stat: ...

    def is_same_since(self, path: Path, stamp: Stamp) -> bool:
        """Whether the file at `path` is the one that had this stamp, whatever was done to it since: an inode's number
        alone is given away again, often at once. False where the disk does not tell when a file was made."""

    def open(self, path: Path) -> ReadFile:
        """Raises OSError (EINVAL, ELOOP, IsADirectoryError) for what is not a regular file."""

    def open_temp(self, name: str) -> TempFile:
        """Makes it or continues it. One opener at a time: BlockingIOError otherwise."""

    def list_temp(self) -> list[tuple[str, Stat]]: ...

    def place(self, temp: TempFile, path: Path, expected: Stamp | None) -> Stat:
        """Give the temporary file its name; it is closed then.

        `expected` None: nothing may be there, FileExistsError otherwise. Else exactly that file is there now, and goes
        to the trash; it leaves its permissions to the new one. Raises ChangedMeanwhile (InUse): also when the file
        vanished. FileNotFoundError: the folder did. The temporary file stays open when anything is raised.
        """

    def move(self, source: Path, target: Path, expected: Stamp | None = None) -> Stat:
        """Rename; FileExistsError when the target exists, unless only the spelling of the name changes on a disk that
        does not tell them apart. `expected`: the source must have this inode (its contents may have changed), else
        ChangedMeanwhile. FileNotFoundError: the source or the target's folder is not there."""

    def make_folder(self, path: Path) -> Stat:
        """Raises FileExistsError, FileNotFoundError."""

    def trash(self, path: Path, expected: Stamp | None) -> None:
        """Put a file into the trash. `expected` None takes any file, symbolic link or special file, never a folder
        (IsADirectoryError). Raises ChangedMeanwhile (InUse), FileNotFoundError."""

    def remove_folder(self, path: Path) -> None:
        """Raises OSError (ENOTEMPTY) unless it is empty, FileNotFoundError, NotADirectoryError."""

    def set_executable(self, path: Path, executable: bool, expected: Stamp) -> Stat: ...

    def free_bytes(self) -> int:
        """What this user may still write."""

    def lock(self) -> None:
        """Make this the only client of the root until `close`. Raises BlockingIOError when another one is running."""

    def read_marker(self) -> bytes | None:
        """The root's marker (root.py), None without one. Raises FileNotFoundError when the root itself has gone, or
        another folder stands at its path now."""

    def write_marker(self, data: bytes) -> None:
        """Replace the marker, making OWN_FOLDER where it is missing."""

    def recover(self) -> list[Path]:
        """End what a crash interrupted; call it before anything else. Returns the files that a person had edited just
        then: they are in the root folder under a new name."""

    def list_trash(self) -> list[TrashEntry]:
        """Oldest first."""

    def drop_trash(self, key: str) -> None:
        """Remove for good."""

    def close(self) -> None: ...
