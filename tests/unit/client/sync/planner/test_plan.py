"""The planner, story by story: the decision table row by row, then the cases that are known to be hard."""

from __future__ import annotations

import pytest

from client.sync.planner.conflicts import Naming, is_own_temporary, temporary
from client.sync.planner.merge import Node
from client.sync.planner.plan import (
    Breaker,
    Busy,
    DeletionCount,
    count_deletions,
    count_planned_deletions,
    held,
    operations,
    plan,
    subjects,
)
from client.sync.tree import DeleteRemote, Download, Forget, MoveLocal, MoveRemote, Record, Upload
from tests.kit.scene import NAMING, Scene, copy_of, kinds
from tests.kit.trees import apply

COPY = copy_of("a.txt")


# --- the decision table: one row each -------------------------------------------------------------------------------


def test_nothing_changed_nothing_done() -> None:
    assert Scene("d/", "d/a.txt=x").settle() == []


def test_a_local_edit_is_uploaded_on_the_version_it_began_from() -> None:
    scene = Scene("a.txt=x")
    scene.local.edit("a.txt", "y")
    (upload,) = scene.plan()
    assert isinstance(upload, Upload)
    assert upload.base == scene.remote.at("a.txt")
    scene.settle()
    assert scene.tree() == {"a.txt": "y"}


def test_a_remote_edit_is_downloaded_over_the_file_it_knows() -> None:
    scene = Scene("a.txt=x")
    scene.remote.edit("a.txt", "y")
    (download,) = scene.plan()
    assert isinstance(download, Download)
    assert download.replaces == scene.local.at("a.txt")
    scene.settle()
    assert scene.tree() == {"a.txt": "y"}


def test_the_same_edit_on_both_sides_is_only_recorded() -> None:
    scene = Scene("a.txt=x")
    scene.remote.edit("a.txt", "y")
    scene.local.edit("a.txt", "y")
    assert kinds(scene.settle()) == ["Record"]


def test_different_edits_leave_the_name_to_the_service_and_make_a_copy() -> None:
    scene = Scene("a.txt=x")
    scene.remote.edit("a.txt", "theirs")
    scene.local.edit("a.txt", "mine")
    (move,) = scene.plan()
    assert isinstance(move, MoveLocal)
    assert (move.name, move.detach) == (COPY, True)
    scene.settle()
    assert scene.tree() == {"a.txt": "theirs", COPY: "mine"}


def test_what_is_deleted_remotely_goes_from_the_disk() -> None:
    scene = Scene("d/", "d/a.txt=x", "b.txt=y")
    scene.remote.delete("d")
    assert kinds(scene.plan()) == ["DeleteLocal"]  # the file; its folder when it is empty
    scene.settle()
    assert scene.tree() == {"b.txt": "y"}


def test_what_is_deleted_locally_goes_from_the_service_as_one() -> None:
    scene = Scene("d/", "d/e/", "d/e/a.txt=x", "b.txt=y")
    scene.local.delete("d")
    (delete,) = scene.plan()
    assert delete == DeleteRemote(scene.remote.at("d"))
    scene.settle()
    assert scene.tree() == {"b.txt": "y"}


def test_a_local_edit_beats_a_remote_delete() -> None:
    scene = Scene("d/", "d/a.txt=x", "d/b.txt=y")
    scene.local.edit("d/a.txt", "z")
    scene.remote.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "z"}


def test_a_remote_edit_beats_a_local_delete() -> None:
    scene = Scene("d/", "d/a.txt=x", "d/b.txt=y")
    scene.remote.edit("d/a.txt", "z")
    scene.local.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "z"}


def test_what_was_stored_again_remotely_with_the_same_content_is_not_deleted_with_what_went_here() -> None:
    """Deleted there, put back there: the service revives the file's id, and this disk may have followed the delete."""
    scene = Scene("d/", "d/a.txt=x", "b.txt=y")
    scene.remote.edit("d/a.txt", "x")
    scene.remote.edit("b.txt", "y")
    scene.local.delete("d")
    scene.local.delete("b.txt")
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x", "b.txt": "y"}


def test_deleted_on_both_sides_is_forgotten() -> None:
    scene = Scene("a.txt=x")
    scene.remote.delete("a.txt")
    scene.local.delete("a.txt")
    assert kinds(scene.settle()) == ["Forget"]
    assert scene.tree() == {}


