"""`holdfast sync` between two real folders over a real service: what a person relies on every day."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest

from client.errors import ExitCode
from tests.integration.conftest import NewUser
from tests.kit.api import User
from tests.kit.sync_device import (
    FOLDER,
    Device,
    check_equal,
    conflicts_in,
    file_entry,
    settle,
    wait_until_equal,
)


@pytest.fixture
def person(new_user: NewUser) -> User:
    return new_user()


@pytest.fixture
def ann(person: User, tmp_path: Path) -> Device:
    return Device(person, tmp_path, "ann")


@pytest.fixture
def ben(person: User, tmp_path: Path) -> Device:
    return Device(person, tmp_path, "ben")


def database_of(device: Device) -> Path:
    (found,) = (device.home / "sync").glob("*/state.db")
    return found


def test_new_files_edits_moves_and_deletes_go_both_ways(person: User, ann: Device, ben: Device) -> None:
    ann.put("plan.txt", b"first")
    ann.put("photos/summer/one.jpg", b"1" * 5000)
    ann.put("run.sh", b"#!/bin/sh\n", executable=True)
    ann.put("empty")
    ben.put("notes.md", b"from ben")
    assert settle(person, ann, ben) == {
        "plan.txt": file_entry(b"first"),
        "photos": FOLDER,
        "photos/summer": FOLDER,
        "photos/summer/one.jpg": file_entry(b"1" * 5000),
        "run.sh": file_entry(b"#!/bin/sh\n", executable=True),
        "empty": file_entry(b""),
        "notes.md": file_entry(b"from ben"),
    }
    ann.put("plan.txt", b"second")
    ann.move("photos/summer", "holiday")
    ben.delete("empty")
    ben.move("notes.md", "photos/notes.md")
    ben.put("run.sh", b"#!/bin/sh\n", executable=False)
    inode = ben.inode("photos/summer/one.jpg")
    assert settle(person, ann, ben) == {
        "plan.txt": file_entry(b"second"),
        "photos": FOLDER,
        "photos/notes.md": file_entry(b"from ben"),
        "holiday": FOLDER,
        "holiday/one.jpg": file_entry(b"1" * 5000),
        "run.sh": file_entry(b"#!/bin/sh\n"),
    }
    assert ben.inode("holiday/one.jpg") == inode, "a moved folder is moved, not fetched again"


def test_running_clients_follow_each_other(person: User, ann: Device, ben: Device) -> None:
    with ann.running(), ben.running():
        ann.put("a.txt", b"one")
        wait_until_equal(person, ann, ben)
        ben.put("a.txt", b"two")
        ben.put("deep/er/b.txt", b"b")
        wait_until_equal(person, ann, ben)
        assert ann.read("a.txt") == b"two"
        ann.move("deep", "shallow")
        ann.delete("a.txt")
        assert set(wait_until_equal(person, ann, ben)) == {"shallow", "shallow/er", "shallow/er/b.txt"}


def test_two_edits_of_one_file_are_both_kept_and_told(person: User, ann: Device, ben: Device) -> None:
    ann.put("plan.txt", b"first")
    settle(person, ann, ben)
    ann.put("plan.txt", b"ann's")
    ben.put("plan.txt", b"ben's")
    ann.once()
    told = ben.once()
    assert "plan.txt was changed here and elsewhere" in told.stderr
    tree = settle(person, ann, ben)
    assert tree["plan.txt"] == file_entry(b"ann's")
    (copy,) = conflicts_in(tree)
    assert tree[copy] == file_entry(b"ben's")
    with ben.running():
        status = ben.wait_for_state("in_sync")
    assert status["conflicts"] == 1
    assert status["conflicted"] == [{"path": "plan.txt", "copy": copy}]


def test_equal_edits_are_no_conflict(person: User, ann: Device, ben: Device) -> None:
    ann.put("plan.txt", b"first")
    settle(person, ann, ben)
    for device in (ann, ben):
        device.put("plan.txt", b"the same")
    assert conflicts_in(settle(person, ann, ben)) == []


def test_one_folder_of_the_service_and_not_the_rest(person: User, ann: Device, tmp_path: Path) -> None:
    ann.put("work/a.txt", b"a")
    ann.put("private/b.txt", b"b")
    ann.once()
    eve = Device(person, tmp_path, "eve", remote="/work")
    eve.once()
    assert eve.tree() == {"a.txt": file_entry(b"a")}
    eve.put("c.txt", b"c")
    eve.once()
    ann.once()
    assert ann.read("work/c.txt") == b"c"
    ann.move("private/b.txt", "work/b.txt")
    ann.move("work/a.txt", "private/a.txt")
    ann.once()
    eve.once()
    assert eve.tree() == {"b.txt": file_entry(b"b"), "c.txt": file_entry(b"c")}


def test_the_end_of_the_chosen_folder_deletes_nothing_here(person: User, ann: Device, tmp_path: Path) -> None:
    ann.put("work/a.txt", b"a")
    ann.once()
    eve = Device(person, tmp_path, "eve", remote="/work")
    eve.once()
    ann.delete("work")
    ann.once()
    told = eve.once(expect=ExitCode.UNAVAILABLE)
    assert "not in the service any more" in told.stderr
    assert eve.read("a.txt") == b"a"


def test_what_is_excluded_does_not_come(person: User, ann: Device, ben: Device) -> None:
    ann.put("films/long.mkv", b"x" * 1000)
    ann.put("a.txt", b"a")
    ann.once()
    ben.once("--exclude", "films")
    assert ben.tree() == {"a.txt": file_entry(b"a")}
    ben.once()
    assert ben.tree() == {"a.txt": file_entry(b"a")}, "the choice stays"


def test_ignored_files_stay_here_and_are_not_deleted_by_a_new_rule(person: User, ann: Device, ben: Device) -> None:
    ann.put("a.log", b"log")
    ann.put("b.txt", b"b")
    settle(person, ann, ben)
    ann.put(".holdfastignore", b"*.log\n")
    ann.once()
    ann.put("a.log", b"more")
    ann.once()
    ben.once()
    assert ben.read("a.log") == b"log"
    assert ann.read("a.log") == b"more"


def test_many_deletes_wait_for_a_yes(person: User, ann: Device, ben: Device) -> None:
    for number in range(60):
        ann.put(f"many/{number}.txt", str(number).encode())
    settle(person, ann, ben)
    ann.delete("many")
    told = ann.once(expect=ExitCode.UNAVAILABLE)
    assert "This would delete 60 of 60 files" in told.stderr
    assert len(ben.tree()) == 61
    ann.once("--allow-deletes")
    told = ben.once(expect=ExitCode.UNAVAILABLE)
    assert "60 of 60" in told.stderr
    ben.once("--allow-deletes")
    assert check_equal(person, ann, ben) == {}
    assert len(ben.contents()) == 60, "what the service deletes is in the local trash"


def test_an_emptied_mount_point_is_no_mass_delete(person: User, ann: Device) -> None:
    ann.put("a.txt", b"a")
    ann.once()
    away = ann.root.with_name("away")
    ann.root.rename(away)
    ann.root.mkdir()
    told = ann.once(expect=None)
    assert told.code != 0
    assert "is its disk mounted?" in told.stderr
    ann.root.rmdir()
    away.rename(ann.root)
    assert ann.once().code == 0
    assert check_equal(person, ann) == {"a.txt": file_entry(b"a")}


def test_a_lost_or_damaged_database_is_made_anew_without_a_copy_or_a_delete(person: User, ann: Device) -> None:
    ann.put("a.txt", b"a")
    ann.put("f/b.txt", b"b")
    ann.once()
    tree = check_equal(person, ann)
    database_of(ann).write_bytes(b"this is no database" * 500)
    ann.once()
    assert check_equal(person, ann) == tree
    for file in database_of(ann).parent.glob("state.db*"):
        file.unlink()
    ann.put("a.txt", b"edited meanwhile")
    ann.once()
    assert sorted(check_equal(person, ann).values(), key=str) == sorted(
        [*tree.values(), file_entry(b"edited meanwhile")], key=str
    ), "both contents are kept, since nobody knows which is newer"


def test_a_service_that_is_not_there_is_told(person: User, ann: Device, tmp_path: Path) -> None:
    ann.put("a.txt", b"a")
    ann.once()
    accounts = ann.home / "accounts.json"
    accounts.write_text(accounts.read_text().replace(person.session.url, "http://127.0.0.1:9"))
    told = ann.once(expect=None)
    assert told.code in (ExitCode.UNAVAILABLE, ExitCode.FAILED), told


def test_a_client_ends_cleanly_and_says_how_it_left_the_folder(person: User, ann: Device) -> None:
    client = ann.start()
    ann.wait_for_state("in_sync")
    assert ann.once(expect=None).code == ExitCode.USAGE, "one client at a time"
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 0
    told = ann.status()
    assert (told["state"], told["running"]) == ("in_sync", False)
    with sqlite3.connect(database_of(ann)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_client_that_is_killed_goes_on_where_it_was(person: User, ann: Device, ben: Device) -> None:
    ann.start()
    for number in range(200):
        ann.put(f"f{number % 7}/{number}", b"%d" % number)
        if number % 50 == 49:
            ann.kill()
            ann.start()
    ann.wait_for_state("in_sync")
    ann.stop()
    tree = settle(person, ann, ben)
    assert conflicts_in(tree) == []
    assert sum(entry.kind == "file" for entry in tree.values()) == 200
