"""A full account: every way in is refused before it stores anything, and what ends gives its room back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.integration.conftest import NewUser
from tests.kit.api import User, as_json, check_refused, digest, entry
from tests.kit.cluster import Answer
from tests.kit.tus import Upload, create

QUOTA = 6_000_000
USED = 1_000_000
ROOM = QUOTA - USED


@pytest.fixture
def full(new_user: NewUser) -> User:
    """A user with 5 MB left."""
    user = new_user(quota=QUOTA)
    user.put("/there", bytes(USED))
    assert user.usage() == (USED, 0)
    return user


def announce(user: User, size: int) -> Answer:
    answer = user.call("POST", "/files/announce", document={"entries": [entry("/coming", bytes(size))]})
    [result] = answer.document["results"]
    return answer if result.get("error") is None else refused(answer)


def commit(user: User, size: int) -> Answer:
    answer = user.call("POST", "/files/commit", document={"entries": [entry("/coming", bytes(size))]})
    return refused(answer)


def refused(answer: Answer) -> Answer:
    """The one entry's refusal, as if it had been the answer."""
    [result] = answer.document["results"]
    return Answer(507, answer.headers, as_json({"error": result["error"]}))


WAYS_IN: dict[str, Callable[[User, int], Answer]] = {
    "announce": announce,
    "tus create": lambda user, size: create(user, "/coming", size),
    "tus create with upload": lambda user, size: create(user, "/coming", size, b"first bytes"),
    "resumable": lambda user, size: user.call("POST", "/files/upload", document={"path": "/coming", "size": size}),
    "simple": lambda user, size: user.session.put("/coming", bytes(size)),
}


@pytest.mark.parametrize("way", WAYS_IN.values(), ids=WAYS_IN.keys())
def test_what_does_not_fit_is_refused_and_costs_nothing(full: User, way: Callable[[User, int], Answer]) -> None:
    with full.unchanged():
        error = check_refused(way(full, ROOM + 1), 507, "quota_exceeded")
        assert (error["used"], error["quota"]) == (USED, QUOTA)
        assert str(QUOTA) in error["message"]


def test_what_fits_exactly_is_taken(full: User) -> None:
    full.put("/coming", bytes(ROOM))
    assert full.usage() == (QUOTA, 0)
    check_refused(full.session.put("/one-byte", b"x"), 507, "quota_exceeded")
    assert full.put("/empty", b"")["size"] == 0


def test_a_small_upload_that_does_not_fit_is_refused(full: User) -> None:
    full.put("/nearly-all", bytes(ROOM - 10))
    with full.unchanged():
        check_refused(full.session.put("/small", bytes(11)), 507, "quota_exceeded")


def test_a_commit_without_announcement_is_held_to_the_quota_too(full: User) -> None:
    full.put_block(bytes(BLOCK_BYTES))
    full.put_block(bytes(ROOM + 1 - BLOCK_BYTES))
    with full.unchanged():
        check_refused(commit(full, ROOM + 1), 507, "quota_exceeded")
    assert full.usage() == (USED, 0)  # blocks on their own cost nothing; they are collected unless somebody commits


def test_two_files_of_one_commit_that_only_fit_one_by_one_are_not_both_taken(full: User) -> None:
    full.put_block(bytes(3_000_000))
    first, second = full.commit(entry("/one", bytes(3_000_000)), entry("/two", bytes(3_000_000)))
    assert first["metadata"]["version"] == 1
    assert second["error"]["code"] == "quota_exceeded"
    assert full.usage() == (USED + 3_000_000, 0)


def test_uploads_in_progress_count(full: User) -> None:
    upload = Upload.begin(full, "/coming", ROOM - 1000)
    assert full.usage() == (USED, ROOM - 1000)
    with full.unchanged():
        for way in WAYS_IN.values():
            check_refused(way(full, 1001), 507, "quota_exceeded")
        copy = {"from_path": "/there", "to_path": "/copy"}
        check_refused(full.call("POST", "/files/copy", document=copy), 507, "quota_exceeded")
    assert upload.cancel().status == 204
    assert full.usage() == (USED, 0)
    full.put("/coming", bytes(ROOM))


def test_an_upload_that_completes_moves_its_bytes_from_pending_to_used(full: User) -> None:
    upload = Upload.begin(full, "/coming", ROOM, bytes(1000))
    assert full.usage() == (USED, ROOM)
    upload.send(1000, bytes(ROOM - 1000))
    assert full.usage() == (QUOTA, 0)


