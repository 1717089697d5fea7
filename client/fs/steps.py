"""How files are changed without ever losing one: the order of steps, each of which a crash may be the last.

A file that makes way first stands in `moving/KEY/NAME` of OWN_FOLDER, where KEY says what it should be. Only when that
was compared, it goes to `trash/DAY/KEY/NAME`, and otherwise back. After a crash `recover` compares what is left there.

Guarantees: base.py's, given that each primitive below is one step and that a sync of a folder makes durable what was
done in it before. Shared by the real and the simulated disk, so that the simulation crashes between these very steps.
Where the disk knows no exchange, the old file is kept by a hard link and replaced by a plain rename: an editor's own
rename within that instant is then lost. Without hard links (FAT) the trash lacks the file too.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, Generic, Protocol, TypeVar

from client.fs.base import ChangedMeanwhile, FileKind, InUse, Path, Stat, TempFile, TrashEntry
from client.fs.paths import recovered_name, split
from client.sync.tree import Stamp

NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})  # the disk has no hard links
_KEY_PARTS: Final = 5  # of the name of a folder in `moving`

Folder = TypeVar("Folder")  # an open folder: what the primitives work in


class Unsupported(Exception):
    """This disk cannot do it: do it another way."""


class Temp(TempFile, Protocol):
    def stat(self) -> Stat: ...
    def take_permissions(self, folder: object, name: str) -> None:
        """Those of the file that it replaces, so that a private one stays private."""


class Steps(ABC, Generic[Folder]):
    """FileSystem's changing calls over primitives. Immutable: safe from any number of threads."""

    def __init__(self, now: Callable[[], float], token: Callable[[], str]) -> None:
        """`token` makes short unique names."""
        self._now = now
        self._token = token

    def place(self, temp: TempFile, path: Path, expected: Stamp | None) -> Stat:
        mine = self._temp(temp)
        parent, name = split(path)
        with self._open(parent) as folder, self._own("temp") as temps:
            if expected is None:
                mine.sync()
                before = mine.stat()
                self._rename_new(temps, mine.name, folder, name)
            else:
                before = self._replace(mine, temps, folder, name, expected=expected)
            self._sync(folder)
            after = mine.stat()
            mine.close()
        # An edit since then must not pass for what was placed: with the old ctime the next scan reads the file.
        return after if _same_file(after, before) else before

    def move(self, source: Path, target: Path, expected: Stamp | None = None) -> Stat:
        source_parent, source_name = split(source)
        target_parent, target_name = split(target)
        with self._open(source_parent) as source_folder, self._open(target_parent) as target_folder:
            before = self._stat(source_folder, source_name)
            if expected is not None and before.inode != expected.inode:
                raise ChangedMeanwhile
            self._rename_new(source_folder, source_name, target_folder, target_name)
            try:
                moved = self._stat(target_folder, target_name)
                if expected is not None and moved.inode != before.inode:
                    raise ChangedMeanwhile
            except (ChangedMeanwhile, OSError):
                with suppress(OSError):  # the place was taken again: nothing is lost, and a scan tells the rest
                    self._rename_new(target_folder, target_name, source_folder, source_name)
                raise
            self._sync(target_folder)
            self._sync(source_folder)
        # As in `place`: an edit since `expected` must not pass for what was expected.
        is_expected = expected is None or (_same_file(moved, before) and _has_stamp(before, expected))
        return moved if is_expected else before

    def make_folder(self, path: Path) -> Stat:
        parent, name = split(path)
        with self._open(parent) as folder:
            self._make(folder, name)
            self._sync(folder)
            return self._stat(folder, name)

    def remove_folder(self, path: Path) -> None:
        parent, name = split(path)
        with self._open(parent) as folder:
            self._remove(folder, name)
            self._sync(folder)

    def trash(self, path: Path, expected: Stamp | None) -> None:
        parent, name = split(path)
        with self._open(parent) as folder:
            now = self._stat(folder, name)
            if now.kind is FileKind.FOLDER and expected is None:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            if expected is not None:
                self._check(folder, name, now, expected)
            with self._moving(0, expected or now.stamp(), self._token()) as (key, box):
                self._rename(folder, name, box, name)
                try:
                    self._compare(box, name, now)
                    self._to_trash(key)
                except (ChangedMeanwhile, OSError):
                    self._put_back(box, name, folder)
                    self._sync(folder)
                    raise
            self._sync(folder)

    def recover(self) -> list[Path]:
        rescued: list[Path] = []
        with self._own("moving") as moving:
            for key in self._folders(moving):
                if key.count("_") < _KEY_PARTS - 1:
                    continue  # not ours
                with self._below(moving, key) as box:
                    for name, found in self._list(box):
                        path = self._end_move(key, box, name, found)
                        rescued += [path] if path else []
                with suppress(FileNotFoundError):  # it became a folder of the trash
                    self._remove(moving, key)
            self._sync(moving)
        return rescued

    def list_trash(self) -> list[TrashEntry]:
        entries = []
        with self._own("trash") as trash:
            for day in self._folders(trash):
                with self._below(trash, day) as folder:
                    for key in self._folders(folder):
                        with self._below(folder, key) as box:
                            size = sum(found.size for _, found in self._list(box))
                        entries.append(TrashEntry(f"{day}/{key}", day, size))
        return entries

    def drop_trash(self, key: str) -> None:
        day, unique = key.split("/")
        with self._own("trash") as trash, self._below(trash, day) as folder:
            with self._below(folder, unique) as box:
                for name in self._names(box):
                    self._unlink(box, name)
            self._remove(folder, unique)
            with suppress(OSError):  # others of that day are still there
                self._remove(trash, day)

    def _folders(self, folder: Folder) -> list[str]:
        """By name. File managers leave files of their own wherever a person looks."""
        return sorted(name for name, found in self._list(folder) if found.kind is FileKind.FOLDER)

    # --- how a file makes way -------------------------------------------------------------------------------------

    def _replace(self, temp: Temp, temps: Folder, folder: Folder, name: str, *, expected: Stamp) -> Stat:
        """Put the temporary file in the place of `name`, and that into the trash. What the temporary file was then."""
        try:
            now = self._stat(folder, name)
        except FileNotFoundError:
            raise ChangedMeanwhile from None
        self._check(folder, name, now, expected)
        temp.take_permissions(folder, name)
        temp.sync()
        part = temp.stat()
        with self._moving(part.inode, now.stamp(), temp.name) as (key, box):
            self._rename(temps, temp.name, box, name)
            try:
                self._exchange(box, name, folder, name)
            except Unsupported:
                self._rename(box, name, temps, temp.name)
                self._replace_by_link(temps, temp.name, folder, name, box=box, now=now)
                with suppress(OSError):  # the file is placed: `recover` brings the old one to the trash
                    self._to_trash(key)
                return part
            except OSError as error:
                self._rename(box, name, temps, temp.name)
                if isinstance(error, FileNotFoundError):
                    raise ChangedMeanwhile from None
                raise
            try:
                self._compare(box, name, now)
                self._to_trash(key)
            except (ChangedMeanwhile, OSError):
                self._exchange_back(box, name, folder)
                self._end_exchange(box, name, temps, temp.name, part=part)
                self._sync(folder)
                raise
        return part

    def _exchange_back(self, box: Folder, name: str, folder: Folder) -> None:
        try:
            self._exchange(box, name, folder, name)
        except FileNotFoundError:  # what was placed is gone again by somebody's hand: theirs comes back all the same
            self._put_back(box, name, folder)

    def _end_exchange(self, box: Folder, name: str, temps: Folder, temp_name: str, *, part: Stat) -> None:
        """What came back is the temporary file, unless somebody replaced or edited what stood there for an instant."""
        with suppress(FileNotFoundError):
            if _same_file(self._stat(box, name), part):
                self._rename(box, name, temps, temp_name)
            else:
                self._rescue(box, name)

    def _replace_by_link(
        self, temps: Folder, temp_name: str, folder: Folder, name: str, *, box: Folder, now: Stat
    ) -> None:
        try:
            self._link(folder, name, box, name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        try:
            if not _same_file(self._stat(folder, name), now):
                raise ChangedMeanwhile
            self._rename(temps, temp_name, folder, name)
        except (ChangedMeanwhile, OSError) as error:
            with suppress(FileNotFoundError):
                self._unlink(box, name)
            if isinstance(error, FileNotFoundError):
                raise ChangedMeanwhile from None
            raise

    def _put_back(self, box: Folder, name: str, folder: Folder) -> None:
        try:
            self._rename_new(box, name, folder, name)
        except OSError:  # the place was taken meanwhile, or the folder has gone
            self._rescue(box, name)

    def _rescue(self, box: Folder, name: str) -> Path:
        """Give a file that has no place any more a new name in the root folder."""
        attempt = 1
        with self._open(()) as root:
            while True:
                free = recovered_name(name, attempt)
                try:
                    self._rename_new(box, name, root, free)
                except FileExistsError:
                    attempt += 1
                    continue
                self._sync(root)
                return (free,)

    def _end_move(self, key: str, box: Folder, name: str, found: Stat) -> Path | None:
        part_inode, inode, size, mtime_ns, temp_name = key.split("_", _KEY_PARTS - 1)
        if found.inode == int(part_inode):
            with self._own("temp") as temps:
                self._rename(box, name, temps, temp_name)
            return None
        if (found.inode, found.size, found.mtime_ns) == (int(inode), int(size), int(mtime_ns)):
            self._to_trash(key)
            return None
        return self._rescue(box, name)

    @contextmanager
    def _moving(self, part_inode: int, stamp: Stamp, name: str) -> Iterator[tuple[str, Folder]]:
        """A folder of its own for one file that makes way, and its key."""
        key = f"{part_inode}_{stamp.inode}_{stamp.size}_{stamp.mtime_ns}_{name}"
        with self._own("moving") as moving:
            self._make(moving, key)
            try:
                with self._below(moving, key) as box:
                    yield key, box
            finally:
                with suppress(OSError):  # it became a folder of the trash, or keeps what could not be put back
                    self._remove(moving, key)

    def _to_trash(self, key: str) -> None:
        now = self._now()
        day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
        with self._own("moving") as moving, self._own("trash") as trash:
            with suppress(FileExistsError):
                self._make(trash, day)
                self._sync(trash)
            with self._below(trash, day) as folder:
                self._rename(moving, key, folder, f"{int(now * 1000):013x}-{self._token()}")
                self._sync(folder)

    def _check(self, folder: Folder, name: str, found: Stat, expected: Stamp) -> None:
        check_stamp(found, expected)
        if self._is_written(folder, name):
            raise InUse

    def _compare(self, box: Folder, name: str, expected: Stat) -> None:
        """Raises ChangedMeanwhile unless what came out is what was looked at before. Its ctime tells nothing any more:
        the rename changed it."""
        if not _same_file(self._stat(box, name), expected):
            raise ChangedMeanwhile
        if self._is_written(box, name):
            raise InUse

    # --- primitives -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _temp(self, temp: TempFile) -> Temp: ...
    @abstractmethod
    def _open(self, path: Path) -> AbstractContextManager[Folder]: ...
    @abstractmethod
    def _own(self, name: str) -> AbstractContextManager[Folder]:
        """A folder in OWN_FOLDER, made when missing. FileNotFoundError when OWN_FOLDER itself is missing."""

    @abstractmethod
    def _below(self, folder: Folder, name: str) -> AbstractContextManager[Folder]: ...
    @abstractmethod
    def _list(self, folder: Folder) -> list[tuple[str, Stat]]: ...
    @abstractmethod
    def _names(self, folder: Folder) -> list[str]: ...
    @abstractmethod
    def _stat(self, folder: Folder, name: str) -> Stat: ...
    @abstractmethod
    def _make(self, folder: Folder, name: str) -> None: ...
    @abstractmethod
    def _remove(self, folder: Folder, name: str) -> None: ...
    @abstractmethod
    def _unlink(self, folder: Folder, name: str) -> None: ...
    @abstractmethod
    def _link(self, source: Folder, name: str, target: Folder, new_name: str) -> None: ...
    @abstractmethod
    def _rename(self, source: Folder, name: str, target: Folder, new_name: str) -> None: ...
    @abstractmethod
    def _rename_new(self, source: Folder, name: str, target: Folder, new_name: str) -> None:
        """FileExistsError when the target exists, unless it is the source itself, spelled otherwise."""

    @abstractmethod
    def _exchange(self, one: Folder, name: str, other: Folder, other_name: str) -> None:
        """Raises Unsupported, FileNotFoundError unless both exist."""

    @abstractmethod
    def _sync(self, folder: Folder) -> None: ...
    @abstractmethod
    def _is_written(self, folder: Folder, name: str) -> bool:
        """Whether a program has it open for writing."""


def check_stamp(found: Stat, expected: Stamp) -> None:
    """Raises ChangedMeanwhile."""
    if not _has_stamp(found, expected):
        raise ChangedMeanwhile


def was_made_before(made_ns: int, stamp: Stamp) -> bool:
    """Whether a file that was made then can have had the stamp of a file with its inode; one that got the inode later
    was made after the stamp was seen. In one tick of the clock all times are equal: then only a file's first stamp is
    sure, since its reader has let the tick pass (client.sync.local.reading)."""
    return made_ns < stamp.ctime_ns or made_ns == stamp.ctime_ns == stamp.mtime_ns


def _has_stamp(found: Stat, expected: Stamp) -> bool:
    """The device is left out: its number may change at every boot."""
    return (found.size, found.mtime_ns, found.ctime_ns, found.inode) == (
        expected.size,
        expected.mtime_ns,
        expected.ctime_ns,
        expected.inode,
    )


def _same_file(one: Stat, other: Stat) -> bool:
    """Whether nobody has edited it, or changed its mode, between two looks at it; a rename changes only its ctime."""
    return (one.kind, one.inode, one.size, one.mtime_ns, one.executable) == (
        other.kind,
        other.inode,
        other.size,
        other.mtime_ns,
        other.executable,
    )
