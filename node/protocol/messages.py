"""Messages between a coordinator (or a peer node) and a node's ROUTER socket. No sockets here.

A message is a list of ZeroMQ frames: one envelope frame, then payload frames (whole shards, never copied into the
envelope). The envelope is one byte of protocol version, four bytes CRC-32 of what follows (big endian), and a
msgpack body. CURVE authenticates the peer; the CRC catches a peer whose memory lies.

A request names a deadline as *time left* in milliseconds, so that no two clocks are ever compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from node.protocol.errors import BadRequest

PROTOCOL_VERSION: Final = 1
BLOCK_ID_BYTES: Final = 16
SHARD_PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024 + 64 * 1024
SHARDS_PER_MESSAGE_MAX: Final = 256
LIST_LIMIT_MAX: Final = 4096
ENVELOPE_BYTES_MAX: Final = 1024 * 1024

Buffer = bytes | bytearray | memoryview

_HEAD = struct.Struct(">BI")
_T = TypeVar("_T")


class ShardMeta(msgspec.Struct, frozen=True, array_like=True):
    """Everything a shard says about itself; it stands in the volume's record header beside the payload.

    `index` is 0..k+m-1, below k a data shard (for whole copies k = 1 and every shard is the sealed block itself).
    `plain_size` and `sealed_size` are bytes of the whole block, `codec` is how the plaintext was packed before it was
    encrypted (0 stored, 1 zstd). Digests are XXH3-128 (16 bytes): `payload_digest` of this shard's payload,
    `sealed_digest` of the whole sealed block. `wrapped_key` is the block's key wrapped (RFC 3394) by the key of
    `account_id`. Together with the root and account keys a store can be rebuilt from volumes alone.
    """

    block_id: bytes
    index: int
    k: int
    m: int
    group_id: int
    group_epoch: int
    plain_size: int
    sealed_size: int
    codec: int
    account_id: int
    payload_digest: bytes
    sealed_digest: bytes
    wrapped_key: bytes


class ShardName(msgspec.Struct, frozen=True, array_like=True):
    """One shard of one block."""

    block_id: bytes
    index: int


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who are you, and how are your disks? Answered by Status. Also the liveness probe."""


class PutShards(msgspec.Struct, frozen=True, tag="put_shards"):
    """Make shards durable on one disk; one payload frame for each, in order. Answered by PutDone after the fsync.

    Putting a shard that is already there with the same digest is a success (so a retry is safe).
    """

    disk_id: str
    shards: tuple[ShardMeta, ...]


class GetShard(msgspec.Struct, frozen=True, tag="get_shard"):
    """Fetch one shard: ShardFound with one payload frame, verified against its digest."""

    disk_id: str
    shard: ShardName


class VerifyShards(msgspec.Struct, frozen=True, tag="verify_shards"):
    """Re-read shards from the disk and check them; no payload travels. Answered by Verified."""

    disk_id: str
    shards: tuple[ShardName, ...]


class ListShards(msgspec.Struct, frozen=True, tag="list_shards"):
    """A page of the disk's inventory in (block id, index) order, after `after` (None: from the start). -> Inventory"""

    disk_id: str
    after: ShardName | None
    limit: int


class TrashShards(msgspec.Struct, frozen=True, tag="trash_shards"):
    """Move shards to the disk's trash; absent ones count as done. Answered by TrashDone after the fsync."""

    disk_id: str
    group_epoch: int
    group_id: int
    shards: tuple[ShardName, ...]


class AdvanceEpoch(msgspec.Struct, frozen=True, tag="advance_epoch"):
    """From now on refuse requests of `group_id` older than `group_epoch`. Answered by Done once durable."""

    group_id: int
    group_epoch: int


Operation = Hello | PutShards | GetShard | VerifyShards | ListShards | TrashShards | AdvanceEpoch


class DiskStatus(msgspec.Struct, frozen=True, array_like=True):
    """`state` is "ok", "read_only" (full), "failed" (sticky) or "foreign"; sizes in bytes of its filesystem."""

    disk_id: str
    path: str
    state: str
    reason: str
    size_bytes: int
    used_bytes: int
    shards: int
    queued: int


class Status(msgspec.Struct, frozen=True, tag="status"):
    """Answer to Hello."""

    cluster_id: str
    node: str
    disks: tuple[DiskStatus, ...]


class PutDone(msgspec.Struct, frozen=True, tag="put_done"):
    """Every shard of the request is durable."""


class ShardFound(msgspec.Struct, frozen=True, tag="shard_found"):
    """The shard's own header; its payload is the next frame."""

    meta: ShardMeta


class Verified(msgspec.Struct, frozen=True, tag="verified"):
    """For each shard asked: "ok", "shard_missing" or "shard_corrupt", in order."""

    verdicts: tuple[str, ...]


class InventoryRow(msgspec.Struct, frozen=True, array_like=True):
    block_id: bytes
    index: int
    payload_bytes: int


