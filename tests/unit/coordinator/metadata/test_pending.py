"""Announced versions as others see them: what they may read, and what is kept of how they were sent."""

from __future__ import annotations

import pytest

from coordinator.metadata import db, pending, uploads
from coordinator.metadata.values import FileId, KeptDelta
from coordinator.protocol.delta import DELTA_KEPT_BYTES_MAX
from coordinator.protocol.errors import ApiError, NotAllowed, NotFound, UploadGone
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, block_hash, share


def announce(person: Person, path: str, *labels: str, base: int | None = None) -> str:
    [upload] = uploads.announce(person.session, [person.write(path, *labels, base=base)]).results
    assert not isinstance(upload, ApiError), upload
    return upload.id


def find(person: Person, path: str, upload_id: str, label: str, size: int = 100) -> bool:
    """Whether the caller gets the block; None stands for one that has not arrived."""
    target = person.at(path, Role.VIEWER)
    return pending.find_block(target.namespace_id, upload_id, block_hash(label, size)) is not None


def test_a_block_is_there_once_it_was_sent(anna: Person) -> None:
    upload_id = announce(anna, "/f", "x", "y")
    assert not find(anna, "/", upload_id, "y")
    anna.send("/f", "x", "y")
    assert find(anna, "/", upload_id, "y")
    assert find(anna, "/", upload_id, "x", BLOCK_BYTES)
    with pytest.raises(NotFound, match="block"):
        find(anna, "/", upload_id, "z")


def test_a_block_of_an_older_version_counts_as_arrived(anna: Person) -> None:
    anna.put("/old", "x")
    assert find(anna, "/", announce(anna, "/new", "x"), "x")


