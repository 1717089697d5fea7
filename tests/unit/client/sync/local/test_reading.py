"""Reading a file that others may write to."""

from __future__ import annotations

import random
from typing import Any

import pytest

from client.fs.base import Path
from client.fs.fake import FakeFileSystem
from client.sync.local.findings import ReadTask
from client.sync.local.reading import ContentRead, Unreadable, Unsettled, read_content
from client.sync.tree import LocalId
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from tests.kit.scan_device import Device, digest


def read(device: Device, path: Path, **options: Any) -> ContentRead | Unsettled | Unreadable:
    task = ReadTask(LocalId(5), path, 0)
    return read_content(device.fs, task, now=device.disk.clock.now, pause=lambda _: None, **options)


def test_a_file_is_read_by_blocks(device: Device) -> None:
    data = random.Random(1).randbytes(BLOCK_BYTES + 5)
    device.user.write_in_place(("big",), data)
    device.user.chmod(("big",), True)
    done = read(device, ("big",))
    assert isinstance(done, ContentRead)
    assert done.blocks == (hash_block(data[:BLOCK_BYTES]), hash_block(data[BLOCK_BYTES:]))
    assert done.content.digest == digest(data)
    assert done.content.executable
    assert done.stamp == device.fs.stat(("big",)).stamp()


def test_an_empty_file_has_no_blocks(device: Device) -> None:
    device.user.write_in_place(("empty",), b"")
    done = read(device, ("empty",))
    assert isinstance(done, ContentRead)
    assert done.blocks == ()


@pytest.mark.parametrize("change", ["write_in_place", "save_by_rename"])
def test_a_file_that_changes_while_it_is_read_is_unsettled(device: Device, change: str) -> None:
    def on_call(name: str) -> None:
        if name == "file.read_at":
            getattr(device.user, change)(("top",), b"changed while it is read, and longer than it was before")

    device.fs = FakeFileSystem(device.disk, on_call=on_call)
    assert isinstance(read(device, ("top",)), Unsettled)


def test_what_is_no_file_any_more_is_unsettled(device: Device) -> None:
    device.user.symlink(("link",))
    for path in (("none",), ("d1",), ("link",), ("top", "below")):
        assert isinstance(read(device, path), Unsettled)


def test_a_file_written_this_instant_is_given_time_to_show_a_later_change(device: Device) -> None:
    device.user.write_in_place(("top",), b"fresh")
    written = device.fs.stat(("top",)).mtime_ns
    paused: list[float] = []
    task = ReadTask(LocalId(5), ("top",), 5)
    read_content(device.fs, task, now=lambda: written / 1e9 + 0.005, pause=paused.append)
    assert 0.01 < paused[0] <= 0.02
    read_content(device.fs, task, now=lambda: written / 1e9 + 0.05, pause=paused.append)
    assert len(paused) == 1
