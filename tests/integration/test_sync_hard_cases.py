"""The hard cases of synchronising, one by one, with real clients and a real appliance.

Most run `holdfast sync --once` on two computers in a chosen order, so that what meets what is certain; where a case is
about time itself (slow writers, edits during a download, the watcher) continuous clients run. The comment above a test
or a group names its case.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import NewUser
from tests.kit.api import User, add_user, connect_database
from tests.kit.cluster import Appliance, CliResult, Session, child_environment, wait_until
from tests.kit.faults import can_mount, small_disk
from tests.kit.http_proxy import Call, Forward, Given, HttpProxy
from tests.kit.sync_device import (
    FOLDER,
    ONCE_TIMEOUT_S,
    Device,
    Entry,
    check_equal,
    conflicts_in,
    file_entry,
    original_name,
    read_service_tree,
    read_tree,
    settle,
    wait_until_equal,
)

needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs to mount small file systems, as root")
MIB = 1024 * 1024
CROWD = 5_000
PEAK_BYTES_MAX = 256 * MIB


class Pair:
    """One person's two computers, both logged in, both folders empty."""

    def __init__(self, user: User, folder: Path) -> None:
        self.user, self.folder = user, folder
        self.laptop = Device(user, folder, "laptop")
        self.desktop = Device(user, folder, "desktop")

    def settle(self, timeout_s: float = ONCE_TIMEOUT_S) -> dict[str, Entry]:
        return settle(self.user, self.laptop, self.desktop, timeout_s=timeout_s)

    def check_memory(self) -> None:
        """No client took more than a bounded amount, whatever it has synced."""
        peaks = {device.name: device.peak_bytes for device in (self.laptop, self.desktop)}
        print(f"the most memory that the clients had: {peaks}")
        assert max(peaks.values()) <= PEAK_BYTES_MAX, peaks

    def begin_with(self, files: dict[str, bytes]) -> None:
        """Both computers have exactly these files."""
        for name, data in files.items():
            self.laptop.put(name, data)
        self.laptop.once()
        self.desktop.once()
        self.check(files)

    def check(self, files: dict[str, bytes]) -> None:
        """Everybody has these files, the folders that they are in, and nothing else."""
        expected: dict[str, Entry] = {}
        for name, data in files.items():
            for above in Path(name).parents[:-1]:
                expected[str(above)] = FOLDER
            expected[name] = file_entry(data)
        assert check_equal(self.user, self.laptop, self.desktop) == expected

    def id(self, path: str) -> int:
        return int(self.user.metadata("/" + path)["id"])

    def versions(self, path: str) -> list[int]:
        """Newest first."""
        rows = self.user.get("/files/list_revisions", path="/" + path, limit=100)["versions"]
        return [row["version"] for row in rows]

    def contents(self, *paths: str) -> set[bytes]:
        return {self.user.content("/" + path) for path in paths}


@pytest.fixture
def user(new_user: NewUser) -> User:
    """An account of the test's own: two tests never see each other's files."""
    return new_user()


@pytest.fixture
def pair(user: User, tmp_path: Path) -> Pair:
    return Pair(user, tmp_path)


@pytest.fixture
def proxy(shared_appliance: Appliance) -> Iterator[HttpProxy]:
    with HttpProxy(shared_appliance.url, shared_appliance.description["ca_file"]) as between:
        yield between


def told(device: Device, result: CliResult) -> str:
    """All that a person gets to hear: the command's own words and `sync-status`."""
    status = device.run("sync-status", "--json", expect=None)
    return result.stderr + result.stdout.decode() + status.stdout.decode()


# --- rename and move of a file, of a large folder; move then edit; swap; chain; parent and child inverted -------------


def test_a_renamed_file_keeps_its_id_and_is_renamed_on_the_other_computer(pair: Pair) -> None:
    pair.begin_with({"draft.txt": b"words"})
    file_id, inode = pair.id("draft.txt"), pair.desktop.inode("draft.txt")
    pair.laptop.move("draft.txt", "final.txt")
    pair.settle()
    pair.check({"final.txt": b"words"})
    assert pair.id("final.txt") == file_id
    assert pair.versions("final.txt") == [1]
    assert pair.desktop.inode("final.txt") == inode, "it was fetched again instead of renamed"


def test_a_moved_folder_keeps_the_ids_of_everything_in_it(pair: Pair) -> None:
    files = {f"photos/{number % 7}/{number}.jpg": b"photo %d" % number for number in range(300)}
    pair.begin_with(files)
    ids = {name: pair.id(name) for name in ("photos", "photos/3/3.jpg")}
    inode = pair.desktop.inode("photos/3/3.jpg")
    pair.laptop.folder("archive")
    pair.laptop.move("photos", "archive/2024")
    pair.settle()
    pair.check({name.replace("photos", "archive/2024"): data for name, data in files.items()})
    assert pair.id("archive/2024") == ids["photos"]
    assert pair.id("archive/2024/3/3.jpg") == ids["photos/3/3.jpg"]
    assert pair.desktop.inode("archive/2024/3/3.jpg") == inode
    assert pair.user.get("/files/trash")["entries"] == []


def test_a_file_that_is_moved_and_then_edited_keeps_its_id_and_history(pair: Pair) -> None:
    """Nobody looks in between. The disk of the tests tells when a file was made, as all usual ones do."""
    pair.begin_with({"a/plan.txt": b"old", "a/other.txt": b"other"})
    file_id = pair.id("a/plan.txt")
    pair.laptop.folder("b")
    pair.laptop.move("a/plan.txt", "b/plan.txt")
    pair.laptop.path("b/plan.txt").write_bytes(b"new words")
    pair.settle()
    pair.check({"b/plan.txt": b"new words", "a/other.txt": b"other"})
    assert pair.id("b/plan.txt") == file_id
    assert pair.contents("b/plan.txt") == {b"new words"}
    assert len(pair.versions("b/plan.txt")) == 2


def test_a_local_move_and_an_edit_elsewhere_both_take_effect(pair: Pair) -> None:
    pair.begin_with({"plan.txt": b"old"})
    pair.laptop.move("plan.txt", "moved.txt")
    pair.desktop.put("plan.txt", b"edited")
    pair.laptop.once()
    pair.settle()
    pair.check({"moved.txt": b"edited"})


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]], ids=["swap", "rotation"])
@pytest.mark.parametrize("kind", ["files", "folders"])
def test_names_that_go_round_end_with_every_id_at_its_new_name(pair: Pair, names: list[str], kind: str) -> None:
    inside = "" if kind == "files" else "/inside"
    pair.begin_with({name + inside: name.encode() for name in names})
    ids = [pair.id(name) for name in names]
    targets = [*names[1:], names[0]]
    pair.laptop.move(names[0], "aside")
    for name, target in reversed(list(zip(names[1:], targets[1:], strict=True))):
        pair.laptop.move(name, target)
    pair.laptop.move("aside", targets[0])
    pair.settle()
    pair.check({target + inside: name.encode() for name, target in zip(names, targets, strict=True)})
    assert [pair.id(target) for target in targets] == ids
    assert all(pair.versions(name + inside) == [1] for name in names)


def test_a_chain_of_renames_keeps_every_id(pair: Pair) -> None:
    pair.begin_with({"a": b"first", "b": b"second", "c": b"third"})
    ids = [pair.id(name) for name in ("a", "b", "c")]
    for name, target in (("c", "d"), ("b", "c"), ("a", "b")):
        pair.laptop.move(name, target)
    pair.settle()
    pair.check({"b": b"first", "c": b"second", "d": b"third"})
    assert [pair.id(name) for name in ("b", "c", "d")] == ids


def test_logs_that_are_rotated_arrive_as_they_are(pair: Pair) -> None:
    """Whether the newest log is a new file or the old one edited nobody can tell; no content may be confused."""
    pair.begin_with({"log": b"newest", "log.1": b"older", "log.2": b"oldest"})
    for number in (2, 1):
        pair.laptop.move(f"log.{number}", f"log.{number + 1}")
    pair.laptop.move("log", "log.1")
    pair.laptop.put("log", b"brand new")
    pair.settle()
    pair.check({"log": b"brand new", "log.1": b"newest", "log.2": b"older", "log.3": b"oldest"})


def test_a_parent_and_its_child_can_change_places(pair: Pair) -> None:
    pair.begin_with({"parent/child/deep.txt": b"deep", "parent/flat.txt": b"flat"})
    ids = {name: pair.id(name) for name in ("parent", "parent/child")}
    pair.laptop.move("parent/child", "child")
    pair.laptop.move("parent", "child/parent")
    pair.settle()
    pair.check({"child/deep.txt": b"deep", "child/parent/flat.txt": b"flat"})
    assert (pair.id("child/parent"), pair.id("child")) == (ids["parent"], ids["parent/child"])


