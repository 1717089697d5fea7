"""The control loop with everything around it in memory: what it waits for, what it tells, what it never does."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client.errors import Refused, Unreachable
from client.fs.base import Path
from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.engine import loop as engine
from client.sync.engine.apply import Placed
from client.sync.engine.loop import Engine, Settings, State
from client.sync.local.disk import Disk
from client.sync.local.scan import DirtyFolder
from client.sync.local.selection import Selection
from client.sync.remote.feed import Feed
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Reader, Store
from client.sync.transfer.contents import Tools
from client.sync.transfer.jobs import OneByOne
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.transfers import Transfers
from client.sync.tree import Content, Download, LocalId, RemoteId, RemoteNode, Stamp
from client.sync.workers import Result, run
from coordinator.protocol.types import Kind
from tests.kit.sim_service import SimConnection, SimService, sim_api


class ManualClock:
    """Time passes only when nothing is left to do."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return 1_790_000_000.0 + self.at


class InOrder:
    """Jobs are done one after the other when the control thread waits; when there is none time goes on to the deadline.

    `kept` takes the jobs for which it says True: they never end.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = deque()
        self.done = 0

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self._jobs.append((job, done))

    def next_event(self, deadline: float | None) -> bool:
        if self._jobs:
            job, done = self._jobs.popleft()
            self.done += 1
            done(run(job))
            return True
        if deadline is not None:
            self._clock.at = max(self._clock.at, deadline)
        return False


class Troubled:
    """An API some of whose calls fail: `fails` maps a method's name to what it raises."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.fails: dict[str, Exception] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._api, name)
        if not callable(real):
            return real

        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                raise self.fails[name]
            answer = real(*args, **more)
            if name in self.after:
                self.after.pop(name)()
            return answer

        return call


class Rig:
    """One client and its service."""

    def __init__(self, *, allow_deletes: bool = False, service: SimService | None = None) -> None:
        self.clock = ManualClock()
        self.service = service or SimService()
        self.others = sim_api(SimConnection(self.service, 99))  # somebody else, who is never troubled
        self.api = Troubled(sim_api(SimConnection(self.service, 1)))
        self.disk = FakeDisk(self.clock)
        self.fs = FakeFileSystem(self.disk)
        self.fs.write_marker(b"{}")
        self.store = Store(None)
        self.workers = InOrder(self.clock)
        self.tape = random.Random(1)
        self.conflicts: list[tuple[str, str]] = []
        reader = Reader(self.store)
        remote = RemoteSide(self.store, Selection(), 1)
        self.feed = Feed(remote, self.api, self.workers, self.clock, self.tape, "/", False, lambda: None)  # type: ignore[arg-type]
        self.local = Disk(
            *(self.fs, self.store, reader, self.workers, self.clock, self.tape, Selection(), set()),  # type: ignore[arg-type]
            on_change=lambda: None,
            pause=self.pause,
        )
        tools = Tools(
            fs=self.fs,
            service=self.api,  # type: ignore[arg-type]
            known=reader,
            parallel=OneByOne(),
            up=RateLimit(None, self.clock, self.pause),
            down=RateLimit(None, self.clock, self.pause),
            pause=self.pause,
            new_key=lambda: f"{self.tape.getrandbits(64):x}",
        )
        self.engine = Engine(
            store=self.store,
            reader=reader,
            fs=self.fs,
            service=self.api,  # type: ignore[arg-type]
            carrier=Transfers(tools, self.clock),
            workers=self.workers,
            clock=self.clock,
            random=self.tape,
            settings=Settings(who="Ann", allow_deletes=allow_deletes),
            feed=self.feed,
            disk=self.local,
            remote=remote,
            on_conflict=lambda path, copy: self.conflicts.append((path, copy)),
        )

    def pause(self, seconds: float) -> None:
        self.clock.at += seconds

    def look(self) -> None:
        """Somebody changed something on one of the sides."""
        self.local.want([DirtyFolder((), recursive=True)])
        self.feed.want()
        self.engine._note_change()

    def run(self, until: Callable[[], bool] | None = None, *, steps: int = 3000) -> None:
        """Until both sides agree (or `until`)."""
        until = until or self.engine.is_settled
        for _ in range(steps):
            self.engine.step(self.clock.at + 1.0)
            if until():
                return
        raise AssertionError(f"not after {steps} steps: {self.engine.status()}")

    def settle(self) -> None:
        self.look()
        self.run()

    def write(self, name: str, data: bytes) -> None:
        self.disk.user.write_in_place(tuple(name.split("/")), data)

    def upload(self, path: str, data: bytes) -> None:
        """Somebody else stores a file."""
        rig = Rig(service=self.service)
        rig.run()
        rig.write(path.strip("/"), data)
        rig.settle()

    def files(self) -> dict[str, bytes]:
        return {"/".join(path): data for path, data in self.disk.user.files().items()}

    def remote(self) -> set[str]:
        return set(self.service.tree())


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_both_sides_agree_after_changes_on_each(rig: Rig) -> None:
    rig.write("mine", b"mine")
    rig.upload("theirs", b"theirs")
    rig.run()
    assert rig.files() == {"mine": b"mine", "theirs": b"theirs"}
    assert {path.strip("/") for path in rig.remote()} >= {"mine", "theirs"}
    assert rig.engine.status().state is State.IN_SYNC
    assert rig.engine.status().queued == 0