def test_what_is_new_remotely_is_downloaded_parents_first() -> None:
    scene = Scene()
    scene.remote.make("d")
    scene.remote.make("d/a.txt", "x")
    assert kinds(scene.plan()) == ["MakeLocalFolder"]
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x"}


def test_what_is_new_locally_is_uploaded_parents_first() -> None:
    scene = Scene()
    scene.local.make("d")
    scene.local.make("d/a.txt", "x")
    assert kinds(scene.plan()) == ["MakeRemoteFolder"]
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x"}


def test_equal_new_files_and_folders_are_adopted_without_a_transfer() -> None:
    scene = Scene()
    for side in (scene.remote, scene.local):
        side.make("d")
        side.make("d/a.txt", "x")
    assert kinds(scene.settle()) == ["Record", "Record"]


def test_different_new_files_of_one_name_make_a_copy() -> None:
    scene = Scene()
    scene.remote.make("a.txt", "theirs")
    scene.local.make("a.txt", "mine")
    scene.settle()
    assert scene.tree() == {"a.txt": "theirs", COPY: "mine"}


def test_each_attribute_merges_for_itself() -> None:
    scene = Scene("d/", "e/", "a.txt=x")
    scene.remote.move("a.txt", "b.txt")
    scene.local.move("a.txt", "d/a.txt")
    scene.local.edit("d/a.txt", "y")
    scene.settle()
    assert scene.tree() == {"d": None, "e": None, "d/b.txt": "y"}


def test_a_local_move_and_a_remote_edit_both_apply() -> None:
    scene = Scene("d/", "a.txt=x")
    scene.local.move("a.txt", "d/b.txt")
    scene.remote.edit("a.txt", "y")
    scene.settle()
    assert scene.tree() == {"d": None, "d/b.txt": "y"}


def test_the_executable_bit_is_content() -> None:
    scene = Scene("run.sh=x")
    scene.local.edit("run.sh", "x", executable=True)
    assert kinds(scene.settle()) == ["Upload"]
    node = scene.remote.at("run.sh")
    assert node.content is not None
    assert node.content.executable


# --- moves ----------------------------------------------------------------------------------------------------------


def test_a_moved_folder_is_one_operation() -> None:
    scene = Scene("d/", "e/", *(f"d/{number}.txt=x" for number in range(20)))
    scene.local.move("d", "e/f")
    assert kinds(scene.plan()) == ["MoveRemote"]
    scene.settle()
    scene.remote.move("e/f", "g")
    assert kinds(scene.plan()) == ["MoveLocal"]


@pytest.mark.parametrize("side", ["remote", "local"])
def test_two_files_swap_their_names(side: str) -> None:
    scene = Scene("a.txt=x", "b.txt=y")
    _rename(scene, side, {"a.txt": "b.txt", "b.txt": "a.txt"})
    done = scene.settle()
    assert scene.tree() == {"a.txt": "y", "b.txt": "x"}
    assert len([step for step in done if isinstance(step, MoveLocal | MoveRemote)]) == 3


@pytest.mark.parametrize("side", ["remote", "local"])
def test_names_go_round(side: str) -> None:
    scene = Scene("a=x", "b=y", "c=z", "d=w")
    _rename(scene, side, {"a": "b", "b": "c", "c": "d", "d": "a"})
    done = scene.settle()
    assert scene.tree() == {"b": "x", "c": "y", "d": "z", "a": "w"}
    assert len([step for step in done if isinstance(step, MoveLocal | MoveRemote)]) == 5


@pytest.mark.parametrize("side", ["remote", "local"])
def test_a_chain_of_renames_needs_no_name_for_a_moment(side: str) -> None:
    scene = Scene("a=x", "b=y", "c=z")
    _rename(scene, side, {"c": "d", "b": "c", "a": "b"})
    done = scene.settle()
    assert scene.tree() == {"b": "x", "c": "y", "d": "z"}
    assert len([step for step in done if isinstance(step, MoveLocal | MoveRemote)]) == 3


def _rename(scene: Scene, side: str, names: dict[str, str]) -> None:
    one = scene.remote if side == "remote" else scene.local
    for name in names:
        one.move(name, f"{name} aside")
    for name, to in names.items():
        one.move(f"{name} aside", to)