def test_files_of_equal_content_are_told_apart_when_one_moves(pair: Pair) -> None:
    pair.begin_with({"one": b"same", "two": b"same", "three": b"same"})
    ids = {name: pair.id(name) for name in ("one", "two", "three")}
    pair.laptop.folder("folder")
    pair.laptop.move("two", "folder/two")
    pair.laptop.delete("three")
    pair.settle()
    pair.check({"one": b"same", "folder/two": b"same"})
    assert (pair.id("one"), pair.id("folder/two")) == (ids["one"], ids["two"])


# --- moved while no client ran, across synced folders, out of and into what is ignored or not selected ---------------


def test_a_file_moved_from_one_synced_folder_to_another_arrives_there(user: User, tmp_path: Path) -> None:
    for path in ("/one", "/two"):
        user.post("/files/create_folder", path=path)
    laptop = Device(user, tmp_path, "laptop", remote="/one")
    other_root = laptop.base / "other"
    other_root.mkdir()
    second = ("sync", other_root, "--remote", "/two", "--once")
    laptop.put("letter.txt", b"dear")
    laptop.once()
    laptop.run(*second)
    assert read_service_tree(user) == {"one": FOLDER, "two": FOLDER, "one/letter.txt": file_entry(b"dear")}
    laptop.path("letter.txt").rename(other_root / "letter.txt")
    laptop.once()
    laptop.run(*second)
    laptop.once()
    assert read_service_tree(user) == {"one": FOLDER, "two": FOLDER, "two/letter.txt": file_entry(b"dear")}
    assert read_tree(other_root) == {"letter.txt": file_entry(b"dear")}
    assert laptop.tree() == {}


def test_a_file_moved_into_an_ignored_folder_is_gone_elsewhere_and_comes_back_with_it(pair: Pair) -> None:
    pair.begin_with({".holdfastignore": b"private/\n", "notes.txt": b"notes"})
    pair.laptop.folder("private")
    pair.laptop.move("notes.txt", "private/notes.txt")
    pair.laptop.once()
    pair.desktop.once()
    assert pair.laptop.read("private/notes.txt") == b"notes"
    assert not pair.desktop.path("notes.txt").exists()
    assert set(read_service_tree(pair.user)) == {".holdfastignore"}
    pair.laptop.move("private/notes.txt", "back.txt")
    pair.laptop.once()
    pair.desktop.once()
    assert pair.desktop.read("back.txt") == b"notes"
    assert set(read_service_tree(pair.user)) == {".holdfastignore", "back.txt"}


def test_a_file_moved_out_of_and_into_a_folder_that_is_not_selected_here(pair: Pair) -> None:
    pair.begin_with({"big/film": b"film", "note": b"note"})
    pair.desktop.once("--exclude", "/big")
    assert not pair.desktop.path("big").exists()
    pair.laptop.move("note", "big/note")
    pair.laptop.move("big/film", "film")
    pair.laptop.once()
    pair.desktop.once("--exclude", "/big")
    assert pair.desktop.tree() == {"film": file_entry(b"film")}
    assert set(read_service_tree(pair.user)) == {"big", "big/note", "film"}
    pair.laptop.once()
    assert pair.laptop.tree() == read_service_tree(pair.user)


# --- a rename on both sides to different names; a move into a folder that was deleted elsewhere -----------------------


def test_a_file_renamed_differently_on_both_computers_ends_in_one_place_without_a_copy(pair: Pair) -> None:
    pair.begin_with({"name": b"content"})
    file_id = pair.id("name")
    pair.laptop.move("name", "laptop's name")
    pair.desktop.move("name", "desktop's name")
    pair.laptop.once()
    pair.settle()
    pair.check({"laptop's name": b"content"})
    assert pair.id("laptop's name") == file_id


def test_a_file_moved_into_a_folder_that_was_deleted_elsewhere_brings_the_folder_back(pair: Pair) -> None:
    pair.begin_with({"folder/old": b"old", "file": b"file"})
    pair.laptop.delete("folder")
    pair.laptop.once()
    pair.desktop.move("file", "folder/file")
    pair.desktop.once()
    pair.settle()
    pair.check({"folder/file": b"file"})


def test_two_folders_moved_into_each_other_end_with_one_of_the_two_moves(pair: Pair) -> None:
    pair.begin_with({"a/in a": b"a", "b/in b": b"b"})
    pair.laptop.move("a", "b/a")
    pair.desktop.move("b", "a/b")
    pair.laptop.once()
    pair.desktop.once()
    pair.settle()
    pair.check({"b/a/in a": b"a", "b/in b": b"b"})


# --- a rename of the case alone; two names that are one without case --------------------------------------------------


@pytest.mark.parametrize("inside", ["", "/inside"], ids=["file", "folder"])
def test_a_rename_of_the_case_alone_is_a_rename(pair: Pair, inside: str) -> None:
    pair.begin_with({"readme" + inside: b"text"})
    node_id, inode = pair.id("readme"), pair.desktop.inode("readme")
    pair.laptop.move("readme", "README")
    pair.settle()
    pair.check({"README" + inside: b"text"})
    assert (pair.id("README"), pair.desktop.inode("README")) == (node_id, inode)


def test_of_two_names_that_differ_only_in_case_one_is_synced_and_the_other_left_alone(pair: Pair) -> None:
    pair.laptop.put("Report", b"upper")
    pair.laptop.put("report", b"lower")
    result = pair.laptop.once(expect=None)
    pair.desktop.once()
    assert pair.desktop.tree() == {"Report": file_entry(b"upper")}
    assert "report" in told(pair.laptop, result)
    assert (pair.laptop.read("Report"), pair.laptop.read("report")) == (b"upper", b"lower")
    # Deleting the one elsewhere does not take the other.
    pair.desktop.delete("Report")
    pair.desktop.once()
    pair.laptop.once(expect=None)
    assert pair.laptop.tree() == {"report": file_entry(b"lower")}
    pair.settle()
    pair.check({"report": b"lower"})


def test_names_made_on_two_computers_that_differ_only_in_case_meet_as_a_conflict(pair: Pair) -> None:
    pair.laptop.put("Notes.txt", b"from the laptop")
    pair.desktop.put("notes.TXT", b"from the desktop")
    pair.laptop.once()
    pair.desktop.once()
    tree = pair.settle()
    assert tree["Notes.txt"] == file_entry(b"from the laptop")
    [copy] = conflicts_in(tree)
    assert tree[copy] == file_entry(b"from the desktop")
    assert len(tree) == 2


# --- composed and decomposed names; a rename of the normal form alone; names that are not Unicode ---------------------

NFC, NFD = unicodedata.normalize("NFC", "éclair"), unicodedata.normalize("NFD", "éclair")


@pytest.mark.parametrize("name", [NFC, NFD], ids=["composed", "decomposed"])
def test_a_name_keeps_the_spelling_that_it_was_given(pair: Pair, name: str) -> None:
    pair.begin_with({name: b"sweet", f"{name} folder/{name}": b"deep"})


def test_a_rename_of_the_normal_form_alone_is_no_change_for_others(pair: Pair) -> None:
    pair.begin_with({NFC: b"sweet"})
    file_id, inode = pair.id(NFC), pair.desktop.inode(NFC)
    pair.laptop.move(NFC, NFD)
    pair.laptop.once()
    pair.desktop.once()
    assert read_service_tree(pair.user) == {NFC: file_entry(b"sweet")}
    assert (pair.id(NFC), pair.desktop.inode(NFC)) == (file_id, inode)
    assert list(pair.laptop.tree().values()) == [file_entry(b"sweet")]
    pair.laptop.put(next(iter(pair.laptop.tree())), b"sweeter")
    pair.laptop.once()
    pair.desktop.once()
    assert pair.desktop.tree() == {NFC: file_entry(b"sweeter")}


def test_one_name_in_two_normal_forms_on_two_computers_is_one_file(pair: Pair) -> None:
    pair.laptop.put(NFC, b"sweet")
    pair.desktop.put(NFD, b"sweet")
    pair.laptop.once()
    pair.desktop.once()
    assert read_service_tree(pair.user) == {NFC: file_entry(b"sweet")}
    assert list(pair.desktop.tree().values()) == [file_entry(b"sweet")]


