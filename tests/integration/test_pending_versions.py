"""Pending versions: other devices read what is announced while it still arrives."""

from __future__ import annotations

import gzip
import json
import random
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.integration.conftest import NewUser
from tests.kit.api import User, check_refused, cut, digest, entry
from tests.kit.cluster import Answer


def some_bytes(label: str, size: int) -> bytes:
    return random.Random(label).randbytes(size)


def announce(user: User, path: str, data: bytes, **more: object) -> dict[str, object]:
    [result] = user.post("/files/announce", entries=[entry(path, data)], **more)["results"]
    assert result["error"] is None, result
    return dict(result)


def ask(user: User, block: str, upload: object, wait: int = 0, path: str = "/x", **more: Any) -> Answer:
    return user.call("GET", f"/blocks/{block}", query={"path": path, "upload": upload, "wait": wait}, **more)


def not_there_yet(user: User, block: str, upload: object, wait: int = 0) -> None:
    assert check_refused(ask(user, block, upload, wait), 404, "not_found")["what"] == "block"


def test_what_is_missing_is_told_as_ranges(user: User) -> None:
    data = some_bytes("ranges", 3 * BLOCK_BYTES + 5)
    user.put_block(cut(data)[1], "/ranges")
    assert announce(user, "/ranges", data, as_ranges=True)["missing_ranges"] == [[0, 1], [2, 4]]
    result = announce(user, "/ranges", data)
    assert (result["missing"], result["missing_ranges"]) == ([digest(cut(data)[at]) for at in (0, 2, 3)], [])
    twice = some_bytes("twice", BLOCK_BYTES) * 3
    assert announce(user, "/twice", twice, as_ranges=True)["missing_ranges"] == [[0, 1]]


def test_the_recipe_is_there_before_the_blocks(user: User, stranger: User) -> None:
    data = some_bytes("recipe", BLOCK_BYTES + 9)
    upload = announce(user, "/recipe", data)["upload_id"]
    recipe = user.new_device().get("/files/blocks", upload=upload)
    assert recipe["blocks"] == entry("/recipe", data)["blocks"]
    assert (recipe["version"], recipe["size"]) == (1, len(data))
    check_refused(stranger.call("GET", "/files/blocks", query={"upload": upload}), 404, "not_found")
    check_refused(user.call("GET", "/files/blocks", query={"upload": "0" * 32}), 404, "not_found")


def test_a_block_is_given_as_soon_as_it_has_arrived(user: User, stranger: User) -> None:
    data = some_bytes("arrives", 2 * BLOCK_BYTES)
    first, second = cut(data)
    upload = announce(user, "/arrives", data)["upload_id"]
    other = user.new_device()
    not_there_yet(other, digest(first), upload)
    user.put_block(first, "/arrives")
    assert ask(other, digest(first), upload).body == first
    not_there_yet(other, digest(second), upload)
    check_refused(ask(stranger, digest(first), upload), 404, "not_found")
    not_there_yet(other, digest(b"no part of it"), upload, wait=30)


@pytest.mark.parametrize("round_", range(4))
def test_who_waits_has_the_block_at_once(user: User, round_: int) -> None:
    """Each round takes other connections, so that both workers meet both sides sooner or later."""
    data = some_bytes(f"waits {round_}", 100_000)
    upload = announce(user, f"/waits {round_}", data)["upload_id"]
    other = user.new_device()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, other, digest(data), upload, 30) for _ in range(8)]
        time.sleep(0.3)  # they wait by now, most probably; nothing depends on it
        assert not any(one.done() for one in waiting)
        user.put_block(data, f"/waits {round_}")
        stored = time.monotonic()
        assert all(one.result().body == data for one in waiting)
        assert time.monotonic() - stored < 2.0


def test_waiting_ends_when_its_time_is_over(user: User) -> None:
    data = some_bytes("over", 100)
    upload = announce(user, "/over", data)["upload_id"]
    began = time.monotonic()
    not_there_yet(user, digest(data), upload, wait=1)
    assert 0.9 < time.monotonic() - began < 5.0
    for wait in (-1, 31):
        check_refused(ask(user, digest(data), upload, wait), 400, "bad_request")


def test_waiting_ends_when_the_upload_does(user: User) -> None:
    data = some_bytes("gone", 100)
    upload = announce(user, "/gone", data)["upload_id"]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(ask(user.new_device(), digest(data), upload, 30)))
    waiting.start()
    answer = user.call("DELETE", f"/uploads/{upload}", headers={"Tus-Resumable": "1.0.0"})
    assert answer.status == 204, answer
    waiting.join(10)
    check_refused(answers[0], 410, "upload_gone")
    check_refused(user.call("GET", "/files/blocks", query={"upload": upload}), 410, "upload_gone")
    [result] = user.commit({"path": "/gone", "size": 100, "upload_id": upload})
    assert result["error"]["code"] == "upload_gone"


