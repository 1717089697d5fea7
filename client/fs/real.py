"""The synced root on a real disk (Linux).

Every path is walked name by name from the root's own descriptor with O_NOFOLLOW, so a symbolic link that somebody puts
anywhere in it stops the walk; and a root that was moved or unmounted is never mistaken for what stands at its path now.

Does not: change files on another file system that is mounted inside the root (OSError, EXDEV; a scan leaves them
alone); carry over a replaced file's owner, ACLs and extended attributes. The permission bits are kept.
Layout of OWN_FOLDER: `root.json`, `lock`, `temp/NAME`, and steps.py's `moving` and `trash`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path as RootPath
from typing import Final, Self

from client.fs import kernel
from client.fs.base import OWN_FOLDER, FileKind, Path, ReadFile, Stat, TempFile
from client.fs.paths import check_component, check_path, split
from client.fs.steps import NO_LINKS, Steps, Temp, Unsupported, check_stamp, was_made_before
from client.part import with_executable
from client.sync.tree import Stamp
from node.base.clock import Clock

_MARKER: Final = "root.json"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# On the way a folder needs only to be entered, not to be listed.
_WAY: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would hang the open without NONBLOCK
_CACHED_BYTES_MAX: Final = 16 << 20  # of a temporary file, after it was synced
_KINDS: Final = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.FOLDER, stat.S_IFLNK: FileKind.SYMLINK}


class RealFileSystem(Steps[int]):
    """Immutable but for the lock's descriptor; each call opens what it needs and closes it."""

    def __init__(self, root: RootPath, clock: Clock) -> None:
        """Raises OSError when `root` is not a folder. Writes nothing."""
        super().__init__(clock.now, lambda: secrets.token_hex(4))
        self._path = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1

    def close(self) -> None:
        for descriptor in (self._root, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._root = self._lock = -1

    # --- looking --------------------------------------------------------------------------------------------------

    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        with self._open(path) as folder:
            found = self._list(folder)
        return [item for item in found if item[0] != OWN_FOLDER] if not path else found

    def stat(self, path: Path) -> Stat:
        if not path:
            return _stat_of(os.fstat(self._root))
        parent, name = split(path)
        with self._open(parent) as folder:
            return self._stat(folder, name)

    def is_same_since(self, path: Path, stamp: Stamp) -> bool:
        parent, name = split(path)
        with self._open(parent) as folder:
            inode, made_ns = kernel.inode_and_birth(folder, name)
        return inode == stamp.inode and made_ns is not None and was_made_before(made_ns, stamp)

    def open(self, path: Path) -> ReadFile:
        parent, name = split(path)
        with self._open(parent) as folder:
            descriptor = os.open(name, _READ, dir_fd=folder)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "not a regular file", name)
        except OSError:
            os.close(descriptor)
            raise
        return _RealFile(descriptor)

    def free_bytes(self) -> int:
        facts = os.fstatvfs(self._root)
        return facts.f_bavail * facts.f_frsize

    # --- temporary files ------------------------------------------------------------------------------------------

    def open_temp(self, name: str) -> TempFile:
        check_component(name)
        with self._own("temp") as folder:
            while True:
                descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(descriptor).st_ino == _inode_at(folder, name):
                        return _RealTemp(self, name, descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)  # the one before us removed it between our open and our lock

    def list_temp(self) -> list[tuple[str, Stat]]:
        with self._own("temp") as folder:
            return self._list(folder)

    # --- changing (the rest: steps.py) ----------------------------------------------------------------------------

    def set_executable(self, path: Path, executable: bool, expected: Stamp) -> Stat:
        parent, name = split(path)
        with self._open(parent) as folder:
            descriptor = os.open(name, _READ, dir_fd=folder)
        try:
            facts = os.fstat(descriptor)
            check_stamp(_stat_of(facts), expected)
            os.fchmod(descriptor, with_executable(stat.S_IMODE(facts.st_mode), executable))
            os.fsync(descriptor)
            after = _stat_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        # As in `place`: an edit meanwhile must not pass for what was expected.
        edited = (after.size, after.mtime_ns, after.executable) != (expected.size, expected.mtime_ns, executable)
        return _stat_of(facts)._replace(executable=executable) if edited else after

    # --- our own folder -------------------------------------------------------------------------------------------

    def lock(self) -> None:
        self._make_own_folder()
        with self._below(self._root, OWN_FOLDER) as own:
            descriptor = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=own)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def read_marker(self) -> bytes | None:
        held, there = os.fstat(self._root), os.stat(self._path)
        if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
            raise FileNotFoundError(errno.ENOENT, "another folder stands there now", str(self._path))
        try:
            with self._below(self._root, OWN_FOLDER) as own:
                descriptor = os.open(_MARKER, _READ, dir_fd=own)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def write_marker(self, data: bytes) -> None:
        self._make_own_folder()
        with self._below(self._root, OWN_FOLDER) as own:
            descriptor = os.open(
                f"{_MARKER}.new",
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
                dir_fd=own,
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(f"{_MARKER}.new", _MARKER, src_dir_fd=own, dst_dir_fd=own)
            os.fsync(own)

    def _make_own_folder(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(OWN_FOLDER, 0o700, dir_fd=self._root)
            os.fsync(self._root)

    # --- primitives -----------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, path: Path) -> Iterator[int]:
        check_path(path)
        folder = os.open(".", _WAY if path else _FOLDER, dir_fd=self._root)
        try:
            for depth, name in enumerate(path, 1):
                below = os.open(name, _FOLDER if depth == len(path) else _WAY, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _own(self, name: str) -> Iterator[int]:
        with self._below(self._root, OWN_FOLDER) as own:
            try:
                folder = os.open(name, _FOLDER, dir_fd=own)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=own)
                os.fsync(own)
                folder = os.open(name, _FOLDER, dir_fd=own)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _below(self, folder: int, name: str) -> Iterator[int]:
        descriptor = os.open(name, _FOLDER, dir_fd=folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _temp(self, temp: TempFile) -> Temp:
        assert isinstance(temp, _RealTemp)
        return temp

    def _list(self, folder: int) -> list[tuple[str, Stat]]:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((entry.name, _stat_of(entry.stat(follow_symlinks=False))))
        return found

    def _names(self, folder: int) -> list[str]:
        return os.listdir(folder)

    def _stat(self, folder: int, name: str) -> Stat:
        return _stat_of(os.stat(name, dir_fd=folder, follow_symlinks=False))

    def _make(self, folder: int, name: str) -> None:
        os.mkdir(name, dir_fd=folder)

    def _remove(self, folder: int, name: str) -> None:
        os.rmdir(name, dir_fd=folder)

    def _unlink(self, folder: int, name: str) -> None:
        os.unlink(name, dir_fd=folder)

    def _link(self, source: int, name: str, target: int, new_name: str) -> None:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    def _rename(self, source: int, name: str, target: int, new_name: str) -> None:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)

    def _rename_new(self, source: int, name: str, target: int, new_name: str) -> None:
        try:
            kernel.rename_new(source, name, target, new_name)
        except FileExistsError:
            if not _is_respelling(source, name, target, new_name):
                raise
            self._rename(source, name, target, new_name)
        except Unsupported:
            _rename_new_by_link(source, name, target, new_name)

    def _exchange(self, one: int, name: str, other: int, other_name: str) -> None:
        kernel.exchange(one, name, other, other_name)

    def _sync(self, folder: int) -> None:
        os.fsync(folder)

    def _is_written(self, folder: int, name: str) -> bool:
        return kernel.is_open_for_writing(folder, name)


class _RealFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def stat(self) -> Stat:
        return _stat_of(os.fstat(self._descriptor))

    def read_at(self, offset: int, buffer: memoryview) -> int:
        return _read_at(self._descriptor, offset, buffer)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _RealTemp(_RealFile):
    def __init__(self, fs: RealFileSystem, name: str, descriptor: int) -> None:
        super().__init__(descriptor)
        self.name = name
        self._fs = fs
        self._unsynced = 0  # bytes; a count lost between two threads does no harm

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        self._unsynced += len(rest)
        while rest:
            count = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[count:], offset + count

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def set_mtime(self, mtime_ns: int) -> None:
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))

    def set_executable(self, executable: bool) -> None:
        self._change_mode(os.fstat(self._descriptor).st_mode, executable)

    def take_permissions(self, folder: object, name: str) -> None:
        assert isinstance(folder, int)
        self._change_mode(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode, self.stat().executable)

    def sync(self) -> None:
        os.fsync(self._descriptor)
        if self._unsynced > _CACHED_BYTES_MAX:
            # A large file on its way in leaves the memory to what the person works with. It is also faster: the next
            # bytes find memory that is warm. For 1 GiB that saves 1.1 to 1.7 CPU-seconds where the machine is virtual.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._unsynced = 0

    def discard(self) -> None:
        with self._fs._own("temp") as folder, suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=folder)
        self.close()

    def _change_mode(self, mode: int, executable: bool) -> None:
        wanted = with_executable(mode, executable)
        if wanted != stat.S_IMODE(os.fstat(self._descriptor).st_mode):
            os.fchmod(self._descriptor, wanted)


def _is_respelling(source: int, name: str, target: int, new_name: str) -> bool:
    """Whether both names are one entry: on a disk that ignores case, the target "exists" and is the source itself.
    Two hard links are two entries: the folder lists both."""
    inode = _inode_at(target, new_name)
    return inode is not None and inode == _inode_at(source, name) and new_name not in os.listdir(target)


def _rename_new_by_link(source: int, name: str, target: int, new_name: str) -> None:
    """A link never replaces. Folders, and files where there are no links, are left with a look before the rename."""
    if not _is_respelling(source, name, target, new_name):
        if stat.S_ISREG(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            try:
                os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
            else:
                os.unlink(name, dir_fd=source)
                return
        if _inode_at(target, new_name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def _inode_at(folder: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def _stat_of(facts: os.stat_result) -> Stat:
    mode = facts.st_mode
    return Stat(
        _KINDS.get(stat.S_IFMT(mode), FileKind.SPECIAL),
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
        facts.st_ino,
        facts.st_dev,
        bool(mode & stat.S_IXUSR),
        facts.st_nlink,
    )


def _read_at(descriptor: int, offset: int, buffer: memoryview) -> int:
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