def test_nothing_is_done_twice_when_nothing_changes(rig: Rig) -> None:
    rig.write("mine", b"mine")
    rig.run()
    rig.api.calls.clear()
    rig.settle()
    assert set(rig.api.calls) <= {"changes"}


def test_two_edits_make_a_copy_that_is_told(rig: Rig) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.upload("a.txt", b"theirs")
    rig.write("a.txt", b"mine, later")
    rig.settle()
    ((path, copy),) = rig.conflicts
    assert path == "a.txt"
    assert rig.files() == {"a.txt": b"theirs", copy: b"mine, later"}
    assert rig.engine.status().conflicts == 1
    rig.disk.user.delete((copy,))
    rig.settle()
    assert rig.engine.status().conflicts == 0, "a copy that was removed is none any more"


def test_a_full_account_is_told_tried_again_and_stops_nothing_else(rig: Rig) -> None:
    rig.run()
    error = {"code": "quota_exceeded", "message": "There is not enough space left in this account."}
    rig.api.fails["commit"] = rig.api.fails["announce"] = Refused(507, error)
    rig.write("mine", b"mine")
    rig.upload("theirs", b"theirs")
    rig.look()
    rig.run(lambda: rig.engine.status().state is State.BLOCKED)
    assert rig.engine.status().reason == error["message"]
    assert rig.files()["theirs"] == b"theirs"
    assert not rig.engine.is_settled()
    rig.api.fails.clear()
    rig.run()
    assert rig.engine.status().state is State.IN_SYNC


def test_a_service_that_is_away_is_offline_until_it_is_back(rig: Rig) -> None:
    rig.run()
    for call in ("changes", "commit", "announce", "put_batch"):
        rig.api.fails[call] = Unreachable(url="u", reason="nobody listens there")
    rig.write("mine", b"mine")
    rig.look()
    rig.run(lambda: rig.engine.status().state is State.OFFLINE)
    assert "cannot be reached" in (rig.engine.status().reason or "")
    rig.api.calls.clear()
    before = rig.clock.at
    rig.run(lambda: rig.clock.at > before + 600)
    assert len(rig.api.calls) < 60, "it asks ever more seldom"
    rig.api.fails.clear()
    rig.run()


def test_an_upload_whose_answer_was_lost_is_no_conflict_with_the_next_edit(rig: Rig) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.write("a.txt", b"second")

    def lose() -> None:
        rig.write("a.txt", b"third")
        raise Unreachable(url="u", reason="the connection broke")

    rig.api.after["commit"] = lose
    rig.settle()
    assert rig.files() == {"a.txt": b"third"}
    assert rig.conflicts == []