def test_after_the_commit_the_upload_still_leads_to_the_blocks(user: User) -> None:
    data = some_bytes("done", 1000)
    upload = announce(user, "/done", data)["upload_id"]
    user.put_block(data, "/done")
    [result] = user.commit({"path": "/done", "size": len(data), "upload_id": upload})
    assert result["metadata"]["version"] == 1
    assert ask(user.new_device(), digest(data), upload, 30).body == data
    assert user.get("/files/blocks", upload=upload)["version"] == 1
    assert user.commit({"path": "/done", "size": len(data), "upload_id": upload}) == [result]


def test_naming_a_hash_opens_no_block_of_others(user: User, stranger: User) -> None:
    """Not in one's own account, and (see the shared tree below) not in somebody else's either."""
    secret = some_bytes("secret", 5000)
    user.put("/secret", secret)
    upload = announce(stranger, "/mine", secret)["upload_id"]
    not_there_yet(stranger, digest(secret), upload)


def test_a_range_of_a_block_can_be_had(user: User) -> None:
    plain = some_bytes("range", BLOCK_BYTES)
    user.put_block(plain, "/range")
    query = {"path": "/range"}
    for header, start, stop in (("bytes=0-0", 0, 1), ("bytes=4000-499999", 4000, 500_000), ("bytes=-7", -7, None)):
        answer = user.call("GET", f"/blocks/{digest(plain)}", query=query, headers={"Range": header})
        assert (answer.status, answer.body) == (206, plain[start:stop])
        assert answer.headers["Content-Range"].endswith(f"/{BLOCK_BYTES}")
    answer = user.call("GET", f"/blocks/{digest(plain)}", query=query, headers={"Range": f"bytes={BLOCK_BYTES}-"})
    check_refused(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{BLOCK_BYTES}"


# --- compressed bodies


def test_a_compressed_body_is_taken_and_a_compressed_answer_given(user: User) -> None:
    entries = [entry(f"/packed {number}", some_bytes(f"packed {number}", 10)) for number in range(40)]
    body = gzip.compress(json.dumps({"entries": entries}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    answer = user.call("POST", "/files/announce", body=body, headers=headers)
    assert answer.status == 200, answer
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) < len(answer.body)  # unpacked by the test's own client
    assert len(answer.document["results"]) == 40
    assert "Content-Encoding" not in user.call("GET", "/auth/whoami", headers=headers).headers


def test_a_large_answer_is_compressed_too(new_user: NewUser) -> None:
    user = new_user()
    for at in range(0, 600, 200):
        user.commit(*({"path": f"/many/{number:04}", "size": 0, "blocks": []} for number in range(at, at + 200)))
    plain = user.call("GET", "/changes")
    packed = user.call("GET", "/changes", headers={"Accept-Encoding": "gzip"})
    assert len(plain.body) > 64 * 1024
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < len(plain.body) / 4
    assert packed.document["changes"] == plain.document["changes"]


def bomb(size: int) -> bytes:
    return gzip.compress(bytes(size))


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda: bomb(200_000_000), 413, "too_large"),
        (lambda: gzip.compress(b"{}")[:-3], 400, "bad_request"),
        (lambda: gzip.compress(b"{}") + b"more", 400, "bad_request"),
        (lambda: b'{"entries":[]}', 400, "bad_request"),
    ],
    ids=["bomb", "cut", "more", "plain"],
)
def test_a_bad_compressed_body_is_refused(user: User, make: Callable[[], bytes], status: int, code: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    check_refused(user.call("POST", "/files/announce", body=make(), headers=headers), status, code)
    assert user.get("/auth/whoami")["email"] == user.email


def test_other_content_codings_are_refused(user: User) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "br"}
    check_refused(user.call("POST", "/files/announce", body=b"{}", headers=headers), 415, "unsupported_media")


# --- guards over HTTP


def test_a_conflict_names_the_guard(user: User) -> None:
    folder = user.post("/files/create_folder", path=f"/guards {secrets.token_hex(4)}")
    path = folder["path"]
    made = user.put(f"{path}/f", b"1")
    assert made["parent_id"] == folder["id"]
    before = user.get("/changes")["cursor"]

    def refused(address: str, **body: object) -> str:
        answer = user.call("POST", address, document=body)
        return str(check_refused(answer, 409, "version_conflict")["guard"])

    assert refused("/files/delete", path=f"{path}/f", id=made["id"] + 1) == "id"
    assert refused("/files/move", from_path=f"{path}/f", to_path="/elsewhere", parent_id=made["id"]) == "parent_id"
    assert refused("/files/create_folder", path=f"{path}/new", parent_id=made["id"]) == "parent_id"
    user.put(f"{path}/f", b"2", made["version"])
    assert refused("/files/delete", path=path, unchanged_since=before) == "unchanged_since"
    change = user.get("/changes", cursor=before)["changes"][0]
    assert change["device_id"] == user.get("/auth/whoami")["device_id"]
    [result] = user.commit(entry(f"{path}/f", b"3", base_version=2, id=made["id"] + 1))
    assert (result["error"]["code"], result["error"]["guard"]) == ("version_conflict", "id")
    assert user.get("/files/metadata", id=made["id"])["version"] == 2
