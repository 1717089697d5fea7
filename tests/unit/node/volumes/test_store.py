from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.protocol.errors import (
    BadRequest,
    DiskFailed,
    DiskFull,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StaleEpoch,
)
from node.volumes.changes import Advance, Epochs, Put, Trash
from node.volumes.format import HEADER_BYTES
from node.volumes.health import DiskState, Usage, clear_failure
from node.volumes.memory import MemoryStore
from node.volumes.store import ShardStore, StoreSettings
from tests.kit.shards import BAD_DISK, NO_SPACE, ForgetfulIO, StoreBox, flip_bit, make_meta, make_name, make_put


@pytest.fixture
def io() -> ForgetfulIO:
    return ForgetfulIO()


@pytest.fixture
def box(tmp_path: Path, io: ForgetfulIO) -> Iterator[StoreBox]:
    box = StoreBox.make(tmp_path / "disk", io=io)
    yield box
    box.kill()


def state_of(store: ShardStore) -> DiskState:
    return store.health.state


def payload(number: int, size: int = 5000) -> bytes:
    return random.Random(number).randbytes(size)


def is_held(store: ShardStore, number: int, size: int = 5000) -> bool:
    try:
        return bytes(store.read(make_name(number))[1]) == payload(number, size)
    except ShardMissing:
        return False


def put_all(store: ShardStore, numbers: range | list[int], size: int = 5000) -> None:
    for number in numbers:
        assert store.write([make_put(number, payload(number, size))]) == [True]


# --- one contract for the disk and its twin in RAM


@pytest.fixture(params=["disk", "memory"])
def any_store(request: pytest.FixtureRequest, box: StoreBox) -> ShardStore | MemoryStore:
    return box.open() if request.param == "disk" else MemoryStore(epochs=Epochs(), clock=box.clock)


def test_a_shard_reads_back_with_all_of_its_header(any_store: ShardStore | MemoryStore) -> None:
    put = make_put(1, b"some bytes")
    assert any_store.write([put]) == [True]
    meta, data = any_store.read(make_name(1))
    assert (meta, bytes(data)) == (put.meta, b"some bytes")
    any_store.verify(make_name(1))


def test_putting_the_same_again_is_a_success_and_other_bytes_a_conflict(any_store: ShardStore | MemoryStore) -> None:
    assert any_store.write([make_put(1, b"one"), make_put(1, b"one")]) == [True, True]
    assert any_store.write([make_put(1, b"one")]) == [True]
    [same_batch, conflict] = any_store.write([make_put(2, b"two"), make_put(2, b"other")])
    assert same_batch is True
    assert isinstance(conflict, ShardConflict)
    assert isinstance(any_store.write([make_put(1, b"other")])[0], ShardConflict)
    assert bytes(any_store.read(make_name(1))[1]) == b"one"


def test_a_payload_that_was_damaged_on_the_way_is_not_stored(any_store: ShardStore | MemoryStore) -> None:
    [outcome] = any_store.write([Put(make_meta(1, b"sent"), b"came")])
    assert isinstance(outcome, BadRequest)
    with pytest.raises(ShardMissing):
        any_store.read(make_name(1))


def test_trashed_shards_are_gone_and_absent_ones_are_told(any_store: ShardStore | MemoryStore) -> None:
    any_store.write([make_put(1, b"one")])
    assert any_store.write([Trash(make_name(1), (1, 1)), Trash(make_name(2), (1, 1))]) == [True, False]
    with pytest.raises(ShardMissing):
        any_store.read(make_name(1))
    assert (any_store.count_shards(), any_store.count_trashed()) == (0, 1)
    assert any_store.write([make_put(1, b"one again")]) == [True]
    assert bytes(any_store.read(make_name(1))[1]) == b"one again"


def test_changes_of_one_batch_follow_each_other(any_store: ShardStore | MemoryStore) -> None:
    put, trash = make_put(1, b"one"), Trash(make_name(1), (1, 1))
    assert any_store.write([put, trash, trash, put]) == [True, True, False, True]
    assert bytes(any_store.read(make_name(1))[1]) == b"one"