def test_a_feed_that_is_older_than_a_lost_answer_does_not_say_that_nothing_was_stored(rig: Rig) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.write("a.txt", b"second")
    older = rig.api.changes(rig.engine.remote.cursor)
    late: list[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = []
    submit = rig.workers.submit

    def keep_fetches(job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        if done == rig.feed._fetched:
            late.append((job, done))
        else:
            submit(job, done)

    def lose() -> None:
        """A fetch was under way that began before the commit; the next one takes its time."""
        rig.write("a.txt", b"third")
        rig.feed._asking, rig.feed._wanted = True, False
        rig.feed.started += 1
        submit(lambda: older, rig.feed._fetched)
        rig.workers.submit = keep_fetches  # type: ignore[method-assign]
        raise Unreachable(url="u", reason="the connection broke")

    rig.api.after["commit"] = lose
    rig.look()
    rig.run(lambda: bool(late))
    rig.local.want([DirtyFolder(())])
    for _ in range(30):
        rig.engine.step(rig.clock.at + 1.0)
    rig.workers.submit = submit  # type: ignore[method-assign]
    for job, done in late:
        submit(job, done)
    rig.settle()
    assert rig.files() == {"a.txt": b"third"}
    assert rig.conflicts == []


def test_many_deletes_wait_for_a_yes(rig: Rig) -> None:
    for number in range(60):
        rig.write(f"f{number}", b"%d" % number)
    rig.run()
    for number in range(60):
        rig.disk.user.delete((f"f{number}",))
    rig.look()
    rig.run(rig.engine.is_waiting)
    assert rig.engine.status().state is State.BLOCKED
    assert "60 of 60 files" in (rig.engine.status().reason or "")
    assert len(rig.service.tree()) >= 60
    rig.engine._deletes_allowed = True
    rig.engine._note_change()
    rig.run()
    assert rig.files() == {}


def test_fifty_deletes_or_a_small_share_pass(rig: Rig) -> None:
    for number in range(150):
        rig.write(f"f{number}", b"%d" % number)
    rig.run()
    for number in range(70):
        rig.disk.user.delete((f"f{number}",))
    rig.settle()
    assert len(rig.files()) == 80


def test_a_root_that_is_not_ours_any_more_deletes_nothing(rig: Rig) -> None:
    rig.write("a", b"one")
    rig.run()
    rig.disk.user.delete(("a",))
    rig.local.check_root = lambda: "The synced folder is not there."
    rig.look()
    rig.run(lambda: rig.engine.status().state is State.BLOCKED)
    assert rig.engine.status().reason == "The synced folder is not there."
    assert any(path.strip("/") == "a" for path in rig.remote())
    rig.local.check_root = lambda: None
    rig.run()
    assert not any(path.strip("/") == "a" for path in rig.remote())


def test_a_link_in_the_way_of_a_file_makes_way(rig: Rig) -> None:
    rig.run()
    rig.disk.user.symlink(("a.txt",))
    rig.upload("a.txt", b"theirs")
    rig.settle()
    assert rig.files()["a.txt"] == b"theirs"
    assert [path for path, _ in rig.conflicts] == ["a.txt"]


def test_a_new_ignore_rule_forgets_and_deletes_nothing(rig: Rig) -> None:
    rig.engine.load_rules = lambda: Selection("*.log\n")
    rig.write("a.log", b"log")
    rig.run()
    rig.write(".holdfastignore", b"*.log\n")
    rig.settle()
    assert rig.files()["a.log"] == b"log"
    assert any(path.strip("/") == "a.log" for path in rig.remote())
    rig.disk.user.delete(("a.log",))
    rig.settle()
    assert any(path.strip("/") == "a.log" for path in rig.remote())


def test_a_plan_of_many_files_is_not_slow(rig: Rig) -> None:
    for number in range(1500):
        rig.write(f"d{number % 10}/f{number}", b"%d" % number) if number >= 10 else rig.disk.user.mkdir((f"d{number}",))
    began = time.monotonic()
    rig.run(steps=20_000)
    assert len(rig.files()) == 1490
    assert time.monotonic() - began < 60


def test_a_step_does_not_wait_once_both_sides_agree(rig: Rig) -> None:
    rig.write("mine", b"mine")
    for _ in range(200):
        before = rig.clock.at
        rig.engine.step(rig.clock.at + 1000.0)
        if rig.engine.is_settled():
            assert rig.clock.at - before < 1000.0
            return
    raise AssertionError("never settled")


def test_transfers_that_fail_while_the_feed_works_are_known_to_fail_until_one_is_carried_out(rig: Rig) -> None:
    rig.upload("theirs", b"theirs")
    rig.api.fails = dict.fromkeys(("download", "get_block", "blocks", "stream"), Unreachable(url="x", reason="no"))
    began = rig.clock.at

    def fails_for_long() -> bool:
        since = rig.engine.failing_since()
        return since is not None and rig.clock.at - since > 20

    rig.run(fails_for_long)
    assert rig.engine.failing_since() is not None
    assert rig.clock.at - began > 20
    rig.api.fails.clear()
    rig.run()
    assert rig.engine.failing_since() is None
    assert rig.files() == {"theirs": b"theirs"}


def test_deletes_that_turn_up_while_a_long_plan_is_carried_out_wait_for_a_yes_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "QUEUED_MAX", 5)
    names = [f"f{number:03}" for number in range(200)]
    for name in names:
        rig.write(name, name.encode())
    rig.run(steps=20_000)
    for name in names[:50]:
        rig.write(name, b"edited " + name.encode())
    rig.look()
    rig.run(lambda: rig.engine._pass is not None)
    for name in names[60:]:
        rig.disk.user.delete((name,))
    rig.look()
    rig.run(rig.engine.is_waiting, steps=20_000)
    assert len(rig.remote()) == 200
    assert rig.engine.status().state is State.BLOCKED


@pytest.mark.parametrize("again", ["undeleted", "stored"])
def test_what_comes_back_in_the_service_while_it_goes_from_the_disk_stays(rig: Rig, again: str) -> None:
    rig.write("x", b"content")
    rig.run()
    rig.others.delete("/x")
    other = Rig(service=rig.service)
    other.tape.seed(2)  # so that its request keys are its own
    trash = rig.fs.trash

    def then_it_is_back(path: Path, expected: Stamp | None) -> None:
        trash(path, expected)
        if again == "undeleted":
            rig.others.restore("/x", None)
        else:
            other.run()
            other.write("x", b"content")
            other.settle()
        rig.feed.want()
        rig.feed.step()

    rig.fs.trash = then_it_is_back  # type: ignore[method-assign]
    rig.settle()
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} == {"x"}
    assert rig.files() == {"x": b"content"}


