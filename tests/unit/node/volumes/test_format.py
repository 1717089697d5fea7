from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.messages import SHARD_PAYLOAD_BYTES_MAX, ShardMeta, ShardName
from node.volumes.format import (
    ALIGNMENT,
    HEADER_BYTES,
    FormatError,
    Kind,
    Place,
    Record,
    align,
    check_volume_header,
    make_bare_meta,
    pack_record,
    pack_volume_header,
    unpack_record,
)

DISK = bytes(range(16))
VECTORS = Path(__file__).parents[3] / "vectors" / "volume_format_1.json"

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
metas = st.builds(
    ShardMeta,
    block_id=st.binary(min_size=16, max_size=16),
    index=st.integers(0, 19),
    k=st.integers(1, 14),
    m=st.integers(0, 6),
    group_id=u32,
    group_epoch=u32,
    plain_size=u32,
    sealed_size=u32,
    codec=u32,
    account_id=st.integers(0, 2**63 - 1),
    payload_digest=st.binary(min_size=16, max_size=16),
    sealed_digest=st.binary(min_size=16, max_size=16),
    wrapped_key=st.binary(min_size=40, max_size=40),
)
places = st.builds(Place, u32, u64)
shard_records = st.builds(Record, st.just(Kind.SHARD), metas, st.integers(1, SHARD_PAYLOAD_BYTES_MAX), u64, places, u64)
other_records = st.builds(
    Record, st.sampled_from([Kind.TRASH, Kind.TOMBSTONE, Kind.EPOCH]), metas, st.just(0), u64, places, u64
)


@given(record=shard_records | other_records, place=places)
def test_a_record_reads_back_as_it_was_written(record: Record, place: Place) -> None:
    header = pack_record(record, place, DISK)
    assert len(header) == HEADER_BYTES
    assert unpack_record(header, place, DISK) == record
    assert record.span % ALIGNMENT == 0
    assert HEADER_BYTES + record.payload_bytes <= record.span < HEADER_BYTES + record.payload_bytes + ALIGNMENT


@given(record=shard_records, place=places, bit=st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_flipped_bit_of_a_header_is_noticed(record: Record, place: Place, bit: int) -> None:
    header = bytearray(pack_record(record, place, DISK))
    header[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        unpack_record(header, place, DISK)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_record(data, Place(1, ALIGNMENT), DISK)
    with pytest.raises(FormatError):
        check_volume_header(data, 1, DISK)


def test_a_record_is_valid_at_its_own_place_on_its_own_disk_only() -> None:
    record = Record(Kind.SHARD, make_bare_meta(ShardName(bytes(16), 0)), 10, 0)
    header = pack_record(record, Place(3, 8192), DISK)
    for place, disk in ((Place(3, 4096), DISK), (Place(4, 8192), DISK), (Place(3, 8192), bytes(16))):
        with pytest.raises(FormatError):
            unpack_record(header, place, disk)


def test_a_volume_header_names_its_disk_and_number() -> None:
    header = pack_volume_header(7, DISK, 123)
    assert len(header) == ALIGNMENT
    check_volume_header(header, 7, DISK)
    for number, disk in ((8, DISK), (7, bytes(16))):
        with pytest.raises(FormatError):
            check_volume_header(header, number, disk)


@pytest.mark.parametrize(("size", "aligned"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_align_goes_up_to_the_next_boundary(size: int, aligned: int) -> None:
    assert align(size) == aligned


def make_examples() -> dict[str, bytes]:
    """The frozen headers, from the values that the vector file documents."""
    meta = ShardMeta(
        bytes.fromhex("0192f0c1e2d37abc8def0123456789ab"), 5, 4, 2, 77, 3, 4_194_304, 1_234_567, 1, 42,
        bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30)), bytes(range(0x30, 0x58)),
    )  # fmt: skip
    name = ShardName(meta.block_id, meta.index)
    bare = make_bare_meta(name, group_id=77, group_epoch=4)
    epoch = make_bare_meta(ShardName(bytes(16), 0), group_id=77, group_epoch=5)
    place, target, now = Place(2, 8192), Place(1, 4096), 1_800_000_000_123
    records = {
        "shard": Record(Kind.SHARD, meta, 308_642, now),
        "trash": Record(Kind.TRASH, bare, 0, now, target),
        "tombstone": Record(Kind.TOMBSTONE, make_bare_meta(name), 0, now, target, now - 1000),
        "epoch": Record(Kind.EPOCH, epoch, 0, now),
    }
    packed = {kind: pack_record(record, place, DISK) for kind, record in records.items()}
    return packed | {"volume": pack_volume_header(2, DISK, now)[:HEADER_BYTES]}


def test_format_1_is_frozen() -> None:
    assert {kind: header.hex() for kind, header in make_examples().items()} == json.loads(VECTORS.read_text())