def test_members_read_what_another_one_sends(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    upload_id = announce(anna, "/Team/f", "x")
    assert pending.get_recipe(ben.session, upload_id).hashes == (block_hash("x", 100),)
    assert not find(ben, "/Team", upload_id, "x")
    anna.send("/Team/f", "x")
    assert find(ben, "/Team", upload_id, "x")
    with pytest.raises(NotFound):
        find(ben, "/", upload_id, "x")  # it is announced in another tree


def test_naming_a_hash_opens_nothing_of_the_owners(anna: Person, ben: Person) -> None:
    """The shared tree's blocks are the owner's; so are those of her own files, which an editor must not get at."""
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    anna.put("/secret", "x")
    upload_id = announce(ben, "/Team/guess", "x")
    assert not find(ben, "/Team", upload_id, "x")
    assert not find(anna, "/Team", upload_id, "x")
    ben.send("/Team/guess", "x")  # only who has the bytes can send them
    assert find(ben, "/Team", upload_id, "x")


def test_what_the_sender_can_read_elsewhere_counts_as_in_a_commit(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    anna.put("/mine", "x")
    upload_id = announce(anna, "/Team/copy", "x")
    assert find(ben, "/Team", upload_id, "x")
    [entry] = anna.commit(anna.write("/Team/copy", "x"))
    assert not isinstance(entry, ApiError)


def test_an_ended_upload_says_so(anna: Person) -> None:
    upload_id = announce(anna, "/f", "x")
    uploads.cancel(anna.session, upload_id)
    with pytest.raises(UploadGone):
        find(anna, "/", upload_id, "x")
    with pytest.raises(UploadGone):
        pending.get_recipe(anna.session, upload_id)
    with pytest.raises(UploadGone):
        pending.get_delta(anna.session, upload_id)


def test_a_streamed_upload_has_no_recipe(anna: Person) -> None:
    upload, _ = uploads.create(anna.session, anna.at("/f"), 100)
    with pytest.raises(NotFound):
        pending.get_recipe(anna.session, upload.id)
    with pytest.raises(NotFound):
        pending.plan_delta(anna.session, upload.id, [0], FileId(1), 1, [])


def test_the_recipe_tells_the_coming_version(anna: Person) -> None:
    anna.put("/f", "x")
    upload_id = announce(anna, "/f", "y", "z", base=1)
    recipe = pending.get_recipe(anna.session, upload_id)
    assert (recipe.version, recipe.size_bytes) == (2, BLOCK_BYTES + 100)
    anna.put("/f", "y", "z", base=1)
    assert pending.get_recipe(anna.session, upload_id).version == 2


# --- deltas


def test_a_delta_is_planned_from_what_the_caller_may_read(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    base, theirs = anna.put("/base", "x", "y"), ben.put("/theirs", "x")
    upload_id = announce(anna, "/f", "y", "z")
    plan = pending.plan_delta(anna.session, upload_id, [1, 2, 2**32 - 1], base.id, 1, [0, 1, 7, 2**50])
    assert plan.hashes == {1: block_hash("z", 100)}
    assert {index: row.hash for index, row in plan.base.items()} == {
        0: block_hash("x", BLOCK_BYTES),
        1: block_hash("y", 100),
    }
    assert plan.base_size_bytes == plan.size_bytes == BLOCK_BYTES + 100
    for file_id, version in ((theirs.id, 1), (base.id, 2), (FileId(2**62), 1)):
        with pytest.raises(NotFound, match="version"):
            pending.plan_delta(anna.session, upload_id, [0], file_id, version, [0])
    with pytest.raises(NotFound, match="upload"):
        pending.plan_delta(ben.session, upload_id, [0], theirs.id, 1, [0])
    anna.put("/f", "y", "z")
    with pytest.raises(UploadGone):
        pending.plan_delta(anna.session, upload_id, [0], base.id, 1, [0])


def test_who_may_no_longer_write_there_sends_no_delta(anna: Person, ben: Person) -> None:
    team = share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    base = ben.put("/Team/base", "x")
    upload_id = announce(ben, "/Team/f", "y")
    db.run("UPDATE membership SET role = 'viewer' WHERE user_id = %s AND namespace_id = %s", (ben.user.id, team))
    ben.refresh()
    with pytest.raises(NotAllowed):
        pending.plan_delta(ben.session, upload_id, [0], base.id, 1, [0])


def test_operations_are_kept_by_block_and_from_one_base(anna: Person) -> None:
    upload_id = announce(anna, "/f", "x", "y", "z")
    with pytest.raises(NotFound, match="delta"):
        pending.get_delta(anna.session, upload_id)
    pending.keep_delta(upload_id, FileId(5), 1, {2: b"two", 0: b"nil"})
    pending.keep_delta(upload_id, FileId(5), 1, {1: b"one", 0: b"null"})
    kept = ((0, b"null"), (1, b"one"), (2, b"two"))
    assert pending.get_delta(anna.session, upload_id) == KeptDelta(FileId(5), 1, kept)
    pending.keep_delta(upload_id, FileId(5), 2, {1: b"newer base"})
    assert pending.get_delta(anna.session, upload_id) == KeptDelta(FileId(5), 2, ((1, b"newer base"),))


def test_no_more_than_the_bound_is_kept(anna: Person) -> None:
    upload_id = announce(anna, "/f", "x")
    full = {index: bytes(16 * 1024) for index in range(DELTA_KEPT_BYTES_MAX // (16 * 1024))}
    pending.keep_delta(upload_id, FileId(5), 1, full)
    pending.keep_delta(upload_id, FileId(5), 1, {1000: b"more"})
    assert len(pending.get_delta(anna.session, upload_id).blocks) == len(full)


def test_what_is_kept_goes_with_the_upload(anna: Person) -> None:
    upload_id = announce(anna, "/f", "x")
    pending.keep_delta(upload_id, FileId(5), 1, {0: b"ops"})
    anna.put("/f", "x")
    assert pending.get_delta(anna.session, upload_id).blocks == ((0, b"ops"),)
    pending.keep_delta(upload_id, FileId(5), 1, {0: b"too late"})
    assert pending.get_delta(anna.session, upload_id).blocks == ((0, b"ops"),)
    uploads.forget_ended(0.0)
    assert db.rows("SELECT 1 FROM upload_delta") == []