def test_a_folder_kept_for_a_file_that_was_not_seen_yet_is_looked_at_again(rig: Rig) -> None:
    rig.disk.user.mkdir(("folder",))
    rig.write("folder/old", b"old")
    rig.run()
    rig.others.delete("/folder")
    rig.write("folder/new", b"new")  # nobody has told the client
    rig.feed.want()
    rig.engine._note_change()
    rig.run()
    assert rig.files() == {"folder/new": b"new"}
    assert {path.strip("/") for path in rig.remote()} >= {"folder/new"}
    assert "folder/old" not in {path.strip("/") for path in rig.remote()}
    assert rig.store.problems() == []


def test_what_is_undeleted_before_the_feed_has_told_our_own_delete_stays(rig: Rig) -> None:
    rig.write("x", b"x")
    rig.run()
    rig.disk.user.delete(("x",))
    rig.api.after["delete"] = lambda: rig.others.restore("/x", None)
    rig.settle()
    rig.settle()
    assert rig.files() == {"x": b"x"}
    assert {path.strip("/") for path in rig.remote()} == {"x"}


def test_a_folder_in_which_a_scan_finds_something_while_it_is_to_go_is_new(rig: Rig) -> None:
    rig.disk.user.mkdir(("folder",))
    rig.run()
    rig.others.delete("/folder")
    rig.feed.want()
    rig.engine._note_change()

    list_folder = rig.fs.list_folder

    def list_when_it_is_to_go(path: tuple[str, ...]) -> Any:
        folder = rig.store.local_at(("folder",))
        if path == ("folder",) and rig.local.busy and rig.store.local_at(("folder", "new")) is None and folder:
            rig.disk.user.mkdir(("folder", "new"))
            with rig.store.transaction():  # as the scan does that was under way
                rig.store.put_local(replace(folder, id=rig.store.new_local_id(), parent_id=folder.id, name="new"))
        return list_folder(path)

    rig.fs.list_folder = list_when_it_is_to_go  # type: ignore[method-assign]
    rig.run()
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} >= {"folder/new"}


def test_what_came_into_a_folder_that_is_gone_by_then_is_neither_placed_nor_paired(rig: Rig) -> None:
    """A pair without its local node would look like a delete."""
    rig.upload("a", b"a")
    rig.settle()
    root = rig.store.remote_root
    node = RemoteNode(RemoteId(4711), root, "b", Kind.FILE, 1, 1, Content(b"d" * 32))
    work = engine._Work(Download(node, LocalId(999), "b", None), engine.Lane.DOWNLOADS)
    with rig.store.transaction():
        rig.store.put_remote(node)
        engine._Absorb(rig.engine, work).absorb(Placed(Stamp(1, 1, 1, 77, 1)))
    assert rig.store.synced(node.id) is None
    assert list(rig.store.local_with_inode(77)) == []
    assert rig.engine.disk.is_idle is False, "everything is looked at again"
