"""The commands around `holdfast sync`: choosing, checking, setting up anew, and what is told afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client.errors import ExitCode
from tests.integration.conftest import NewUser
from tests.kit.api import PASSWORD, User
from tests.kit.cluster import wait_until
from tests.kit.sync_device import OWN_FOLDER, Device, check_equal, conflicts_in, file_entry, read_service_tree, settle


@pytest.fixture
def person(new_user: NewUser) -> User:
    return new_user()


@pytest.fixture
def ann(person: User, tmp_path: Path) -> Device:
    return Device(person, tmp_path, "ann")


@pytest.fixture
def ben(person: User, tmp_path: Path) -> Device:
    return Device(person, tmp_path, "ben")


def test_a_running_client_takes_up_what_is_left_out_and_what_is_wanted_again(
    person: User, ann: Device, ben: Device
) -> None:
    ann.put("photos/one.jpg", b"1")
    ann.put("plan.txt", b"plan")
    settle(person, ann, ben)
    with ben.running():
        ben.wait_for_state("in_sync")
        assert ben.run("sync", "select", ben.root, "--exclude", "photos", "--json").document["excluded"] == ["photos"]
        wait_until(lambda: not ben.path("photos").exists(), timeout_s=20, what="photos leaving the disk")
        ben.run("sync", "select", ben.root, "--include", "photos")
        wait_until(lambda: ben.path("photos/one.jpg").exists(), timeout_s=20, what="photos coming back")
        ben.wait_for_state("in_sync")
    assert "photos/one.jpg" in check_equal(person, ann, ben)
    assert "nothing" not in ben.run("sync", "select", ben.root, "--include", "photos", expect=2).stderr


def test_a_check_tells_exactly_what_differs_and_nothing_when_all_is_well(person: User, ann: Device) -> None:
    ann.put("a/plan.txt", b"plan")
    ann.once()
    assert ann.run("sync-check", ann.root, "--contents", "--json").document["folders"][0]["differences"] == []
    ann.put("new.txt", b"new")
    person.post("/files/create_folder", path="/elsewhere")
    found = ann.run("sync-check", "--json", expect=ExitCode.FAILED).document["folders"][0]
    assert [(row["path"], row["between"]) for row in found["differences"]] == [
        ("/elsewhere", "service and database"),
        ("new.txt", "disk and database"),
    ]
    ann.once()
    ann.run("sync-check")


def test_a_folder_whose_marker_was_removed_is_compared_and_loses_nothing(
    person: User, ann: Device, ben: Device
) -> None:
    ann.put("same.txt", b"same")
    ann.put("gone.txt", b"deleted while the marker was away")
    settle(person, ann, ben)
    shutil.rmtree(ann.root / OWN_FOLDER)
    ann.delete("gone.txt")
    ann.put("same.txt", b"edited here")
    ben.put("same.txt", b"edited there")
    ben.once()
    tree = settle(person, ann, ben)
    assert "gone.txt" in tree, "nothing may be deleted on the word of a folder that may be an older copy"
    (copy,) = conflicts_in(tree)
    assert {ann.read("same.txt"), ann.read(copy)} == {b"edited here", b"edited there"}


def test_another_folder_at_the_same_path_is_refused_until_a_person_says_so(person: User, ann: Device) -> None:
    ann.put("plan.txt", b"plan")
    ann.once()
    ann.root.rename(ann.base / "unmounted")
    ann.root.mkdir()
    refused = ann.once(expect=ExitCode.UNAVAILABLE)
    assert "--set-up-anew" in refused.stderr
    assert ann.status()["state"] == "blocked"
    assert list(ann.root.iterdir()) == [], "a mount point stays clean"
    ann.once("--set-up-anew")
    assert ann.read("plan.txt") == b"plan"
    check_equal(person, ann)


def test_status_tells_how_the_last_client_left_the_folder(ann: Device) -> None:
    ann.once()
    told = ann.status()
    assert (told["state"], told["running"]) == ("in_sync", False)
    with ann.running() as client:
        ann.wait_for_state("in_sync")
        assert ann.status()["running"]
        client.kill()
        told = ann.status()
    assert (told["state"], told["running"]) == ("offline", False)
    assert "No client is running" in told["reason"]


def test_a_forgotten_folder_keeps_its_files_and_may_be_synced_anew(person: User, ann: Device) -> None:
    ann.put("plan.txt", b"plan")
    ann.once()
    with ann.running():
        ann.wait_for_state("in_sync")
        assert "already by another process" in ann.run("sync", "forget", ann.root, expect=ExitCode.USAGE).stderr
    ann.run("sync", "forget", ann.root)
    assert ann.run("sync-status", "--json").document["folders"] == []
    assert ann.read("plan.txt") == b"plan"
    ann.delete("plan.txt")
    ann.once()
    assert set(check_equal(person, ann)) == {"plan.txt"}, "it is not known any more that it was here"
    ann.root.rename(ann.base / "elsewhere")
    ann.run("sync", "forget", ann.root)
    ann.run("sync", "forget", ann.root, expect=ExitCode.USAGE)


def test_why_the_sides_do_not_agree_is_said_once(ann: Device) -> None:
    ann.once()
    ann.root.rename(ann.base / "unmounted")
    ann.root.mkdir()
    assert ann.once(expect=ExitCode.UNAVAILABLE).stderr.count("is its disk mounted?") == 1


def test_the_names_of_the_commands_are_not_folders(ann: Device) -> None:
    assert "Missing argument" in ann.run("sync", "select", expect=2).stderr
    assert "See: holdfast sync --help" in ann.run("sync", "--nonsense", ann.root, expect=2).stderr


def test_without_a_session_of_systemd_install_says_what_to_do(ann: Device) -> None:
    config = ann.base / "config"
    ann._environment["XDG_CONFIG_HOME"] = str(config)
    ann._environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    ann._environment.pop("XDG_RUNTIME_DIR", None)
    told = ann.run("sync", "install", ann.root, expect=ExitCode.FAILED).stderr
    assert "systemctl --user enable --now holdfast-sync-" in told
    (unit,) = (config / "systemd" / "user").glob("holdfast-sync-*.service")
    assert str(ann.root) in unit.read_text()


def test_folders_of_two_people_are_synced_on_one_computer_each_for_its_own(
    person: User, ann: Device, new_user: NewUser, tmp_path: Path
) -> None:
    ben = new_user()
    password, bens = tmp_path / "password", tmp_path / "bens files"
    password.write_text(PASSWORD)
    bens.mkdir()
    login = ["--password-file", password, "--ca-file", person.appliance.description["ca_file"]]
    ann.put("plan.txt", b"ann's")
    ann.once()
    ann.run("login", person.session.url, "--email", ben.email, *login)
    (bens / "plan.txt").write_bytes(b"ben's")
    ann.run("sync", bens, "--once")
    ann.put("plan.txt", b"ann's, edited while ben's login is the newest")
    ann.once()
    assert ann.run("sync", bens, "--account", person.email, "--once", expect=ExitCode.USAGE).stderr
    ann.run("sync-check")
    assert read_service_tree(person) == {"plan.txt": file_entry(b"ann's, edited while ben's login is the newest")}
    assert read_service_tree(ben) == {"plan.txt": file_entry(b"ben's")}
    assert [row["email"] for row in ann.run("accounts", "--json").document["accounts"]] == [ben.email, person.email]
    assert ann.run("whoami", "--account", person.email, "--json").document["email"] == person.email
    ann.run("accounts", "--use", person.email)
    assert ann.run("whoami", "--json").document["email"] == person.email
    ann.run("logout", "--account", ben.email)
    assert "Log in again" in ann.run("sync", bens, "--once", expect=ExitCode.NOT_ALLOWED).stderr
    ann.once()


def test_a_mass_delete_that_was_allowed_by_mistake_is_told_by_the_service_and_undone(
    person: User, ann: Device, ben: Device
) -> None:
    for number in range(60):
        ann.put(f"docs/{number % 7}/{number}", b"%d" % number)
    ann.put("plan.txt", b"plan")
    tree = settle(person, ann, ben)
    shutil.rmtree(ann.root / "docs")
    ann.once("--allow-deletes")
    assert [note["kind"] for note in person.get("/notifications")["notifications"]] == ["mass_delete"]
    [told] = ben.run("undelete", "--json").document["mass_deletes"]
    assert (told["files"], told["device"], told["undone_at"]) == (60, "ann", None)
    ben.run("undelete", str(told["id"]))
    assert settle(person, ann, ben) == tree
    assert ben.run("undelete", "--json").document["mass_deletes"][0]["undone_at"]
    ben.run("undelete", str(told["id"] + 1), expect=ExitCode.NOT_FOUND)
