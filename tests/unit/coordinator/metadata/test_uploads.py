from __future__ import annotations

import pytest

from coordinator.metadata import blocks, commits, db, files, trees, uploads
from coordinator.metadata.values import Part, Upload, UploadState
from coordinator.protocol.errors import (
    BadRequest,
    InternalError,
    IsAFolder,
    NotAFolder,
    NotAllowed,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    SizeMismatch,
    UploadGone,
    UploadSuperseded,
    VersionConflict,
)
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, add_person, new_block, share


def begin(anna: Person, path: str = "/f", size: int | None = 1000, base: int | None = None) -> tuple[Upload, int]:
    upload, _ = uploads.create(anna.session, anna.at(path), size, base_version=base)
    claim = uploads.claim(anna.session, upload.id)
    assert not claim.previous_active
    return upload, claim.epoch


def part(anna: Person, upload: Upload, start: int, length: int) -> Part:
    """A durable block for this stretch."""
    new = new_block(anna.user.account_id, f"{upload.id}:{start}", length)
    [row] = blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [new])
    return Part(start, length, row.block_id)


def starts(upload: Upload) -> list[tuple[int, int]]:
    return [(row.start, row.length) for row in uploads.list_parts(upload.id)]


# --- announcing


def test_an_upload_is_pending_reserved_and_told(anna: Person) -> None:
    upload, head = uploads.create(anna.session, anna.at("/a/f"), 1000, client_metadata="filename Zg==")
    assert (upload.offset, upload.state, upload.client_metadata) == (0, UploadState.PENDING, "filename Zg==")
    assert uploads.get(anna.session, upload.id) == upload
    assert anna.usage() == (0, 1000)
    assert head.seq == 1
    assert db.rows("SELECT op, path, file_id, upload_id FROM journal") == [("pending", "/a/f", 0, upload.id)]


def test_create_refuses_what_the_commit_would(anna: Person) -> None:
    anna.put("/a/f", "x")
    for path, error in (("/a/f", VersionConflict), ("/a", IsAFolder), ("/a/f/g", NotAFolder), ("/", IsAFolder)):
        with pytest.raises(error):
            uploads.create(anna.session, anna.at(path), 10)
    assert uploads.create(anna.session, anna.at("/a/f"), 10, base_version=1)[0].base_version == 1


def test_pending_uploads_count_for_the_quota(database: str) -> None:
    anna = add_person(quota_bytes=1000)
    uploads.create(anna.session, anna.at("/f"), 600)
    with pytest.raises(QuotaExceeded):
        uploads.create(anna.session, anna.at("/g"), 600)
    uploads.create(anna.session, anna.at("/g"), 400)
    assert anna.usage() == (0, 1000)


def test_a_replacement_reserves_only_its_growth(database: str) -> None:
    anna = add_person(quota_bytes=1000)
    anna.put("/f", "x", last=900)
    upload, epoch = begin(anna, size=950, base=1)
    assert anna.usage() == (900, 50)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 950)])
    commits.commit_upload(anna.session, upload.id)
    assert anna.usage() == (950, 0)


def test_announcing_the_same_again_is_the_earlier_upload(anna: Person) -> None:
    write, other = anna.write("/f", "x"), anna.write("/f", "y")
    [first] = uploads.announce(anna.session, [write]).results
    again = uploads.announce(anna.session, [write])
    assert isinstance(first, Upload)
    assert isinstance(again.results[0], Upload)
    assert again.results[0].id == first.id
    assert again.heads[0].seq == 1
    [different] = uploads.announce(anna.session, [other]).results
    assert isinstance(different, Upload)
    assert different.id != first.id


def test_announcing_a_batch_answers_for_each_entry(database: str) -> None:
    anna = add_person(quota_bytes=250)
    anna.put("/there", "x")
    results = uploads.announce(
        anna.session, [anna.write("/a", "1"), anna.write("/there", "2"), anna.write("/b", "3"), anna.write("/", "4")]
    ).results
    assert [type(result) for result in results] == [Upload, VersionConflict, QuotaExceeded, IsAFolder]


