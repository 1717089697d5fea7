from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.metadata import db, files, journal, trees
from coordinator.protocol.errors import (
    BadRequest,
    IsAFolder,
    MoveIntoItself,
    NameTaken,
    NotAFolder,
    NotAllowed,
    NotFound,
    QuotaExceeded,
    TooLarge,
    VersionConflict,
)
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, add_person, share


def listing(anna: Person, path: str = "/") -> list[str]:
    return [entry.path for entry in files.list_tree(anna.at(path), 100).entries]


def told(anna: Person) -> list[tuple[str, str]]:
    page = journal.changes(anna.session, None, 1)
    rows = db.rows("SELECT op, path FROM journal WHERE namespace_id = %s ORDER BY seq", (anna.home,))
    assert page.cursor
    return [(row[0], row[1]) for row in rows]


# --- folders


def test_a_folder_is_made_where_its_parent_is(anna: Person) -> None:
    assert trees.create_folder(anna.session, anna.at("/a")).entry.path == "/a"
    assert trees.create_folder(anna.session, anna.at("/a/b")).entry.path == "/a/b"
    with pytest.raises(NotFound):
        trees.create_folder(anna.session, anna.at("/x/y"))


def test_parents_makes_all_and_accepts_what_is_there(anna: Person) -> None:
    first = trees.create_folder(anna.session, anna.at("/a/b/c"), True)
    again = trees.create_folder(anna.session, anna.at("/a/b/c"), True)
    assert again.entry == first.entry
    assert told(anna) == [("folder", "/a"), ("folder", "/a/b"), ("folder", "/a/b/c")]


def test_a_taken_name_is_refused_in_any_spelling(anna: Person) -> None:
    anna.put("/Straße", "x")
    with pytest.raises(NameTaken):
        trees.create_folder(anna.session, anna.at("/STRASSE"))
    with pytest.raises(NameTaken):
        trees.create_folder(anna.session, anna.at("/strasse"), True)
    with pytest.raises(NotAFolder):
        trees.create_folder(anna.session, anna.at("/strasse/below"), True)


# --- move


def test_moving_a_folder_is_one_change_and_keeps_ids_and_history(anna: Person) -> None:
    entry = anna.put("/a/b/f", "x")
    trees.create_folder(anna.session, anna.at("/c"))
    before = len(told(anna))
    moved = trees.move(anna.session, anna.at("/a"), anna.at("/c/a2"))
    assert moved.entry.path == "/c/a2"
    assert told(anna)[before:] == [("move", "/c/a2")]
    assert files.get_entry(anna.at("/c/a2/b/f")).id == entry.id


def test_a_new_spelling_of_the_same_name_is_a_rename(anna: Person) -> None:
    anna.put("/readme", "x")
    assert trees.move(anna.session, anna.at("/readme"), anna.at("/README")).entry.name == "README"
    before = len(told(anna))
    trees.move(anna.session, anna.at("/readme"), anna.at("/README"))  # nothing to do
    assert len(told(anna)) == before


def test_what_stands_at_the_target_is_replaced_only_on_request(anna: Person) -> None:
    anna.put("/a", "a")
    anna.put("/b", "b")
    with pytest.raises(NameTaken):
        trees.move(anna.session, anna.at("/a"), anna.at("/b"))
    trees.move(anna.session, anna.at("/a"), anna.at("/b"), None, True)
    assert listing(anna) == ["/b"]
    assert [entry.path for entry in files.list_trash(anna.session, 10).entries] == ["/b"]
    assert anna.usage() == (100, 0)


def test_a_folder_is_never_replaced(anna: Person) -> None:
    anna.put("/a/f", "x")
    anna.put("/b", "x")
    for source, target in (("/b", "/a"), ("/a", "/b")):
        with pytest.raises(NameTaken):
            trees.move(anna.session, anna.at(source), anna.at(target), None, True)