@pytest.mark.parametrize("side", ["remote", "local"])
def test_parent_and_child_change_places_and_names(side: str) -> None:
    scene = Scene("a/", "a/b/", "a/one=x", "a/b/two=y")
    one = scene.remote if side == "remote" else scene.local
    one.move("a/b", "aside")
    one.move("a", "aside/b")
    one.move("aside", "a")
    scene.settle()
    assert scene.tree() == {"a": None, "a/b": None, "a/two": "y", "a/b/one": "x"}


@pytest.mark.parametrize("seed", range(8))
def test_one_folder_into_the_other_on_each_side_ends_with_one_of_the_moves(seed: int) -> None:
    scene = Scene("a/", "b/", "a/one=x", "b/two=y")
    scene.local.move("a", "b/a")
    scene.remote.move("b", "a/b")
    scene.settle(seed=seed)
    assert scene.tree() == {"a": None, "a/one": "x", "a/b": None, "a/b/two": "y"}


def test_three_folders_in_a_circle_across_both_sides() -> None:
    scene = Scene("a/", "b/", "c/")
    scene.local.move("a", "b/a")
    scene.local.move("b", "c/b")
    scene.remote.move("c", "a/c")
    scene.settle()
    assert sorted(path.rpartition("/")[2] for path in scene.tree()) == ["a", "b", "c"]
    assert "a/c" in scene.tree()


def test_moved_to_two_places_the_service_decides_and_there_is_no_copy() -> None:
    scene = Scene("d/", "e/", "a.txt=x")
    scene.local.move("a.txt", "d/mine.txt")
    scene.remote.move("a.txt", "e/theirs.txt")
    scene.settle()
    assert scene.tree() == {"d": None, "e": None, "e/theirs.txt": "x"}


def test_moved_to_the_same_place_is_only_recorded() -> None:
    scene = Scene("d/", "a.txt=x")
    scene.local.move("a.txt", "d/b.txt")
    scene.remote.move("a.txt", "d/b.txt")
    assert kinds(scene.settle()) == ["Record"]


def test_a_file_moved_into_a_folder_that_was_deleted_remotely_brings_it_back() -> None:
    scene = Scene("d/", "d/old=y", "a.txt=x")
    scene.local.move("a.txt", "d/a.txt")
    scene.remote.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x"}


def test_a_file_moved_into_a_folder_that_was_deleted_locally_brings_it_back() -> None:
    scene = Scene("d/", "d/old=y", "a.txt=x")
    scene.remote.move("a.txt", "d/a.txt")
    scene.local.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x"}


@pytest.mark.parametrize("gone", ["remote", "local"])
def test_what_is_moved_out_of_a_folder_before_it_is_deleted_stays(gone: str) -> None:
    scene = Scene("d/", "d/a.txt=x", "d/b.txt=y")
    one = scene.remote if gone == "remote" else scene.local
    one.move("d/a.txt", "a.txt")
    one.delete("d")
    done = scene.settle()
    assert scene.tree() == {"a.txt": "x"}
    assert not {"Upload", "Download"} & set(kinds(done))


@pytest.mark.parametrize("gone", ["remote", "local"])
def test_a_folder_that_is_emptied_into_a_new_one_of_its_name(gone: str) -> None:
    scene = Scene("d/", "d/a.txt=x", "d/b.txt=y")
    one = scene.remote if gone == "remote" else scene.local
    one.make("new")
    one.move("d/a.txt", "new/a.txt")
    one.delete("d")
    one.move("new", "d")
    done = scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x"}
    assert not {"Upload", "Download"} & set(kinds(done))


@pytest.mark.parametrize("gone", ["remote", "local"])
def test_what_somebody_moves_is_not_deleted_with_the_folder_it_was_in(gone: str) -> None:
    scene = Scene("d/", "d/e/", "d/e/a.txt=x", "f/")
    deletes, moves = (scene.remote, scene.local) if gone == "remote" else (scene.local, scene.remote)
    moves.move("d/e", "f/e")
    deletes.delete("d")
    scene.settle()
    assert scene.tree() == {"f": None, "f/e": None, "f/e/a.txt": "x"}


def test_a_move_to_a_name_that_is_new_remotely_takes_a_copys_name() -> None:
    scene = Scene("b.txt=x")
    scene.local.move("b.txt", "a.txt")
    scene.remote.make("a.txt", "theirs")
    scene.settle()
    assert scene.tree() == {"a.txt": "theirs", COPY: "x"}


