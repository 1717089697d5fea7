"""The registry of synced folders, and what is told of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from client.errors import UsageProblem
from client.state import Account, save_account
from client.sync.folders import (
    Folder,
    NotLoggedInFor,
    StatusFile,
    account_for,
    account_of,
    choose,
    find,
    list_folders,
    load,
    read_status,
    register,
    running,
    write_status,
)

ANN = Account(
    url="https://drive",
    service_id="s1",
    email="ann@example.org",
    name="Ann",
    user_id=1,
    device_id=2,
    device_name="laptop",
    token="t",
)
BEN = structs.replace(ANN, email="ben@example.org", user_id=2)
ANN_ELSEWHERE = structs.replace(ANN, url="https://elsewhere", service_id="s2")
ANN_AT_A_NEW_ADDRESS = structs.replace(ANN, url="https://drive.example.org", token="new")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    (tmp_path / "drive").mkdir()
    return register(tmp_path / "drive", "/", ANN, None)


def test_a_folder_is_found_by_its_path_and_only_so(folder: Folder, tmp_path: Path) -> None:
    assert find(Path(folder.path)) == folder
    assert list_folders() == [folder]
    with pytest.raises(UsageProblem, match="is not synced by this computer"):
        find(tmp_path)


def test_what_is_left_out_stays_chosen(folder: Folder) -> None:
    chosen = choose(folder, ["photos", "a"])
    assert chosen.excluded == ["a", "photos"]
    assert register(Path(folder.path), "/", ANN, None) == chosen == load(folder)
    assert register(Path(folder.path), "/", ANN, ["b"]).excluded == ["b"]


@pytest.mark.parametrize("other", [BEN, ANN_ELSEWHERE])
def test_a_folder_is_never_mixed_with_what_belongs_to_somebody_else(folder: Folder, other: Account) -> None:
    with pytest.raises(UsageProblem, match="is synced for ann@"):
        register(Path(folder.path), "/", other, None)


def test_a_folder_finds_its_own_login_among_several(folder: Folder, tmp_path: Path) -> None:
    path = Path(folder.path)
    with pytest.raises(NotLoggedInFor, match="Log in again as ann@"):
        account_for(path, None)
    for account in (ANN, BEN, ANN_ELSEWHERE):
        save_account(account)
    assert account_for(path, None) == account_of(folder) == ANN
    assert account_for(tmp_path, None) == ANN_ELSEWHERE, "the newest login is for what is new"
    assert account_for(tmp_path, "ben@example.org") == BEN


def test_a_service_may_move_to_another_address(folder: Folder) -> None:
    save_account(ANN)
    save_account(ANN_AT_A_NEW_ADDRESS)
    assert account_for(Path(folder.path), None) == ANN_AT_A_NEW_ADDRESS
    assert register(Path(folder.path), "/", ANN_AT_A_NEW_ADDRESS, None) == folder


def mark(path: Path, folder: Folder) -> None:
    """As its first client does."""
    (path / ".holdfast").mkdir()
    (path / ".holdfast" / "root.json").write_text(f'{{"folder_id": "{folder.id}", "service": "x"}}')


def test_a_folder_that_was_moved_is_known_at_its_new_place(folder: Folder, tmp_path: Path) -> None:
    mark(tmp_path / "drive", folder)
    choose(folder, ["big"])
    (tmp_path / "drive").rename(tmp_path / "moved")
    moved = register(tmp_path / "moved", "/", ANN, None)
    assert (moved.id, moved.path, moved.excluded) == (folder.id, str(tmp_path / "moved"), ["big"])
    assert list_folders() == [moved]
    (tmp_path / "drive").mkdir()
    another = register(tmp_path / "drive", "/other", ANN, None)
    assert another.id != moved.id


def test_a_copy_of_a_folder_is_not_the_folder(folder: Folder, tmp_path: Path) -> None:
    mark(tmp_path / "drive", folder)
    (tmp_path / "copy").mkdir()
    mark(tmp_path / "copy", folder)
    assert register(tmp_path / "copy", "/", ANN, None).id != folder.id
    assert folder in list_folders()


def test_a_folder_that_was_never_synced_is_offline(folder: Folder) -> None:
    status = read_status(folder)
    assert (status.state, status.running) == ("offline", False)
    assert status.reason == "It has not been synced yet."


def test_a_client_that_came_to_its_end_is_believed_and_one_that_was_killed_is_not(folder: Folder) -> None:
    write_status(folder, StatusFile(state="blocked", reason="The account is full.", up_bytes_s=7))
    assert read_status(folder).state == "offline", "it never said that it ended"
    with running(folder):
        told = read_status(folder)
        assert (told.state, told.running, told.up_bytes_s) == ("blocked", True, 7)
    write_status(folder, StatusFile(state="blocked", reason="The account is full.", up_bytes_s=7, ended=True))
    told = read_status(folder)
    assert (told.state, told.reason, told.running, told.up_bytes_s) == ("blocked", "The account is full.", False, 0)
