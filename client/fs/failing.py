"""Any file system, but its Nth call fails: for tests that go through every N.

A call is one of FileSystem's or of an open file's; it fails before it did anything. `calls` tells how many there were,
so a test first runs with `fail_at` 0, which fails none. Not safe from several threads.
"""

from __future__ import annotations

import errno
import os
from typing import Self

from client.fs.base import FileSystem, Path, ReadFile, Stat, TempFile, TrashEntry
from client.sync.tree import Stamp


class FailingFileSystem:
    def __init__(self, inner: FileSystem, fail_at: int = 0, number: int = errno.EIO) -> None:
        """Call `fail_at` (the first one is 1) raises OSError with this errno; those after it do not."""
        self.inner = inner
        self.fail_at = fail_at
        self.number = number
        self.calls: list[str] = []

    def count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), name)

    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        self.count("list_folder")
        return self.inner.list_folder(path)

    def stat(self, path: Path) -> Stat:
        self.count("stat")
        return self.inner.stat(path)

    def is_same_since(self, path: Path, stamp: Stamp) -> bool:
        self.count("is_same_since")
        return self.inner.is_same_since(path, stamp)

    def open(self, path: Path) -> ReadFile:
        self.count("open")
        return _FailingFile(self, self.inner.open(path))

    def open_temp(self, name: str) -> TempFile:
        self.count("open_temp")
        return _FailingTemp(self, self.inner.open_temp(name))

    def list_temp(self) -> list[tuple[str, Stat]]:
        self.count("list_temp")
        return self.inner.list_temp()

    def place(self, temp: TempFile, path: Path, expected: Stamp | None) -> Stat:
        self.count("place")
        assert isinstance(temp, _FailingTemp)
        return self.inner.place(temp.temp, path, expected)

    def move(self, source: Path, target: Path, expected: Stamp | None = None) -> Stat:
        self.count("move")
        return self.inner.move(source, target, expected)

    def make_folder(self, path: Path) -> Stat:
        self.count("make_folder")
        return self.inner.make_folder(path)

    def trash(self, path: Path, expected: Stamp | None) -> None:
        self.count("trash")
        self.inner.trash(path, expected)

    def remove_folder(self, path: Path) -> None:
        self.count("remove_folder")
        self.inner.remove_folder(path)

    def set_executable(self, path: Path, executable: bool, expected: Stamp) -> Stat:
        self.count("set_executable")
        return self.inner.set_executable(path, executable, expected)

    def free_bytes(self) -> int:
        self.count("free_bytes")
        return self.inner.free_bytes()

    def lock(self) -> None:
        self.count("lock")
        self.inner.lock()

    def read_marker(self) -> bytes | None:
        self.count("read_marker")
        return self.inner.read_marker()

    def write_marker(self, data: bytes) -> None:
        self.count("write_marker")
        self.inner.write_marker(data)

    def recover(self) -> list[Path]:
        self.count("recover")
        return self.inner.recover()

    def list_trash(self) -> list[TrashEntry]:
        self.count("list_trash")
        return self.inner.list_trash()

    def drop_trash(self, key: str) -> None:
        self.count("drop_trash")
        self.inner.drop_trash(key)

    def close(self) -> None:
        self.inner.close()


class _FailingFile:
    def __init__(self, fs: FailingFileSystem, inner: ReadFile) -> None:
        self._fs = fs
        self._inner = inner

    def stat(self) -> Stat:
        self._fs.count("file.stat")
        return self._inner.stat()

    def read_at(self, offset: int, buffer: memoryview) -> int:
        self._fs.count("file.read_at")
        return self._inner.read_at(offset, buffer)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _FailingTemp:
    def __init__(self, fs: FailingFileSystem, temp: TempFile) -> None:
        self._fs = fs
        self.temp = temp
        self.name = temp.name

    def size(self) -> int:
        self._fs.count("temp.size")
        return self.temp.size()

    def read_at(self, offset: int, buffer: memoryview) -> int:
        self._fs.count("temp.read_at")
        return self.temp.read_at(offset, buffer)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._fs.count("temp.write_at")
        self.temp.write_at(offset, data)

    def truncate(self, size: int) -> None:
        self._fs.count("temp.truncate")
        self.temp.truncate(size)

    def set_mtime(self, mtime_ns: int) -> None:
        self._fs.count("temp.set_mtime")
        self.temp.set_mtime(mtime_ns)

    def set_executable(self, executable: bool) -> None:
        self._fs.count("temp.set_executable")
        self.temp.set_executable(executable)

    def sync(self) -> None:
        self._fs.count("temp.sync")
        self.temp.sync()

    def close(self) -> None:
        self.temp.close()

    def discard(self) -> None:
        self._fs.count("temp.discard")
        self.temp.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
