"""What is refused of a resumable upload, and that a refusal changes nothing; uploads that are over or never were."""

from __future__ import annotations

import random
import secrets

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, check_refused, entry
from tests.kit.tus import OCTETS, TUS, Upload, create

DATA = random.Random("refused").randbytes(2 * BLOCK_BYTES + 12_345)


@pytest.fixture
def upload(user: User) -> Upload:
    """Five of ten bytes have arrived."""
    upload = Upload.begin(user, f"/upload-{secrets.token_hex(4)}", 10)
    upload.send(0, b"hello")
    return upload


@pytest.mark.parametrize("version", ["0.2.2", "1.0", "2.0.0", "", "x"])
def test_another_version_of_tus_is_refused_and_nothing_done(user: User, upload: Upload, version: str) -> None:
    headers = {"Tus-Resumable": version}
    with user.unchanged():
        for method in ("PATCH", "DELETE"):
            answer = user.call(method, upload.address, headers=OCTETS | {"Upload-Offset": "5"} | headers, body=b"world")
            check_refused(answer, 412, "tus_version")
            assert answer.headers["Tus-Version"] == "1.0.0"
        assert upload.head(**headers).status == 412
        check_refused(create(user, "/refused", 5, None, Tus_Resumable=version), 412, "tus_version")
        bare = {"Upload-Length": "5", "Upload-Metadata": "path L3g="}
        check_refused(user.call("POST", "/uploads", headers=bare), 412, "tus_version")
        check_refused(user.call("DELETE", upload.address), 412, "tus_version")
    assert upload.offset == 5


def test_a_patch_that_is_not_understood_is_refused_and_nothing_done(user: User, upload: Upload) -> None:
    with user.unchanged():
        for media in ("application/octet-stream", "text/plain", "application/json"):
            check_refused(upload.patch(5, b"world", {"Content-Type": media}), 415, "unsupported_media")
        check_refused(user.call("PATCH", upload.address, headers=OCTETS, body=b"world"), 400, "bad_request")
        for offset in ("-1", "five", "", "5.0", "9" * 30):
            check_refused(upload.patch(5, b"world", {"Upload-Offset": offset}), 400, "bad_request")
    assert upload.offset == 5


@pytest.mark.parametrize("offset", [0, 4, 6, 10, 11, 1 << 50])
def test_a_patch_elsewhere_than_at_the_offset_is_refused(user: User, upload: Upload, offset: int) -> None:
    with user.unchanged():
        error = check_refused(upload.patch(offset, b"w"), 409, "offset_mismatch")
        assert error["expected_offset"] == 5
    assert upload.offset == 5


def test_more_bytes_than_were_announced_are_refused_and_none_kept(user: User, upload: Upload) -> None:
    with user.unchanged():
        check_refused(upload.patch(5, b"world!"), 400, "size_mismatch")
        assert upload.offset == 5
        for pieces in ((b"world!",), (b"world", b"!")):
            with user.line() as line:
                headers = OCTETS | {"Upload-Offset": "5", "Transfer-Encoding": "chunked"}
                line.begin("PATCH", BASE + upload.address, headers)
                for piece in pieces:
                    line.feed(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                check_refused(line.answer(), 400, "size_mismatch")
            assert upload.offset == 5
    upload.send(5, b"world")


def test_a_cancelled_upload_is_gone_with_its_room(user: User) -> None:
    before = user.state()
    upload = Upload.begin(user, "/cancelled", len(DATA), DATA[:5_000_000])
    assert user.usage()[1] == before.pending + len(DATA)
    assert upload.cancel().status == 204
    assert user.state() == before
    head = upload.head()
    assert (head.status, head.headers.get("Upload-Offset")) == (410, None)
    check_refused(upload.patch(5_000_000, b"x"), 410, "upload_gone")
    assert upload.cancel().status in (204, 410)
    user.put("/cancelled", b"the path is free")


def test_an_unknown_upload_is_not_found(user: User) -> None:
    for address in ("/uploads/" + "0" * 32, "/uploads/1", "/uploads/" + "x" * 500, "/uploads/..%2f"):
        unknown = Upload(user, address)
        head = unknown.head()
        assert (head.status, head.headers.get("Upload-Offset")) == (404, None)
        check_refused(unknown.patch(0, b"x"), 404, "not_found")
        check_refused(unknown.cancel(), 404, "not_found")


def test_an_announcement_by_hashes_takes_no_bytes_but_can_be_given_up(user: User) -> None:
    before = user.state()
    for path, data in (("/by-hash", b"hello"), ("/by-hash-empty", b"")):
        [told] = user.post("/files/announce", entries=[entry(path, data)])["results"]
        announced = Upload(user, f"/uploads/{told['upload_id']}")
        assert announced.head().status == 404
        check_refused(announced.patch(0, data), 404, "not_found")
        assert announced.cancel().status == 204
    assert user.state() == before


def test_a_complete_upload_takes_no_more(user: User) -> None:
    upload = Upload.begin(user, "/complete", 5, b"hello")
    assert upload.offset == 5
    assert upload.patch(5, b"").status == 204
    check_refused(upload.patch(5, b"more"), 409, "offset_mismatch")
    check_refused(upload.patch(0, b"again"), 409, "offset_mismatch")
    upload.cancel()
    assert user.content("/complete") == b"hello"


def test_methods_may_come_in_a_header(user: User) -> None:
    upload = Upload.begin(user, "/overridden", 5)
    for method, more, body, status in (
        ("HEAD", {}, None, (200, 204)),
        ("PATCH", OCTETS | {"Upload-Offset": "0"}, b"hel", (204,)),
        ("patch", OCTETS | {"Upload-Offset": "3"}, b"lo", (204,)),
    ):
        headers = TUS | more | {"X-HTTP-Method-Override": method}
        answer = user.call("POST", upload.address, headers=headers, body=body)
        assert answer.status in status, answer
    assert user.content("/overridden") == b"hello"
    other = Upload.begin(user, "/overridden-delete", 5)
    answer = user.call("POST", other.address, headers=TUS | {"X-HTTP-Method-Override": "DELETE"})
    assert answer.status == 204
    assert other.head().status == 410
