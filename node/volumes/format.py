"""Volume format 1: the bytes of volume and record headers. Pure; no I/O.

A volume begins with a header in its first 4096 bytes. Records follow, each at a multiple of 4096: a header of 256
bytes, then the payload. A record names its disk, volume and offset itself, so that one written to the wrong place, or a
volume put back on the wrong disk, is never taken for valid. The tables in node/README.md say the same; vectors in
tests/vectors freeze it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from node.protocol.messages import SHARD_PAYLOAD_BYTES_MAX, Buffer, ShardMeta, ShardName

FORMAT_VERSION: Final = 1
ALIGNMENT: Final = 4096
HEADER_BYTES: Final = 256
FIRST_RECORD_OFFSET: Final = ALIGNMENT

RECORD_MAGIC: Final = b"HFRECORD"
_VOLUME_MAGIC: Final = b"HFVOLUME"
_NO_DIGEST: Final = bytes(16)
_NO_KEY: Final = bytes(40)

_RECORD = struct.Struct("<8sHBBBBxx16sIIIIIIQQ16s16s40s16sIIQQQ60x")
_VOLUME = struct.Struct("<8sHxx16sIQ212x")
_CRC = struct.Struct("<I")
assert _RECORD.size == _VOLUME.size == HEADER_BYTES - _CRC.size


class FormatError(Exception):
    """These bytes are not a valid header at this place."""


class Kind(IntEnum):
    """What a record does. SHARD puts one; TRASH moves the one at `target` to the trash; TOMBSTONE ends it there;
    EPOCH raises a group's epoch."""

    SHARD = 1
    TRASH = 2
    TOMBSTONE = 3
    EPOCH = 4


class Place(NamedTuple):
    """Where a record stands on its disk."""

    volume: int
    offset: int


NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Record:
    """A record without its payload. `target` and `target_at_ms` are of TRASH and TOMBSTONE: the record that it is about
    and, for TOMBSTONE, when that one went to the trash. Times are Unix milliseconds."""

    kind: Kind
    meta: ShardMeta
    payload_bytes: int
    written_at_ms: int
    target: Place = NOWHERE
    target_at_ms: int = 0

    @property
    def name(self) -> ShardName:
        return ShardName(self.meta.block_id, self.meta.index)

    @property
    def span(self) -> int:
        """Bytes from this record's start to the next one's."""
        return align(HEADER_BYTES + self.payload_bytes)


def align(size: int) -> int:
    """The smallest multiple of ALIGNMENT that is not below `size`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_bare_meta(name: ShardName, *, group_id: int = 0, group_epoch: int = 0) -> ShardMeta:
    """The meta of a record that carries no shard."""
    return ShardMeta(
        name.block_id, name.index, 0, 0, group_id, group_epoch, 0, 0, 0, 0, _NO_DIGEST, _NO_DIGEST, _NO_KEY
    )


def pack_record(record: Record, place: Place, disk_id: bytes) -> bytes:
    """The 256 header bytes of `record` when it stands at `place` on the disk `disk_id` (16 bytes)."""
    meta = record.meta
    body = _RECORD.pack(
        RECORD_MAGIC,
        FORMAT_VERSION,
        record.kind,
        meta.index,
        meta.k,
        meta.m,
        meta.block_id,
        record.payload_bytes,
        meta.plain_size,
        meta.sealed_size,
        meta.codec,
        meta.group_id,
        meta.group_epoch,
        meta.account_id,
        record.written_at_ms,
        meta.payload_digest,
        meta.sealed_digest,
        meta.wrapped_key,
        disk_id,
        place.volume,
        record.target.volume,
        place.offset,
        record.target.offset,
        record.target_at_ms,
    )
    return body + _CRC.pack(zlib.crc32(body))


def unpack_record(header: Buffer, place: Place, disk_id: bytes) -> Record:
    """The record whose header stands at `place`. Raises FormatError unless every byte of it makes sense there."""
    body = _check_header(header, RECORD_MAGIC, "record")
    (
        _magic, _version, kind, index, k, m, block_id, payload_bytes, plain_size, sealed_size, codec, group_id,
        group_epoch, account_id, written_at_ms, payload_digest, sealed_digest, wrapped_key, own_disk, own_volume,
        target_volume, own_offset, target_offset, target_at_ms,
    ) = _RECORD.unpack(body)  # fmt: skip
    if own_disk != disk_id or Place(own_volume, own_offset) != place:
        raise FormatError(f"a record of disk {own_disk.hex()}, volume {own_volume}, offset {own_offset}")
    if kind not in _KINDS:
        raise FormatError(f"a record of kind {kind}")
    if payload_bytes > SHARD_PAYLOAD_BYTES_MAX or (kind == Kind.SHARD) != (payload_bytes > 0):
        raise FormatError(f"a record of kind {kind} with {payload_bytes} bytes of payload")
    meta = ShardMeta(
        block_id, index, k, m, group_id, group_epoch, plain_size, sealed_size, codec, account_id,
        payload_digest, sealed_digest, wrapped_key,
    )  # fmt: skip
    return Record(Kind(kind), meta, payload_bytes, written_at_ms, Place(target_volume, target_offset), target_at_ms)


def pack_volume_header(number: int, disk_id: bytes, created_at_ms: int) -> bytes:
    """The first ALIGNMENT bytes of volume `number`."""
    body = _VOLUME.pack(_VOLUME_MAGIC, FORMAT_VERSION, disk_id, number, created_at_ms)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(ALIGNMENT, b"\0")


def check_volume_header(header: Buffer, number: int, disk_id: bytes) -> None:
    """Raises FormatError unless `header` (at least HEADER_BYTES) begins volume `number` of the disk `disk_id`."""
    body = _check_header(header, _VOLUME_MAGIC, "volume")
    _magic, _version, own_disk, own_number, _created = _VOLUME.unpack(body)
    if own_disk != disk_id or own_number != number:
        raise FormatError(f"volume {own_number} of disk {own_disk.hex()}")


def _check_header(header: Buffer, magic: bytes, what: str) -> memoryview:
    view = memoryview(header)[:HEADER_BYTES]
    if len(view) < HEADER_BYTES or view[: len(magic)] != magic:
        raise FormatError(f"no {what} header")
    body = view[: -_CRC.size]
    if zlib.crc32(body) != _CRC.unpack(view[-_CRC.size :])[0]:
        raise FormatError(f"a {what} header whose checksum does not match")
    version = int.from_bytes(view[len(magic) : len(magic) + 2], "little")
    if version != FORMAT_VERSION:
        raise FormatError(f"a {what} header of format version {version}, this daemon reads {FORMAT_VERSION}")
    return body


_KINDS: Final = frozenset(Kind)
