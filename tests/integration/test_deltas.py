"""Deltas: blocks that are made of an older version arrive as copies and literals, and are verified like any others."""

from __future__ import annotations

import gzip
import random

from coordinator.protocol.delta import (
    BlockDelta,
    Copy,
    Delta,
    Literal,
    Op,
    decode_delta,
    encode_delta,
)
from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import User, check_refused, connect_database, cut, digest, entry
from tests.kit.cluster import Answer


def some_bytes(label: str, size: int) -> bytes:
    return random.Random(label).randbytes(size)


def literal(plain: bytes) -> Literal:
    return Literal(len(plain), plain)


def shifted(base: bytes, insert: bytes) -> tuple[bytes, list[BlockDelta]]:
    """`insert` before `base`, and the delta that says so."""
    data = insert + base
    blocks = []
    for index, plain in enumerate(cut(data)):
        start = index * BLOCK_BYTES - len(insert)
        ops: list[Op] = []
        if start < 0:
            ops.append(literal(insert))
            start = 0
        ops.append(Copy(start, len(plain) - sum(op.length for op in ops)))
        blocks.append(BlockDelta(index, tuple(ops)))
    return data, blocks


def announce(user: User, path: str, data: bytes, **more: object) -> str:
    [result] = user.post("/files/announce", entries=[entry(path, data, **more)], as_ranges=True)["results"]
    assert result["error"] is None, result
    return str(result["upload_id"])


def send(user: User, upload: str, delta: Delta, *, literals: bool = True) -> Answer:
    body = gzip.compress(encode_delta(delta, literals=literals))
    return user.call("POST", "/blocks/delta", query={"upload": upload}, body=body, headers={"Content-Encoding": "gzip"})


def kept(user: User, upload: str) -> Delta:
    answer = user.call("GET", "/files/delta", query={"upload": upload})
    assert answer.status == 200, answer
    return decode_delta(answer.body, blocks_max=1 << 22)


def test_an_insertion_travels_as_a_few_bytes(user: User) -> None:
    base = some_bytes("base", 5 * BLOCK_BYTES + 12_345)
    first = user.put("/shifted", base)
    data, blocks = shifted(base, b"!")
    upload = announce(user, "/shifted", data, base_version=1)
    answer = send(user, upload, Delta(first["id"], 1, tuple(blocks)))
    assert (answer.status, answer.document) == (201, {"stored": 6})
    [result] = user.commit({"path": "/shifted", "size": len(data), "base_version": 1, "upload_id": upload})
    assert result["metadata"]["version"] == 2
    assert user.content("/shifted") == data


def test_another_device_learns_how_it_was_sent(user: User, stranger: User) -> None:
    base = some_bytes("told", 2 * BLOCK_BYTES)
    first = user.put("/told", base)
    data, blocks = shifted(base, b"abc")
    upload = announce(user, "/told", data, base_version=1)
    other = user.new_device()
    check_refused(other.call("GET", "/files/delta", query={"upload": upload}), 404, "not_found")
    assert send(user, upload, Delta(first["id"], 1, (blocks[1],))).status == 201
    assert kept(other, upload) == Delta(first["id"], 1, (blocks[1],))
    assert send(user, upload, Delta(first["id"], 1, (blocks[0], blocks[2]))).status == 201
    told = Delta(first["id"], 1, (BlockDelta(0, (Literal(3), blocks[0].ops[1])), *blocks[1:]))
    assert kept(other, upload) == told
    check_refused(stranger.call("GET", "/files/delta", query={"upload": upload}), 404, "not_found")
    user.commit({"path": "/told", "size": len(data), "base_version": 1, "upload_id": upload})
    assert kept(other, upload) == told
    literal_bytes = other.call(
        "GET", f"/blocks/{digest(cut(data)[0])}", query={"path": "/told"}, headers={"Range": "bytes=0-2"}
    )
    assert literal_bytes.body == b"abc"


def test_a_wrong_block_is_named_and_nothing_bad_is_stored(user: User) -> None:
    base = some_bytes("wrong", 3 * BLOCK_BYTES)
    first = user.put("/wrong", base)
    data, blocks = shifted(base, b"x")
    upload = announce(user, "/wrong", data, base_version=1)
    bad = BlockDelta(1, (Copy(BLOCK_BYTES, BLOCK_BYTES),))
    error = check_refused(send(user, upload, Delta(first["id"], 1, (blocks[0], bad, blocks[2]))), 400, "hash_mismatch")
    assert error["blocks"] == [1]
    assert user.missing(entry("/wrong", data)["blocks"], "/wrong") == [digest(cut(data)[at]) for at in (1, 3)]  # type: ignore[arg-type]  # a JSON object
    assert [block.index for block in kept(user, upload).blocks] == [0, 2]
    assert send(user, upload, Delta(first["id"], 1, tuple(blocks))).status == 201
    [result] = user.commit({"path": "/wrong", "size": len(data), "base_version": 1, "upload_id": upload})
    assert result["metadata"]["version"] == 2
    assert user.content("/wrong") == data