@pytest.mark.parametrize("target", ["/a/x", "/a/b/x", "/A/B/C/x"])
@pytest.mark.parametrize("act", [trees.move, trees.copy])
def test_a_folder_does_not_go_into_itself(anna: Person, target: str, act: Callable[..., object]) -> None:
    trees.create_folder(anna.session, anna.at("/a/b/c"), True)
    with pytest.raises(MoveIntoItself):
        act(anna.session, anna.at("/a"), anna.at(target))


def test_move_checks_its_ends(anna: Person) -> None:
    anna.put("/f", "x")
    share(anna, "Team", a=(anna, Role.OWNER))
    with pytest.raises(NotFound):
        trees.move(anna.session, anna.at("/nothing"), anna.at("/g"))
    with pytest.raises(NotFound):
        trees.move(anna.session, anna.at("/f"), anna.at("/nowhere/g"))
    with pytest.raises(NotAFolder):
        trees.move(anna.session, anna.at("/f"), anna.at("/f/g"))
    with pytest.raises(NotAllowed):
        trees.move(anna.session, anna.at("/"), anna.at("/g"))
    with pytest.raises(NameTaken):
        trees.move(anna.session, anna.at("/f"), anna.at("/"))
    with pytest.raises(BadRequest):
        trees.move(anna.session, anna.at("/f"), anna.at("/Team/f"))
    with pytest.raises(VersionConflict):
        trees.move(anna.session, anna.at("/f"), anna.at("/g"), 7)
    assert listing(anna) == ["/f"]


# --- copy


def test_a_copy_shares_blocks_and_counts_for_the_quota(anna: Person) -> None:
    anna.put("/a/b/f", "x", "y")
    anna.put("/a/g", "z")
    copied = trees.copy(anna.session, anna.at("/a"), anna.at("/c"))
    assert listing(anna, "/c") == ["/c/b", "/c/b/f", "/c/g"]
    assert files.list_hashes(anna.at("/c/b/f"), None)[1] == files.list_hashes(anna.at("/a/b/f"), None)[1]
    assert files.get_entry(anna.at("/c/b/f")).version == 1
    assert anna.usage()[0] == 2 * (4 * 1024 * 1024 + 200)
    assert told(anna)[-4:] == [("folder", "/c"), ("folder", "/c/b"), ("put", "/c/g"), ("put", "/c/b/f")]
    assert copied.entry.path == "/c"


def test_a_copy_holds_only_the_current_version(anna: Person) -> None:
    anna.put("/f", "one")
    anna.put("/f", "two", base=1)
    trees.copy(anna.session, anna.at("/f"), anna.at("/g"))
    assert [version.version for version in files.list_versions(anna.at("/g"), 10)] == [1]


def test_copy_onto_itself_or_over_another_needs_a_free_name(anna: Person) -> None:
    anna.put("/f", "x")
    anna.put("/g", "y")
    for target in ("/f", "/F", "/g"):
        with pytest.raises(NameTaken):
            trees.copy(anna.session, anna.at("/f"), anna.at(target))
    trees.copy(anna.session, anna.at("/f"), anna.at("/g"), None, True)
    assert files.get_entry(anna.at("/g")).content_hash == files.get_entry(anna.at("/f")).content_hash