def test_uploads_of_others_are_not_there(anna: Person, ben: Person) -> None:
    upload, epoch = begin(anna)
    for act in (uploads.get, uploads.claim, uploads.cancel, commits.commit_upload):
        with pytest.raises(NotFound):
            act(ben.session, upload.id)
    with pytest.raises(NotFound):
        uploads.force(ben.session, upload.id, epoch)
    with pytest.raises(NotFound):
        uploads.set_size(ben.session, upload.id, 10)


def test_who_may_not_write_any_more_cannot_continue(anna: Person, ben: Person) -> None:
    team = share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR))
    upload, _ = uploads.create(ben.session, ben.at("/Team/f"), 10)
    db.run("UPDATE membership SET role = 'viewer' WHERE namespace_id = %s AND user_id = %s", (team, ben.user.id))
    ben.refresh()
    with pytest.raises(NotAllowed):
        uploads.get(ben.session, upload.id)
    db.run("DELETE FROM membership WHERE namespace_id = %s AND user_id = %s", (team, ben.user.id))
    ben.refresh()
    with pytest.raises(NotFound):
        uploads.get(ben.session, upload.id)


# --- appending


def test_the_offset_advances_part_by_part(anna: Person) -> None:
    upload, epoch = begin(anna, size=BLOCK_BYTES + 300)
    first = uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, BLOCK_BYTES)])
    assert (first.offset, first.superseded) == (BLOCK_BYTES, False)
    second = [part(anna, upload, BLOCK_BYTES, 100), part(anna, upload, BLOCK_BYTES + 100, 100)]
    assert uploads.append(upload.id, epoch, BLOCK_BYTES, second).offset == BLOCK_BYTES + 200
    assert starts(upload) == [(0, BLOCK_BYTES), (BLOCK_BYTES, 100), (BLOCK_BYTES + 100, 100)]
    assert uploads.get(anna.session, upload.id).offset == BLOCK_BYTES + 200
    assert [row.start for row in uploads.list_parts(upload.id, BLOCK_BYTES)] == [BLOCK_BYTES, BLOCK_BYTES + 100]


def test_a_wrong_offset_is_told_the_right_one_and_changes_nothing(anna: Person) -> None:
    upload, epoch = begin(anna)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100)])
    for offset, start in ((0, 0), (200, 200), (100, 200)):
        with pytest.raises(OffsetMismatch) as caught:
            uploads.append(upload.id, epoch, offset, [part(anna, upload, start, 10)])
        assert caught.value.facts["expected_offset"] == 100
    assert starts(upload) == [(0, 100)]


def test_a_whole_block_takes_the_place_of_its_segments(anna: Person) -> None:
    upload, epoch = begin(anna, size=BLOCK_BYTES * 2)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100)])
    uploads.append(upload.id, epoch, 100, [part(anna, upload, 100, 100)])
    segments = db.one("SELECT count(*) FROM staged_block")
    whole = new_block(anna.user.account_id, "whole", BLOCK_BYTES)
    blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [whole])
    appended = uploads.append(upload.id, epoch, 200, [Part(0, BLOCK_BYTES, whole.row.block_id)])
    assert appended.offset == BLOCK_BYTES
    assert starts(upload) == [(0, BLOCK_BYTES)]
    assert segments == (2,)
    assert db.rows("SELECT block_id FROM staged_block") == [(whole.row.block_id,)]


def test_segments_merge_without_moving_the_offset(anna: Person) -> None:
    upload, epoch = begin(anna)
    for start in (0, 100, 200):
        uploads.append(upload.id, epoch, start, [part(anna, upload, start, 100)])
    merged = part(anna, upload, 100, 200)  # another label than the segments' ones by its length
    assert uploads.append(upload.id, epoch, 300, [merged]).offset == 300
    assert starts(upload) == [(0, 100), (100, 200)]


def test_a_part_that_fits_no_stored_one_is_a_bug_and_refused(anna: Person) -> None:
    upload, epoch = begin(anna)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100)])
    with pytest.raises(Exception, match="no stored part begins at 50"):
        uploads.append(upload.id, epoch, 100, [part(anna, upload, 50, 100)])
    other = new_block(anna.user.account_id, "short", 7)
    blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [other])
    with pytest.raises(Exception, match="do not fit"):
        uploads.append(upload.id, epoch, 100, [Part(100, 8, other.row.block_id)])
    assert starts(upload) == [(0, 100)]