def test_where_both_wishes_together_have_no_room_the_node_takes_a_copys_name() -> None:
    scene = Scene("d/", "d/b.txt=taken", "a.txt=x")
    scene.local.move("a.txt", "d/a.txt")
    scene.remote.move("a.txt", "b.txt")
    scene.settle()
    assert scene.tree() == {"d": None, "d/b.txt": "taken", f"d/{copy_of('b.txt')}": "x"}


def test_a_name_for_a_moment_that_a_crash_left_says_nothing() -> None:
    scene = Scene("a.txt=x", "b.txt=y")
    _rename(scene, "local", {"a.txt": "b.txt", "b.txt": "a.txt"})
    (step,) = scene.plan()
    assert isinstance(step, MoveRemote)
    assert is_own_temporary(step.name, NAMING)
    apply(scene.trees, step)
    _rename(scene, "local", {"a.txt": "b.txt", "b.txt": "a.txt"})  # meanwhile the person thinks better of it
    scene.settle()
    assert scene.tree() == {"a.txt": "x", "b.txt": "y"}


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["remote", "local"])
@pytest.mark.parametrize("path", ["Readme.md", "Folder"])
def test_a_change_of_case_is_a_rename(side: str, path: str) -> None:
    scene = Scene("Readme.md=x", "Folder/")
    (scene.remote if side == "remote" else scene.local).move(path, path.swapcase())
    done = scene.settle()
    assert path.swapcase() in scene.tree()
    assert not {"Upload", "Download", "DeleteLocal", "DeleteRemote"} & set(kinds(done))


def test_deleting_one_spelling_does_not_delete_the_other() -> None:
    scene = Scene("A=x")
    scene.remote.delete("A")
    scene.local.delete("A")
    scene.local.make("a", "y")
    scene.settle()
    assert scene.tree() == {"a": "y"}


def test_a_change_of_normalisation_only_is_undone_on_disk() -> None:
    scene = Scene("caf\u00e9.txt=x")
    scene.local.move("caf\u00e9.txt", "cafe\u0301.txt")
    assert "MoveRemote" not in kinds(scene.settle())
    assert scene.tree() == {"caf\u00e9.txt": "x"}


def test_an_edit_with_another_normalisation_keeps_the_services_spelling() -> None:
    scene = Scene("d/", "caf\u00e9.txt=x")
    scene.local.move("caf\u00e9.txt", "d/cafe\u0301.txt")
    scene.local.edit("d/cafe\u0301.txt", "y")
    scene.settle()
    assert scene.tree() == {"d": None, "d/caf\u00e9.txt": "y"}


@pytest.mark.parametrize(("remote", "local"), [("caf\u00e9", "cafe\u0301"), ("File", "file")])
def test_one_new_name_in_two_spellings_is_one_file(remote: str, local: str) -> None:
    scene = Scene()
    scene.remote.make(remote, "x")
    scene.local.make(local, "x")
    scene.settle()
    assert scene.tree() == {remote: "x"}


def test_a_second_local_name_that_is_one_to_the_service_is_left_alone() -> None:
    scene = Scene()
    scene.local.make("A", "x")
    scene.local.make("a", "y")
    scene.local.hold("a", "another file has the same name")
    scene.settle()
    assert scene.remote.tree() == {"A": "x"}
    assert scene.local.tree() == {"A": "x", "a": "y"}


# --- type changes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["remote", "local"])
def test_a_file_becomes_a_folder_and_a_folder_a_file(side: str) -> None:
    scene = Scene("a=x", "b/", "b/c=y")
    one = scene.remote if side == "remote" else scene.local
    one.delete("a")
    one.make("a")
    one.make("a/new", "z")
    one.delete("b")
    one.make("b", "w")
    scene.settle()
    assert scene.tree() == {"a": None, "a/new": "z", "b": "w"}


def test_file_and_folder_of_one_name_created_on_both_sides() -> None:
    scene = Scene()
    scene.remote.make("a.txt", "x")
    scene.local.make("a.txt")
    scene.local.make("a.txt/inside", "y")
    scene.settle()
    folder = "a.txt (Ann on laptop's conflicted copy 2026-11-22)"
    assert scene.tree() == {"a.txt": "x", folder: None, f"{folder}/inside": "y"}


