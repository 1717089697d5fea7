"""Resumable uploads, spoken as bare tus 1.0.0: what each request does, and what is there afterwards."""

from __future__ import annotations

import base64
import email.utils
import random
from datetime import UTC, datetime, timedelta

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, as_json, check_refused, connect_database, target
from tests.kit.tus import OCTETS, TUS, Upload, checksum, create

EXTENSIONS = {"creation", "creation-with-upload", "creation-defer-length", "checksum", "expiration", "termination"}
DATA = random.Random("resumable").randbytes(2 * BLOCK_BYTES + 12_345)


def expires_at(header: str) -> datetime:
    return email.utils.parsedate_to_datetime(header)


# --- creation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/uploads", f"/uploads/{'0' * 32}", "/files/upload"])
def test_what_the_service_speaks_is_told_without_login(user: User, path: str) -> None:
    token, user.session.token = user.session.token, None
    try:
        answer = user.call("OPTIONS", path)
    finally:
        user.session.token = token
    assert answer.status in (200, 204)
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert set(answer.headers["Tus-Extension"].split(",")) >= EXTENSIONS
    assert int(answer.headers["Tus-Max-Size"]) >= 1 << 40
    assert "sha1" in answer.headers["Tus-Checksum-Algorithm"].split(",")


@pytest.mark.parametrize("way", ["/uploads", "/files/upload?uploadType=resumable"])
def test_a_created_upload_has_an_address_an_offset_and_an_end(user: User, way: str) -> None:
    metadata = f"filename {base64.b64encode('ü and ñ.txt'.encode()).decode()},is_confidential"
    with user.line() as line:
        headers = TUS | {"Upload-Length": "5", "Upload-Metadata": metadata}
        answer = line.ask("POST", BASE + way, headers)
    assert answer.status == 201
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.headers["Location"].startswith(f"{user.session.url}{BASE}/uploads/")
    in_a_day = datetime.now(UTC) + timedelta(hours=24)
    assert abs(expires_at(answer.headers["Upload-Expires"]) - in_a_day) < timedelta(minutes=5)
    upload = Upload.at(user, answer)
    head = upload.head()
    assert head.status in (200, 204)
    assert head.headers["Upload-Offset"] == "0"
    assert head.headers["Upload-Length"] == "5"
    assert head.headers["Upload-Metadata"] == metadata
    assert head.headers["Cache-Control"] == "no-store"
    check_refused(user.read("/ü and ñ.txt"), 404, "not_found")
    sent = upload.patch(0, b"hello")
    assert (sent.status, sent.headers["Upload-Offset"], sent.body) == (204, "5", b"")
    assert expires_at(sent.headers["Upload-Expires"]) > datetime.now(UTC)
    assert user.content("/ü and ñ.txt") == b"hello"
    user.post("/files/delete", path="/ü and ñ.txt")


def test_the_json_creation_makes_the_same_kind_of_upload(user: User) -> None:
    document = {"path": "/by-json", "size": 5, "mtime": "2020-02-02T02:02:02Z", "executable": True}
    answer = user.call("POST", "/files/upload", query={"uploadType": "resumable"}, document=document)
    assert answer.status == 201
    Upload.at(user, answer).send(0, b"hello")
    found = user.metadata("/by-json")
    assert (found["size"], found["executable"]) == (5, True)
    assert found["client_modified_at"].startswith("2020-02-02T02:02:02")


def test_an_empty_file_is_complete_at_once(user: User) -> None:
    upload = Upload.begin(user, "/empty-tus", 0)
    assert user.content("/empty-tus") == b""
    assert upload.offset == 0
    answer = user.call("POST", "/files/upload", document={"path": "/empty-json", "size": 0})
    assert answer.status == 201
    assert user.metadata("/empty-json")["size"] == 0


def test_bytes_may_come_along_with_the_creation(user: User) -> None:
    answer = create(user, "/with-all", len(DATA), DATA)
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, str(len(DATA)))
    assert user.content("/with-all") == DATA
    answer = create(user, "/with-some", len(DATA), DATA[:5_000_000])
    assert answer.headers["Upload-Offset"] == "5000000"
    upload = Upload.at(user, answer)
    assert upload.offset == 5_000_000
    upload.send(5_000_000, DATA[5_000_000:])
    assert user.content("/with-some") == DATA
    answer = create(user, "/with-none", 5, b"")
    assert answer.status == 201
    assert Upload.at(user, answer).cancel().status == 204


def test_a_creation_with_bytes_that_fails_leaves_no_upload(user: User) -> None:
    wrong = checksum(b"other bytes")["Upload-Checksum"]
    with user.unchanged():
        check_refused(create(user, "/refused", 5, b"hello", Upload_Checksum=wrong), 460, "checksum_mismatch")
        check_refused(create(user, "/refused", 5, b"hello", Upload_Checksum="crc32 AAAA"), 400, "bad_request")
        check_refused(create(user, "/refused", 4, b"hello"), 400, "size_mismatch")
    with user.unchanged(at_last=True), user.line() as line:
        metadata = f"path {base64.b64encode(b'/refused').decode()}"
        line.begin(
            "POST",
            target("/uploads"),
            OCTETS | {"Upload-Length": "50", "Upload-Metadata": metadata, "Content-Length": "50"},
        )
        line.feed(b"half of it")
        line.cut()


