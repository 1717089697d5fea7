from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coordinator.metadata import blocks, commits, db, files, trees, uploads
from coordinator.metadata.values import Entry, FileWrite
from coordinator.protocol.errors import (
    BadRequest,
    BlocksMissing,
    IsAFolder,
    NotAFolder,
    QuotaExceeded,
    SizeMismatch,
    VersionConflict,
)
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash
from coordinator.protocol.types import Kind, Role
from tests.kit.metadata import Person, add_person, block_hash, share


def test_commit_writes_a_version_with_its_blocks_in_order(anna: Person) -> None:
    entry = anna.put("/film.mp4", "a", "b", "c")
    assert (entry.version, entry.size_bytes) == (1, 2 * BLOCK_BYTES + 100)
    write = anna.write("/film.mp4", "a", "b", "c")
    assert entry.content_hash == content_hash(write.hashes)
    version, hashes = files.list_hashes(anna.at("/film.mp4"), None)
    assert hashes == list(write.hashes)
    assert version.content_hash == entry.content_hash


def test_missing_parent_folders_are_made_and_told_before_the_file(anna: Person) -> None:
    result = commits.commit_files(anna.session, [anna.write("/a/b/empty")])
    assert isinstance(result.results[0], Entry)
    told = db.rows("SELECT op, path FROM journal ORDER BY seq")
    assert told == [("folder", "/a"), ("folder", "/a/b"), ("put", "/a/b/empty")]
    assert result.heads[0].seq == 3


def test_an_existing_folder_is_found_by_another_spelling_and_keeps_its_own(anna: Person) -> None:
    anna.put("/Ärger/x", "x")
    entry = anna.put("/a\u0308RGER/y", "y")  # decomposed and in capitals
    assert entry.path == "/Ärger/y"


@pytest.mark.parametrize("base", [None, 0])
def test_a_file_where_none_may_be_conflicts_and_is_left_alone(anna: Person, base: int | None) -> None:
    anna.put("/note", "one")
    anna.send("/note", "two")
    [error] = anna.commit(anna.write("/note", "two", base=base))
    assert isinstance(error, VersionConflict)
    assert error.facts == {"current_version": 1}
    assert files.get_entry(anna.at("/note")).version == 1


def test_the_first_commit_on_a_base_wins(anna: Person) -> None:
    anna.put("/note", "one")
    anna.put("/note", "two", base=1)
    anna.send("/note", "three")
    [error] = anna.commit(anna.write("/note", "three", base=1))
    assert isinstance(error, VersionConflict)
    assert error.facts["current_version"] == 2


def test_a_base_without_a_file_conflicts_with_nothing_there(anna: Person) -> None:
    anna.send("/gone", "x")
    [error] = anna.commit(anna.write("/gone", "x", base=3))
    assert isinstance(error, VersionConflict)
    assert error.facts["current_version"] is None


def test_what_is_there_already_succeeds_without_a_new_version(anna: Person) -> None:
    first = anna.put("/note", "same")
    [again] = anna.commit(anna.write("/note", "same"))
    assert again == first
    assert len(files.list_versions(anna.at("/note"), 10)) == 1


def test_a_repeated_request_answers_with_its_own_version_though_another_followed(anna: Person) -> None:
    anna.send("/note", "one")
    write = anna.write("/note", "one")
    anna.commit(write, key="k1")
    anna.put("/note", "two", base=1)
    [again] = anna.commit(write, key="k1")
    assert isinstance(again, Entry)
    assert again.version == 1
    assert files.get_entry(anna.at("/note")).version == 2


def test_a_repeated_request_does_not_bring_back_a_file_that_was_deleted_since(anna: Person) -> None:
    anna.send("/note", "one")
    anna.commit(anna.write("/note", "one"), key="k1")
    trees.delete(anna.session, anna.at("/note"))
    [again] = anna.commit(anna.write("/note", "one"), key="k1")
    assert isinstance(again, Entry)
    assert files.list_folder(anna.session, anna.at("/"), 10).entries == ()


def test_blocks_that_nobody_sent_are_named(anna: Person) -> None:
    anna.send("/f", "have", last=BLOCK_BYTES)
    [error] = anna.commit(anna.write("/f", "have", "want", "want2"))
    assert isinstance(error, BlocksMissing)
    assert error.facts["missing"] == [block_hash("want", BLOCK_BYTES).hex(), block_hash("want2", 100).hex()]


def test_a_refused_entry_leaves_no_folder_behind_and_does_not_stop_the_others(anna: Person) -> None:
    anna.send("/", "good")
    good, bad = anna.commit(anna.write("/there/good", "good"), anna.write("/nowhere/deep/bad", "nobody sent this"))
    assert isinstance(good, Entry)
    assert isinstance(bad, BlocksMissing)
    assert [entry.path for entry in files.list_folder(anna.session, anna.at("/"), 10).entries] == ["/there"]


