"""A call that is told to fail does, once, and before it did anything."""

from __future__ import annotations

import errno

import pytest

from client.fs.failing import FailingFileSystem
from client.fs.fake import FakeDisk, FakeFileSystem
from node.base.clock import SystemClock


def work(fs: FailingFileSystem) -> None:
    with fs.open_temp("part") as temp:
        temp.write_at(0, b"data")
        fs.place(temp, ("file",), None)
    with fs.open(("file",)) as file:
        file.read_at(0, memoryview(bytearray(4)))


def test_every_call_fails_once_when_it_is_told_to() -> None:
    plain = FailingFileSystem(start())
    work(plain)
    assert plain.calls == ["open_temp", "temp.write_at", "place", "open", "file.read_at"]
    for number in range(1, len(plain.calls) + 1):
        fs = FailingFileSystem(start(), number, errno.ENOSPC)
        with pytest.raises(OSError) as caught:
            work(fs)
        assert caught.value.errno == errno.ENOSPC
        assert fs.calls == plain.calls[:number]
        if number <= 3:
            assert fs.inner.list_folder(()) == []


def start() -> FakeFileSystem:
    fs = FakeFileSystem(FakeDisk(SystemClock()))
    fs.write_marker(b"{}")
    return fs
