"""Bodies that are longer, shorter or other than announced, and lines that break: over bare connections."""

from __future__ import annotations

import hashlib

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, Line, User, check_refused, digest, entry, target
from tests.kit.cluster import wait_until

SMALL = b"some bytes"
LARGE = bytes(range(256)) * (BLOCK_BYTES // 256) * 2 + b"and a tail"


def upload_target(path: str) -> str:
    return target("/files/upload", uploadType="simple", path=path)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_an_upload_that_breaks_off_leaves_nothing_behind(user: User, data: bytes, share: float) -> None:
    with user.unchanged(at_last=True), user.line() as line:
        line.begin("POST", upload_target("/broken"), {"Content-Length": str(len(data))})
        line.feed(data[: int(len(data) * share)])
        line.cut()


def test_a_large_upload_is_told_as_pending_and_then_withdrawn_when_it_breaks_off(user: User) -> None:
    cursor = _latest(user)
    with user.unchanged(at_last=True), user.line() as line:
        line.begin("POST", upload_target("/broken"), {"Content-Length": str(len(LARGE))})
        line.feed(LARGE[:100])
        wait_until(lambda: user.usage()[1] == len(LARGE), what="the announcement")
        line.cut()
    changes = user.get("/changes", cursor=cursor)["changes"]
    assert [(change["op"], change["path"]) for change in changes] == [("pending", "/broken"), ("withdrawn", "/broken")]


def _latest(user: User) -> str:
    cursor, more = "", True
    while more:
        page = user.get("/changes", **({"cursor": cursor} if cursor else {}))
        cursor, more = page["cursor"], page["has_more"]
    return str(cursor)


def test_a_chunked_upload_needs_no_length(user: User) -> None:
    for number, data in enumerate((b"", SMALL, LARGE)):
        with user.line() as line:
            line.begin("POST", upload_target(f"/chunked-{number}"), {"Transfer-Encoding": "chunked"})
            for at in range(0, len(data), 1_000_000):
                feed_chunk(line, data[at : at + 1_000_000])
            line.feed(b"0\r\n\r\n")
            answer = line.answer()
        assert (answer.status, answer.document["size"]) == (200, len(data))
        assert user.content(f"/chunked-{number}") == data
        user.post("/files/delete", path=f"/chunked-{number}")


def feed_chunk(line: Line, data: bytes) -> None:
    line.feed(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_chunked_upload_without_its_end_leaves_nothing_behind(user: User, data: bytes) -> None:
    with user.unchanged(at_last=True), user.line() as line:
        line.begin("POST", upload_target("/broken"), {"Transfer-Encoding": "chunked"})
        feed_chunk(line, data)
        line.cut()


def test_chunks_that_are_none_leave_nothing_behind(user: User) -> None:
    for bad in (b"zz\r\nxx\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloXX", b"\r\n\r\n", b"f" * 100 + b"\r\n"):
        with user.unchanged(at_last=True), user.line() as line:
            line.begin("POST", upload_target("/broken"), {"Transfer-Encoding": "chunked"})
            feed_chunk(line, SMALL)
            line.feed(bad)
            assert line.is_ended(10), bad


def test_bytes_beyond_the_announced_length_are_no_part_of_the_file(user: User) -> None:
    """They are the next request on the line, which they make no sense as."""
    with user.line() as line:
        line.begin("POST", upload_target("/longer"), {"Content-Length": str(len(SMALL))})
        line.feed(SMALL + b"and more of it\r\n\r\n")
        assert line.answer().status == 200
        assert line.is_ended(10)
    assert user.content("/longer") == SMALL
    user.post("/files/delete", path="/longer")


@pytest.mark.parametrize("length", ["-1", "ten", "1e3", "10, 11", "0x10", "", "99999999999999999999999"])
def test_a_length_that_is_none_is_refused(user: User, length: str) -> None:
    with user.unchanged(at_last=True), user.line() as line:
        line.begin("POST", upload_target("/broken"), {"Content-Length": length})
        line.feed(SMALL)
        answer = _answer_or_end(line)
        assert answer in (None, 400, 413), answer


def _answer_or_end(line: Line) -> int | None:
    try:
        return line.answer().status
    except OSError:
        return None


def test_an_upload_larger_than_the_service_takes_is_refused_before_its_bytes(user: User) -> None:
    with user.unchanged(), user.line() as line:
        line.begin("POST", upload_target("/huge"), {"Content-Length": str((1 << 44) + 1)})
        check_refused(line.answer(), 413, "too_large")
    with user.unchanged(), user.line() as line:
        line.begin("POST", upload_target("/huge"), {"Content-Length": str(1 << 44)})
        check_refused(line.answer(), 507, "quota_exceeded")


def test_a_client_that_asks_first_is_refused_without_sending(user: User) -> None:
    with user.unchanged(), user.line() as line:
        headers = {"Content-Length": str(len(LARGE)), "Expect": "100-continue"}
        line.begin("POST", upload_target("/a/../b"), headers)
        check_refused(line.answer(), 400, "bad_path")


def test_the_refusal_reaches_a_client_that_is_still_sending(user: User) -> None:
    with user.unchanged(), user.line() as line:
        line.begin("POST", upload_target("/a/../b"), {"Content-Length": str(len(SMALL) * 100_000)})
        for _ in range(100):
            line.feed(SMALL * 1000)
        check_refused(line.answer(), 400, "bad_path")
        # And the line is still good for the next request.
        assert line.ask("GET", target("/auth/whoami")).status == 200


# --- blocks -----------------------------------------------------------------------------------------------------


def is_there(user: User, plain: bytes) -> bool:
    return user.missing([digest(plain)]) == []


def test_a_block_whose_hash_is_another_is_not_stored(user: User) -> None:
    sent, other = b"these bytes", b"not these bytes"
    with user.unchanged():
        answer = user.call("PUT", f"/blocks/{digest(other)}", query={"path": "/x"}, body=sent)
        check_refused(answer, 400, "hash_mismatch")
    assert not is_there(user, other)
    assert not is_there(user, sent)


def test_a_block_that_breaks_off_is_not_stored(user: User) -> None:
    plain = b"cut" * 100_000
    with user.unchanged(at_last=True), user.line() as line:
        line.begin("PUT", target(f"/blocks/{digest(plain)}", path="/x"), {"Content-Length": str(len(plain))})
        line.feed(plain[:-1])
        line.cut()
    assert not is_there(user, plain)
    assert not is_there(user, plain[:-1])


def test_an_empty_or_too_large_block_is_refused(user: User) -> None:
    with user.unchanged(), user.line() as line:
        nothing = hashlib.sha256().hexdigest()
        check_refused(
            line.ask("PUT", target(f"/blocks/{nothing}", path="/x"), {"Content-Length": "0"}), 400, "bad_request"
        )
        large = bytes(BLOCK_BYTES + 1)
        check_refused(line.ask("PUT", target(f"/blocks/{digest(large)}", path="/x"), body=large), 413, "too_large")
    with user.unchanged(), user.line() as line:
        line.begin("PUT", target(f"/blocks/{digest(large)}", path="/x"), {"Transfer-Encoding": "chunked"})
        feed_chunk(line, large)
        line.feed(b"0\r\n\r\n")
        check_refused(line.answer(), 413, "too_large")
    with user.unchanged(), user.line() as line:
        line.begin("PUT", target(f"/blocks/{nothing}", path="/x"), {"Transfer-Encoding": "chunked"})
        line.feed(b"0\r\n\r\n")
        check_refused(line.answer(), 400, "bad_request")
    assert not is_there(user, large)


def test_a_full_block_is_stored_with_and_without_its_length(user: User) -> None:
    plain = LARGE[:BLOCK_BYTES]
    with user.line() as line:
        line.begin("PUT", target(f"/blocks/{digest(plain)}", path="/x"), {"Transfer-Encoding": "chunked"})
        feed_chunk(line, plain)
        line.feed(b"0\r\n\r\n")
        assert line.answer().status == 201
        assert line.ask("GET", target(f"/blocks/{digest(plain)}", path="/x")).body == plain
        assert line.ask("PUT", target(f"/blocks/{digest(plain)}", path="/x"), body=plain).status == 201


def batch_of(*blocks: bytes) -> bytes:
    return b"".join(hashlib.sha256(plain).digest() + len(plain).to_bytes(4, "big") + plain for plain in blocks)


def test_a_batch_stores_each_block(user: User) -> None:
    blocks = [b"batch %d" % number for number in range(128)]
    answer = user.call("POST", "/blocks/batch", query={"path": "/x"}, body=batch_of(*blocks))
    assert (answer.status, answer.document) == (201, {"stored": 128})
    [result] = user.commit({"path": "/batch", "size": len(blocks[7]), "blocks": [digest(blocks[7])]})
    assert result["metadata"]["version"] == 1
    assert user.content("/batch") == blocks[7]
    assert user.missing([digest(plain) for plain in blocks]) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"x" * 35, 400, "bad_request"),
        (batch_of(b"one", b"two")[:-1], 400, "bad_request"),
        (batch_of(b"one") + b"x", 400, "bad_request"),
        (hashlib.sha256(b"").digest() + bytes(4), 400, "bad_request"),
        (hashlib.sha256(b"batch").digest() + (2**32 - 1).to_bytes(4, "big") + b"batch", 400, "bad_request"),
        (batch_of(b"good one") + bytes(32) + (3).to_bytes(4, "big") + b"bad", 400, "hash_mismatch"),
        (batch_of(*[b"many %d" % number for number in range(129)]), 400, "bad_request"),
    ],
    ids=["empty", "half a head", "cut", "rest", "empty block", "huge", "one wrong hash", "129"],
)
def test_a_batch_that_is_wrong_anywhere_stores_nothing(user: User, body: bytes, status: int, code: str) -> None:
    with user.unchanged():
        check_refused(user.call("POST", "/blocks/batch", query={"path": "/x"}, body=body), status, code)
    for plain in (b"one", b"good one", b"many 0"):
        assert not is_there(user, plain)


