"""Scans and reads in their order: what is counted, what waits for what, how much is held."""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client.fs.base import Path, Stat
from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.local import disk
from client.sync.local.disk import Disk
from client.sync.local.findings import UNREAD, Changes, DirtyFolder
from client.sync.local.selection import Selection
from client.sync.store.reader import Reader
from client.sync.store.store import Store
from client.sync.tree import KEPT, RemoteId, Stamp
from client.sync.workers import Result, run


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return 1_790_000_000.0 + self.at


class Jobs:
    """Done one after the other when they are asked for."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self.waiting.append((job, done))

    def next_event(self, deadline: float | None) -> bool:
        if not self.waiting:
            return False
        job, done = self.waiting.popleft()
        done(run(job))
        return True


class Rig:
    def __init__(self) -> None:
        self.clock, self.jobs, self.store = Clock(), Jobs(), Store(None)
        self.store.set_remote_root(RemoteId(1), Stamp(0, 0, 0, 0, 0))
        self.files = FakeDisk(self.clock)
        self.fs = FakeFileSystem(self.files)
        self.disk = Disk(
            *(self.fs, self.store, Reader(self.store), self.jobs, self.clock, random.Random(1), Selection(), set()),
            on_change=lambda: None,
            pause=lambda seconds: None,
        )

    def run(self, seen: Callable[[], None] = lambda: None) -> None:
        """Until there is nothing to be looked at."""
        for _ in range(10_000):
            until = self.disk.step()
            seen()
            if not self.jobs.next_event(None):
                if self.disk.is_idle:
                    return
                self.clock.at = max(self.clock.at, until if until is not None else self.clock.at + 1)
        raise AssertionError("never idle")


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_scan_that_failed_is_made_up_for_by_the_next_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the next scan would otherwise wait for ever: there is nothing to look at any more."""
    real = rig.fs.list_folder

    def fail(path: Path) -> list[tuple[str, Stat]]:
        monkeypatch.setattr(rig.fs, "list_folder", real)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(rig.fs, "list_folder", fail)
    rig.run()
    assert rig.disk.trouble is None
    ticket = rig.disk.scans_begun + 1
    rig.disk.want([DirtyFolder(())])
    rig.run()
    assert rig.disk.scans_done >= ticket


def test_a_scan_waits_for_the_reads_so_that_memory_stays_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "UNREAD_MAX", 50)
    rig.disk.step_entries = 10
    for folder in range(40):
        rig.files.user.mkdir((f"d{folder}",))
        for file in range(20):
            rig.files.user.write_in_place((f"d{folder}", f"f{file}"), b"%d %d" % (folder, file))
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, rig.disk.unread)

    rig.run(look)
    assert rig.store.counts().local == 800
    last = rig.store.local_at(("d39", "f19"))
    assert last is not None
    assert last.content is not None
    assert most < 50 + 2 * disk.READ_BATCH_FILES


def test_a_folder_that_came_to_be_kept_before_a_new_file_in_it_was_read_is_not_kept_any_more(rig: Rig) -> None:
    """Its delete was decided before the file was found, and met it before it was read."""
    rig.files.user.mkdir(("folder",))
    rig.files.user.write_in_place(("folder", "new"), b"new")

    def keep() -> None:
        folder, new = rig.store.local_at(("folder",)), rig.store.local_at(("folder", "new"))
        if folder is not None and new is not None and new.problem == UNREAD:
            with rig.store.transaction():
                rig.store.put_local(replace(folder, problem=f"{KEPT}, such as new"))

    rig.run(keep)
    folder = rig.store.local_at(("folder",))
    assert folder is not None
    assert folder.problem is None


def test_folders_that_were_moved_into_each_other_while_a_scan_met_them_make_no_circle(rig: Rig) -> None:
    """The scan found `inner` in `outer`; before that was stored, `outer` was told to lie in `inner`."""
    rig.files.user.mkdir(("outer",))
    rig.files.user.mkdir(("inner",))
    rig.run()
    rig.files.user.rename(("inner",), ("outer", "inner"))
    outer, inner = rig.store.local_at(("outer",)), rig.store.local_at(("inner",))
    assert outer is not None
    assert inner is not None
    with rig.store.transaction():
        rig.store.put_local(replace(outer, parent_id=inner.id))
    rig.disk.want([DirtyFolder((), recursive=True), DirtyFolder(("inner", "outer"), recursive=True)])
    with rig.store.transaction():
        rig.disk._absorb(Changes(upserts=[replace(inner, parent_id=outer.id)]))
    assert rig.store.local_path(inner.id) == ("inner",)
    rig.run()
    assert rig.store.local_at(("outer", "inner")) is not None


def test_a_new_file_whose_folder_is_moved_before_it_is_read_is_read_there(rig: Rig) -> None:
    rig.files.user.mkdir(("before",))
    rig.files.user.write_in_place(("before", "new"), b"new")

    def move() -> None:
        folder, new = rig.store.local_at(("before",)), rig.store.local_at(("before", "new"))
        if folder is not None and new is not None:
            rig.files.user.rename(("before",), ("after",))
            with rig.store.transaction():
                rig.store.put_local(replace(folder, name="after"))

    rig.run(move)
    new = rig.store.local_at(("after", "new"))
    assert new is not None
    assert new.problem is None
