"""The control loop: both sides come to agree, what it waits for, what it tells."""

from __future__ import annotations

import time
from typing import Any

import pytest

from client.errors import Unreachable
from client.fs.base import Path
from client.sync.engine.loop import State
from client.sync.local.findings import DirtyFolder
from client.sync.tree import Content, PendingUpload, RemoteId
from tests.kit.engine_rig import Rig


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
    assert rig.store.told.conflicts() == []


def test_conflicts_are_looked_up_only_when_something_changed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.upload("a.txt", b"theirs")
    rig.write("a.txt", b"mine, later")
    rig.settle()
    looked_up: list[tuple[str, ...]] = []
    monkeypatch.setattr(rig.store, "local_at", looked_up.append)
    for _ in range(10):
        rig.engine.step(rig.clock.at + 1.0)
        assert rig.engine.status().conflicts == len(rig.engine.conflicts()) == 1
    assert not [path for path in looked_up if "copy" in path[0]]


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


def test_a_mistake_in_a_prefetch_is_told_and_ends_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(row: PendingUpload, remote_path: str) -> None:
        raise KeyError(remote_path)

    rig.run()
    monkeypatch.setattr(rig.engine.carrier, "prefetch", mistaken)
    root = rig.store.remote_root
    rig.feed.on_announced((PendingUpload("u", RemoteId(0), root, "large.bin", 1 << 30, Content(bytes(32)), 99),))
    rig.settle()
    assert [type(error) for error in rig.mistakes] == [KeyError]
    (row,) = rig.store.told.failures()
    assert row.path == "large.bin"
    assert "mistake in Holdfast itself" in row.message


def test_a_file_that_is_always_being_written_is_told_and_keeps_nothing_else_from_being_done(rig: Rig) -> None:
    read = rig.fs.open

    def open_while_a_program_writes(path: Path) -> Any:
        file = read(path)
        if path == ("log",):
            read_at = file.read_at

            def read_then_written(offset: int, buffer: memoryview) -> int:
                rig.write("log", b"%f" % rig.clock.at)
                return read_at(offset, buffer)

            file.read_at = read_then_written  # type: ignore[method-assign]  # this one
        return file

    rig.fs.open = open_while_a_program_writes  # type: ignore[method-assign]  # a program is at work on one of them
    rig.write("log", b"first")
    rig.write("other", b"other")
    rig.run(rig.engine.is_waiting)
    assert not rig.engine.is_settled()
    assert rig.engine.needs_a_person()
    assert rig.engine.status().reason == "log: a program keeps writing to it; it is synced when that has ended."
    assert {path.strip("/") for path in rig.remote()} == {"other"}
    rig.fs.open = read  # type: ignore[method-assign]  # for this rig only
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} == {"other", "log"}


def test_an_edit_in_a_folder_that_is_just_being_moved_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan that was to find it passes over the folder, since the operation is still at work there."""
    rig.disk.user.mkdir(("docs",))
    rig.write("docs/plan.txt", b"first")
    rig.settle()
    docs = rig.others.find("/docs")
    assert docs is not None
    assert docs.parent_id is not None
    move = rig.fs.move

    def edit_and_scan(*args: Any) -> Any:
        stat = move(*args)
        monkeypatch.undo()
        rig.write("papers/plan.txt", b"edited in this instant")
        rig.local.want([DirtyFolder(("papers",), recursive=True)])
        while not rig.local.is_idle:
            rig.local.step()
            rig.workers.next_event(None)
        return stat

    monkeypatch.setattr(rig.fs, "move", edit_and_scan)
    rig.others.move_id(docs.id, "/docs", "/papers", parent_id=docs.parent_id)
    rig.feed.want()
    rig.run()
    found = rig.others.find("/papers/plan.txt")
    assert found is not None
    assert found.version == 2