def test_a_name_that_is_not_unicode_stays_here_and_is_told(pair: Pair) -> None:
    foreign = os.fsencode(pair.laptop.root) + b"/caf\xe9.txt"
    Path(os.fsdecode(foreign)).write_bytes(b"latin")
    pair.laptop.put("beside", b"fine")
    result = pair.laptop.once(expect=None)
    pair.desktop.once()
    assert pair.desktop.tree() == {"beside": file_entry(b"fine")}
    assert "caf" in told(pair.laptop, result)
    assert Path(os.fsdecode(foreign)).read_bytes() == b"latin"


# --- a file becomes a folder and the other way round; both made at one name; a folder replaced by a link --------------


@pytest.mark.parametrize("to", ["folder", "file"])
def test_a_file_becomes_a_folder_and_the_other_way_round(pair: Pair, to: str) -> None:
    before, after = {"thing": b"was a file"}, {"thing/inside": b"is in a folder"}
    if to == "file":
        before, after = after, before
    pair.begin_with(before)
    pair.laptop.delete("thing")
    for name, data in after.items():
        pair.laptop.put(name, data)
    pair.settle()
    pair.check(after)


def test_a_file_and_a_folder_made_at_one_name_are_both_kept(pair: Pair) -> None:
    pair.laptop.put("thing", b"a file")
    pair.desktop.put("thing/inside", b"in a folder")
    pair.laptop.once()
    pair.desktop.once()
    tree = pair.settle()
    assert tree["thing"] == file_entry(b"a file")
    [folder] = [path for path, entry in tree.items() if entry == FOLDER]
    assert original_name(folder) == "thing"
    assert tree[f"{folder}/inside"] == file_entry(b"in a folder")