def test_a_creation_that_is_not_understood_is_refused(user: User) -> None:
    path = f"path {base64.b64encode(b'/refused').decode()}"
    with user.unchanged():
        for headers in (
            {"Upload-Metadata": path},
            {"Upload-Metadata": path, "Upload-Length": "5", "Upload-Defer-Length": "1"},
            {"Upload-Metadata": path, "Upload-Defer-Length": "2"},
            {"Upload-Metadata": path, "Upload-Length": "five"},
            {"Upload-Length": "5"},
            {"Upload-Length": "5", "Upload-Metadata": "path"},
            {"Upload-Length": "5", "Upload-Metadata": "path !!!"},
            {"Upload-Length": "5", "Upload-Metadata": f"{path},{path}"},
            {"Upload-Length": "5", "Upload-Metadata": f"{path},base_version {base64.b64encode(b'x').decode()}"},
            {"Upload-Length": "5", "Upload-Metadata": f"{path},mtime {base64.b64encode(b'now').decode()}"},
        ):
            check_refused(user.call("POST", "/uploads", headers=TUS | headers), 400, "bad_request")
        headers = TUS | {"Upload-Length": "5", "Upload-Metadata": path, "Content-Type": "text/plain"}
        check_refused(user.call("POST", "/uploads", headers=headers, body=b"hello"), 415, "unsupported_media")


def test_metadata_of_the_file_come_as_tus_metadata(user: User) -> None:
    user.put("/described", b"old")
    pairs = {"path": "/described", "base_version": "1", "mtime": "2021-01-01T00:00:00Z", "executable": "true"}
    metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
    answer = user.call("POST", "/uploads", headers=TUS | {"Upload-Length": "3", "Upload-Metadata": metadata})
    Upload.at(user, answer).send(0, b"new")
    found = user.metadata("/described")
    assert (found["version"], found["executable"]) == (2, True)
    assert found["client_modified_at"].startswith("2021-01-01")


