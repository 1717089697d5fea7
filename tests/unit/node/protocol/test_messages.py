from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import errors
from node.protocol.errors import BadRequest, NodeError, error_from_wire
from node.protocol.messages import (
    AdvanceEpoch,
    DiskStatus,
    Done,
    GetShard,
    Hello,
    Inventory,
    InventoryRow,
    ListShards,
    PutDone,
    PutShards,
    Refused,
    Reply,
    Request,
    ShardFound,
    ShardMeta,
    ShardName,
    Status,
    TrashDone,
    TrashShards,
    Verified,
    VerifyShards,
    decode_reply,
    decode_request,
    encode_envelope,
)

VECTORS = Path(__file__).parents[3] / "vectors" / "node_protocol_1.json"
BLOCK = bytes(range(16))
NAME = ShardName(BLOCK, 5)
META = ShardMeta(BLOCK, 5, 4, 2, 7, 3, 400, 300, 1, 9, b"p" * 16, b"s" * 16, b"k" * 40)
DISK = "d" * 32

REQUESTS = {
    "hello": Request(1, 1000, Hello()),
    "put_shards": Request(2, 1000, PutShards(DISK, (META,))),
    "get_shard": Request(3, 1000, GetShard(DISK, NAME)),
    "verify_shards": Request(4, 1000, VerifyShards(DISK, (NAME,))),
    "list_shards": Request(5, 1000, ListShards(DISK, NAME, 10)),
    "trash_shards": Request(6, 1000, TrashShards(DISK, 3, 7, (NAME,))),
    "advance_epoch": Request(7, 1000, AdvanceEpoch(7, 4)),
}
REPLIES = {
    "status": Reply(1, Status("c", "n", (DiskStatus(DISK, "/d", "ok", "", 10, 5, 2, 0),))),
    "put_done": Reply(2, PutDone()),
    "shard_found": Reply(3, ShardFound(META)),
    "verified": Reply(4, Verified(("ok", "shard_missing"))),
    "inventory": Reply(5, Inventory((InventoryRow(BLOCK, 5, 75),), True)),
    "trash_done": Reply(6, TrashDone(1)),
    "done": Reply(7, Done()),
    "refused": Reply(8, Refused("busy", "the queue is full")),
}


def payloads_of(request: Request) -> list[bytes]:
    return [b"x" * 75] if isinstance(request.operation, PutShards) else []


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_reads_back_as_it_was_sent(name: str) -> None:
    request = REQUESTS[name]
    assert decode_request(encode_envelope(request), payloads_of(request)) == request


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_reads_back_as_it_was_sent(name: str) -> None:
    assert decode_reply(encode_envelope(REPLIES[name])) == REPLIES[name]


def test_protocol_1_is_frozen() -> None:
    messages: dict[str, Request | Reply] = {**REQUESTS, **REPLIES}
    assert {name: encode_envelope(message).hex() for name, message in messages.items()} == json.loads(
        VECTORS.read_text()
    )


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_request(data, [])
    with pytest.raises(BadRequest):
        decode_reply(data)


@given(st.binary(max_size=200), st.sampled_from(sorted(REQUESTS)), st.integers(5, 300), st.binary(max_size=8))
def test_a_body_with_a_good_checksum_is_a_valid_request_or_refused(
    noise: bytes, name: str, at: int, patch: bytes
) -> None:
    body = bytearray(encode_envelope(REQUESTS[name])[5:])
    body[at : at + len(patch)] = patch
    for each in (noise, bytes(body)):
        frame = struct.pack(">BI", 1, zlib.crc32(each)) + each
        try:
            request = decode_request(frame, payloads_of(REQUESTS[name]))
        except BadRequest:
            continue
        assert isinstance(request, Request)


@given(name=st.sampled_from(sorted(REQUESTS)), bit=st.integers(0, 10_000))
def test_any_flipped_bit_of_an_envelope_is_noticed(name: str, bit: int) -> None:
    frame = bytearray(encode_envelope(REQUESTS[name]))
    frame[bit // 8 % len(frame)] ^= 1 << bit % 8
    with pytest.raises(BadRequest):
        decode_request(frame, payloads_of(REQUESTS[name]))


@pytest.mark.parametrize(
    ("request_", "payloads"),
    [
        (Request(1, 0, Hello()), []),
        (Request(1, 9, Hello()), [b"x"]),
        (Request(1, 9, PutShards(DISK, (META,))), []),
        (Request(1, 9, PutShards(DISK, (META,))), [b""]),
        (Request(1, 9, PutShards(DISK, (META,))), [bytes(5 << 20)]),
        (Request(1, 9, PutShards(DISK, ())), []),
        (Request(1, 9, GetShard(DISK, ShardName(b"short", 0))), []),
        (Request(1, 9, GetShard(DISK, ShardName(BLOCK, 20))), []),
        (Request(1, 9, ListShards(DISK, None, 0)), []),
        (Request(1, 9, ListShards(DISK, None, 5000)), []),
        (Request(1, 9, ListShards(DISK, ShardName(BLOCK, 256), 5)), []),
        (Request(1, 9, VerifyShards(DISK, (NAME,) * 257)), []),
        (Request(1, 9, TrashShards(DISK, -1, 7, (NAME,))), []),
        (Request(1, 9, AdvanceEpoch(1, 1 << 32)), []),
        (Request(1, 9, PutShards(DISK, (msgspec.structs.replace(META, account_id=-1),))), [b"x"]),
        (Request(1, 9, PutShards(DISK, (msgspec.structs.replace(META, group_epoch=1 << 32),))), [b"x"]),
        (Request(1, 9, PutShards(DISK, (msgspec.structs.replace(META, wrapped_key=b"short"),))), [b"x"]),
        (Request(1, 9, PutShards(DISK, (msgspec.structs.replace(META, index=6),))), [b"x"]),
    ],
)
def test_limits_hold(request_: Request, payloads: list[bytes]) -> None:
    with pytest.raises(BadRequest):
        decode_request(encode_envelope(request_), payloads)


def test_every_error_travels_by_its_code() -> None:
    for code, kind in errors.ERRORS.items():
        assert type(error_from_wire(code, "why")) is kind
    assert type(error_from_wire("from_the_future", "why")) is NodeError