def test_a_batch_that_is_too_large_is_refused_before_its_bytes(user: User) -> None:
    with user.unchanged(), user.line() as line:
        line.begin("POST", target("/blocks/batch", path="/x"), {"Content-Length": str(3 * BLOCK_BYTES)})
        check_refused(line.answer(), 413, "too_large")


def test_a_block_sent_by_a_simple_upload_that_failed_is_not_read_as_a_file(user: User) -> None:
    """The bytes may be kept for a while, for the next attempt; they are in no tree and cost nothing."""
    user.put("/taken", b"taken")
    with user.unchanged():
        check_refused(user.session.put("/taken", b"refused bytes"), 409, "version_conflict")
        [result] = user.commit(entry("/taken", b"refused bytes"))
        assert "error" in result


def test_half_a_request_head_is_no_request(user: User) -> None:
    with user.unchanged(at_last=True), user.line() as line:
        line.socket.sendall(b"POST /api/v1/files/upload?uploadType=simple&path=/x HTTP/1.1\r\nHost: x\r\nContent-Le")
        line.cut()
    for raw in (b"\r\n\r\n\r\n", b"NONSENSE\r\n\r\n", b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"GET " + b"/" * 100_000):
        with user.line() as line:
            line.socket.sendall(raw)
            assert _ends_or_refuses(line), raw[:20]


def _ends_or_refuses(line: Line) -> bool:
    line.socket.settimeout(5)
    try:
        said = line.socket.recv(65536)
    except TimeoutError:
        # It waits for the rest of what may become a request: it goes when the line does.
        return True
    except OSError:
        return True
    return said == b"" or said.startswith(b"HTTP/1.1 4")


def test_a_request_hidden_in_another_ones_body_is_not_carried_out(user: User) -> None:
    hidden = f"POST {BASE}/files/delete HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    for headers in (
        {"Content-Length": str(len(SMALL)), "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked, identity"},
        {"Transfer-Encoding": "xchunked"},
    ):
        with user.unchanged(at_last=True), user.line() as line:
            line.begin("POST", upload_target("/smuggled"), headers)
            line.feed(b"0\r\n\r\n" + hidden)
            assert _answer_or_end(line) in (None, 400)
            assert line.is_ended(10)