def test_an_announcement_that_is_committed_moves_its_bytes_from_pending_to_used(full: User) -> None:
    data = bytes(range(250)) * 4000
    [result] = full.post("/files/announce", entries=[entry("/coming", data)])["results"]
    assert full.usage() == (USED, len(data))
    again = full.post("/files/announce", entries=[entry("/coming", data)])["results"]
    assert again[0]["upload_id"] == result["upload_id"]
    assert full.usage() == (USED, len(data))
    full.put_block(data)
    full.commit(entry("/coming", data))
    assert full.usage() == (USED + len(data), 0)


def test_an_upload_of_untold_length_counts_as_it_arrives(full: User) -> None:
    upload = Upload.begin(full, "/coming", None)
    assert full.usage() == (USED, 0)
    offset = upload.send(0, bytes(4_500_000))
    assert full.usage() == (USED, offset)
    with full.unchanged():
        check_refused(full.session.put("/other", bytes(ROOM - offset + 1)), 507, "quota_exceeded")
    check_refused(upload.patch(offset, bytes(ROOM - offset + 1)), 507, "quota_exceeded")
    assert upload.offset == full.usage()[1] <= ROOM
    told = upload.patch(upload.offset, b"", {"Upload-Length": str(ROOM + 1)})
    check_refused(told, 507, "quota_exceeded")
    assert upload.cancel().status == 204
    assert full.usage() == (USED, 0)


def test_a_stream_of_untold_length_that_does_not_fit_leaves_nothing(full: User) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            yield bytes(1_000_000)

    with full.unchanged(at_last=True):
        query: dict[str, object] = {"uploadType": "simple", "path": "/stream"}
        answer = full.call("POST", "/files/upload", query=query, body=pieces())
        check_refused(answer, 507, "quota_exceeded")


def test_what_is_sent_by_hash_and_never_committed_is_bounded(new_user: NewUser) -> None:
    blocks = [random.Random(number).randbytes(BLOCK_BYTES) for number in range(20)]
    user = new_user(quota=2 * BLOCK_BYTES)

    def send(plain: bytes) -> int:
        return user.call("PUT", f"/blocks/{digest(plain)}", query={"path": "/x"}, body=plain).status

    codes = [send(plain) for plain in blocks]
    assert set(codes) == {201, 507}
    taken = [plain for plain, code in zip(blocks, codes, strict=True) if code == 201]
    assert len(taken) <= 2 * 8  # 32 MiB; each of the two workers looks by and by how much there is
    for number, plain in enumerate(taken):  # what versions have taken makes room
        [result] = user.commit(entry("/x", plain, base_version=number))
        assert result["error"] is None
    assert send(blocks[-1]) == 201


def test_replacing_a_file_costs_only_the_difference(full: User) -> None:
    full.put("/there", bytes(QUOTA), base_version=1)
    assert full.usage() == (QUOTA, 0)
    with full.unchanged():
        check_refused(full.session.put("/there", bytes(QUOTA + 1), base_version=2), 507, "quota_exceeded")
    full.put("/there", bytes(10), base_version=2)
    assert full.usage() == (10, 0)


def test_restoring_and_undeleting_are_held_to_the_quota(full: User) -> None:
    full.put("/there", b"small now", base_version=1)
    full.put("/deleted", bytes(3_000_000))
    full.post("/files/delete", path="/deleted")
    assert full.usage() == (9, 0)
    full.put("/filling", bytes(QUOTA - 9 - 100))
    with full.unchanged():
        for document in ({"path": "/there", "version": 1}, {"path": "/deleted"}, {"path": "/deleted", "version": 1}):
            check_refused(full.call("POST", "/files/restore", document=document), 507, "quota_exceeded")


def test_deleting_a_folder_gives_its_room_back_and_restoring_takes_it_again(full: User) -> None:
    full.put("/folder/below/file", bytes(2_000_000))
    full.put("/folder/other", bytes(500_000))
    full.post("/files/delete", path="/folder")
    assert full.usage() == (USED, 0)
    full.post("/files/restore", path="/folder")
    assert full.usage() == (USED + 2_500_000, 0)
    assert full.content("/folder/below/file") == bytes(2_000_000)


def test_an_account_without_room_keeps_nothing_but_empty_files(new_user: NewUser) -> None:
    none = new_user(quota=0)
    none.put("/empty", b"")
    none.post("/files/create_folder", path="/folder")
    with none.unchanged():
        check_refused(none.session.put("/file", b"x"), 507, "quota_exceeded")