# --- a length that is told later --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(DATA)])
@pytest.mark.parametrize("empty_last", [True, False], ids=["with nothing", "with the last bytes"])
def test_the_length_may_be_told_at_the_end(user: User, size: int, empty_last: bool) -> None:
    path = f"/deferred-{size}-{empty_last}"
    upload = Upload.begin(user, path, None)
    assert upload.head().headers["Upload-Defer-Length"] == "1"
    before_last = size if empty_last else size - 1
    offset = upload.send(0, DATA[: before_last // 2])
    offset = upload.send(offset, DATA[offset:before_last])
    check_refused(user.read(path), 404, "not_found")
    upload.send(offset, DATA[offset:size], {"Upload-Length": str(size)})
    assert user.content(path) == DATA[:size]
    head = upload.head()
    assert (head.headers["Upload-Length"], head.headers["Upload-Offset"]) == (str(size), str(size))


def test_an_untold_length_of_nothing_is_an_empty_file(user: User) -> None:
    upload = Upload.begin(user, "/deferred-empty", None)
    upload.send(0, b"", {"Upload-Length": "0"})
    assert user.content("/deferred-empty") == b""


def test_a_length_is_told_once_and_not_below_what_has_arrived(user: User) -> None:
    upload = Upload.begin(user, "/told-twice", None)
    offset = upload.send(0, b"hello")
    check_refused(upload.patch(offset, b"", {"Upload-Length": "4"}), 400, "bad_request")
    check_refused(upload.patch(offset - 1, b"", {"Upload-Length": "9"}), 409, "offset_mismatch")
    assert upload.head().headers["Upload-Defer-Length"] == "1"  # a refused request tells nothing either
    offset = upload.send(offset, b" ", {"Upload-Length": "11"})
    check_refused(upload.patch(offset, b"world", {"Upload-Length": "12"}), 400, "bad_request")
    upload.send(offset, b"world", {"Upload-Length": "11"})
    assert user.content("/told-twice") == b"hello world"


# --- checksums --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_chunk_with_the_right_checksum_counts(user: User, algorithm: str) -> None:
    upload = Upload.begin(user, f"/checked-{algorithm}", len(DATA))
    offset = upload.send(0, DATA[:5_000_000], checksum(DATA[:5_000_000], algorithm))
    upload.send(offset, DATA[offset:], checksum(DATA[offset:], algorithm))
    assert user.content(f"/checked-{algorithm}") == DATA


@pytest.mark.parametrize("size", [5, BLOCK_BYTES, len(DATA)])
def test_a_chunk_with_a_wrong_checksum_is_thrown_away_whole(user: User, size: int) -> None:
    path = f"/wrong-sum-{size}"
    upload = Upload.begin(user, path, size + 3)
    upload.send(0, b"abc")
    answer = upload.patch(3, DATA[:size], checksum(DATA[:size] + b"x"))
    check_refused(answer, 460, "checksum_mismatch")
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert upload.offset == 3
    upload.send(3, DATA[:size], checksum(DATA[:size]))
    assert user.content(path) == b"abc" + DATA[:size]


def test_an_unusable_checksum_is_refused_and_holds_nobody_up(user: User) -> None:
    upload = Upload.begin(user, "/odd-sums", 5)
    for bad in ("crc32 AAAAAA==", "sha1", "sha1 !!!", "", "sha1 AAAA BBBB", "SHA1 " + "A" * 28):
        check_refused(upload.patch(0, b"hello", {"Upload-Checksum": bad}), *_bad_checksum(bad))
    began = datetime.now(UTC)
    upload.send(0, b"hello")
    # A claim that nobody gives back would be waited for: three seconds.
    assert datetime.now(UTC) - began < timedelta(seconds=2.5)
    assert user.content("/odd-sums") == b"hello"


def _bad_checksum(text: str) -> tuple[int, str]:
    """An empty value is a checksum that does not match; everything else is not understood."""
    return (460, "checksum_mismatch") if text == "sha1" else (400, "bad_request")


def test_a_checksummed_chunk_that_breaks_off_does_not_count(user: User) -> None:
    upload = Upload.begin(user, "/cut-sum", len(DATA))
    with user.line() as line:
        headers = OCTETS | checksum(DATA) | {"Upload-Offset": "0", "Content-Length": str(len(DATA))}
        line.begin("PATCH", BASE + upload.address, headers)
        line.feed(DATA[:-1])
        line.cut()
    assert upload.offset == 0
    upload.send(0, DATA)
    assert user.content("/cut-sum") == DATA


# --- conflicts --------------------------------------------------------------------------------------------------


def test_of_two_uploads_of_one_path_the_first_to_complete_wins(user: User) -> None:
    first, second = (Upload.begin(user, "/contested", 5) for _ in range(2))
    second.send(0, b"sec")
    first.send(0, b"first")
    answer = second.patch(3, b"nd")
    assert check_refused(answer, 409, "version_conflict")["current_version"] == 1
    assert user.content("/contested") == b"first"
    # Its client must not take it for stored: the whole offset with a success would say that.
    assert second.head().status == 409
    check_refused(second.patch(5, b""), 409, "version_conflict")
    second.cancel()
    assert user.content("/contested") == b"first"


def test_what_has_arrived_whole_is_stored_though_its_request_died_before_it_could_say_so(user: User) -> None:
    """As when a worker is killed between the last byte and the commit: the client asks, is told that all is there, and
    sends nothing more."""
    for number, pieces in enumerate(([b"hello"], [b"he", b"l", b"lo"], [DATA[:5_000_000], DATA[5_000_000:]])):
        whole = b"".join(pieces)
        upload = Upload.begin(user, f"/orphan-{number}", None)
        offset = 0
        for piece in pieces:
            offset = upload.send(offset, piece)
        with connect_database(user.appliance) as db:
            db.execute(
                "UPDATE upload SET size_bytes = %s WHERE id = %s", [len(whole), upload.address.rpartition("/")[2]]
            )
        check_refused(user.read(f"/orphan-{number}"), 404, "not_found")
        assert upload.offset == len(whole)
        assert user.content(f"/orphan-{number}") == whole


# --- expiry -----------------------------------------------------------------------------------------------------


def test_every_patch_puts_the_end_off(user: User) -> None:
    upload = Upload.begin(user, "/put-off", 10)
    with connect_database(user.appliance) as db:
        db.execute("UPDATE upload SET expires_at = now() + interval '1 minute' WHERE id = %s", [upload.address[9:]])
    assert expires_at(upload.head().headers["Upload-Expires"]) < datetime.now(UTC) + timedelta(hours=1)
    upload.send(0, b"hello")
    assert expires_at(upload.head().headers["Upload-Expires"]) > datetime.now(UTC) + timedelta(hours=23)
    upload.cancel()


def test_an_announced_file_is_told_as_pending_until_it_is_complete(user: User) -> None:
    cursor = _latest(user)
    upload = Upload.begin(user, "/announced", 10)
    upload.send(0, b"hello")
    [pending] = user.get("/changes", cursor=cursor)["changes"]
    assert (pending["op"], pending["path"], pending["metadata"]["state"]) == ("pending", "/announced", "pending")
    assert pending["upload_id"] == upload.address.rpartition("/")[2]
    upload.send(5, b"world")
    _, put = user.get("/changes", cursor=cursor)["changes"]
    assert (put["op"], put["path"], put["metadata"]["state"]) == ("put", "/announced", "complete")
    assert put["metadata"]["size"] == 10


def _latest(user: User) -> str:
    cursor, more = "", True
    while more:
        page = user.get("/changes", **({"cursor": cursor} if cursor else {}))
        cursor, more = page["cursor"], page["has_more"]
    return str(cursor)


def test_wrong_json_creations_are_refused(user: User) -> None:
    with user.unchanged():
        for document in ({}, {"path": "/x"}, {"size": 5}, {"path": "/x", "size": 5, "surprise": 1}):
            answer = user.call(
                "POST", "/files/upload", body=as_json(document), headers={"Content-Type": "application/json"}
            )
            check_refused(answer, 400, "bad_request")