def test_a_folder_replaced_by_a_link_never_leads_outside(pair: Pair, tmp_path: Path) -> None:
    pair.begin_with({"folder/file": b"inside"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"secret")
    pair.laptop.delete("folder")
    pair.laptop.path("folder").symlink_to(outside)
    pair.laptop.once(expect=None)
    pair.desktop.put("folder/file", b"changed")
    pair.desktop.once(expect=None)
    pair.laptop.once(expect=None)
    assert (outside / "file").read_bytes() == b"secret"
    assert list(outside.iterdir()) == [outside / "file"]
    assert file_entry(b"secret") not in read_service_tree(pair.user).values()
    assert pair.laptop.path("folder").is_symlink()


# --- delete against edit; delete of a folder against a new file in it; delete on both sides ---------------------------


@pytest.mark.parametrize("first", ["delete", "edit"])
def test_an_edit_beats_a_delete_whichever_comes_first(pair: Pair, first: str) -> None:
    pair.begin_with({"file": b"old"})
    pair.laptop.delete("file")
    pair.desktop.put("file", b"edited")
    for device in (pair.laptop, pair.desktop) if first == "delete" else (pair.desktop, pair.laptop):
        device.once()
    pair.settle()
    pair.check({"file": b"edited"})


def test_a_folder_deleted_elsewhere_stays_for_what_is_new_in_it(pair: Pair) -> None:
    pair.begin_with({"folder/old": b"old", "folder/deep/older": b"older"})
    pair.laptop.delete("folder")
    pair.laptop.once()
    pair.desktop.put("folder/deep/new", b"new")
    pair.desktop.once()
    pair.settle()
    pair.check({"folder/deep/new": b"new"})


def test_a_new_file_elsewhere_survives_the_delete_of_its_folder_here(pair: Pair) -> None:
    pair.begin_with({"folder/old": b"old"})
    pair.laptop.delete("folder")
    pair.desktop.put("folder/new", b"new")
    pair.desktop.once()
    pair.laptop.once()
    pair.settle()
    pair.check({"folder/new": b"new"})


def test_a_delete_on_both_sides_is_one(pair: Pair) -> None:
    pair.begin_with({"file": b"file", "folder/file": b"file", "kept": b"kept"})
    for device in (pair.laptop, pair.desktop):
        device.delete("file")
        device.delete("folder")
    pair.settle()
    pair.check({"kept": b"kept"})


def test_an_ignored_file_keeps_its_folder_here_and_only_here(pair: Pair) -> None:
    pair.begin_with({".holdfastignore": b"*.o\n", "code/main.c": b"main", "tidy/x": b"x"})
    pair.desktop.put("code/main.o", b"object")
    pair.desktop.put("tidy/.DS_Store", b"junk that comes by itself")
    pair.laptop.delete("code")
    pair.laptop.delete("tidy")
    pair.laptop.once()
    pair.desktop.once(expect=None)
    pair.laptop.once()
    pair.desktop.once(expect=None)
    assert pair.desktop.read("code/main.o") == b"object"
    assert not pair.desktop.path("code/main.c").exists()
    assert not pair.desktop.path("tidy").exists()
    assert set(read_service_tree(pair.user)) == {".holdfastignore"}
    assert set(pair.laptop.tree()) == {".holdfastignore"}
    # Until there is something in it that is synced.
    pair.desktop.put("code/sub/other.c", b"other")
    pair.desktop.once()
    pair.laptop.once()
    assert set(pair.laptop.tree()) == {".holdfastignore", "code", "code/sub", "code/sub/other.c"}


# --- both edit one file; then the conflicted copy is edited on both ---------------------------------------------------


def test_of_two_edits_the_first_keeps_the_name_and_the_other_becomes_a_copy(pair: Pair) -> None:
    pair.begin_with({"plan.tar.gz": b"old"})
    pair.laptop.put("plan.tar.gz", b"from the laptop")
    pair.desktop.put("plan.tar.gz", b"from the desktop")
    pair.laptop.once()
    result = pair.desktop.once()
    tree = pair.settle()
    assert tree["plan.tar.gz"] == file_entry(b"from the laptop")
    [copy] = conflicts_in(tree)
    assert original_name(copy) == "plan.tar.gz"
    assert "desktop" in copy, "the copy's name does not tell where it is from"
    assert tree[copy] == file_entry(b"from the desktop")
    assert copy in told(pair.desktop, result)
    assert pair.settle() == tree, "another run made something new"


def test_edits_of_a_conflicted_copy_make_a_copy_of_the_copy(pair: Pair) -> None:
    pair.begin_with({"plan.txt": b"old"})
    pair.laptop.put("plan.txt", b"laptop 1")
    pair.desktop.put("plan.txt", b"desktop 1")
    [copy] = conflicts_in(pair.settle())
    pair.laptop.put(copy, b"laptop 2")
    pair.desktop.put(copy, b"desktop 2")
    pair.laptop.once()
    pair.desktop.once()
    tree = pair.settle()
    assert tree["plan.txt"] == file_entry(b"laptop 1")
    assert tree[copy] == file_entry(b"laptop 2")
    [second] = [path for path in conflicts_in(tree) if path != copy]
    assert original_name(second) == copy
    assert tree[second] == file_entry(b"desktop 2")


def test_equal_edits_are_no_conflict(pair: Pair) -> None:
    pair.begin_with({"file": b"old"})
    for device in (pair.laptop, pair.desktop):
        device.put("file", b"the same idea")
        device.put("new/file", b"made twice")
    pair.settle()
    pair.check({"file": b"the same idea", "new/file": b"made twice"})
    assert pair.versions("file") == [2, 1]


# --- a file changes while it is read; a slow writer; saving by a temporary name and a rename --------------------------


def test_a_file_that_is_written_slowly_arrives_whole(pair: Pair) -> None:
    rng = random.Random("slow writer")
    pieces = [rng.randbytes(200_000) for _ in range(20)]
    with pair.laptop.running(), pair.desktop.running():
        with pair.laptop.path("film").open("wb", buffering=0) as film:
            for piece in pieces:
                film.write(piece)
                time.sleep(0.03)  # the writer's own pace, not a wait for anything
        tree = wait_until_equal(pair.user, pair.laptop, pair.desktop)
    assert tree == {"film": file_entry(b"".join(pieces))}
    whole = b"".join(pieces)
    for version in pair.versions("film"):
        assert whole.startswith(pair.user.content("/film", version)), f"version {version} never existed on disk"


def test_a_file_that_changes_all_the_time_is_stored_as_it_once_was(pair: Pair) -> None:
    """Every version is one state of the file: each state is one letter throughout, so a mixture shows."""
    size = 3 * MIB
    path = pair.laptop.put("busy", b"A" * size)
    stop = threading.Event()

    def scribble() -> None:
        letters = (bytes([letter]) for letter in range(ord("B"), ord("Z") + 1))
        for letter in letters:
            if stop.is_set():
                return
            # In one call, so that a reader can catch it half way only in between two of its own reads.
            with path.open("r+b", buffering=0) as file:
                file.write(letter * size)

    writer = threading.Thread(target=scribble)
    writer.start()
    pair.laptop.once(expect=None)
    stop.set()
    writer.join()
    pair.settle()
    for version in pair.versions("busy"):
        assert len(set(pair.user.content("/busy", version))) == 1, f"version {version} never existed on disk"


def test_saving_by_a_rename_is_one_edit_of_the_same_file(pair: Pair) -> None:
    pair.begin_with({"plan.txt": b"old"})
    file_id = pair.id("plan.txt")
    with pair.laptop.running(), pair.desktop.running():
        for number in range(5):
            # As editors save: a new file beside it, the old one to a backup name, the new one to its name.
            fresh = pair.laptop.put(".plan.txt.new", b"edit %d" % number)
            pair.laptop.move("plan.txt", "plan.txt~")
            fresh.rename(pair.laptop.path("plan.txt"))
            pair.laptop.delete("plan.txt~")
        tree = wait_until_equal(pair.user, pair.laptop, pair.desktop)
    assert tree == {"plan.txt": file_entry(b"edit 4")}
    assert pair.id("plan.txt") == file_id


# --- a local edit between the download and its rename into place ------------------------------------------------------


@pytest.mark.parametrize("there", [True, False], ids=["edited", "made"])
def test_a_file_written_during_its_download_is_kept(pair: Pair, proxy: HttpProxy, tmp_path: Path, there: bool) -> None:
    reader = Device(pair.user, tmp_path, "reader", url=proxy.url)
    if there:
        pair.laptop.put("file", b"old")
        pair.laptop.once()
        reader.once()
    pair.laptop.put("file", b"from the laptop" * 10_000)
    pair.laptop.once()
    written: list[bool] = []

    def write() -> None:
        if not written:
            reader.put("file", b"from the reader")
            written.append(True)

    for method, pattern in (("GET", r"/blocks/"), ("GET", r"/download"), ("POST", r"/blocks/"), ("POST", r"/download")):
        proxy.after(method, pattern, write, times=None)
    reader.once(expect=None)
    assert written, f"nothing was downloaded: {proxy.calls}"
    tree = settle(pair.user, reader, pair.laptop)
    [copy] = conflicts_in(tree)
    assert tree == {"file": file_entry(b"from the laptop" * 10_000), copy: file_entry(b"from the reader")}


# --- the work is done and its answer is lost --------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True], ids=["and it asks again", "and it dies"])
def test_an_upload_whose_answer_is_lost_is_stored_once(
    pair: Pair, proxy: HttpProxy, tmp_path: Path, dies: bool
) -> None:
    writer = Device(pair.user, tmp_path, "writer", url=proxy.url)

    def sync_without_answer() -> None:
        if not dies:
            proxy.lose_answer("POST", r"/files/commit")
            writer.once()
            return
        done, gone = threading.Event(), threading.Event()

        def stop_there() -> None:
            done.set()
            gone.wait(30)

        proxy.after("POST", r"/files/commit", stop_there)
        command = writer.begin_once()
        assert done.wait(30), "no commit"
        command.kill()
        gone.set()
        proxy.clear()

    writer.put("file", b"content")
    writer.put("folder/other", b"other content")
    sync_without_answer()
    writer.once()
    assert writer.tree() == read_service_tree(pair.user)
    assert (pair.versions("file"), pair.versions("folder/other")) == ([1], [1])
    writer.put("file", b"a second edit")
    sync_without_answer()
    writer.put("file", b"a third edit")
    assert not conflicts_in(settle(pair.user, writer, pair.laptop))
    assert pair.user.content("/file") == b"a third edit"


def test_lost_answers_of_moves_deletes_and_folders_change_nothing(pair: Pair, proxy: HttpProxy, tmp_path: Path) -> None:
    writer = Device(pair.user, tmp_path, "writer", url=proxy.url)
    writer.put("moved", b"moved")
    writer.put("deleted", b"deleted")
    writer.once()
    for pattern in (r"/files/create_folder", r"/files/move", r"/files/delete"):
        proxy.lose_answer("POST", pattern)
    writer.folder("new folder")
    writer.move("moved", "new folder/moved")
    writer.delete("deleted")
    writer.once()
    assert settle(pair.user, writer, pair.laptop) == {"new folder": FOLDER, "new folder/moved": file_entry(b"moved")}


# --- modification times: alone, restored, impossible, coarse, all at once ---------------------------------------------


def test_a_changed_modification_time_alone_is_no_new_version(pair: Pair) -> None:
    files = {f"{number}.txt": b"text %d" % number for number in range(20)}
    pair.begin_with(files)
    hour_ns = 3600 * 10**9
    for name in files:  # as after a change of the time zone on a file system that keeps local time
        there = pair.laptop.path(name).stat()
        os.utime(pair.laptop.path(name), ns=(there.st_atime_ns, there.st_mtime_ns + hour_ns))
    for name in files:  # as after a copy to a file system that keeps even seconds
        there = pair.desktop.path(name).stat()
        os.utime(pair.desktop.path(name), ns=(there.st_atime_ns, there.st_mtime_ns // (2 * 10**9) * 2 * 10**9))
    pair.settle()
    pair.check(files)
    assert all(pair.versions(name) == [1] for name in files)


def test_a_changed_content_is_found_although_its_time_and_size_are_as_before(pair: Pair) -> None:
    pair.begin_with({"file": b"before"})
    there = pair.laptop.path("file").stat()
    pair.laptop.put("file", b"after.")
    os.utime(pair.laptop.path("file"), ns=(there.st_atime_ns, there.st_mtime_ns))
    pair.settle()
    pair.check({"file": b"after."})


@pytest.mark.parametrize("seconds", [0, -86_400 * 365 * 20, 86_400 * 365 * 200], ids=["zero", "negative", "future"])
def test_any_modification_time_is_taken(pair: Pair, seconds: int) -> None:
    path = pair.laptop.put("file", b"content")
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    pair.settle()
    pair.check({"file": b"content"})
    # An older or newer clock never decides who wins.
    path = pair.desktop.put("file", b"edited")
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    pair.settle()
    pair.check({"file": b"edited"})


# --- permissions: the executable bit, read-only files, a tree that may only be read -----------------------------------


def test_the_executable_bit_travels_both_ways(pair: Pair) -> None:
    pair.laptop.put("tool", b"#!/bin/sh\n", executable=True)
    pair.laptop.put("text", b"text", executable=False)
    assert pair.settle()["tool"].executable
    pair.desktop.put("tool", b"#!/bin/sh\n", executable=False)
    pair.desktop.put("text", b"text", executable=True)
    tree = pair.settle()
    assert (tree["tool"].executable, tree["text"].executable) == (False, True)
    pair.laptop.put("text", b"edited", executable=True)
    assert pair.settle()["text"] == file_entry(b"edited", executable=True)


def test_a_read_only_file_is_synced_and_replaced_by_a_newer_version(pair: Pair) -> None:
    pair.begin_with({"file": b"old"})
    pair.desktop.path("file").chmod(0o444)
    pair.laptop.put("file", b"new")
    pair.settle()
    pair.check({"file": b"new"})


@pytest.fixture
def team(user: User, administrator: Session, shared_appliance: Appliance) -> User:
    """Somebody whose tree `user` may read, but not write, as /Team."""
    owner = add_user(administrator, shared_appliance)
    owner.put("/handbook.txt", b"read me")
    owner.put("/rules.txt", b"rules")
    with connect_database(shared_appliance) as db:
        db.execute(
            "INSERT INTO membership (user_id, namespace_id, role, mount_path, mount_key)"
            " SELECT %s, namespace_id, 'viewer', '/Team', 'team' FROM membership"
            " WHERE user_id = %s AND role = 'owner'",
            [user.id, owner.id],
        )
    return owner


def leave_team(user: User, appliance: Appliance) -> None:
    with connect_database(appliance) as db:
        db.execute("DELETE FROM membership WHERE user_id = %s AND role = 'viewer'", [user.id])


def test_edits_in_a_tree_that_may_only_be_read_stay_here_and_are_told(user: User, team: User, tmp_path: Path) -> None:
    laptop = Device(user, tmp_path, "laptop")
    laptop.put("own", b"own")
    laptop.once()
    assert laptop.read("Team/handbook.txt") == b"read me"
    laptop.put("Team/handbook.txt", b"scribbled")
    laptop.put("Team/new.txt", b"mine")
    laptop.delete("Team/rules.txt")
    laptop.put("own", b"still synced")
    result = laptop.once(expect=None)
    assert user.content("/own") == b"still synced"
    assert team.content("/handbook.txt") == b"read me"
    assert team.content("/rules.txt") == b"rules"
    assert {file_entry(b"scribbled").digest, file_entry(b"mine").digest} <= laptop.contents()
    assert "handbook.txt" in told(laptop, result)
    assert set(read_service_tree(team)) == {"handbook.txt", "rules.txt"}


# --- links, hard links, pipes, sparse files, extended attributes ------------------------------------------------------


def test_links_and_special_files_are_told_and_never_followed(pair: Pair, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    pair.laptop.put("plain", b"plain")
    links: dict[str, str | Path] = {
        "to a file outside": outside / "secret",
        "to a folder outside": outside,
        "loop": pair.laptop.root,
        "dangling": "nowhere",
        "inside": "plain",
    }
    for name, target in links.items():
        pair.laptop.path(name).symlink_to(target)
    os.mkfifo(pair.laptop.path("pipe"))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as special:
        here = os.open(pair.laptop.root, os.O_RDONLY)
        special.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        result = pair.laptop.once(expect=None)
    pair.desktop.once()
    assert read_service_tree(pair.user) == pair.desktop.tree() == {"plain": file_entry(b"plain")}
    said = told(pair.laptop, result)
    assert all(name in said for name in [*links, "pipe", "socket"]), said
    assert all(pair.laptop.path(name).is_symlink() for name in links)


def test_what_lies_behind_a_link_is_never_deleted_or_written(pair: Pair, tmp_path: Path) -> None:
    pair.begin_with({"folder/gone": b"old", "folder/changed": b"old", "folder/sub/deep": b"old"})
    outside = tmp_path / "outside"
    shutil.copytree(pair.desktop.path("folder"), outside)
    pair.desktop.delete("folder")
    pair.desktop.path("folder").symlink_to(outside)
    pair.laptop.delete("folder/gone")
    pair.laptop.delete("folder/sub")
    pair.laptop.put("folder/changed", b"new")
    pair.laptop.put("folder/added", b"new")
    pair.laptop.once()
    for _ in range(2):
        pair.desktop.once(expect=None)
        pair.laptop.once(expect=None)
    assert read_tree(outside) == {
        "gone": file_entry(b"old"),
        "changed": file_entry(b"old"),
        "sub": FOLDER,
        "sub/deep": file_entry(b"old"),
    }


def test_hard_links_are_files_of_their_own_to_others(pair: Pair) -> None:
    pair.laptop.put("one", b"shared")
    pair.laptop.path("two").hardlink_to(pair.laptop.path("one"))
    pair.settle()
    pair.check({"one": b"shared", "two": b"shared"})
    pair.desktop.put("one", b"changed")
    pair.settle()
    pair.check({"one": b"changed", "two": b"shared"})
    pair.laptop.path("three").hardlink_to(pair.laptop.path("two"))
    pair.laptop.delete("two")
    pair.settle()
    pair.check({"one": b"changed", "three": b"shared"})


def test_a_sparse_file_arrives_with_its_holes_as_zeros(pair: Pair) -> None:
    path = pair.laptop.put("sparse", b"begin")
    os.truncate(path, 48 * MIB)
    with path.open("r+b") as file:
        file.seek(40 * MIB)
        file.write(b"middle")
    pair.settle()
    assert check_equal(pair.user, pair.laptop, pair.desktop).keys() == {"sparse"}


def test_extended_attributes_do_not_stop_a_file(pair: Pair) -> None:
    path = pair.laptop.put("file", b"content")
    try:
        os.setxattr(path, "user.origin", b"elsewhere")
    except OSError as error:
        pytest.skip(f"this file system keeps no extended attributes: {error}")
    pair.settle()
    os.setxattr(path, "user.origin", b"changed")
    pair.settle()
    pair.check({"file": b"content"})
    assert pair.versions("file") == [1]
    assert os.getxattr(path, "user.origin") == b"changed"


# --- special and reserved names, long ones, deep ones -----------------------------------------------------------------

PORTABLE = ["📁 emoji", "עברית", "x" * 255, "Ä" * 127, "-rf", "%41&#+;'\"$(id)", ".hidden", "a  b"]
NOT_EVERYWHERE = [
    "line\nbreak",
    "ends with a dot.",
    "ends with a space ",
    "CON",
    "nul.txt",
    "a:b",
    "what?",
    "back\\slash",
]


def test_awkward_names_arrive_exactly_and_those_not_possible_everywhere_are_told(pair: Pair) -> None:
    files = {name: name.encode() for name in (*PORTABLE, *NOT_EVERYWHERE)}
    for name, data in files.items():
        pair.laptop.put(name, data)
    result = pair.laptop.once(expect=None)
    said = told(pair.laptop, result)
    pair.settle()
    pair.check(files)
    for name in NOT_EVERYWHERE:
        assert name.split("\n")[0].replace("\\", "\\\\") in said or name in said, f"{name!r} is not told: {said}"


def make_deep(root: Path, names: list[str], data: bytes) -> None:
    """A file in folders within folders, also where the whole path is longer than the kernel takes at once."""
    at = os.open(root, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=at), "wb") as file:
        file.write(data)
    os.close(at)


@pytest.mark.parametrize(("depth", "length"), [(120, 1), (40, 120)], ids=["deep", "longer than a path may be"])
def test_a_deep_tree_arrives(pair: Pair, depth: int, length: int) -> None:
    names = [chr(ord("a") + number % 26) * length for number in range(depth)]
    make_deep(pair.laptop.root, names, b"deep down")
    tree = pair.settle()
    assert tree["/".join([*names, "file"])] == file_entry(b"deep down")
    assert len(tree) == depth + 1


def test_what_is_deeper_than_the_service_takes_stays_here_and_is_told(pair: Pair) -> None:
    make_deep(pair.laptop.root, ["d"] * 300, b"too deep")
    pair.laptop.put("beside", b"fine")
    result = pair.laptop.once(expect=None)
    assert pair.user.content("/beside") == b"fine"
    assert "d/d/d/d" in told(pair.laptop, result)
    assert file_entry(b"too deep").digest in pair.laptop.contents()


# --- many, large and empty files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [CROWD, pytest.param(100_000, marks=[pytest.mark.deep, pytest.mark.timeout(1800)])])
def test_a_folder_with_thousands_of_entries_arrives(pair: Pair, count: int) -> None:
    crowd = pair.laptop.folder("crowd")
    for number in range(count):
        (crowd / f"{number:06d}").write_bytes(b"%d" % number if number % 10 else b"")
    tree = pair.settle(timeout_s=1500)
    assert len(tree) == count + 1
    pair.check_memory()


def test_empty_files_and_folders_arrive(pair: Pair) -> None:
    pair.laptop.put("empty")
    pair.laptop.put("folder/empty")
    pair.laptop.folder("nothing/in/here")
    assert pair.settle().keys() == {"empty", "folder", "folder/empty", "nothing", "nothing/in", "nothing/in/here"}
    pair.desktop.delete("nothing")
    pair.laptop.put("empty", b"no more")
    assert pair.settle().keys() == {"empty", "folder", "folder/empty"}


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_file_larger_than_four_gigabytes_arrives(pair: Pair) -> None:
    path = pair.laptop.put("huge", b"begin")
    os.truncate(path, 5 * 1024 * MIB)
    with path.open("r+b") as file:
        file.seek(5 * 1024 * MIB - 3)
        file.write(b"end")
    pair.settle(timeout_s=600)
    pair.check_memory()
    assert pair.desktop.path("huge").stat().st_size == 5 * 1024 * MIB


# --- a full disk under the files, under the client's database; a full quota -------------------------------------------


@needs_mounts
def test_a_full_disk_is_told_and_the_download_goes_on_when_there_is_room(pair: Pair) -> None:
    pair.laptop.put("small", b"small")
    pair.laptop.put("large", random.Random("large").randbytes(12 * MIB))
    pair.laptop.once()
    with small_disk(pair.desktop.root, 16 * MIB):
        ballast = pair.desktop.root / ".part.crdownload"  # ignored, as such names are
        ballast.write_bytes(bytes(8 * MIB))
        result = pair.desktop.once(expect=None)
        assert result.code != 0
        assert not pair.desktop.path("large").exists(), "half a file has the name"
        assert result.document["state"] == "blocked"
        assert "full" in told(pair.desktop, result).lower() or "space" in told(pair.desktop, result).lower()
        assert pair.user.metadata("/large")["state"] == "complete"
        ballast.unlink()
        pair.desktop.once()
        assert pair.desktop.tree() == read_service_tree(pair.user)


@needs_mounts
def test_a_full_disk_under_the_database_loses_nothing(user: User, tmp_path: Path) -> None:
    with small_disk(tmp_path / "laptop" / "home", 3 * MIB) as home:
        laptop = Device(user, tmp_path, "laptop")
        other = Device(user, tmp_path, "other")
        laptop.put("first", b"first")
        laptop.once()
        ballast = home / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(300):
            laptop.put(f"folder/{number}", b"%d" % number)
        result = laptop.once(expect=None)
        assert result.code != 0
        ballast.unlink()
        settle(user, laptop, other)
        assert len(laptop.tree()) == 302
        assert not conflicts_in(laptop.tree())


def test_a_full_quota_is_told_and_everything_else_goes_on(new_user: NewUser, tmp_path: Path) -> None:
    user = new_user(quota=2 * MIB)
    laptop = Device(user, tmp_path, "laptop")
    laptop.put("small", b"small")
    laptop.once()
    laptop.put("large", random.Random("quota").randbytes(3 * MIB))
    laptop.put("tiny", b"tiny")
    result = laptop.once(expect=None)
    assert result.code != 0
    assert result.document["state"] == "blocked"
    assert "large" in told(laptop, result)
    assert user.content("/tiny") == b"tiny"
    assert laptop.path("large").stat().st_size == 3 * MIB
    laptop.delete("large")
    laptop.once()
    assert laptop.tree() == read_service_tree(user)


# --- a client killed, its database lost, rolled back, damaged ---------------------------------------------------------


def database_files(device: Device) -> list[Path]:
    """The client's databases: every SQLite file of its home with what lies beside it."""
    found = []
    for path in device.home.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(15) == b"SQLite format 3":
                    found += [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))]
    assert found, f"no database below {device.home}"
    return [path for path in found if path.exists()]


def change_everything(pair: Pair) -> None:
    """Both computers edit, make, move and delete, each its own files."""
    for device in (pair.laptop, pair.desktop):
        mine = f"{device.name}/"
        device.put(mine + "edited", b"edited by " + device.name.encode())
        device.put(mine + "new/file", b"new from " + device.name.encode())
        device.move(mine + "moved", mine + "new/moved")
        device.delete(mine + "deleted")


def files_before(names: tuple[str, ...] = ("laptop", "desktop")) -> dict[str, bytes]:
    return {
        f"{name}/{what}": f"{what} {name}".encode() for name in names for what in ("edited", "moved", "deleted", "kept")
    }


def files_after(names: tuple[str, ...] = ("laptop", "desktop")) -> dict[str, bytes]:
    found = {}
    for name in names:
        found[f"{name}/edited"] = b"edited by " + name.encode()
        found[f"{name}/new/file"] = b"new from " + name.encode()
        found[f"{name}/new/moved"] = f"moved {name}".encode()
        found[f"{name}/kept"] = f"kept {name}".encode()
    return found


def test_a_client_killed_at_any_moment_finishes_when_it_runs_again(pair: Pair) -> None:
    rng = random.Random("killed client")
    expected: dict[str, bytes] = {}
    for number in range(6):
        for index in range(20):
            name = f"{number}/{index}"
            expected[name] = rng.randbytes(30_000)
            pair.laptop.put(name, expected[name])
        for device in (pair.laptop, pair.desktop):
            command = device.begin_once()
            # A random moment of its work; whatever it was doing then is what is tested.
            threading.Event().wait(rng.uniform(0.02, 0.3))
            command.kill()
    pair.settle()
    pair.check(expected)
    assert all(pair.versions(name) == [1] for name in expected)


def test_a_lost_database_deletes_nothing_and_changes_made_meanwhile_are_kept(pair: Pair) -> None:
    pair.begin_with(files_before())
    for path in database_files(pair.laptop):
        path.unlink()
    pair.settle()
    pair.check(files_before())
    assert pair.versions("laptop/kept") == [1], "what was there already was stored again"

    for path in database_files(pair.laptop):
        path.unlink()
    pair.laptop.put("laptop/edited", b"without a memory")
    pair.laptop.delete("laptop/deleted")  # nobody can know that it was deleted, so it comes back
    pair.desktop.put("desktop/edited", b"meanwhile")
    pair.desktop.once()
    tree = pair.settle()
    for data in (b"without a memory", b"meanwhile", b"deleted laptop", b"kept laptop"):
        assert file_entry(data) in tree.values()


def test_a_database_from_yesterday_loses_nothing_of_today(pair: Pair) -> None:
    pair.begin_with(files_before())
    saved = {path: path.read_bytes() for path in database_files(pair.laptop)}
    change_everything(pair)
    pair.settle()
    pair.check(files_after())
    for path in database_files(pair.laptop):
        path.unlink()
    for path, data in saved.items():
        path.write_bytes(data)
    tree = pair.settle()
    assert {name: tree.get(name) for name in files_after()} == {
        name: file_entry(data) for name, data in files_after().items()
    }
    assert not conflicts_in(tree)


def test_a_damaged_database_is_told_or_replaced_and_nothing_is_lost(pair: Pair) -> None:
    pair.begin_with(files_before())
    for path in database_files(pair.laptop):
        size = path.stat().st_size
        path.write_bytes(b"SQLite format 3\0" + random.Random("damage").randbytes(max(0, size - 16)))
    pair.laptop.put("laptop/edited", b"after the damage")
    result = pair.laptop.once(expect=None)
    if result.code != 0:
        assert "database" in result.stderr.lower(), result.stderr
        for path in database_files(pair.laptop):
            path.unlink()
    tree = pair.settle()
    assert set(files_before()) <= set(tree)
    assert file_entry(b"after the damage") in tree.values()


# --- the synced folder is unmounted, emptied, replaced, moved; a second client on it ----------------------------------


def test_a_folder_that_is_gone_or_replaced_is_never_taken_for_a_delete(pair: Pair) -> None:
    pair.begin_with({"one": b"one", "folder/two": b"two"})
    aside = pair.laptop.root.with_name("aside")
    pair.laptop.root.rename(aside)
    assert pair.laptop.once(expect=None).code != 0  # not there at all
    pair.laptop.root.mkdir()
    assert pair.laptop.once(expect=None).code != 0  # the empty place where it is mounted
    pair.laptop.put("stranger", b"of another disk")
    assert pair.laptop.once(expect=None).code != 0
    assert read_service_tree(pair.user) == pair.desktop.tree()
    shutil.rmtree(pair.laptop.root)
    aside.rename(pair.laptop.root)
    pair.settle()
    pair.check({"one": b"one", "folder/two": b"two"})


def test_an_emptied_folder_with_its_marker_waits_for_a_yes(pair: Pair) -> None:
    files = {f"folder/{number}": b"%d" % number for number in range(60)}
    pair.begin_with(files)
    pair.laptop.delete("folder")
    result = pair.laptop.once(expect=None)
    assert result.code != 0
    assert "60" in told(pair.laptop, result)
    assert len(read_service_tree(pair.user)) == 61


def test_a_folder_that_was_moved_goes_on_at_its_new_place(pair: Pair) -> None:
    pair.begin_with({"one": b"one", "folder/two": b"two"})
    pair.laptop.root.rename(pair.laptop.base / "elsewhere")
    pair.laptop.root = pair.laptop.base / "elsewhere"
    pair.laptop.put("three", b"three")
    pair.laptop.once(expect=None)
    pair.settle()
    pair.check({"one": b"one", "folder/two": b"two", "three": b"three"})
    assert pair.versions("one") == [1]


def test_a_second_client_on_the_same_folder_is_refused(pair: Pair) -> None:
    with pair.laptop.running():
        pair.laptop.wait_for_state("in_sync")
        result = pair.laptop.once(expect=None)
        assert result.code != 0
        assert result.stderr.strip()
        assert pair.laptop.client is not None
        assert pair.laptop.client.is_running


# --- the service comes back from a backup; an old image of this machine -----------------------------------------------


def raise_epoch(user: User, appliance: Appliance) -> None:
    """As a restore of the database does."""
    with connect_database(appliance) as db:
        db.execute(
            "UPDATE namespace SET epoch = epoch + 1 WHERE id IN (SELECT namespace_id FROM membership"
            " WHERE user_id = %s AND role = 'owner')",
            [user.id],
        )


def test_a_service_from_a_backup_takes_back_what_it_lost_and_deletes_nothing(
    pair: Pair, shared_appliance: Appliance
) -> None:
    pair.begin_with({"kept": b"kept", "lost by the service/file": b"lost"})
    # To the computers the older state looks as if somebody had deleted the file, but for the epoch.
    pair.user.post("/files/delete", path="/lost by the service")
    raise_epoch(pair.user, shared_appliance)
    pair.laptop.once()
    assert pair.laptop.read("lost by the service/file") == b"lost"
    pair.settle()
    pair.check({"kept": b"kept", "lost by the service/file": b"lost"})


def test_edits_on_both_sides_of_a_restore_become_copies_and_not_losses(pair: Pair, shared_appliance: Appliance) -> None:
    pair.begin_with({"edited here": b"old", "edited on both": b"old", "deleted here": b"old"})
    pair.laptop.put("edited here", b"by the laptop")
    pair.laptop.put("edited on both", b"by the laptop")
    pair.laptop.delete("deleted here")
    pair.user.put("/edited on both", b"by the service", base_version=1)
    raise_epoch(pair.user, shared_appliance)
    tree = pair.settle()
    assert tree["edited on both"] == file_entry(b"by the service")
    assert list(tree.values()).count(file_entry(b"by the laptop")) == 2
    assert tree["edited here"] == file_entry(b"by the laptop")


def test_an_old_image_of_a_computer_is_merged_and_takes_nothing_away(pair: Pair) -> None:
    """Nobody can tell it from a folder that was put back beside a newer database: what it holds comes back, as new or
    as a copy, and all that the others have stays as it is."""
    pair.begin_with(files_before())
    image = pair.laptop.base.with_name("image")
    shutil.copytree(pair.laptop.base, image, symlinks=True)
    change_everything(pair)
    pair.settle()
    pair.check(files_after())
    shutil.rmtree(pair.laptop.base)
    shutil.copytree(image, pair.laptop.base, symlinks=True)  # everything has new inodes as well
    tree = pair.settle()
    expected = {path: file_entry(data) for path, data in files_after().items()}
    assert {path: tree.get(path) for path in expected} == expected


# --- the watcher: its limit, its overflow, folders made anew or renamed under it --------------------------------------


@contextlib.contextmanager
def running_with_few_watches(device: Device, watches: int) -> Iterator[subprocess.Popen[bytes]]:
    """The continuous client in a user namespace that has so few inotify watches."""
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    limit = f"echo {watches} > /proc/sys/user/max_inotify_watches"
    command = [sys.executable, "-P", "-m", "client", "sync", str(device.root)]
    with (device.base / "limited").open("wb") as said:
        process = subprocess.Popen(
            ["unshare", "-Ur", "sh", "-c", f'{limit} && exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=child_environment(HOLDFAST_HOME=str(device.home)),
        )
    try:
        yield process
        assert process.poll() is None, (device.base / "limited").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.mark.parametrize("watches", [5, pytest.param(0, marks=pytest.mark.deep)])  # without any it takes a minute
def test_changes_are_found_although_the_watches_run_out(pair: Pair, watches: int) -> None:
    pair.begin_with({f"folder {number}/file": b"%d" % number for number in range(20)})
    with running_with_few_watches(pair.laptop, watches):
        pair.laptop.wait_for_state("in_sync")
        pair.laptop.put("folder 19/file", b"changed")
        pair.laptop.put("folder 20/file", b"new")
        wait_until(
            lambda: read_service_tree(pair.user).get("folder 20/file") == file_entry(b"new"),
            timeout_s=60,
            what="the upload of what no watch tells",
        )
        wait_until(lambda: pair.user.content("/folder 19/file") == b"changed", timeout_s=30, what="the other one")


def test_an_overflow_of_the_watcher_loses_no_change(pair: Pair) -> None:
    pair.begin_with({"folder/file": b"old"})
    with pair.laptop.running() as client:
        pair.laptop.wait_for_state("in_sync")
        client.signal(signal.SIGSTOP)
        queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        noise = pair.laptop.folder("folder")
        for number in range(queue // 2 + 200):  # each makes at least two events; the later ones find no room
            (noise / "noise.part").write_bytes(b"")
            if number % 2:
                (noise / "noise.part").unlink()
            else:
                (noise / "noise.part").rename(noise / "other.part")
        for number in range(20):
            pair.laptop.put(f"folder/late {number}", b"%d" % number)
        pair.laptop.put("folder/file", b"changed")
        (noise / "other.part").unlink(missing_ok=True)
        client.signal(signal.SIGCONT)
        tree = wait_until_equal(pair.user, pair.laptop, timeout_s=60)
    assert len(tree) == 22
    assert tree["folder/file"] == file_entry(b"changed")


def test_a_folder_made_anew_or_renamed_is_watched_at_its_place(pair: Pair) -> None:
    pair.begin_with({"again/file": b"1", "renamed/file": b"2", "renamed/deep/file": b"3"})
    with pair.laptop.running(), pair.desktop.running():
        pair.laptop.wait_for_state("in_sync")
        pair.laptop.delete("again")
        pair.laptop.put("again/other", b"made anew")
        pair.laptop.move("renamed", "new name")
        pair.laptop.put("renamed/stranger", b"at the old place")
        wait_until_equal(pair.user, pair.laptop, pair.desktop)
        # Whatever the watcher took these folders for, it must see what happens in them now.
        pair.laptop.put("again/other", b"edited")
        pair.laptop.put("new name/deep/file", b"edited")
        pair.laptop.put("renamed/stranger", b"edited")
        wait_until(
            lambda: {pair.user.content("/" + name) for name in ("again/other", "new name/deep/file")} == {b"edited"},
            what="edits below",
        )
        wait_until_equal(pair.user, pair.laptop, pair.desktop)
    pair.check(
        {
            "again/other": b"edited",
            "new name/file": b"2",
            "new name/deep/file": b"edited",
            "renamed/stranger": b"edited",
        }
    )


# --- a share is removed; a folder is no longer selected ---------------------------------------------------------------


def test_a_share_that_is_removed_takes_its_clean_files_and_leaves_the_changed_ones(
    user: User, team: User, shared_appliance: Appliance, tmp_path: Path
) -> None:
    laptop = Device(user, tmp_path, "laptop")
    laptop.put("own", b"own")
    laptop.once()
    laptop.put("Team/handbook.txt", b"scribbled")
    leave_team(user, shared_appliance)
    laptop.once(expect=None)
    laptop.once(expect=None)
    assert not laptop.path("Team/rules.txt").exists()
    assert file_entry(b"scribbled").digest in laptop.contents()
    assert laptop.read("own") == b"own"
    assert team.content("/handbook.txt") == b"read me"


def test_a_folder_that_is_no_longer_selected_leaves_only_what_was_not_stored(pair: Pair) -> None:
    pair.begin_with({"big/clean": b"clean", "big/sub/edited": b"old", "kept": b"kept"})
    pair.laptop.put("big/sub/edited", b"not stored yet")
    pair.laptop.put("big/new", b"nor this")
    result = pair.laptop.once("--exclude", "/big", expect=None)
    assert not pair.laptop.path("big/clean").exists()
    assert {file_entry(b"not stored yet").digest, file_entry(b"nor this").digest} <= pair.laptop.contents() | {
        entry.digest for entry in read_service_tree(pair.user).values()
    }
    assert pair.user.content("/big/clean") == b"clean"
    assert pair.user.content("/kept") == b"kept"
    assert "big" in told(pair.laptop, result)
    pair.desktop.once()
    assert pair.desktop.read("big/clean") == b"clean"


# --- mass deletes -----------------------------------------------------------------------------------------------------


def test_a_mass_delete_waits_for_a_yes_on_either_side(pair: Pair) -> None:
    files = {f"{number % 4}/{number}": b"%d" % number for number in range(70)}
    pair.begin_with(files)
    for number in range(60):
        pair.laptop.delete(f"{number % 4}/{number}")
    result = pair.laptop.once(expect=None)
    assert result.code != 0
    assert "60 of 70" in told(pair.laptop, result)
    assert result.document["state"] == "blocked"
    assert read_service_tree(pair.user) == pair.desktop.tree()
    pair.laptop.once("--allow-deletes")
    assert sum(entry.kind == "file" for entry in read_service_tree(pair.user).values()) == 10
    # The other computer asks as well before it deletes.
    assert pair.desktop.once(expect=None).code != 0
    assert sum(entry.kind == "file" for entry in pair.desktop.tree().values()) == 70
    pair.desktop.once("--allow-deletes")
    assert sum(entry.kind == "file" for entry in check_equal(pair.user, pair.laptop, pair.desktop).values()) == 10


def test_a_move_of_everything_is_no_mass_delete(pair: Pair) -> None:
    files = {f"all/{number}": b"%d" % number for number in range(80)}
    pair.begin_with(files)
    pair.laptop.folder("moved")
    pair.laptop.move("all", "moved/all")
    pair.settle()
    pair.check({f"moved/{name}": data for name, data in files.items()})


# --- errors of the service while it is asked what there is ------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(503, "cannot_take_write"), (403, "forbidden"), (404, "not_found")])
def test_an_error_for_a_listing_is_never_taken_for_a_delete(
    pair: Pair, proxy: HttpProxy, tmp_path: Path, status: int, code: str
) -> None:
    reader = Device(pair.user, tmp_path, "reader", url=proxy.url)
    pair.begin_with({"one": b"one", "folder/two": b"two"})
    reader.once()
    before = reader.tree()
    patterns = [("GET", r"/changes"), ("GET", r"/files/list_folder"), ("GET", r"/files/metadata")]
    for method, pattern in patterns:
        proxy.answer(method, pattern, status, code)
    reader.put("three", b"three")
    assert reader.once(expect=None).code != 0
    assert {name: reader.tree()[name] for name in before} == before
    for path in database_files(reader):  # the first listing fails as well
        path.unlink()
    assert reader.once(expect=None).code != 0
    assert {name: reader.tree()[name] for name in before} == before
    assert set(read_service_tree(pair.user)) - {"three"} == set(before)
    proxy.clear()
    settle(pair.user, reader, pair.laptop)
    assert set(reader.tree()) == {*before, "three"}


def test_a_file_that_cannot_be_fetched_is_not_deleted(pair: Pair, proxy: HttpProxy, tmp_path: Path) -> None:
    reader = Device(pair.user, tmp_path, "reader", url=proxy.url)
    pair.laptop.put("file", b"old")
    pair.laptop.once()
    reader.once()
    pair.laptop.put("file", b"new")
    pair.laptop.put("other", b"other")
    pair.laptop.once()
    for method in ("GET", "POST"):
        proxy.answer(method, r"/(blocks|download|fetch)", 503, "cannot_read_now")
    assert reader.once(expect=None).code != 0
    assert reader.tree() == {"file": file_entry(b"old")}
    proxy.clear()
    reader.once()
    assert reader.tree() == read_service_tree(pair.user)


# --- rules of what is ignored change ----------------------------------------------------------------------------------


def test_a_new_ignore_rule_deletes_nothing_and_its_end_brings_all_together(pair: Pair) -> None:
    pair.begin_with({"build/out": b"out", "build/deep/out": b"deep", "src/main": b"main"})
    pair.laptop.put(".holdfastignore", b"build/\n")
    pair.laptop.once()
    pair.desktop.once()
    for tree in (pair.laptop.tree(), pair.desktop.tree(), read_service_tree(pair.user)):
        assert {"build/out", "build/deep/out", "src/main"} <= set(tree)
    # What is ignored is nobody's business: neither a delete nor an edit travels.
    pair.laptop.delete("build/deep")
    pair.desktop.put("build/out", b"of the desktop")
    pair.laptop.once()
    pair.desktop.once()
    assert pair.laptop.read("build/out") == b"out"
    assert pair.user.content("/build/out") == b"out"
    assert pair.desktop.read("build/deep/out") == b"deep"
    pair.laptop.put(".holdfastignore", b"# nothing\n")
    tree = pair.settle()
    assert {entry for path, entry in tree.items() if path.startswith("build/") and entry != FOLDER} == {
        file_entry(b"out"),
        file_entry(b"deep"),
        file_entry(b"of the desktop"),
    }


def test_what_is_always_ignored_stays_here(pair: Pair) -> None:
    for name in (".DS_Store", "._shadow", "Thumbs.db", "desktop.ini", "~$letter.docx", ".~lock.sheet.ods#", "text~"):
        pair.laptop.put(name, b"junk")
        pair.laptop.put(f"folder/{name}", b"junk")
    for name in (".file.txt.swp", "film.part", "film.crdownload", ".fuse_hidden0001", ".nfs0001"):
        pair.laptop.put(name, b"junk")
    pair.laptop.put("kept", b"kept")
    pair.laptop.once()
    assert read_service_tree(pair.user) == {"folder": FOLDER, "kept": file_entry(b"kept")}


# --- repeated pages, a reset in the middle, a file deleted and made again in one page ---------------------------------


def test_pages_told_twice_change_nothing(pair: Pair, proxy: HttpProxy, tmp_path: Path) -> None:
    """Pages are cut to three changes, and every second answer is the page before once more."""
    reader = Device(pair.user, tmp_path, "reader", url=proxy.url)
    asked: list[str] = []

    def repeat(call: Call, forward: Forward) -> Given:
        target = re.sub(r"([?&])limit=\d+&?", r"\1", call.target).rstrip("?&")
        target += ("&" if "?" in target else "?") + "limit=3"
        asked.append(target)
        return forward(asked[-2] if len(asked) % 2 == 0 else target)

    proxy.add("GET", r"/changes(\?|$)", repeat)
    pair.begin_with(files_before())
    reader.once()
    change_everything(pair)
    pair.settle()
    for _ in range(3):
        reader.once()
    assert len(asked) > 6
    proxy.clear()
    reader.once()
    assert reader.tree() == read_service_tree(pair.user)
    pair.check(files_after())


def test_a_file_deleted_and_made_again_in_one_page_is_what_it_is_in_the_end(pair: Pair) -> None:
    pair.begin_with({"file": b"old", "turns into a folder": b"old", "folder/inside": b"old", "comes back": b"same"})
    user = pair.user
    for path in ("/file", "/turns into a folder", "/folder", "/comes back"):
        user.post("/files/delete", path=path)
    user.put("/file", b"new")
    user.post("/files/create_folder", path="/turns into a folder")
    user.put("/turns into a folder/inside", b"new")
    user.put("/folder", b"a file now")
    user.post("/files/restore", path="/comes back")
    user.put("/made and gone", b"never seen")
    user.post("/files/delete", path="/made and gone")
    pair.settle()
    pair.check({"file": b"new", "turns into a folder/inside": b"new", "folder": b"a file now", "comes back": b"same"})


def test_a_reset_while_changes_wait_on_both_sides_loses_none(pair: Pair, shared_appliance: Appliance) -> None:
    pair.begin_with(files_before())
    change_everything(pair)
    pair.desktop.once()
    raise_epoch(pair.user, shared_appliance)
    tree = pair.settle()
    # Deleted files may come back, and an edit that this computer had not seen leaves the state before it as a copy: of
    # two states that differ nobody knows which one the service had lost.
    assert {name: tree.get(name) for name in files_after()} == {
        name: file_entry(data) for name, data in files_after().items()
    }
    assert {tree[path] for path in conflicts_in(tree)} <= {file_entry(data) for data in files_before().values()}


# --- two clients store the same content; storing what the service knows while it collects -----------------------------


def test_two_computers_that_store_the_same_tree_at_once_make_one(pair: Pair) -> None:
    files = {f"folder/{number}": random.Random(number).randbytes(20_000) for number in range(60)}
    for device in (pair.laptop, pair.desktop):
        for name, data in files.items():
            device.put(name, data)
    commands = [device.begin_once() for device in (pair.laptop, pair.desktop)]
    codes = [command.wait(60) for command in commands]
    assert 0 in codes
    pair.settle()
    pair.check(files)


def test_known_content_that_is_stored_during_a_collection_stays_readable(
    pair: Pair, shared_appliance: Appliance, tmp_path: Path
) -> None:
    data = random.Random("collected").randbytes(300_000)
    pair.begin_with({"first": data})
    admin = tmp_path / "admin"
    shared_appliance.cli_login(admin)
    for number in range(3):
        pair.laptop.delete("first" if number == 0 else f"copy {number - 1}")
        pair.laptop.once()
        pair.laptop.put(f"copy {number}", data)
        collecting = threading.Thread(
            target=shared_appliance.cli, args=("admin", "collect", "--now"), kwargs={"home": admin}
        )
        collecting.start()
        pair.laptop.once()
        collecting.join()
    pair.settle()
    pair.check({"copy 2": data})
    assert pair.user.content("/copy 2") == data
