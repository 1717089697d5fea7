"""No step of a change loses a file: every step is once the moment of an edit, of a failure, and of a crash."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from client.fs.base import ChangedMeanwhile, Stat
from client.fs.fake import Dead, FakeDisk, FakeFileSystem
from client.fs.steps import was_made_before
from client.sync.tree import Stamp
from node.base.clock import SystemClock

OLD, NEW, EDITED = b"old contents", b"new contents!", b"somebody's edit"
FILE = ("folder", "file.txt")

Job = Callable[[FakeFileSystem], Stat | None]


def make_disk(*, can_exchange: bool = True) -> FakeDisk:
    disk = FakeDisk(SystemClock(), can_exchange=can_exchange)
    FakeFileSystem(disk).write_marker(b"{}")
    disk.user.mkdir(FILE[:-1])
    disk.user.write_in_place(FILE, OLD)
    with FakeFileSystem(disk).open_temp("part") as temp:
        temp.write_at(0, NEW)
    disk.sync_all()
    return disk


def place(fs: FakeFileSystem) -> Stat:
    return fs.place(fs.open_temp("part"), FILE, fs.stat(FILE).stamp())


def trash(fs: FakeFileSystem) -> None:
    fs.trash(FILE, fs.stat(FILE).stamp())


def move(fs: FakeFileSystem) -> Stat:
    return fs.move(FILE, ("moved",), fs.stat(FILE).stamp())


class At:
    """Does something at the Nth step, once."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.left = number
        self.act = act
        self.step = ""

    def __call__(self, step: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.step = step
            self.act()

    @property
    def came(self) -> bool:
        return self.left <= 0


def edit(disk: FakeDisk, how: str) -> None:
    if how == "by rename":
        disk.user.save_by_rename(FILE, EDITED)
        return
    if how == "delete and create":  # the inode's number is used again at once
        with suppress(FileNotFoundError):
            disk.user.delete(FILE)
    disk.user.write_in_place(FILE, EDITED)


@pytest.mark.parametrize("job", [place, trash, move])
@pytest.mark.parametrize("how", ["in place", "by rename", "delete and create"])
def test_an_edit_between_any_two_steps_stays_a_file_of_the_tree(job: Job, how: str) -> None:
    number, came = 0, True
    while came:
        number += 1
        disk = make_disk()
        at = At(number, partial(edit, disk, how))
        with suppress(ChangedMeanwhile, OSError):
            job(FakeFileSystem(disk, on_step=at))
        came = at.came
        if came:
            assert EDITED in disk.user.files().values(), f"step {number}: {disk.user.files()}"
    assert number > 3


@pytest.mark.parametrize("job", [place, trash, move])
@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_change_of_mode_between_any_two_steps_shows_at_the_next_look(job: Job, can_exchange: bool) -> None:
    """What the call says is there now must not be the stamp of a mode that it never set."""
    number, came = 0, True
    while came:
        number += 1
        disk = make_disk(can_exchange=can_exchange)

        def change_mode(disk: FakeDisk = disk) -> None:
            for path in (FILE, ("moved",)):
                with suppress(FileNotFoundError):
                    disk.user.chmod(path, True)

        at = At(number, change_mode)
        with suppress(ChangedMeanwhile):
            told = job(FakeFileSystem(disk, on_step=at))
            there = FakeFileSystem(disk).list_folder(FILE[:-1] if job is place else ())
            seen = [found for _, found in there if told is not None and found.stamp() == told.stamp()]
            assert not any(found.executable for found in seen), f"step {number}"
        came = at.came
    assert number > 3


def test_a_folder_that_is_removed_at_any_step_takes_nothing_with_it() -> None:
    """A folder may be gone from the disk while it is still open: what is renamed into it then would be in no place."""
    number, came = 0, True
    while came:
        number += 1
        disk = make_disk()
        disk.user.delete(FILE)

        def remove(disk: FakeDisk = disk) -> None:
            with suppress(OSError):
                disk.unlink(disk.root, FILE[0])

        at = At(number, remove)
        fs = FakeFileSystem(disk, on_step=at)
        with suppress(FileNotFoundError):
            fs.place(fs.open_temp("part"), FILE, None)
        came = at.came
        assert NEW in [*disk.user.files().values(), *disk.user.files((".holdfast", "temp")).values()], f"step {number}"


@pytest.mark.parametrize("job", [place, trash, move])
@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_step_loses_nothing(job: Job, power: bool) -> None:
    number, came = 0, True
    while came:
        number += 1
        for seed in range(20 if power else 1):
            disk = make_disk()

            def crash(disk: FakeDisk = disk, seed: int = seed) -> None:
                disk.crash(random.Random(seed) if power else None)

            at = At(number, crash)
            with suppress(Dead):
                job(FakeFileSystem(disk, on_step=at))
            came = at.came
            rescued = FakeFileSystem(disk).recover()
            after = [*disk.user.files().values(), *disk.user.trashed()]
            parts = list(disk.user.files((".holdfast", "temp")).values())
            assert OLD in after, f"step {number}, seed {seed}"
            assert rescued == []
            if job is place:
                assert NEW in after + parts, f"step {number}, seed {seed}"
            assert not disk.user.files((".holdfast", "moving")) if "moving" in own_names(disk) else True
    assert number > 3


def test_an_edit_and_then_a_crash_at_any_later_step_loses_nothing() -> None:
    seen = 0
    for first in range(1, 25):
        for later in range(first + 1, 30):
            for seed in range(5):
                disk = make_disk()
                steps = 0

                def on_step(
                    _: str, disk: FakeDisk = disk, first: int = first, later: int = later, seed: int = seed
                ) -> None:
                    nonlocal steps
                    steps += 1
                    if steps == first:
                        with suppress(FileNotFoundError):
                            disk.user.save_by_rename(FILE, EDITED)
                    elif steps == later:
                        disk.crash(random.Random(seed))

                with suppress(Dead, ChangedMeanwhile):
                    place(FakeFileSystem(disk, on_step=on_step))
                if steps < later:
                    continue
                FakeFileSystem(disk).recover()
                seen += 1
                assert EDITED in disk.user.files().values(), f"steps {first}, {later}, seed {seed}"
    assert seen > 100


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("job", [place, trash, move])
def test_a_failing_step_leaves_everything_as_it_was(job: Job, can_exchange: bool) -> None:
    number, came = 0, True
    while came:
        number += 1
        disk = make_disk(can_exchange=can_exchange)

        at = At(number, fail)
        try:
            job(FakeFileSystem(disk, on_step=at))
        except OSError:
            # A disk that fails to sync may have made the change all the same.
            if at.step != "sync":
                assert disk.user.files() == {FILE: OLD}, f"step {number}, {at.step}"
        came = at.came
        assert OLD in [*disk.user.files().values(), *disk.user.trashed()], f"step {number}, {at.step}"
    assert number > 3


def test_a_full_disk_changes_nothing() -> None:
    disk = make_disk()
    fs = FakeFileSystem(disk)
    temp, expected = fs.open_temp("part"), fs.stat(FILE).stamp()
    disk.capacity = disk.used
    for attempt in (lambda: fs.place(temp, FILE, expected), lambda: fs.trash(FILE, expected)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.ENOSPC
        assert disk.user.files() == {FILE: OLD}
    disk.capacity += 1000
    fs.place(temp, FILE, expected)
    assert disk.user.files() == {FILE: NEW}


def test_what_a_crash_left_of_an_edit_comes_back_under_a_new_name() -> None:
    disk = make_disk()
    steps: list[str] = []

    def on_step(step: str) -> None:
        steps.append(step)
        if step == "exchange":
            disk.user.write_in_place(FILE, EDITED)
        elif "exchange" in steps:
            disk.crash()

    with suppress(Dead):
        place(FakeFileSystem(disk, on_step=on_step))
    assert FakeFileSystem(disk).recover() == [("file (recovered).txt",)]
    assert disk.user.files() == {FILE: NEW, ("file (recovered).txt",): EDITED}


def fail() -> None:
    raise OSError(errno.EIO, "simulated")


def own_names(disk: FakeDisk) -> set[str]:
    return set(disk.folder((".holdfast",)).children)


@pytest.mark.parametrize(
    ("made_ns", "mtime_ns", "is_before"),
    [
        (999, 5, True),
        (1001, 1000, False),  # the number was given away again
        (1000, 1000, True),  # written at once when it was made, and read when the tick had passed
        (1000, 5, False),  # another file may have been stamped, deleted and this one made within the tick
    ],
)
def test_only_a_file_that_was_made_before_a_stamp_can_have_had_it(made_ns: int, mtime_ns: int, is_before: bool) -> None:
    assert was_made_before(made_ns, Stamp(5, mtime_ns, 1000, 3, 4)) is is_before
