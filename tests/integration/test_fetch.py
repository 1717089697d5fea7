"""Many small files in one answer."""

from __future__ import annotations

import json
import random

import pytest

from coordinator.protocol.fetched import split_fetched
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import BATCH_BLOCKS_MAX
from tests.kit.api import User, check_refused


def some_bytes(label: str, size: int) -> bytes:
    return random.Random(label).randbytes(size)


def store(user: User, path: str, data: bytes, base_version: int | None = None) -> tuple[int, int]:
    """(id, version)"""
    told = user.put(path, data, base_version)
    return told["id"], told["version"]


def fetch(user: User, wanted: list[tuple[int, int]]) -> list[bytes | None]:
    body = json.dumps({"files": [{"id": file_id, "version": version} for file_id, version in wanted]}).encode()
    answer = user.call("POST", "/files/fetch", body=body, headers={"Content-Type": "application/json"})
    assert answer.status == 200, answer
    return [None if plain is None else bytes(plain) for plain in split_fetched(answer.body)]


def test_files_come_in_the_order_asked_for(user: User) -> None:
    contents = {
        f"/fetch/{number}": some_bytes(f"fetch {number}", size) for number, size in enumerate((1, 9_000, 700_000))
    }
    stored = {path: store(user, path, data) for path, data in contents.items()}
    first = stored["/fetch/1"]
    newer = store(user, "/fetch/1", b"second", base_version=1)
    wanted = [stored["/fetch/2"], newer, first, stored["/fetch/0"]]
    expected = [contents["/fetch/2"], b"second", contents["/fetch/1"], contents["/fetch/0"]]
    assert fetch(user, wanted) == expected


def test_what_is_not_there_large_or_somebody_elses_is_left_out(user: User, stranger: User) -> None:
    mine = store(user, "/mine", b"mine")
    large = store(user, "/large", some_bytes("large", BLOCK_BYTES + 1))
    empty = store(user, "/empty", b"")
    theirs = store(stranger, "/theirs", b"theirs")
    assert fetch(stranger, [theirs]) == [b"theirs"]
    wanted = [mine, large, theirs, (mine[0], mine[1] + 1), ((1 << 62), 1), empty]
    assert fetch(user, wanted) == [b"mine", None, None, None, None, None]


def test_an_answer_is_bounded(user: User) -> None:
    data = [some_bytes(f"bounded {number}", 3_000_000) for number in range(4)]
    wanted = [store(user, f"/bounded/{number}", plain) for number, plain in enumerate(data)]
    assert fetch(user, wanted) == [data[0], data[1], None, None]


@pytest.mark.parametrize("files", [[], [{"id": 0, "version": 1}], [{"id": 1, "version": 1}] * (BATCH_BLOCKS_MAX + 1)])
def test_nonsense_is_refused(user: User, files: list[dict[str, int]]) -> None:
    body = json.dumps({"files": files}).encode()
    answer = user.call("POST", "/files/fetch", body=body, headers={"Content-Type": "application/json"})
    check_refused(answer, 400, "bad_request")