class Inventory(msgspec.Struct, frozen=True, tag="inventory"):
    """A page of shards; `complete` when nothing follows it."""

    rows: tuple[InventoryRow, ...]
    complete: bool


class TrashDone(msgspec.Struct, frozen=True, tag="trash_done"):
    """How many of the shards were there and are in the trash now."""

    trashed: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is so, durably."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """An error of node.protocol.errors by its code, with a sentence for the log."""

    code: str
    message: str


Result = Status | PutDone | ShardFound | Verified | Inventory | TrashDone | Done | Refused


class Request(msgspec.Struct, frozen=True, array_like=True):
    """`request_id` is the caller's, unique on its connection; `time_left_ms` is at least 1."""

    request_id: int
    time_left_ms: int
    operation: Operation


class Reply(msgspec.Struct, frozen=True, array_like=True):
    request_id: int
    result: Result


_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)


def encode_envelope(message: Request | Reply) -> bytes:
    """The first frame of a message."""
    body = _encoder.encode(message)
    return _HEAD.pack(PROTOCOL_VERSION, zlib.crc32(body)) + body


def decode_request(frame: Buffer, payloads: Sequence[Buffer]) -> Request:
    """Decode and check against every limit of the protocol. Raises BadRequest."""
    request = _decode(frame, _request_decoder)
    if request.time_left_ms < 1:
        raise BadRequest("a request needs time left")
    _check_operation(request.operation, payloads)
    return request


def decode_reply(frame: Buffer) -> Reply:
    """Raises BadRequest when the peer does not speak this protocol."""
    return _decode(frame, _reply_decoder)


def _decode(frame: Buffer, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    view = memoryview(frame)
    if not _HEAD.size < view.nbytes <= ENVELOPE_BYTES_MAX:
        raise BadRequest(f"an envelope of {view.nbytes} bytes")
    version, crc = _HEAD.unpack_from(view)
    if version != PROTOCOL_VERSION:
        raise BadRequest(f"protocol version {version}, this side speaks {PROTOCOL_VERSION}")
    body = view[_HEAD.size :]
    if zlib.crc32(body) != crc:
        raise BadRequest("the envelope's checksum does not match")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the envelope's body is not understood: {error}") from error


def _check_operation(operation: Operation, payloads: Sequence[Buffer]) -> None:
    if isinstance(operation, PutShards):
        _check_put(operation, payloads)
    elif payloads:
        raise BadRequest("only put_shards carries payload frames")
    elif isinstance(operation, GetShard):
        _check_name(operation.shard)
    elif isinstance(operation, VerifyShards | TrashShards):
        if len(operation.shards) > SHARDS_PER_MESSAGE_MAX:
            raise BadRequest(f"more than {SHARDS_PER_MESSAGE_MAX} shards in one message")
        for name in operation.shards:
            _check_name(name)
    elif isinstance(operation, ListShards):
        if not 1 <= operation.limit <= LIST_LIMIT_MAX:
            raise BadRequest(f"a page has 1 to {LIST_LIMIT_MAX} rows")
        if operation.after is not None:
            _check_name(operation.after)
    if isinstance(operation, TrashShards | AdvanceEpoch):
        _check_header_numbers(operation.group_id, operation.group_epoch)


def _check_put(put: PutShards, payloads: Sequence[Buffer]) -> None:
    if not 1 <= len(put.shards) <= SHARDS_PER_MESSAGE_MAX or len(put.shards) != len(payloads):
        raise BadRequest(f"{len(put.shards)} shards with {len(payloads)} payloads")
    for meta, payload in zip(put.shards, payloads, strict=True):
        _check_name(ShardName(meta.block_id, meta.index))
        if not 1 <= meta.k <= 14 or not 0 <= meta.m <= 6 or not meta.index < meta.k + meta.m:
            raise BadRequest(f"shard {meta.index} of a {meta.k}+{meta.m} code")
        if len(meta.payload_digest) != 16 or len(meta.sealed_digest) != 16 or len(meta.wrapped_key) != 40:
            raise BadRequest("a digest has 16 bytes and a wrapped key 40")
        if not 1 <= memoryview(payload).nbytes <= SHARD_PAYLOAD_BYTES_MAX:
            raise BadRequest(f"a payload of {memoryview(payload).nbytes} bytes")
        _check_header_numbers(meta.group_id, meta.group_epoch, meta.plain_size, meta.sealed_size, meta.codec)
        if not 0 <= meta.account_id < 1 << 63:
            raise BadRequest(f"{meta.account_id} is no account id")


def _check_header_numbers(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= number < 1 << 32:
            raise BadRequest(f"{number} does not fit the record header")


def _check_name(name: ShardName) -> None:
    if len(name.block_id) != BLOCK_ID_BYTES or not 0 <= name.index < 20:
        raise BadRequest("a shard is named by a block id of 16 bytes and an index below 20")
