"""Guards: a request that names ids changes nothing where its paths mean something else by now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coordinator.metadata import commits, db, files, journal, trees, uploads
from coordinator.metadata.values import Entry, FileId, FileWrite, Source
from coordinator.protocol.errors import (
    ApiError,
    BadCursor,
    BadPath,
    BlocksMissing,
    NotFound,
    QuotaExceeded,
    SizeMismatch,
    TooLarge,
    UploadGone,
    VersionConflict,
)
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, in_parallel, share


def folder(anna: Person, path: str) -> FileId:
    return trees.create_folder(anna.session, anna.at(path), True).entry.id


def guarded(write: FileWrite, file_id: int | None = None, parent_id: int | None = None) -> FileWrite:
    return FileWrite(
        target=write.target,
        size_bytes=write.size_bytes,
        hashes=write.hashes,
        base_version=write.base_version,
        file_id=None if file_id is None else FileId(file_id),
        parent_id=None if parent_id is None else FileId(parent_id),
    )


def outcome(result: Entry | ApiError) -> object:
    """The version that was written, or the guard that refused it."""
    if isinstance(result, Entry):
        return result.version
    assert isinstance(result, VersionConflict), result
    return result.facts.get("guard")


def seq(anna: Person) -> int:
    return journal.heads([anna.home])[anna.home].seq


# --- commit


def test_a_commit_goes_only_onto_the_file_that_it_names(anna: Person) -> None:
    old = anna.put("/f", "x")
    anna.send("/f", "y")
    assert outcome(anna.commit(guarded(anna.write("/f", "y", base=1), old.id + 1))[0]) == "id"
    assert outcome(anna.commit(guarded(anna.write("/g", "y", base=1), old.id))[0]) == "id"
    assert outcome(anna.commit(guarded(anna.write("/f", "y", base=1), old.id))[0]) == 2


def test_the_id_counts_also_for_the_same_version_and_content(anna: Person) -> None:
    old = anna.put("/f", "x")
    trees.move(anna.session, anna.at("/f"), anna.at("/g"))
    other = anna.put("/f", "x")
    assert other.id != old.id
    assert outcome(anna.commit(guarded(anna.write("/f", "x", base=1), old.id))[0]) == "id"


def test_a_commit_into_a_named_folder_makes_none(anna: Person) -> None:
    there = folder(anna, "/a")
    trees.move(anna.session, anna.at("/a"), anna.at("/b"))
    anna.send("/a/f", "x")
    before = seq(anna)
    assert outcome(anna.commit(guarded(anna.write("/a/f", "x"), parent_id=there))[0]) == "parent_id"
    assert seq(anna) == before
    assert outcome(anna.commit(guarded(anna.write("/b/f", "x"), parent_id=there))[0]) == 1


def test_a_folder_made_by_another_entry_is_not_the_one_that_was_named(anna: Person) -> None:
    anna.send("/a/f", "x", "y")
    results = anna.commit(anna.write("/a/f", "x", "y"), guarded(anna.write("/a/g", "x", "y"), parent_id=10**9))
    assert [outcome(result) for result in results] == [1, "parent_id"]


def test_the_root_is_a_folder_that_can_be_named(anna: Person) -> None:
    root = anna.at("/").root_id
    anna.send("/f", "x")
    assert outcome(anna.commit(guarded(anna.write("/f", "x"), parent_id=root))[0]) == 1


def test_a_file_where_a_named_folder_was_is_a_conflict(anna: Person) -> None:
    there = folder(anna, "/a")
    trees.delete(anna.session, anna.at("/a"))
    anna.put("/a", "x")
    anna.send("/a/f", "y")
    assert outcome(anna.commit(guarded(anna.write("/a/f", "y"), parent_id=there))[0]) == "parent_id"


def test_a_repeated_commit_finds_its_file_wherever_it_is(anna: Person) -> None:
    old = anna.put("/f", "x")
    anna.send("/f", "y")
    write = guarded(anna.write("/f", "y", base=1), old.id)
    assert outcome(anna.commit(write, key="k")[0]) == 2
    folder(anna, "/d")
    trees.move(anna.session, anna.at("/f"), anna.at("/d/g"))
    [again] = anna.commit(write, key="k")
    assert isinstance(again, Entry)
    assert (again.id, again.version, again.path, again.name) == (old.id, 2, "/d/g", "g")
    assert outcome(anna.commit(write, key="other")[0]) == "id"


def test_an_announcement_keeps_the_guards_too(anna: Person) -> None:
    old = anna.put("/f", "x")
    there = folder(anna, "/a")
    results = uploads.announce(
        anna.session,
        [
            guarded(anna.write("/f", "y", base=1), old.id + 1),
            guarded(anna.write("/b/f", "y"), parent_id=there),
            guarded(anna.write("/a/f", "y"), parent_id=there),
        ],
    ).results
    guards = [result.facts.get("guard") for result in results if isinstance(result, ApiError)]
    assert guards == ["id", "parent_id"]


# --- commit of what was announced


def announce(person: Person, write: FileWrite) -> str:
    [upload] = uploads.announce(person.session, [write]).results
    assert not isinstance(upload, ApiError), upload
    return upload.id


def by_upload(person: Person, path: str, upload_id: str, size: int, base: int | None = None) -> FileWrite:
    return FileWrite(person.at(path), size, (), base, announced=upload_id)


def test_announced_content_is_committed_by_its_upload(anna: Person) -> None:
    write = anna.write("/f", "x", "y")
    upload_id = announce(anna, write)
    anna.send("/f", "x", "y")
    [entry] = anna.commit(by_upload(anna, "/f", upload_id, write.size_bytes))
    assert isinstance(entry, Entry)
    assert files.list_hashes(anna.at("/f"), None)[1] == list(write.hashes)
    assert uploads.get(anna.session, upload_id).version == 1


def test_it_may_be_committed_elsewhere_than_announced(anna: Person) -> None:
    write = anna.write("/a/f", "x")
    upload_id = announce(anna, write)
    anna.send("/a/f", "x")
    assert outcome(anna.commit(by_upload(anna, "/b/g", upload_id, write.size_bytes))[0]) == 1
    assert uploads.get(anna.session, upload_id).version == 1
    assert anna.usage() == (100, 0)


def test_a_repeat_is_answered_by_the_upload_wherever_the_file_went(anna: Person) -> None:
    write = anna.write("/f", "x")
    upload_id = announce(anna, write)
    anna.send("/f", "x")
    [first] = anna.commit(by_upload(anna, "/f", upload_id, write.size_bytes))
    assert isinstance(first, Entry)
    trees.move(anna.session, anna.at("/f"), anna.at("/g"))
    before = seq(anna)
    [again] = anna.commit(by_upload(anna, "/f", upload_id, write.size_bytes))
    assert isinstance(again, Entry)
    assert (again.id, again.version, again.path) == (first.id, 1, "/g")
    trees.delete(anna.session, anna.at("/g"))
    [again] = anna.commit(by_upload(anna, "/f", upload_id, write.size_bytes))
    assert isinstance(again, Entry)
    assert seq(anna) == before + 1


# --- commit of a copy


def copy_of(person: Person, path: str, version: Entry, size: int | None = None) -> FileWrite:
    assert version.content_hash is not None
    source = Source(version.id, version.version, version.content_hash)
    return FileWrite(person.at(path), version.size_bytes if size is None else size, (), None, copied_from=source)


def test_copies_have_the_content_of_the_versions_that_they_name(anna: Person) -> None:
    old = anna.put("/f", "x", "y")
    new = anna.put("/f", "z", base=1)
    size = old.size_bytes
    results = anna.commit(
        copy_of(anna, "/a/g", old),
        copy_of(anna, "/a/h", old),
        copy_of(anna, "/i", new),
    )
    assert [outcome(result) for result in results] == [1, 1, 1]
    assert files.list_hashes(anna.at("/a/g"), None)[1] == list(anna.write("/a/g", "x", "y").hashes)
    assert files.list_hashes(anna.at("/i"), None)[1] == list(anna.write("/i", "z").hashes)
    assert anna.usage() == (2 * size + 100 + 100, 0)


def test_an_empty_file_can_be_copied(anna: Person) -> None:
    empty = anna.put("/f")
    assert outcome(anna.commit(copy_of(anna, "/g", empty))[0]) == 1


def test_a_version_in_the_trash_can_be_copied(anna: Person) -> None:
    old = anna.put("/f", "x")
    trees.delete(anna.session, anna.at("/f"))
    assert outcome(anna.commit(copy_of(anna, "/g", old))[0]) == 1


def test_a_copy_is_guarded_like_any_other_commit(anna: Person) -> None:
    old, other = anna.put("/f", "x"), anna.put("/g", "y")
    there = folder(anna, "/a")
    write = replace(copy_of(anna, "/g", old), base_version=1)
    assert outcome(anna.commit(replace(write, file_id=FileId(other.id + 100)))[0]) == "id"
    assert outcome(anna.commit(replace(write, base_version=None))[0]) is None
    assert outcome(anna.commit(replace(write, parent_id=there))[0]) == "parent_id"
    assert outcome(anna.commit(replace(write, file_id=other.id))[0]) == 2


def test_a_copy_sent_again_under_the_same_key_is_one(anna: Person) -> None:
    old, _ = anna.put("/f", "x"), anna.put("/g", "y")
    write = replace(copy_of(anna, "/g", old), base_version=1)
    [first] = commits.commit_files(anna.session, [write], "key").results
    anna.put("/g", "z", base=2)
    [again] = commits.commit_files(anna.session, [write], "key").results
    assert outcome(first) == outcome(again) == 2
    assert files.get_entry(anna.at("/g")).version == 3


def test_what_cannot_be_copied(anna: Person, ben: Person) -> None:
    old, foreign = anna.put("/f", "x"), ben.put("/f", "x")
    before = seq(anna)
    unknown, newer, other, not_hers, longer = anna.commit(
        copy_of(anna, "/a", replace(old, id=FileId(10**9))),
        copy_of(anna, "/b", replace(old, version=2)),
        copy_of(anna, "/c", replace(old, content_hash=bytes(32))),
        copy_of(anna, "/d", foreign),
        copy_of(anna, "/e", old, 101),
    )
    for error in (unknown, newer, other, not_hers):
        assert isinstance(error, NotFound)
        assert error.facts["what"] == "version"
    assert isinstance(longer, SizeMismatch)
    assert seq(anna) == before


def test_a_copy_into_another_account_needs_its_blocks_there(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    own, shared = ben.put("/f", "x"), anna.put("/Team/f", "y")
    [there] = ben.commit(copy_of(ben, "/Team/g", own))
    assert isinstance(there, BlocksMissing)
    [here] = ben.commit(copy_of(ben, "/g", shared))
    assert isinstance(here, BlocksMissing)
    assert outcome(ben.commit(copy_of(ben, "/Team/g", shared))[0]) == 1


def test_a_copy_counts_for_the_quota(anna: Person) -> None:
    old = anna.put("/f", "x")
    db.run("UPDATE user_account SET quota_bytes = 150")
    [full] = anna.commit(copy_of(anna, "/g", old))
    assert isinstance(full, QuotaExceeded)


def test_copies_of_one_commit_have_an_end(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_COPIED_HASHES_BYTES_MAX", 64)
    old = anna.put("/f", "x")
    *some, refused = anna.commit(*(copy_of(anna, f"/{number}", old) for number in range(3)))
    assert [outcome(result) for result in some] == [1, 1]
    assert isinstance(refused, TooLarge)


# --- commit of what was announced, refused


def test_what_cannot_be_committed_by_an_upload(anna: Person, ben: Person) -> None:
    write = anna.write("/f", "x")
    upload_id = announce(anna, write)
    share(anna, "Team", a=(anna, Role.OWNER))
    size = write.size_bytes
    cases = (
        (anna, by_upload(anna, "/f", "0" * 32, size), NotFound),
        (ben, by_upload(ben, "/f", upload_id, size), NotFound),
        (anna, by_upload(anna, "/Team/f", upload_id, size), NotFound),
        (anna, by_upload(anna, "/f", upload_id, size + 1), SizeMismatch),
    )
    for person, commit, expected in cases:
        assert isinstance(person.commit(commit)[0], expected)
    uploads.cancel(anna.session, upload_id)
    assert isinstance(anna.commit(by_upload(anna, "/f", upload_id, size))[0], UploadGone)


def test_an_empty_file_can_be_committed_by_its_upload(anna: Person) -> None:
    upload_id = announce(anna, anna.write("/f"))
    assert outcome(anna.commit(by_upload(anna, "/f", upload_id, 0))[0]) == 1


def test_of_two_commits_of_one_upload_at_once_both_succeed(anna: Person, database: str) -> None:
    write = anna.write("/f", "x")
    upload_id = announce(anna, write)
    anna.send("/f", "x")
    commit = by_upload(anna, "/f", upload_id, write.size_bytes)

    def act() -> tuple[Entry | ApiError, ...]:
        return commits.commit_files(anna.session, [commit]).results

    results = in_parallel(database, act, act)
    versions = [
        (one.version, one.id)
        for result in results
        if isinstance(result, tuple)
        for one in result
        if isinstance(one, Entry)
    ]
    assert len(versions) == 2
    assert len(set(versions)) == 1


def test_what_was_announced_is_forgotten_with_its_upload(anna: Person) -> None:
    upload_id = announce(anna, anna.write("/f", "x"))
    uploads.cancel(anna.session, upload_id)
    assert uploads.forget_ended(0.0) == 1
    assert db.rows("SELECT 1 FROM upload_recipe") == []


# --- folders and moves


def test_a_folder_is_made_only_in_the_named_one(anna: Person) -> None:
    there = folder(anna, "/a")
    for path in ("/b/c", "/a/b/c", "/c"):
        with pytest.raises(VersionConflict) as refused:
            trees.create_folder(anna.session, anna.at(path), True, there)
        assert refused.value.facts["guard"] == "parent_id"
    made = trees.create_folder(anna.session, anna.at("/a/c"), False, there)
    assert made.entry.parent_id == there
    assert trees.create_folder(anna.session, anna.at("/a/c"), True, there).entry.id == made.entry.id


def test_a_move_checks_both_ids(anna: Person) -> None:
    first, there = anna.put("/f", "x"), folder(anna, "/a")
    elsewhere = folder(anna, "/b")
    for file_id, parent_id, guard in ((first.id + 1, there, "id"), (first.id, elsewhere, "parent_id")):
        with pytest.raises(VersionConflict) as refused:
            trees.move(anna.session, anna.at("/f"), anna.at("/a/f"), None, False, FileId(file_id), parent_id)
        assert refused.value.facts["guard"] == guard
    with pytest.raises(VersionConflict):
        trees.move(anna.session, anna.at("/f"), anna.at("/gone/f"), None, False, first.id, there)
    moved = trees.move(anna.session, anna.at("/f"), anna.at("/a/f"), None, False, first.id, there)
    assert (moved.entry.id, moved.entry.parent_id) == (first.id, there)


def test_a_repeated_move_by_id_is_answered_like_the_first(anna: Person) -> None:
    file, there = anna.put("/f", "x"), folder(anna, "/a")
    first = trees.move(anna.session, anna.at("/f"), anna.at("/a/g"), 1, False, file.id, there)
    again = trees.move(anna.session, anna.at("/f"), anna.at("/a/g"), 1, False, file.id, there)
    assert (again.entry, again.head.seq) == (first.entry, first.head.seq)
    anna.put("/f", "y")  # another one took the old name since
    assert trees.move(anna.session, anna.at("/f"), anna.at("/a/g"), 1, False, file.id, there).entry == first.entry
    with pytest.raises(VersionConflict):
        trees.move(anna.session, anna.at("/f"), anna.at("/a/h"), 1, False, file.id, there)
    trees.delete(anna.session, anna.at("/f"))
    with pytest.raises(NotFound):
        trees.move(anna.session, anna.at("/f"), anna.at("/a/h"), 1, False, file.id, there)


# --- delete


def test_a_delete_takes_only_what_it_names(anna: Person) -> None:
    file = anna.put("/f", "x")
    with pytest.raises(VersionConflict) as refused:
        trees.delete(anna.session, anna.at("/f"), None, FileId(file.id + 1))
    assert refused.value.facts == {"current_version": 1, "guard": "id"}
    with pytest.raises(VersionConflict):
        trees.delete(anna.session, anna.at("/f"), 2, file.id)
    assert trees.delete(anna.session, anna.at("/f"), 1, file.id).count == 1


CHANGES: dict[str, Callable[[Person], object]] = {
    "a file in it": lambda anna: anna.put("/a/b/new", "n"),
    "a new version": lambda anna: anna.put("/a/b/f", "z", base=1),
    "a folder in it": lambda anna: folder(anna, "/a/b/c"),
    "something moved in": lambda anna: trees.move(anna.session, anna.at("/other"), anna.at("/a/b/other")),
    "something renamed in it": lambda anna: trees.move(anna.session, anna.at("/a/b/f"), anna.at("/a/b/g")),
    "something moved within": lambda anna: trees.move(anna.session, anna.at("/a/b/f"), anna.at("/a/f")),
    "something deleted in it": lambda anna: trees.delete(anna.session, anna.at("/a/b/f")),
    "itself renamed": lambda anna: (
        trees.move(anna.session, anna.at("/a"), anna.at("/x")),
        trees.move(anna.session, anna.at("/x"), anna.at("/a")),
    ),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_folder_that_changed_since_is_kept(anna: Person, change: str) -> None:
    anna.put("/a/b/f", "x")
    anna.put("/other", "y")
    cursor = journal.latest_cursor(anna.session)
    CHANGES[change](anna)
    with pytest.raises(VersionConflict) as refused:
        trees.delete(anna.session, anna.at("/a"), None, None, cursor)
    assert refused.value.facts["guard"] == "unchanged_since"
    trees.delete(anna.session, anna.at("/a"), None, None, journal.latest_cursor(anna.session))


def test_changes_elsewhere_and_announcements_do_not_keep_a_folder(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    anna.put("/c/g", "y")
    cursor = journal.latest_cursor(anna.session)
    anna.put("/c/g", "z", base=1)
    anna.put("/h", "z")
    announce(anna, anna.write("/a/b/f", "w", base=1))
    assert trees.delete(anna.session, anna.at("/a"), None, None, cursor).count == 3


def test_a_cursor_that_tells_nothing_keeps_the_folder(anna: Person, ben: Person) -> None:
    anna.put("/a/f", "x")
    listing = journal.changes(anna.session, None, 1).cursor
    after = journal.latest_cursor(anna.session)
    for cursor in (listing, journal.latest_cursor(ben.session)):
        with pytest.raises(VersionConflict):
            trees.delete(anna.session, anna.at("/a"), None, None, cursor)
    with pytest.raises(BadCursor):
        trees.delete(anna.session, anna.at("/a"), None, None, "nonsense")
    journal.raise_epochs()
    with pytest.raises(VersionConflict):
        trees.delete(anna.session, anna.at("/a"), None, None, after)


# --- by id


def test_a_file_is_found_by_its_id_wherever_it_is(anna: Person, ben: Person) -> None:
    file, there = anna.put("/f", "x"), folder(anna, "/a")
    trees.move(anna.session, anna.at("/f"), anna.at("/a/g"))
    found = files.get_entry_by_id(anna.session, file.id)
    assert (found.path, found.parent_id) == ("/a/g", there)
    with pytest.raises(NotFound):
        files.get_entry_by_id(ben.session, file.id)
    assert files.get_entry_by_id(anna.session, anna.at("/").root_id).path == "/"
    trees.delete(anna.session, anna.at("/a"))
    with pytest.raises(NotFound):
        files.get_entry_by_id(anna.session, file.id)


def test_a_shared_file_is_found_under_its_mount(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    file = anna.put("/Team/f", "x")
    assert files.get_entry_by_id(ben.session, file.id).path == "/Team/f"
    assert files.get_entry_by_id(ben.session, ben.at("/Team", Role.VIEWER).root_id).name == "Team"


# --- how far a tree reaches


def deep(anna: Person, top: str, levels: int, name: str = "d") -> None:
    """A chain of folders straight in the database: no path of a request could name its end later."""
    target = anna.at(top + f"/{name}" * levels)
    trees.create_folder(anna.session, target, True)


@pytest.mark.parametrize("act", [trees.move, trees.copy])
def test_nothing_is_taken_deeper_than_a_path_goes(anna: Person, act: Callable[..., object]) -> None:
    deep(anna, "/a", 200)
    deep(anna, "/b", 60)
    with pytest.raises(BadPath):
        act(anna.session, anna.at("/a"), anna.at("/b" + "/d" * 60 + "/a"))
    act(anna.session, anna.at("/a"), anna.at("/b" + "/d" * 53 + "/a"))
    assert files.get_entry(anna.at("/b" + "/d" * 53 + "/a" + "/d" * 200)).name == "d"


@pytest.mark.parametrize("act", [trees.move, trees.copy])
def test_a_file_at_the_bottom_counts(anna: Person, act: Callable[..., object]) -> None:
    anna.put("/a" + "/d" * 100 + "/f", "x")
    deep(anna, "/b", 154)
    with pytest.raises(BadPath):
        act(anna.session, anna.at("/a"), anna.at("/b" + "/d" * 154 + "/a"))
    act(anna.session, anna.at("/a"), anna.at("/b" + "/d" * 153 + "/a"))


@pytest.mark.parametrize("act", [trees.move, trees.copy])
def test_no_path_becomes_longer_than_a_request_can_name(anna: Person, act: Callable[..., object]) -> None:
    long = "n" * 250
    deep(anna, "/a", 40, long)  # 10,042 bytes
    deep(anna, "/b", 30, long)
    with pytest.raises(BadPath):
        act(anna.session, anna.at("/a"), anna.at("/b" + f"/{long}" * 30 + "/a"))
    act(anna.session, anna.at("/a"), anna.at("/b" + f"/{long}" * 24 + "/a"))


def test_nothing_is_undeleted_to_where_no_path_goes(anna: Person) -> None:
    deep(anna, "/a", 200)
    trees.delete(anna.session, anna.at("/a/d"))
    deep(anna, "/b", 60)
    trees.move(anna.session, anna.at("/a"), anna.at("/b" + "/d" * 60 + "/a"))
    with pytest.raises(BadPath):
        trees.restore(anna.session, anna.at("/b" + "/d" * 60 + "/a/d"))


# --- the functions that a worker of the version before calls


def test_the_older_functions_still_work(anna: Person) -> None:
    upload, _ = uploads.create(anna.session, anna.at("/s"), 0)
    assert commits.commit_upload(anna.session, upload.id).entry.version == 1