def test_a_folder_that_became_a_file_remotely_keeps_what_was_new_in_it() -> None:
    scene = Scene("d/", "d/a=x")
    scene.local.make("d/new", "y")
    scene.remote.delete("d")
    scene.remote.make("d", "z")
    scene.settle()
    folder = "d (Ann on laptop's conflicted copy 2026-11-22)"
    assert scene.tree() == {"d": "z", folder: None, f"{folder}/new": "y"}


# --- deleted folders ------------------------------------------------------------------------------------------------


def test_a_new_local_child_keeps_a_folder_that_was_deleted_remotely_but_not_its_siblings() -> None:
    scene = Scene("d/", "d/e/", "d/e/old=x", "d/other=y")
    scene.local.make("d/e/new", "z")
    scene.remote.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/e": None, "d/e/new": "z"}


def test_a_new_remote_child_keeps_a_folder_that_was_deleted_locally_but_not_its_siblings() -> None:
    scene = Scene("d/", "d/e/", "d/e/old=x", "d/other=y")
    scene.remote.make("d/e/new", "z")
    scene.local.delete("d")
    scene.settle()
    assert scene.tree() == {"d": None, "d/e": None, "d/e/new": "z"}


def test_a_folder_with_something_not_selected_in_it_is_not_deleted_as_one() -> None:
    scene = Scene("d/", "d/a=x")
    scene.remote.make("d/other", "y")
    scene.remote.skip("d/other")
    scene.local.delete("d")
    scene.settle()
    assert scene.remote.tree() == {"d": None, "d/other": "y"}
    assert scene.local.tree() == {"d": None}


def test_a_folder_with_something_unreadable_in_it_waits() -> None:
    scene = Scene("d/", "d/a=x", "d/b=y")
    scene.local.hold("d/a")
    scene.remote.delete("d")
    scene.settle()
    assert scene.local.tree() == {"d": None, "d/a": "x"}
    assert scene.remote.tree() == {}
    scene.local.hold("d/a", None)
    scene.settle()
    assert scene.tree() == {}


# --- conflicts ------------------------------------------------------------------------------------------------------


def test_a_conflict_of_a_conflicted_copy_nests() -> None:
    scene = Scene(f"{COPY}=x")
    scene.remote.edit(COPY, "theirs")
    scene.local.edit(COPY, "mine")
    scene.settle()
    assert scene.tree() == {COPY: "theirs", copy_of(COPY): "mine"}


@pytest.mark.parametrize("side", ["remote", "local"])
def test_a_copys_name_that_is_taken_gets_a_number(side: str) -> None:
    scene = Scene("a.txt=x")
    (scene.remote if side == "remote" else scene.local).make(COPY, "older")
    scene.remote.edit("a.txt", "theirs")
    scene.local.edit("a.txt", "mine")
    scene.settle()
    assert scene.tree() == {"a.txt": "theirs", COPY: "older", copy_of("a.txt", 2): "mine"}


def test_an_edit_that_another_device_has_kept_as_a_copy_makes_no_second_one() -> None:
    theirs = "a (Bo on pc's conflicted copy 2026-11-22).txt"
    scene = Scene("a.txt=x")
    scene.remote.edit("a.txt", "first")
    scene.remote.make(theirs, "second")
    scene.local.edit("a.txt", "second")
    scene.settle()
    assert scene.tree() == {"a.txt": "first", theirs: "second"}


def test_a_lost_database_adopts_what_is_equal_and_deletes_nothing() -> None:
    scene = Scene("d/", "d/a.txt=x", "d/b.txt=y", "c.txt=z")
    for pair in list(scene.trees.pairs.values()):
        if pair.parent_id is not None:
            scene.trees.drop_pair(pair.id)
    scene.local.delete("c.txt")
    scene.local.edit("d/b.txt", "w")
    done = scene.settle()
    assert scene.tree() == {"d": None, "d/a.txt": "x", "d/b.txt": "y", f"d/{copy_of('b.txt')}": "w", "c.txt": "z"}
    assert not {"DeleteLocal", "DeleteRemote"} & set(kinds(done))


# --- what cannot be synced now --------------------------------------------------------------------------------------


def test_what_is_not_selected_any_more_is_forgotten_and_stays_on_both_sides() -> None:
    scene = Scene("d/", "d/a=x")
    scene.remote.skip("d")
    assert kinds(scene.settle()) == ["Forget", "Forget"]
    assert scene.remote.tree() == scene.local.tree() == {"d": None, "d/a": "x"}


