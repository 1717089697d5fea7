"""One operation: done as planned, or left alone with the reason."""

from __future__ import annotations

import errno
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from client.errors import Refused, Unreachable
from client.fs.base import ChangedMeanwhile, InUse
from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.engine import apply
from client.sync.engine.apply import Gone, NotEmpty, Placed, Stale, Stuck, Told, Unavailable
from client.sync.local.ignore import is_built_in
from client.sync.planner.conflicts import Naming
from client.sync.tree import RemoteId, Stamp
from coordinator.protocol.types import Kind, Metadata
from tests.kit.scheduler import Scheduler, SimClock


def metadata(node: int, path: str) -> Metadata:
    """A folder."""
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    return Metadata(
        id=node,
        path=path,
        kind=Kind.FOLDER,
        version=0,
        size=0,
        content_hash=None,
        modified_at=moment,
        client_modified_at=None,
        modified_by="ann",
        state="complete",
    )


class Service:
    """Answers every call with one thing."""

    def __init__(self, answer: Any, there: Any = None) -> None:
        self.answer, self.there = answer, there

    def __getattr__(self, name: str) -> Any:
        def call(*args: object, **more: object) -> Any:
            answer = self.there if name == "find_id" else self.answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def refusal(code: str, status: int = 409) -> Refused:
    return Refused(status, {"code": code, "message": "A sentence."})


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk(SimClock(Scheduler(random.Random(1)), switches=False))


@pytest.fixture
def fs(disk: FakeDisk) -> FakeFileSystem:
    fs = FakeFileSystem(disk)
    fs.write_marker(b"{}")
    return fs


def failing(error: Exception) -> Any:
    """A file system whose every call fails."""
    return Service(error)


# --- in the service ---------------------------------------------------------------------------------------------


def test_a_folder_that_was_made_is_told() -> None:
    made = metadata(10, "/f")
    assert apply.make_remote_folder(Service(made), "/f", RemoteId(1)) == Told(made)


@pytest.mark.parametrize("code", ["version_conflict", "name_taken", "not_found", "is_a_folder", "move_into_itself"])
def test_a_service_that_has_moved_on_is_looked_at_again(code: str) -> None:
    assert apply.move_remote(Service(refusal(code)), RemoteId(1), "/a", "/b", RemoteId(2)) == Stale(remote=True)


@pytest.mark.parametrize("code", ["quota_exceeded", "cluster_full", "cannot_take_write"])
def test_no_room_stops_everything_of_its_kind_with_the_services_own_sentence(code: str) -> None:
    outcome = apply.make_remote_folder(Service(refusal(code, 507)), "/f", RemoteId(1))
    assert outcome == Stuck("A sentence.", code, blocks_all=True)


def test_what_is_not_allowed_is_stuck_for_this_file_only() -> None:
    outcome = apply.make_remote_folder(Service(refusal("not_allowed", 403)), "/f", RemoteId(1))
    assert isinstance(outcome, Stuck)
    assert not outcome.blocks_all


@pytest.mark.parametrize(
    "error",
    [Unreachable(url="u", reason="r"), refusal("unavailable", 503), refusal("", 502), refusal("not_logged_in", 401)],
)
def test_a_service_that_does_not_answer_is_unavailable(error: Exception) -> None:
    assert isinstance(apply.make_remote_folder(Service(error), "/f", RemoteId(1)), Unavailable)


def test_a_delete_of_what_is_gone_is_done_and_of_what_moved_is_stale() -> None:
    gone, moved = Service(refusal("not_found", 404)), Service(refusal("not_found", 404), there=metadata(10, "/b"))
    assert apply.delete_remote(gone, RemoteId(10), "/a", 1, None) == Gone()
    assert apply.delete_remote(moved, RemoteId(10), "/a", 1, None) == Stale(remote=True)


# --- on the disk ------------------------------------------------------------------------------------------------


def test_a_folder_is_removed_with_the_junk_in_it(disk: FakeDisk, fs: FakeFileSystem) -> None:
    stamp = fs.make_folder(("f",)).stamp()
    disk.user.write_in_place(("f", ".DS_Store"), b"junk")
    assert apply.delete_local(fs, ("f",), Kind.FOLDER, stamp, is_built_in) == Gone()
    assert disk.user.folders() == []


def test_a_folder_with_something_in_it_stays(disk: FakeDisk, fs: FakeFileSystem) -> None:
    stamp = fs.make_folder(("f",)).stamp()
    disk.user.write_in_place(("f", "mine.log"), b"ignored, not junk")
    disk.user.write_in_place(("f", ".DS_Store"), b"junk")
    assert apply.delete_local(fs, ("f",), Kind.FOLDER, stamp, is_built_in) == NotEmpty("mine.log")
    assert set(disk.user.files()) == {("f", "mine.log"), ("f", ".DS_Store")}


def test_a_file_that_was_edited_is_not_deleted(disk: FakeDisk, fs: FakeFileSystem) -> None:
    disk.user.write_in_place(("a",), b"one")
    stamp = fs.stat(("a",)).stamp()
    disk.user.write_in_place(("a",), b"two")
    assert apply.delete_local(fs, ("a",), Kind.FILE, stamp, is_built_in) == Stale(local=True)
    assert disk.user.files() == {("a",): b"two"}


def test_a_move_gives_the_new_stamp_and_never_replaces(disk: FakeDisk, fs: FakeFileSystem) -> None:
    disk.user.write_in_place(("a",), b"one")
    stamp = fs.stat(("a",)).stamp()
    assert apply.move_local(fs, ("a",), ("b",), stamp) == Placed(fs.stat(("b",)).stamp())
    disk.user.write_in_place(("a",), b"two")
    assert apply.move_local(fs, ("a",), ("b",), fs.stat(("a",)).stamp()) == Stale(local=True)
    assert disk.user.files() == {("a",): b"two", ("b",): b"one"}


def test_only_a_link_makes_way(disk: FakeDisk, fs: FakeFileSystem) -> None:
    naming = Naming("Ann", "2026-11-22")
    disk.user.symlink(("a",))
    disk.user.write_in_place(("b",), b"one")
    assert apply.clear_way(fs, ("a",), naming) == ("a (Ann's conflicted copy 2026-11-22)",)
    assert apply.clear_way(fs, ("b",), naming) is None
    assert apply.clear_way(fs, ("c",), naming) is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ChangedMeanwhile(), Stale(local=True)),
        (FileExistsError(), Stale(local=True)),
        (FileNotFoundError(), Stale(local=True)),
        (NotADirectoryError(), Stale(local=True)),
        (InUse(), Stale(local=True, in_use=True)),
    ],
)
def test_a_disk_that_has_moved_on_is_looked_at_again(error: Exception, outcome: Stale) -> None:
    assert apply.make_local_folder(failing(error), ("f",)) == outcome


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_everything_of_its_kind(number: int) -> None:
    outcome = apply.make_local_folder(failing(OSError(number, "full")), ("f",))
    assert isinstance(outcome, Stuck)
    assert outcome.blocks_all


def test_what_the_disk_refuses_names_the_file_whatever_its_bytes() -> None:
    stamp = Stamp(1, 2, 3, 4, 5)
    outcome = apply.move_local(failing(PermissionError(errno.EACCES, "no")), ("a",), ("b\udcff",), stamp)
    assert outcome == Stuck("b\\udcff on this computer cannot be changed: Permission denied.", "disk_refused")