def test_no_more_than_the_announced_size_is_taken(anna: Person) -> None:
    upload, epoch = begin(anna, size=100)
    with pytest.raises(SizeMismatch):
        uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 101)])


def test_a_deferred_length_is_reserved_as_it_grows(database: str) -> None:
    anna = add_person(quota_bytes=1000)
    upload, epoch = begin(anna, size=None)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 700)])
    assert anna.usage() == (0, 700)
    with pytest.raises(QuotaExceeded):
        uploads.append(upload.id, epoch, 700, [part(anna, upload, 700, 301)])
    with pytest.raises(QuotaExceeded):
        uploads.set_size(anna.session, upload.id, 1001)
    assert uploads.set_size(anna.session, upload.id, 900).size_bytes == 900
    assert anna.usage() == (0, 900)
    for size in (901, 600, -1):
        with pytest.raises(BadRequest):
            uploads.set_size(anna.session, upload.id, size)
    assert uploads.set_size(anna.session, upload.id, 900).size_bytes == 900


# --- taking over


def test_a_newer_request_takes_over_from_a_running_one(anna: Person) -> None:
    upload, old = begin(anna)
    newer = uploads.claim(anna.session, upload.id)
    assert newer.previous_active
    # The older one may still store what it has, and learns that it should end.
    assert uploads.append(upload.id, old, 0, [part(anna, upload, 0, 100)]).superseded
    with pytest.raises(UploadSuperseded):
        uploads.append(upload.id, newer.epoch, 100, [part(anna, upload, 100, 10)])  # not its turn yet
    uploads.release(upload.id, old)
    assert uploads.get(anna.session, upload.id).active_epoch is None
    assert uploads.force(anna.session, upload.id, newer.epoch).offset == 100
    with pytest.raises(UploadSuperseded):
        uploads.append(upload.id, old, 100, [part(anna, upload, 100, 10)])
    assert uploads.append(upload.id, newer.epoch, 100, [part(anna, upload, 100, 10)]).offset == 110


def test_a_silent_one_is_forced_out(anna: Person) -> None:
    upload, old = begin(anna)
    newer = uploads.claim(anna.session, upload.id)
    uploads.force(anna.session, upload.id, newer.epoch)
    with pytest.raises(UploadSuperseded):
        uploads.append(upload.id, old, 0, [part(anna, upload, 0, 100)])
    uploads.release(upload.id, old)  # does nothing any more
    assert uploads.get(anna.session, upload.id).active_epoch == newer.epoch


def test_of_two_that_wait_only_the_newest_gets_in(anna: Person) -> None:
    upload, old = begin(anna)
    second = uploads.claim(anna.session, upload.id)
    third = uploads.claim(anna.session, upload.id)
    uploads.release(upload.id, old)
    with pytest.raises(UploadSuperseded):
        uploads.force(anna.session, upload.id, second.epoch)
    assert uploads.force(anna.session, upload.id, third.epoch).active_epoch == third.epoch


# --- ending


def test_a_complete_upload_becomes_the_files_version_once(anna: Person) -> None:
    upload, epoch = begin(anna, "/a/f", size=BLOCK_BYTES + 100)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, BLOCK_BYTES), part(anna, upload, BLOCK_BYTES, 100)])
    written = commits.commit_upload(anna.session, upload.id)
    assert (written.entry.path, written.entry.version, written.entry.size_bytes) == ("/a/f", 1, BLOCK_BYTES + 100)
    assert files.get_entry(anna.at("/a/f")) == written.entry
    again = commits.commit_upload(anna.session, upload.id)
    assert again.entry == written.entry
    assert anna.usage() == (BLOCK_BYTES + 100, 0)
    assert db.rows("SELECT 1 FROM staged_block") == db.rows("SELECT 1 FROM upload_block") == []
    done = uploads.get(anna.session, upload.id)
    assert (done.state, done.file_id, done.version) == (UploadState.COMPLETE, written.entry.id, 1)
    for act in (uploads.claim, lambda session, upload_id: uploads.force(session, upload_id, epoch)):
        with pytest.raises(UploadGone):
            act(anna.session, upload.id)