def test_another_persons_block_must_be_sent_again(anna: Person, ben: Person) -> None:
    anna.put("/secret", "known only to anna")
    [error] = ben.commit(ben.write("/mine", "known only to anna"))
    assert isinstance(error, BlocksMissing)


def test_a_block_in_a_tree_that_the_caller_may_not_read_must_be_sent_again(anna: Person, ben: Person) -> None:
    """Both trees belong to anna, so the block is one row; ben sees only one of the trees."""
    anna.put("/private", "x")
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    [error] = ben.commit(ben.write("/Team/guess", "x"))
    assert isinstance(error, BlocksMissing)
    [entry] = anna.commit(anna.write("/Team/known", "x"))
    assert isinstance(entry, Entry)


def test_a_staged_block_serves_only_who_sent_it(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    anna.send("/Team/f", "x")
    [error] = ben.commit(ben.write("/Team/f", "x"))
    assert isinstance(error, BlocksMissing)
    [entry] = anna.commit(anna.write("/Team/f", "x"))
    assert isinstance(entry, Entry)


def test_sizes_must_fit_the_blocks(anna: Person) -> None:
    anna.send("/f", "a", "b")
    write = anna.write("/f", "a", "b")
    wrong_sum = FileWrite(write.target, write.size_bytes + 1, write.hashes)
    wrong_count = FileWrite(write.target, BLOCK_BYTES, write.hashes)
    swapped = FileWrite(write.target, write.size_bytes, write.hashes[::-1])  # the short block is not the last
    results = [anna.commit(wrong)[0] for wrong in (wrong_sum, wrong_count, swapped)]
    assert [type(result) for result in results] == [SizeMismatch, BadRequest, SizeMismatch]
    assert files.list_folder(anna.session, anna.at("/"), 10).entries == ()


def test_files_and_folders_do_not_replace_each_other(anna: Person) -> None:
    anna.put("/folder/file", "x")
    anna.send("/", "y")
    on_folder, under_file, on_root = anna.commit(
        anna.write("/folder", "y"), anna.write("/folder/file/below", "y"), anna.write("/", "y")
    )
    assert isinstance(on_folder, IsAFolder)
    assert isinstance(under_file, NotAFolder)
    assert isinstance(on_root, IsAFolder)


def test_entries_of_one_batch_that_meet_each_other_take_effect_in_order(anna: Person) -> None:
    anna.send("/", "x")
    anna.send("/", "y")
    first, twice, below = anna.commit(anna.write("/f", "x"), anna.write("/F", "y", base=1), anna.write("/f/below", "x"))
    assert isinstance(first, Entry)
    assert isinstance(twice, Entry)
    assert (twice.id, twice.version, twice.name) == (first.id, 2, "f")
    assert isinstance(below, NotAFolder)


def test_a_folder_that_an_entry_needs_refuses_a_later_file_of_its_name(anna: Person) -> None:
    anna.send("/", "x")
    below, at = anna.commit(anna.write("/f/below", "x"), anna.write("/f", "x"))
    assert isinstance(below, Entry)
    assert isinstance(at, IsAFolder)


def test_a_batch_may_write_to_several_trees(anna: Person) -> None:
    team = share(anna, "Team", a=(anna, Role.OWNER))
    for path in ("/f", "/Team/f"):
        anna.send(path, "x")
    result = commits.commit_files(anna.session, [anna.write("/f", "x"), anna.write("/Team/f", "x")])
    assert [entry.path for entry in result.results if isinstance(entry, Entry)] == ["/f", "/Team/f"]
    assert {head.namespace_id for head in result.heads} == {anna.home, team}


def test_quota_counts_the_difference_to_what_is_replaced(database: str) -> None:
    anna = add_person(quota_bytes=BLOCK_BYTES + 200)
    anna.put("/f", "a", "b")
    assert anna.usage() == (BLOCK_BYTES + 100, 0)
    anna.put("/f", "c", "b", base=1)  # as long as before
    anna.send("/g", "d", last=101)
    [error] = anna.commit(anna.write("/g", "d", last=101))
    assert isinstance(error, QuotaExceeded)
    assert error.facts == {"used": BLOCK_BYTES + 100, "quota": BLOCK_BYTES + 200}
    anna.put("/g", "d", last=100)
    assert anna.usage() == (BLOCK_BYTES + 200, 0)


def test_within_a_batch_the_quota_is_spent_in_order(database: str) -> None:
    anna = add_person(quota_bytes=250)
    for label in "abc":
        anna.send("/", label)
    one, two, three = anna.commit(*(anna.write(f"/{label}", label) for label in "abc"))
    assert isinstance(one, Entry)
    assert isinstance(two, Entry)
    assert isinstance(three, QuotaExceeded)


def test_shrinking_is_allowed_over_quota(database: str) -> None:
    anna = add_person(quota_bytes=1000)
    anna.put("/f", "x", last=900)
    db.run("UPDATE user_account SET quota_bytes = 10")
    assert anna.put("/f", "y", base=1, last=800).version == 2


def test_a_commit_ends_its_announcement_and_frees_what_that_reserved(anna: Person) -> None:
    write = anna.write("/f", "x")
    [upload] = uploads.announce(anna.session, [write]).results
    assert anna.usage() == (0, 100)
    anna.send("/f", "x")
    anna.commit(write)
    assert anna.usage() == (100, 0)
    told = db.rows("SELECT op, upload_id IS NOT NULL FROM journal ORDER BY seq")
    assert told == [("pending", True), ("put", True)]
    assert db.one("SELECT state FROM upload") == ("complete",)
    assert not isinstance(upload, Exception)


def test_an_announcement_of_what_is_there_already_is_withdrawn_by_its_commit(anna: Person) -> None:
    anna.put("/f", "x")
    uploads.announce(anna.session, [anna.write("/f", "x", base=1)])
    [entry] = anna.commit(anna.write("/f", "x", base=1))
    assert isinstance(entry, Entry)
    assert entry.version == 1
    assert db.rows("SELECT op FROM journal ORDER BY seq DESC LIMIT 2") == [("withdrawn",), ("pending",)]


def test_a_file_put_where_one_was_deleted_goes_on_with_its_history(anna: Person) -> None:
    first = anna.put("/note", "one")
    trees.delete(anna.session, anna.at("/note"))
    second = anna.put("/Note", "two")
    assert (second.id, second.version, second.name) == (first.id, 2, "Note")
    assert [version.version for version in files.list_versions(anna.at("/note"), 10)] == [2, 1]
    assert files.list_trash(anna.session, 10).entries == ()


def test_the_version_takes_over_from_the_staged_reference(anna: Person) -> None:
    anna.put("/f", "a", "b")
    assert db.rows("SELECT * FROM staged_block") == []


def test_a_commit_revives_a_condemned_block(anna: Person) -> None:
    anna.send("/f", "x")
    db.run("UPDATE block SET condemned_at = now() - interval '2 days'")
    anna.commit(anna.write("/f", "x"))
    assert db.one("SELECT condemned_at FROM block") == (None,)


def test_times_and_the_executable_bit_come_back(anna: Person) -> None:
    anna.send("/run.sh", "x")
    at = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    write = anna.write("/run.sh", "x")
    anna.commit(FileWrite(write.target, write.size_bytes, write.hashes, None, at, True))
    entry = files.get_entry(anna.at("/run.sh"))
    assert (entry.client_modified_at, entry.executable, entry.kind) == (at, True, Kind.FILE)
    assert entry.modified_by == "anna@example.org"


def test_the_executable_bit_alone_makes_a_version(anna: Person) -> None:
    anna.put("/run.sh", "x")
    write = anna.write("/run.sh", "x", base=1)
    [entry] = anna.commit(FileWrite(write.target, write.size_bytes, write.hashes, 1, None, True))
    assert isinstance(entry, Entry)
    assert (entry.version, entry.executable) == (2, True)


def test_an_empty_file_has_no_blocks(anna: Person) -> None:
    entry = anna.put("/empty")
    assert (entry.size_bytes, entry.content_hash) == (0, content_hash(()))
    assert files.get_recipe(anna.at("/empty"), None, 0, 10).blocks == ()


def test_one_block_may_stand_in_a_file_many_times(anna: Person) -> None:
    anna.put("/zeros", *["zero"] * 50, last=BLOCK_BYTES)
    assert len(files.list_hashes(anna.at("/zeros"), None)[1]) == 50
    assert db.one("SELECT count(*) FROM block") == (1,)


def test_a_batch_of_many_files_in_many_folders(anna: Person) -> None:
    names = [f"/d{number % 7}/e{number % 3}/f{number}" for number in range(300)]
    for name in names:
        anna.send("/", name)
    results = anna.commit(*(anna.write(name, name) for name in names))
    assert [entry.path for entry in results if isinstance(entry, Entry)] == names
    assert anna.usage() == (300 * 100, 0)
    assert blocks.find_missing(anna.session, anna.user.account_id, anna.home, [block_hash(names[0], 100)]) == []