def test_an_older_group_epoch_is_refused(any_store: ShardStore | MemoryStore) -> None:
    assert any_store.write([Advance((1, 5))]) == [True]
    outcomes = any_store.write(
        [
            make_put(1, b"late", group_epoch=4),
            Trash(make_name(1), (1, 4)),
            Advance((1, 4)),
            make_put(2, b"x", group_id=2),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [StaleEpoch, StaleEpoch, StaleEpoch, bool]
    assert any_store.write([make_put(1, b"in time", group_epoch=6)]) == [True]
    assert isinstance(any_store.write([make_put(3, b"late", group_epoch=5)])[0], StaleEpoch)


def test_the_inventory_pages_in_order(any_store: ShardStore | MemoryStore) -> None:
    names = [(number, index) for number in (3, 1, 2) for index in (1, 0)]
    any_store.write([make_put(number, b"x" * number, index=index) for number, index in names])
    first = any_store.list_shards(None, 4)
    rest = any_store.list_shards(make_name(int.from_bytes(first[-1].block_id, "big"), first[-1].index), 4)
    found = [(int.from_bytes(row.block_id, "big"), row.index, row.payload_bytes) for row in first + rest]
    assert found == [(number, index, number) for number, index in sorted(names)]


# --- the disk alone


def test_many_changes_share_one_fdatasync(box: StoreBox, io: ForgetfulIO) -> None:
    store = box.open()
    before = io.syncs
    store.write([make_put(number, payload(number, 500)) for number in range(12)])
    assert io.syncs == before + 1
    assert store.counts.commits == 1


def test_a_volume_is_followed_by_another_when_it_is_full(box: StoreBox) -> None:
    store = box.open()
    put_all(store, range(40))
    assert len(box.volume_files()) > 3
    assert all(file.stat().st_size <= box.settings.volume_bytes for file in box.volume_files())
    box.close()
    shutil.rmtree(box.path / "index")
    store = box.open()
    assert all(is_held(store, number) for number in range(40))


def test_a_clean_restart_believes_the_index(box: StoreBox) -> None:
    put_all(box.open(), range(3))
    box.close()
    store = box.open()
    assert store.counts.index_rebuilds == 0
    box.close()
    box.boot += 1  # the machine was shut down properly
    store = box.open()
    assert store.counts.index_rebuilds == 0
    assert all(is_held(store, number) for number in range(3))


def test_a_killed_process_believes_the_index_and_a_rebooted_machine_rebuilds_it(box: StoreBox) -> None:
    put_all(box.open(), range(3))
    box.kill()
    assert box.open().counts.index_rebuilds == 0
    box.kill()
    box.boot += 1
    store = box.open()
    assert store.counts.index_rebuilds == 1
    assert all(is_held(store, number) for number in range(3))


def test_a_corrupt_shard_is_told_remembered_and_replaced(box: StoreBox) -> None:
    store = box.open()
    put_all(store, [1])
    box.flip_bit(make_name(1), at=17)
    for _ in range(2):
        with pytest.raises(ShardCorrupt):
            store.read(make_name(1))
    assert store.counts.shards_found_bad == 1
    assert store.write([make_put(1, payload(1))]) == [True]
    assert is_held(store, 1)


def test_putting_what_rotted_unnoticed_writes_it_anew(box: StoreBox) -> None:
    store = box.open()
    put_all(store, [1])
    box.flip_bit(make_name(1))
    assert store.write([make_put(1, payload(1))]) == [True]
    assert is_held(store, 1)


def test_damage_in_the_middle_is_skipped_and_the_volume_is_closed(box: StoreBox) -> None:
    put_all(box.open(), range(4))
    box.cut_power(random.Random(1))
    file = box.volume_files()[-1]
    flip_bit(file, 4096 + 2 * 8192 + 20)  # the header of the third record
    size = file.stat().st_size
    store = box.open()
    assert [is_held(store, number) for number in range(4)] == [True, True, False, True]
    assert (store.counts.damaged_stretches, store.counts.torn_tails) == (1, 0)
    assert file.stat().st_size == size
    put_all(store, [9])
    assert box.volume_files()[-1] != file
    assert file.stat().st_size == size


def test_a_torn_tail_is_cut_and_the_volume_used_on(box: StoreBox) -> None:
    put_all(box.open(), range(2))
    box.cut_power(random.Random(1))
    file = box.volume_files()[-1]
    size = file.stat().st_size
    with open(file, "ab") as handle:
        handle.write(b"half a header")
    store = box.open()
    assert store.counts.torn_tails == 1
    assert file.stat().st_size == size
    put_all(store, [5])
    assert box.volume_files() == [file]
    assert all(is_held(store, number) for number in (0, 1, 5))


def test_what_a_power_cut_leaves_under_a_valid_header_is_corrupt_not_missing(box: StoreBox) -> None:
    put_all(box.open(), range(2))
    box.cut_power(random.Random(1))
    flip_bit(box.volume_files()[-1], 4096 + 8192 + HEADER_BYTES + 100)
    store = box.open()
    assert is_held(store, 0)
    with pytest.raises(ShardCorrupt):
        store.read(make_name(1))
    assert (store.counts.torn_tails, store.counts.shards_found_bad) == (0, 1)


def test_a_record_torn_by_a_kill_is_cut_since_nobody_was_told_of_it(box: StoreBox) -> None:
    store = box.open()
    put_all(store, [0])
    index_copy = box.path / "index-before"
    shutil.copytree(box.path / "index", index_copy)
    put_all(store, [1])
    box.kill()
    shutil.rmtree(box.path / "index")
    index_copy.rename(box.path / "index")
    flip_bit(box.volume_files()[-1], 4096 + 8192 + HEADER_BYTES + 100)
    store = box.open()
    assert (is_held(store, 0), is_held(store, 1)) == (True, False)
    assert store.counts.torn_tails == 1


def test_a_truncated_volume_makes_its_shards_corrupt_or_missing_but_never_wrong(box: StoreBox) -> None:
    put_all(box.open(), range(12))
    box.close()
    first, *_ = box.volume_files()
    os.truncate(first, 4096 + 8192 + 3000)
    store = box.open()
    assert store.counts.index_rebuilds == 1
    assert is_held(store, 0)
    with pytest.raises(ShardCorrupt):
        store.read(make_name(1))
    with pytest.raises(ShardMissing):
        store.read(make_name(2))
    assert is_held(store, 11)


def test_a_volume_that_vanished_makes_the_index_worthless(box: StoreBox) -> None:
    put_all(box.open(), range(12))
    box.close()
    box.volume_files()[0].unlink()
    store = box.open()
    assert store.counts.index_rebuilds == 1
    assert (is_held(store, 0), is_held(store, 11)) == (False, True)


def test_a_damaged_volume_header_loses_no_record(box: StoreBox) -> None:
    put_all(box.open(), range(2))
    box.close()
    shutil.rmtree(box.path / "index")
    flip_bit(box.volume_files()[0], 12)
    store = box.open()
    assert all(is_held(store, number) for number in range(2))
    assert store.counts.damaged_stretches == 1


def test_a_volume_that_was_being_made_is_made_again(box: StoreBox) -> None:
    put_all(box.open(), range(2))
    box.close()
    (box.path / "volumes" / "00000002.volume").write_bytes(b"HFVOL")
    store = box.open()
    assert store.counts.damaged_stretches == 0
    put_all(store, [5])
    assert [file.name for file in box.volume_files()] == ["00000001.volume", "00000002.volume"]


def test_a_failed_fdatasync_fails_the_disk_for_good_and_reads_go_on(box: StoreBox, io: ForgetfulIO) -> None:
    store = box.open()
    put_all(store, [1])
    io.fail_sync = BAD_DISK
    assert isinstance(store.write([make_put(2, b"lost")])[0], DiskFailed)
    io.fail_sync = None
    assert isinstance(store.write([make_put(3, b"refused")])[0], DiskFailed)
    assert state_of(store) is DiskState.FAILED
    assert is_held(store, 1)
    box.close()
    store = box.open()
    assert state_of(store) is DiskState.FAILED
    assert isinstance(store.write([make_put(3, b"refused")])[0], DiskFailed)
    assert is_held(store, 1)
    assert not is_held(store, 2)
    box.close()
    clear_failure(box.path)
    store = box.open()
    assert store.write([make_put(3, b"taken")]) == [True]
    assert is_held(store, 1)


def test_a_failed_disk_whose_index_is_not_to_be_believed_stays_shut(box: StoreBox, io: ForgetfulIO) -> None:
    store = box.open()
    io.fail_sync = BAD_DISK
    store.write([make_put(2, b"lost")])
    box.kill()
    box.boot += 1
    with pytest.raises(DiskFailed):
        box.open()


def test_a_write_error_that_is_not_fullness_fails_the_disk(box: StoreBox, io: ForgetfulIO) -> None:
    store = box.open()
    io.fail_write = BAD_DISK
    assert isinstance(store.write([make_put(2, b"lost")])[0], DiskFailed)
    assert state_of(store) is DiskState.FAILED


def test_no_space_in_the_middle_of_a_write_loses_nothing_acknowledged(box: StoreBox, io: ForgetfulIO) -> None:
    store = box.open()
    put_all(store, [1])
    size = box.volume_files()[-1].stat().st_size
    io.fail_write = NO_SPACE
    assert isinstance(store.write([make_put(2, payload(2))])[0], DiskFull)
    assert box.volume_files()[-1].stat().st_size == size
    assert state_of(store) is DiskState.READ_ONLY
    io.fail_write = None
    assert isinstance(store.write([make_put(3, payload(3))])[0], DiskFull)
    assert store.write([Trash(make_name(1), (1, 1))]) == [True]
    box.clock.seconds += 60
    put_all(store, [3])
    assert state_of(store) is DiskState.OK
    box.cut_power(random.Random(1))
    store = box.open()
    assert (is_held(store, 1), is_held(store, 2), is_held(store, 3)) == (False, False, True)


@pytest.mark.parametrize(
    ("percent", "state", "said"), [(50, "ok", ""), (86, "ok", "86"), (91, "ok", "repair"), (96, "read_only", "96")]
)
def test_fullness_is_told_and_stops_writes_only_above_the_last_threshold(
    box: StoreBox, percent: int, state: str, said: str
) -> None:
    box.usage = Usage(10_000, percent * 100)
    store = box.open()
    [outcome] = store.write([make_put(1, payload(1))])
    assert (outcome is True) == (state == "ok")
    assert (store.health.state, said in store.health.reason) == (state, True)
    assert store.write([Advance((1, 2))]) == [True]


def test_a_disk_above_its_threshold_takes_writes_again_when_there_is_room(box: StoreBox) -> None:
    box.usage = Usage(100, 96)
    store = box.open()
    assert isinstance(store.write([make_put(1, payload(1))])[0], DiskFull)
    box.usage = Usage(100, 60)
    box.clock.seconds += 2
    put_all(store, [1])


def test_the_trash_is_emptied_late_and_gives_its_space_back(box: StoreBox) -> None:
    store = box.open()
    put_all(store, [1, 2], size=20_000)
    store.write([Trash(make_name(1), (1, 1))])
    box.clock.seconds += 1000
    assert store.tend() == pytest.approx(2600, abs=1)
    assert store.count_trashed() == 1
    before = box.volume_files()[0].stat().st_blocks
    box.clock.seconds += 3000
    store.tend()
    assert store.count_trashed() == 0
    assert box.volume_files()[0].stat().st_blocks <= before - 32
    assert store.counts.bytes_punched == 16384
    for _ in range(2):
        box.cut_power(random.Random(1))
        store = box.open()
        assert (is_held(store, 1), is_held(store, 2, 20_000), store.count_trashed()) == (False, True, 0)
        assert (store.counts.damaged_stretches, store.counts.shards_found_bad) == (0, 0)


def test_a_delete_survives_a_power_cut_and_so_does_its_age(box: StoreBox) -> None:
    store = box.open()
    put_all(store, [1])
    store.write([Trash(make_name(1), (1, 1))])
    box.cut_power(random.Random(1))
    box.clock.seconds += 3000
    store = box.open()
    assert not is_held(store, 1)
    assert store.tend() == pytest.approx(600, abs=1)


def test_the_reserve_is_kept_and_given_up_for_deletes(tmp_path: Path, io: ForgetfulIO) -> None:
    box = StoreBox.make(tmp_path / "disk2", io=io, settings=StoreSettings(reserve_bytes=64 * 1024))
    store = box.open()
    put_all(store, [1])
    store.tend()
    assert (box.path / "reserve").stat().st_blocks * 512 >= 64 * 1024
    io.fail_write = NO_SPACE
    store.write([Trash(make_name(1), (1, 1))])
    assert not (box.path / "reserve").exists()
    io.fail_write = None
    box.close()