def test_an_empty_upload_is_complete_at_once(anna: Person) -> None:
    upload, _ = begin(anna, size=0)
    assert commits.commit_upload(anna.session, upload.id).entry.size_bytes == 0


def test_an_upload_with_bytes_missing_is_told_where_to_go_on(anna: Person) -> None:
    upload, epoch = begin(anna, size=200)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100)])
    with pytest.raises(OffsetMismatch) as caught:
        commits.commit_upload(anna.session, upload.id)
    assert caught.value.facts["expected_offset"] == 100


def test_a_last_stretch_in_segments_is_not_committed(anna: Person) -> None:
    upload, epoch = begin(anna, size=200)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100), part(anna, upload, 100, 100)])
    with pytest.raises(InternalError):
        commits.commit_upload(anna.session, upload.id)
    assert uploads.get(anna.session, upload.id).state is UploadState.PENDING


def test_an_upload_that_lost_the_race_keeps_its_bytes(anna: Person) -> None:
    upload, epoch = begin(anna, size=100)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 100)])
    anna.put("/f", "faster")
    with pytest.raises(VersionConflict):
        commits.commit_upload(anna.session, upload.id)
    assert uploads.get(anna.session, upload.id).offset == 100
    assert starts(upload) == [(0, 100)]


def test_cancelling_frees_space_and_blocks_and_is_told(anna: Person) -> None:
    upload, epoch = begin(anna, size=100)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 50)])
    head = uploads.cancel(anna.session, upload.id)
    assert head is not None
    assert head.seq == 2
    assert anna.usage() == (0, 0)
    assert db.rows("SELECT 1 FROM staged_block") == db.rows("SELECT 1 FROM upload_block") == []
    assert db.rows("SELECT op FROM journal ORDER BY seq") == [("pending",), ("withdrawn",)]
    assert uploads.cancel(anna.session, upload.id) is None
    with pytest.raises(UploadGone):
        uploads.get(anna.session, upload.id)
    with pytest.raises(UploadGone):
        commits.commit_upload(anna.session, upload.id)
    with pytest.raises(UploadGone):
        uploads.append(upload.id, epoch, 50, [part(anna, upload, 50, 10)])


def test_only_uploads_whose_time_is_over_expire(anna: Person) -> None:
    old, _ = uploads.create(anna.session, anna.at("/old"), 100, expires_after_s=-1.0)
    young, _ = uploads.create(anna.session, anna.at("/young"), 100)
    assert [head.namespace_id for head in uploads.expire()] == [anna.home]
    assert uploads.expire() == []
    with pytest.raises(UploadGone):
        uploads.get(anna.session, old.id)
    assert uploads.get(anna.session, young.id).state is UploadState.PENDING
    assert anna.usage() == (0, 100)


def test_progress_pushes_the_expiry_back(anna: Person) -> None:
    upload, epoch = begin(anna)
    db.run("UPDATE upload SET expires_at = now() - interval '1 hour'")
    appended = uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 10)])
    assert appended.expires_at > upload.expires_at
    assert uploads.expire() == []


def test_ended_uploads_are_forgotten_after_a_while(anna: Person) -> None:
    upload, _ = begin(anna)
    uploads.cancel(anna.session, upload.id)
    assert uploads.forget_ended(3600) == 0
    assert uploads.forget_ended(-1) == 1
    with pytest.raises(NotFound):
        uploads.get(anna.session, upload.id)


def test_the_folder_of_an_upload_may_go_meanwhile_and_is_made_again(anna: Person) -> None:
    trees.create_folder(anna.session, anna.at("/a"))
    upload, epoch = begin(anna, "/a/f", size=10)
    uploads.append(upload.id, epoch, 0, [part(anna, upload, 0, 10)])
    trees.delete(anna.session, anna.at("/a"))
    assert commits.commit_upload(anna.session, upload.id).entry.path == "/a/f"