def test_a_file_without_a_pair_whose_content_is_a_copy_already_makes_no_other_copy() -> None:
    """After the cursor was lost, each device meets its old state of a file as new: one of them has made a copy."""
    scene = Scene()
    scene.local.make("a.txt", "old")
    scene.remote.make("a.txt", "new")
    scene.remote.make("a (Bob's conflicted copy 2026-11-22).txt", "old")
    scene.settle()
    assert scene.tree() == {"a.txt": "new", "a (Bob's conflicted copy 2026-11-22).txt": "old"}


def test_a_new_file_with_the_name_of_something_not_selected_stays_and_is_told() -> None:
    scene = Scene()
    scene.remote.make("photos")
    scene.remote.skip("photos")
    scene.local.make("photos")
    scene.local.make("photos/a", "x")
    assert scene.settle() == []
    assert waiting(scene) == {"photos": "photos", "photos/a": "photos"}


def waiting(scene: Scene) -> dict[str, str]:
    """What waits, and for what, by path."""
    return {_path(scene, node): _path(scene, end) for node, end in held(scene.trees, NAMING)}


def _path(scene: Scene, node: Node) -> str:
    if node.local is not None:
        return "/".join(scene.trees.local_path(node.local.id))
    assert node.remote is not None
    return "/".join(scene.trees.remote_path(node.remote.id))


def test_a_folder_whose_content_went_where_it_cannot_be_synced_waits_and_is_told() -> None:
    """Its folder `a` was moved into its own subfolder `D`, which now clashes with another name."""
    scene = Scene("d/", "a/", "a/D/", "a/docs/")
    scene.local.move("a/D", "D")
    scene.local.hold("D", "its name differs from that of 'd' only in case or Unicode form")
    scene.local.delete("a")
    assert scene.settle() == []
    assert waiting(scene) == {"a": "D", "a/docs": "D"}


# --- folders that are kept for what is not synced in them -----------------------------------------------------------


def kept_folder(*paths: str) -> Scene:
    """`docs`, which was deleted in the service and holds something that is not synced."""
    scene = Scene("docs/", *paths)
    scene.remote.delete("docs")
    scene.settle_until_kept("docs")
    return scene


def test_a_folder_that_is_kept_stays_unknown_to_the_service() -> None:
    scene = kept_folder()
    assert scene.settle() == []
    assert scene.remote.tree() == {}
    assert waiting(scene) == {}


def test_a_folder_that_is_kept_becomes_the_new_one_of_its_name() -> None:
    scene = kept_folder()
    scene.remote.make("docs")
    scene.remote.make("docs/new", "x")
    assert kinds(scene.settle()) == ["Download", "Record"]


def test_a_folder_that_is_kept_makes_way_for_a_file_of_its_name() -> None:
    scene = kept_folder()
    scene.remote.make("docs", "x")
    scene.settle()
    assert scene.local.tree() == {"docs": "x", "docs (Ann on laptop's conflicted copy 2026-11-22)": None}
    assert scene.remote.tree() == {"docs": "x"}


def test_a_folder_around_a_kept_one_is_kept_as_well() -> None:
    """The disk tells it: the planner only has to try."""
    scene = Scene("a/", "a/docs/")
    scene.remote.delete("a")
    scene.settle_until_kept("a/docs")
    assert kinds(scene.plan()) == ["DeleteLocal"]


def test_a_folder_around_an_unreadable_file_waits() -> None:
    scene = Scene("a/", "a/b=x")
    scene.local.hold("a/b")
    scene.remote.delete("a")
    assert scene.settle() == []
    assert waiting(scene) == {"a": "a/b"}


# --- problems -------------------------------------------------------------------------------------------------------


def test_a_problem_keeps_a_file_from_both_directions() -> None:
    scene = Scene("a=x", "b=y", "c=z")
    for path in ("a", "b", "c"):
        scene.local.hold(path)
    scene.remote.edit("a", "new")
    scene.remote.delete("b")
    scene.remote.move("c", "d")
    assert scene.settle() == []