def test_copy_respects_quota_and_its_own_limit(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = add_person(quota_bytes=250)
    anna.put("/a/f", "x")
    anna.put("/a/g", "y")
    with pytest.raises(QuotaExceeded):
        trees.copy(anna.session, anna.at("/a"), anna.at("/b"))
    monkeypatch.setattr(trees, "COPY_FILES_MAX", 1)
    with pytest.raises(TooLarge):
        trees.copy(anna.session, anna.at("/a"), anna.at("/b"))
    assert listing(anna) == ["/a", "/a/f", "/a/g"]


# --- delete and restore


def test_deleting_a_folder_frees_what_lies_below_and_is_one_change(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    anna.put("/a/g", "y")
    removed = trees.delete(anna.session, anna.at("/a"))
    assert removed.count == 4
    assert anna.usage() == (0, 0)
    assert told(anna)[-1] == ("delete", "/a")
    with pytest.raises(NotFound):
        files.get_entry(anna.at("/a/b/f"))


def test_delete_checks_version_and_never_takes_the_root(anna: Person) -> None:
    anna.put("/f", "x")
    with pytest.raises(VersionConflict):
        trees.delete(anna.session, anna.at("/f"), 2)
    with pytest.raises(NotAllowed):
        trees.delete(anna.session, anna.at("/"))
    with pytest.raises(NotFound):
        trees.delete(anna.session, anna.at("/g"))


def test_restoring_a_folder_brings_back_all_below_it_and_tells_of_each(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    trees.delete(anna.session, anna.at("/a"))
    before = len(told(anna))
    restored = trees.restore(anna.session, anna.at("/a"))
    assert restored.entry.path == "/a"
    assert listing(anna) == ["/a", "/a/b", "/a/b/f"]
    assert told(anna)[before:] == [("folder", "/a"), ("folder", "/a/b"), ("put", "/a/b/f")]
    assert anna.usage() == (100, 0)


def test_what_was_deleted_before_its_folder_stays_deleted(anna: Person) -> None:
    anna.put("/a/f", "x")
    anna.put("/a/g", "y")
    trees.delete(anna.session, anna.at("/a/f"))
    trees.delete(anna.session, anna.at("/a"))
    trees.restore(anna.session, anna.at("/a"))
    assert listing(anna) == ["/a", "/a/g"]


def test_one_file_is_taken_out_of_a_deleted_folder(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    anna.put("/a/b/g", "y")
    trees.delete(anna.session, anna.at("/a"))
    assert trees.restore(anna.session, anna.at("/a/b/f")).entry.path == "/a/b/f"
    assert listing(anna) == ["/a", "/a/b", "/a/b/f"]
    assert anna.usage() == (100, 0)


def test_restore_does_not_displace_what_stands_there_now(anna: Person) -> None:
    anna.put("/a/f", "x")
    trees.delete(anna.session, anna.at("/a"))
    trees.create_folder(anna.session, anna.at("/a"))
    with pytest.raises(NameTaken):
        trees.restore(anna.session, anna.at("/a"))
    with pytest.raises(NotFound):
        trees.restore(anna.session, anna.at("/never"))


def test_an_earlier_version_becomes_current_as_a_new_one(anna: Person) -> None:
    anna.put("/f", "a", "b")
    anna.put("/f", "c", base=1)
    restored = trees.restore(anna.session, anna.at("/f"), 1)
    assert restored.entry.version == 3
    assert files.list_hashes(anna.at("/f"), 3)[1] == files.list_hashes(anna.at("/f"), 1)[1]
    assert anna.usage() == (restored.entry.size_bytes, 0)
    assert trees.restore(anna.session, anna.at("/f"), 3).entry.version == 3  # is current already


def test_an_earlier_version_of_a_deleted_file_comes_back_with_it(anna: Person) -> None:
    anna.put("/f", "one")
    anna.put("/f", "two", base=1)
    trees.delete(anna.session, anna.at("/f"))
    entry = trees.restore(anna.session, anna.at("/f"), 1).entry
    assert entry.version == 3
    assert files.list_hashes(anna.at("/f"), None)[1] == files.list_hashes(anna.at("/f"), 1)[1]


def test_restore_of_a_version_checks_what_is_asked_for(anna: Person) -> None:
    anna.put("/a/f", "one")
    with pytest.raises(NotFound):
        trees.restore(anna.session, anna.at("/a/f"), 9)
    with pytest.raises(IsAFolder):
        trees.restore(anna.session, anna.at("/a"), 1)


def test_restore_respects_the_quota_and_undoes_everything_then(database: str) -> None:
    anna = add_person(quota_bytes=150)
    anna.put("/a/f", "x")
    trees.delete(anna.session, anna.at("/a"))
    anna.put("/g", "y")
    with pytest.raises(QuotaExceeded):
        trees.restore(anna.session, anna.at("/a/f"))
    assert listing(anna) == ["/g"]