def test_blocks_may_come_from_everywhere_in_the_base(user: User) -> None:
    chance = random.Random("everywhere")
    base = some_bytes("everywhere", 4 * BLOCK_BYTES + 777)
    first = user.put("/everywhere", base)
    made, ops = b"", list[Op]()
    while len(made) < BLOCK_BYTES:
        if chance.random() < 0.3:
            op: Op = literal(chance.randbytes(min(chance.randrange(1, 5000), BLOCK_BYTES - len(made))))
        else:
            length = min(chance.randrange(1, 200_000), BLOCK_BYTES - len(made))
            op = Copy(chance.randrange(len(base) - length), length)
        made += op.plain if isinstance(op, Literal) else base[op.offset : op.offset + op.length]  # type: ignore[operator]  # literals were sent, so they have bytes
        ops.append(op)
    upload = announce(user, "/everywhere", made, base_version=1)
    assert send(user, upload, Delta(first["id"], 1, (BlockDelta(0, tuple(ops)),))).status == 201
    user.commit({"path": "/everywhere", "size": len(made), "base_version": 1, "upload_id": upload})
    assert user.content("/everywhere") == made


def test_the_base_may_be_another_file_of_ones_own_only(user: User, stranger: User) -> None:
    base = some_bytes("other file", 10_000)
    theirs, mine = stranger.put("/theirs", base), user.put("/mine", base)
    data, blocks = shifted(base, b"12")
    upload = announce(user, "/from another", data)
    check_refused(send(user, upload, Delta(theirs["id"], 1, tuple(blocks))), 404, "not_found")
    check_refused(send(user, upload, Delta(mine["id"], 2, tuple(blocks))), 404, "not_found")
    check_refused(send(stranger, upload, Delta(theirs["id"], 1, tuple(blocks))), 404, "not_found")
    assert send(user, upload, Delta(mine["id"], 1, tuple(blocks))).status == 201


def test_what_does_not_fit_is_refused(user: User) -> None:
    base = some_bytes("fit", BLOCK_BYTES + 10)
    first = user.put("/fit", base)
    data, blocks = shifted(base, b"x")
    upload = announce(user, "/fit", data, base_version=1)
    many = tuple(Copy(0, BLOCK_BYTES // 2) for _ in range(2))
    for bad in (
        BlockDelta(2, (Copy(0, 11),)),  # no such block
        BlockDelta((1 << 32) - 1, (Copy((1 << 62) - 1, 11),)),
        BlockDelta(1, (Copy(0, 12),)),  # too long
        BlockDelta(0, (Copy(11, BLOCK_BYTES),)),  # beyond the base
        BlockDelta(0, (*many, literal(b"x"))),
    ):
        check_refused(send(user, upload, Delta(first["id"], 1, (bad,))), 400, "bad_request")
    check_refused(send(user, upload, Delta(first["id"], 1, (blocks[0],)), literals=False), 400, "bad_request")
    headers = {"Content-Encoding": "gzip"}
    for body in (b"", b"HFD1", encode_delta(Delta(first["id"], 1, ()), literals=True)):
        answer = user.call("POST", "/blocks/delta", query={"upload": upload}, body=gzip.compress(body), headers=headers)
        assert answer.status == (201 if len(body) > 10 else 400), answer
    bomb = gzip.compress(bytes(50_000_000))
    answer = user.call("POST", "/blocks/delta", query={"upload": upload}, body=bomb, headers=headers)
    check_refused(answer, 413, "too_large")
    for name in ("0" * 32, "x", "\0"):
        answer = user.call("POST", "/blocks/delta", query={"upload": name}, body=bomb, headers=headers)
        assert answer.status in (404, 413), answer


def test_too_many_base_blocks_for_one_are_refused(user: User) -> None:
    first = user.put("/scattered", some_bytes("scattered", 10 * BLOCK_BYTES))
    ops = tuple(Copy(index * BLOCK_BYTES, 1) for index in range(9))
    upload = announce(user, "/scattered", b"x" * 9, base_version=1)
    check_refused(send(user, upload, Delta(first["id"], 1, (BlockDelta(0, ops),))), 400, "bad_request")


def test_an_upload_that_has_ended_takes_no_delta(user: User) -> None:
    base = some_bytes("ended", 1000)
    first = user.put("/ended", base)
    data, blocks = shifted(base, b"x")
    upload = announce(user, "/ended", data, base_version=1)
    user.call("DELETE", f"/uploads/{upload}", headers={"Tus-Resumable": "1.0.0"})
    check_refused(send(user, upload, Delta(first["id"], 1, tuple(blocks))), 410, "upload_gone")
    check_refused(user.call("GET", "/files/delta", query={"upload": upload}), 410, "upload_gone")


def test_what_is_kept_is_bounded(user: User) -> None:
    """A block's operations beyond 16 KiB are not kept; the block is stored all the same."""
    base = some_bytes("bounded", 100_000)
    first = user.put("/bounded", base)
    ops = tuple(Copy(16 * number + 17_000, 1) for number in range(5000))
    plain = bytes(base[op.offset] for op in ops)
    upload = announce(user, "/bounded", plain, base_version=1)
    assert send(user, upload, Delta(first["id"], 1, (BlockDelta(0, ops),))).status == 201
    check_refused(user.call("GET", "/files/delta", query={"upload": upload}), 404, "not_found")
    with connect_database(user.appliance) as database:
        assert database.execute("SELECT 1 FROM upload_delta WHERE upload_id = %s", (upload,)).fetchall() == []
