"""Downloads: ranges and conditions as RFC 9110 has them, across block borders, of every version, byte for byte."""

from __future__ import annotations

import email.utils
import hashlib
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, check_refused, cut, target
from tests.kit.cluster import wait_until

SIZE = 3 * BLOCK_BYTES + 1001
DATA = random.Random("downloads").randbytes(SIZE)
PATH = "/ranges"
TAG = '"' + hashlib.sha256(b"".join(hashlib.sha256(plain).digest() for plain in cut(DATA))).hexdigest() + '"'


@pytest.fixture(scope="module", autouse=True)
def stored(user: User) -> None:
    user.put(PATH, DATA)
    user.put("/empty", b"")
    user.put("/small", b"0123456789")


def whole(user: User, **headers: str) -> None:
    """The range header counts as absent."""
    answer = user.read(PATH, headers=headers)
    assert (answer.status, answer.headers.get("Content-Range")) == (200, None)
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.body == DATA


# --- whole files ------------------------------------------------------------------------------------------------


def test_a_file_comes_with_what_a_client_needs_to_keep_it(user: User) -> None:
    answer = user.read(PATH)
    assert answer.status == 200
    assert answer.body == DATA
    assert answer.headers["ETag"] == TAG == f'"{user.metadata(PATH)["content_hash"]}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    # What people upload is never run in a browser under our name.
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_name_in_the_answer_is_the_files_own_whatever_it_holds(user: User) -> None:
    for name in ('a"b\\c', "line\r\nSet-Cookie: x", "ü;ñ,字", "%41'’", "x" * 255):
        user.put(f"/names/{name}", b"x")
        answer = user.read(f"/names/{name}")
        assert answer.status == 200
        assert "Set-Cookie" not in answer.headers
        assert "\n" not in answer.headers["Content-Disposition"]


def test_head_tells_the_same_and_sends_nothing(user: User) -> None:
    for headers in ({}, {"Range": "bytes=5-9"}, {"Range": f"bytes={BLOCK_BYTES}-"}, {"If-None-Match": TAG}):
        get = user.read(PATH, headers=headers)
        head = user.call("HEAD", "/files/download", query={"path": PATH}, headers=headers)
        assert (head.status, head.body) == (get.status, b"")
        for name in ("ETag", "Content-Length", "Content-Range", "Accept-Ranges", "Content-Disposition"):
            assert head.headers.get(name) == get.headers.get(name), name
    missing = user.call("HEAD", "/files/download", query={"path": "/nothing"})
    assert (missing.status, missing.body) == (404, b"")
    with user.line() as line:
        # The line is good for another request: not a byte too many was sent, nor too few.
        assert line.ask("HEAD", target("/files/download", path=PATH)).status == 200
        assert line.ask("GET", target("/files/download", path="/small")).body == b"0123456789"


def test_an_empty_file_is_read_whole_and_has_no_ranges(user: User) -> None:
    answer = user.read("/empty")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
    assert answer.headers["ETag"] == f'"{hashlib.sha256(b"").hexdigest()}"'
    for asked in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-9"):
        answer = user.read("/empty", headers={"Range": asked})
        check_refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == "bytes */0"
    head = user.call("HEAD", "/files/download", query={"path": "/empty"})
    assert head.headers["Content-Length"] == "0"


@pytest.mark.parametrize("size", [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES])
def test_files_around_the_block_border_come_back_whole(user: User, size: int) -> None:
    user.put(f"/border-{size}", DATA[:size])
    assert user.content(f"/border-{size}") == DATA[:size]
    last = user.read(f"/border-{size}", headers={"Range": "bytes=-1"})
    assert (last.status, last.body) == (206, DATA[size - 1 : size])


# --- ranges -----------------------------------------------------------------------------------------------------

NEAR = st.sampled_from([0, BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES, SIZE]).flatmap(
    lambda border: st.integers(max(0, border - 3), border + 3)
)
POSITIONS = NEAR | st.integers(0, SIZE + 10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=POSITIONS, last=POSITIONS)
@example(first=0, last=0)
@example(first=0, last=SIZE - 1)
@example(first=BLOCK_BYTES - 1, last=BLOCK_BYTES)
@example(first=BLOCK_BYTES, last=2 * BLOCK_BYTES - 1)
@example(first=SIZE - 1, last=SIZE)
@example(first=SIZE, last=SIZE)
def test_any_range_is_that_part_of_the_file(user: User, first: int, last: int) -> None:
    answer = user.read(PATH, headers={"Range": f"bytes={first}-{last}"})
    if first > last:
        assert (answer.status, answer.body) == (200, DATA)
    elif first >= SIZE:
        check_refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    else:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{min(last, SIZE - 1)}/{SIZE}"
        assert answer.headers["ETag"] == TAG
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert answer.body == DATA[first : last + 1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=POSITIONS, from_end=st.booleans())
@example(position=SIZE, from_end=True)
@example(position=SIZE + 5, from_end=True)
@example(position=0, from_end=True)
def test_any_open_range_is_the_rest_of_the_file(user: User, position: int, from_end: bool) -> None:
    answer = user.read(PATH, headers={"Range": f"bytes=-{position}" if from_end else f"bytes={position}-"})
    if position == 0 if from_end else position >= SIZE:
        check_refused(answer, 416, "range_not_satisfiable")
    else:
        start = max(0, SIZE - position) if from_end else position
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{SIZE - 1}/{SIZE}"
        assert answer.body == DATA[start:]