def test_a_busy_node_is_left_alone_and_the_rest_goes_on() -> None:
    scene = Scene("a=x", "b=y", "d/", "d/c=z")
    scene.local.edit("a", "new")
    scene.remote.edit("b", "new")
    scene.local.delete("d")
    busy = Busy(
        remote=frozenset({scene.remote.at("d/c").id}),
        local=frozenset({scene.local.at("a").id}),
    )
    assert kinds(scene.plan(busy)) == ["Download"]
    assert kinds(scene.plan()) == ["DeleteRemote", "Download", "Upload"]


# --- many -----------------------------------------------------------------------------------------------------------


def test_a_limit_cuts_the_plan_and_both_sides_take_turns() -> None:
    scene = Scene()
    for number in range(10):
        scene.remote.make(f"r{number}", "x")
        scene.local.make(f"l{number}", "y")
    assert scene.plan(limit=4) == scene.plan()[:4]
    assert kinds(scene.plan(limit=4)) == ["Download", "Download", "Upload", "Upload"]


def test_operations_come_one_by_one_from_the_trees_as_they_then_are() -> None:
    scene = Scene()
    scene.remote.make("d")
    scene.remote.make("d/a.txt", "x")
    done = []
    for operation in operations(scene.trees, NAMING):
        apply(scene.trees, operation)
        done.append(operation)
    assert kinds(done) == ["Download", "MakeLocalFolder"]  # one pass, although the file waited for the folder


def test_subjects_name_both_sides_where_both_take_part() -> None:
    scene = Scene("a=x", "b=y")
    scene.local.edit("a", "new")
    scene.remote.delete("b")
    scene.local.delete("b")
    for operation in scene.plan():
        busy = subjects(operation)
        assert (len(busy.remote), len(busy.local)) == (1, 1)


# --- so many deletes ------------------------------------------------------------------------------------------------


def test_deletions_are_counted_in_files() -> None:
    scene = Scene("d/", "d/e/", *(f"d/e/{number}=x" for number in range(7)), "f/", "f/a=x", "f/b=y", "g=z")
    scene.local.delete("d")
    scene.remote.delete("f")
    assert count_planned_deletions(scene.trees, NAMING) == DeletionCount(remote=7, local=2)
    assert count_deletions(scene.trees, scene.plan()) == DeletionCount(remote=7, local=2)


def test_moves_and_kept_edits_are_no_deletions() -> None:
    scene = Scene("d/", "e/", "d/a=x", "d/b=y")
    scene.local.move("d", "e/d")
    scene.remote.delete("d/a")
    scene.local.edit("e/d/a", "new")
    assert count_planned_deletions(scene.trees, NAMING) == DeletionCount()


@pytest.mark.parametrize(("deleted", "trips"), [(50, False), (51, True)])
def test_the_breaker_trips_above_its_count_and_share(deleted: int, trips: bool) -> None:
    scene = Scene(*(f"{number}=x" for number in range(100)))
    for number in range(deleted):
        scene.remote.delete(str(number))
    assert plan(scene.trees, NAMING, breaker=Breaker(files_synced=1000)) != []
    planned = plan(scene.trees, NAMING, breaker=Breaker(files_synced=100))
    assert (planned == []) is trips


def test_record_and_forget_carry_the_whole_synced_node() -> None:
    scene = Scene("a=x")
    scene.remote.edit("a", "y")
    scene.local.edit("a", "y")
    (record,) = scene.plan()
    assert isinstance(record, Record)
    assert record.synced.version == scene.remote.at("a").version
    scene.local.delete("a")
    scene.remote.delete("a")
    (forget,) = scene.plan()
    assert isinstance(forget, Forget)


def test_two_devices_do_not_take_turns_in_giving_their_own_names_for_each_others() -> None:
    """Each would say of the other's rename that it is only for a moment, and undo it, for ever."""
    scene = Scene("x/")
    folder = scene.remote.at("x")
    theirs = temporary("x", folder.id, Naming("Bo on pc", "2026-11-22"), is_folder=True)
    ours = temporary("y", folder.id, NAMING, is_folder=True)
    scene = Scene(f"{theirs}/")
    scene.remote.move(theirs, ours)
    assert kinds(scene.settle()) == ["MoveLocal", "Record"]
    assert scene.tree() == {ours: None}


def test_a_name_given_for_a_moment_to_another_node_is_a_name_like_any() -> None:
    scene = Scene("x/")
    name = temporary("d", 123456, NAMING, is_folder=True)
    scene.remote.move("x", name)
    assert kinds(scene.settle()) == ["MoveLocal", "Record"]
    assert scene.tree() == {name: None}