@pytest.mark.parametrize(
    "asked",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "bytes=5-2", "bytes=--5", "bytes=1-2-3"),
        *("items=0-5", "bytes 0-5", "bytes=0x1-0x5", "bytes=" + "9" * 40 + "-", "bytes=\xb2-\xb3", "bytes=0-1,3-4"),
    ],
)
def test_a_range_that_is_none_counts_as_absent(user: User, asked: str) -> None:
    answer = user.read("/small", headers={"Range": asked})
    if asked == "bytes=" + "9" * 40 + "-":
        assert answer.status in (200, 416)  # too large a number for anything: either reading is right
    else:
        assert (answer.status, answer.body) == (200, b"0123456789")


def test_a_range_header_is_read_as_it_is_written_in_the_wild(user: User) -> None:
    for asked in ("bytes=2-4", " bytes=2-4 ", "Bytes=2-4", "BYTES=2-4"):
        answer = user.read("/small", headers={"Range": asked})
        assert (answer.status, answer.body) == (206, b"234"), asked


# --- conditions -------------------------------------------------------------------------------------------------


def test_what_the_client_has_is_not_sent_again(user: User) -> None:
    for known in (TAG, f"W/{TAG}", f'"other", {TAG}', f'"other",{TAG} , "third"', "*"):
        answer = user.read(PATH, headers={"If-None-Match": known})
        assert (answer.status, answer.body) == (304, b""), known
        assert answer.headers["ETag"] == TAG
    for known in ('"other"', TAG.strip('"'), TAG[:-2] + '"', ""):
        answer = user.read(PATH, headers={"If-None-Match": known, "Range": "bytes=0-0"})
        assert (answer.status, answer.body) == (206, DATA[:1]), known
    both = user.read(PATH, headers={"If-None-Match": TAG, "Range": "bytes=0-5"})
    assert both.status == 304


def test_a_range_is_only_given_of_the_file_that_the_client_knows(user: User) -> None:
    part = user.read(PATH, headers={"If-Range": TAG, "Range": "bytes=7-9"})
    assert (part.status, part.body) == (206, DATA[7:10])
    now = email.utils.formatdate(usegmt=True)
    for other in ('"other"', f"W/{TAG}", now):
        whole(user, **{"If-Range": other, "Range": "bytes=7-9"})
    beyond = user.read(PATH, headers={"If-Range": '"other"', "Range": f"bytes={SIZE}-"})
    assert beyond.status == 200


def test_an_interrupted_download_does_not_continue_in_another_version(user: User) -> None:
    user.put("/changing", b"first version", base_version=0)
    tag = user.read("/changing").headers["ETag"]
    user.put("/changing", b"second version", base_version=1)
    answer = user.read("/changing", headers={"If-Range": tag, "Range": "bytes=6-"})
    assert (answer.status, answer.body) == (200, b"second version")


# --- versions ---------------------------------------------------------------------------------------------------


def test_every_version_stays_readable_with_a_tag_of_its_own(user: User) -> None:
    contents = [b"one", DATA[: BLOCK_BYTES + 5], b"", b"four"]
    for number, content in enumerate(contents):
        user.put("/versions", content, base_version=number)
    tags = set()
    for number, content in enumerate(contents, 1):
        answer = user.read("/versions", version=number)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["Holdfast-Version"] == str(number)
        tags.add(answer.headers["ETag"])
        if content:
            part = user.read("/versions", version=number, headers={"Range": "bytes=1-2"})
            assert (part.status, part.body) == (206, content[1:3])
    assert len(tags) == 4
    assert user.content("/versions") == b"four"
    user.post("/files/delete", path="/versions")
    check_refused(user.read("/versions"), 404, "not_found")
    assert user.read("/versions", version=2).body == contents[1]


def test_the_same_bytes_have_the_same_tag_under_every_name(user: User) -> None:
    user.post("/files/copy", from_path=PATH, to_path="/ranges-copy")
    assert user.read("/ranges-copy").headers["ETag"] == TAG
    assert user.content("/ranges-copy") == DATA


def test_a_download_that_goes_on_while_the_file_is_replaced_is_of_one_version(user: User) -> None:
    large = DATA * 3
    user.put("/replaced", large)
    with user.line() as line:
        line.send("GET", target("/files/download", path="/replaced"))
        # The beginning has come: the answer stands. (Its rest waits behind the line's small buffers.)
        first = line.socket.recv(1)
        assert first == b"H"
        user.put("/replaced", large[::-1], base_version=1)
        user.post("/files/delete", path="/replaced")
        received = bytearray(first)
        while len(received) < len(large) and (piece := line.socket.recv(1 << 20)):
            received += piece
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        while len(body) < len(large) and (piece := line.socket.recv(1 << 20)):
            body += piece
    assert b"200 OK" in head
    assert body == large


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(user: User) -> None:
    for _ in range(5):
        with user.line() as line:
            line.send("GET", f"{BASE}/files/download?path={PATH}")
            assert line.socket.recv(1)
            line.cut()
    assert wait_until(lambda: user.read(PATH).body == DATA, what="the file")


def test_a_crowd_reads_the_same_bytes(user: User) -> None:
    lines = [user.line() for _ in range(12)]
    try:
        for line in lines:
            line.send("GET", target("/files/download", path=PATH))
        for line in lines:
            answer = line.answer()
            assert (answer.status, answer.body) == (200, DATA)
    finally:
        for line in lines:
            line.close()
