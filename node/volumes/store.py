"""One disk's shards: volumes, index and health as one thing with a small door.

Guarantees: what `write` answered with True is durable and is found by every later `read`, also after power loss; it
makes one group commit of all it is given (one fdatasync, one index transaction). `read` returns the bytes put or
raises ShardCorrupt. A failed disk is never written again. Does not: queue, keep deadlines, or lock: `write`, `tend`
and `close` belong to the disk's writer thread; `read`, `verify` and `list_shards` may run in any one other thread.
Opened by opening.py; memory.py is its twin in RAM.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.base.clock import Clock
from node.protocol.errors import DiskFailed, DiskFull, NodeError, ShardCorrupt, ShardMissing
from node.protocol.messages import InventoryRow, ShardMeta, ShardName
from node.volumes.changes import Basis, Batch, Change, Epochs, Outcome, Put, estimate_span
from node.volumes.format import FIRST_RECORD_OFFSET
from node.volumes.health import DiskState, Health
from node.volumes.identity import RESERVE_FILE, Claim
from node.volumes.index import Index, IndexBroken, IndexState
from node.volumes.trash import PURGE_BATCH, make_tombstone, punch_record
from node.volumes.volume import OpenVolume, VolumeFolder

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# The reserve is made (again) only where it takes no more than this share of what is free.
_RESERVE_SHARE_MAX: Final = 0.25

TEND_PERIOD_S: Final = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Sizes in bytes, times in seconds."""

    volume_bytes: int = 1 << 30
    trash_keep_s: float = 7 * 86400.0
    reserve_bytes: int = 16 << 20


@dataclass(slots=True)
class StoreCounts:
    """For the metrics; the disk's threads count, anyone reads."""

    records_written: int = 0
    bytes_written: int = 0
    commits: int = 0
    commit_s: float = 0.0
    shards_purged: int = 0
    bytes_punched: int = 0
    shards_found_bad: int = 0
    damaged_stretches: int = 0
    torn_tails: int = 0
    index_rebuilds: int = 0


class ShardStore:
    """`_volume` is None on a disk that failed in an earlier run: it is only read."""

    def __init__(
        self,
        *,
        claim: Claim,
        folder: VolumeFolder,
        index: Index,
        index_state: IndexState,
        health: Health,
        epochs: Epochs,
        clock: Clock,
        settings: StoreSettings,
        counts: StoreCounts,
        volume: OpenVolume | None,
    ) -> None:
        self._claim = claim
        self._folder = folder
        self._index = index
        self._index_state = index_state
        self._epochs = epochs
        self._clock = clock
        self._settings = settings
        self._volume = volume
        self._reserve = claim.path / RESERVE_FILE
        self.health = health
        self.counts = counts
        for group_id, group_epoch in index.epochs().items():
            epochs.raise_to(group_id, group_epoch)

    # --- reading

    def read(self, name: ShardName) -> tuple[ShardMeta, memoryview]:
        """Raises ShardMissing, ShardCorrupt."""
        return self._read(name, fresh=False)

    def verify(self, name: ShardName) -> None:
        """Compare the shard on the medium with its digest. Raises as `read` does."""
        self._read(name, fresh=True)

    def list_shards(self, after: ShardName | None, limit: int) -> list[InventoryRow]:
        """A page of what is held, in (block id, index) order; shorter than `limit` only at the end."""
        return self._index.list_shards(after, limit)

    def count_shards(self) -> int:
        return self._index.count_shards()

    def count_trashed(self) -> int:
        return self._index.count_trashed()

    def _read(self, name: ShardName, *, fresh: bool) -> tuple[ShardMeta, memoryview]:
        entry = self._index.get(name)
        if entry is None:
            raise ShardMissing(f"no shard {name.index} of block {name.block_id.hex()}")
        try:
            return self._folder.read(name, entry.place, entry.payload_bytes, fresh=fresh)
        except ShardCorrupt as error:
            self._note_bad(name, error)
            raise

    def _note_bad(self, name: ShardName, error: ShardCorrupt) -> None:
        entry = self._index.get(name)
        if self._volume is None or entry is None or not self._index.mark_bad(name, entry.place):
            return
        self.counts.shards_found_bad += 1
        _log.error("shard.corrupt", extra={"block": name.block_id, "index": name.index, "reason": str(error)})

    # --- writing

    def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """Make `changes` durable together; gives an outcome for each."""
        self.health.refresh()
        try:
            return self._write(changes)
        except DiskFull:
            return self._write_without_space(changes)
        except DiskFailed as error:
            return [error] * len(changes)

    def _write(self, changes: Sequence[Change]) -> list[Outcome]:
        """Raises DiskFull or DiskFailed when none of `changes` was done."""
        volume = self._get_volume(sum(estimate_span(change) for change in changes))
        batch = Batch(volume.number, volume.end)
        read_only = self.health.state is DiskState.READ_ONLY
        basis = Basis(
            self._index.get, self.read, self._epochs, self.health.reason if read_only else None, self._now_ms()
        )
        outcomes = [batch.plan(change, basis) for change in changes]
        if batch.records:
            self._commit(batch, volume)
        return outcomes

    def _write_without_space(self, changes: Sequence[Change]) -> list[Outcome]:
        """The device is full: puts are refused, but deletes and epochs must go through; the reserve is for them."""
        self.health.note_no_space()
        controls = [change for change in changes if not isinstance(change, Put)]
        done: list[Outcome] = []
        if controls:
            self._free_reserve()
            try:
                done = self._write(controls)
            except (DiskFull, DiskFailed) as error:
                done = [error] * len(controls)
        rest = iter(done)
        full = DiskFull(self.health.reason)
        return [full if isinstance(change, Put) else next(rest) for change in changes]

    def _commit(self, batch: Batch, volume: OpenVolume) -> None:
        """Write, make durable, enter into the index. Raises DiskFull (nothing was done) or DiskFailed."""
        start, began_at = volume.end, self._clock.monotonic()
        try:
            places = volume.append(batch.records)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise self._fail(f"writing a volume: {error}") from error
            self._take_back(volume)
            raise DiskFull("the device is full") from error
        assert places[0].offset == start
        assert volume.end == batch.end
        try:
            volume.sync()
        except OSError as error:
            raise self._fail(f"fdatasync: {error}") from error
        try:
            self._enter(batch, volume)
        except IndexBroken as error:
            self._free_reserve()
            self._enter_again(batch, volume, error)
        for record, _ in batch.records:
            self._epochs.raise_to(record.meta.group_id, record.meta.group_epoch)
        self.counts.commits += 1
        self.counts.commit_s += self._clock.monotonic() - began_at
        self.counts.records_written += len(batch.records)
        self.counts.bytes_written += sum(record.payload_bytes for record, _ in batch.records)

    def _enter(self, batch: Batch, volume: OpenVolume) -> None:
        with self._index.change() as index:
            for (record, _), place in zip(batch.records, batch.places(), strict=True):
                index.apply(record, place)
            index.set_volume_end(volume.number, volume.end)

    def _enter_again(self, batch: Batch, volume: OpenVolume, cause: IndexBroken) -> None:
        """After the reserve was freed. If it fails again the records are durable but not found: a refusal is honest."""
        _log.warning("index.no_room", extra={"path": str(self._claim.path), "reason": str(cause)})
        try:
            self._enter(batch, volume)
        except IndexBroken as error:
            raise DiskFull(f"the index cannot grow: {error}") from error

    def _take_back(self, volume: OpenVolume) -> None:
        try:
            volume.take_back()
        except OSError as error:
            raise self._fail(f"cutting a torn record: {error}") from error

    def _get_volume(self, coming: int) -> OpenVolume:
        """The volume to append `coming` bytes to."""
        volume = self._volume
        if volume is None or self.health.state is DiskState.FAILED:
            raise DiskFailed(self.health.reason)
        if volume.end + coming > self._settings.volume_bytes and not volume.is_empty:
            return self._roll()
        return volume

    def _roll(self) -> OpenVolume:
        """Begin a new volume; what the old one holds is durable already. Raises DiskFull or DiskFailed."""
        try:
            number = max(self._folder.list_numbers(), default=0) + 1
            file = self._folder.create(number, self._now_ms())
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise DiskFull("the device is full") from error
            raise self._fail(f"beginning a volume: {error}") from error
        self._volume = OpenVolume(file, FIRST_RECORD_OFFSET, self._folder.disk_id, self._folder.io)
        return self._volume

    # --- upkeep

    def tend(self) -> float:
        """Purge what has been in the trash long enough (a bounded batch) and keep the reserve; call it now and then.

        Gives the seconds after which there will be something to do.
        """
        self.health.refresh()
        if self._volume is None or self.health.state is DiskState.FAILED:
            return TEND_PERIOD_S
        self._keep_reserve()
        try:
            if self._purge():
                return 0.0
        except NodeError as error:
            _log.warning("trash.not_purged", extra={"path": str(self._claim.path), "reason": str(error)})
            return TEND_PERIOD_S if not self._free_reserve() else 0.0
        oldest = self._index.list_trash(_FOR_EVER_MS, 1)
        if not oldest:
            return TEND_PERIOD_S
        due_in_s = oldest[0].at_ms / 1000 + self._settings.trash_keep_s - self._clock.now()
        return min(max(due_in_s, 1.0), TEND_PERIOD_S)

    def _purge(self) -> bool:
        """One batch; whether there may be more. Raises DiskFull or DiskFailed."""
        now_ms = self._now_ms()
        due = self._index.list_trash(now_ms - int(self._settings.trash_keep_s * 1000), PURGE_BATCH)
        if not due:
            return False
        volume = self._get_volume(0)
        if any(trashed.place.volume == volume.number for trashed in due):
            volume = self._roll()  # see trash.py: no holes in the volume in use
        batch = Batch(volume.number, volume.end)
        for trashed in due:
            batch.add(make_tombstone(trashed, now_ms))
        self._commit(batch, volume)
        try:
            self.counts.bytes_punched += sum(punch_record(self._folder, trashed.place) for trashed in due)
        except OSError as error:
            raise self._fail(f"punching a hole: {error}") from error
        self.counts.shards_purged += len(due)
        return len(due) == PURGE_BATCH

    def _keep_reserve(self) -> None:
        """Hold some space back that deletes can use on a full disk; it is made again when there is room."""
        size = self._settings.reserve_bytes
        room = size <= self.health.usage.free * _RESERVE_SHARE_MAX and self.health.state is DiskState.OK
        if not room or not size or self._reserve.exists():
            return
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            _log.warning("disk.no_reserve", extra={"path": str(self._claim.path), "reason": str(error)})

    def _free_reserve(self) -> bool:
        """Whether there was anything to free."""
        there = self._reserve.exists()
        self._reserve.unlink(missing_ok=True)
        return there

    def close(self) -> None:
        """Leave the disk so that the next start need not look at the volumes."""
        if self._volume is not None and self.health.state is not DiskState.FAILED:
            try:
                self._index.sync()
                self._index_state.write(clean=True)
            except (OSError, IndexBroken) as error:
                _log.error("index.not_closed_cleanly", extra={"path": str(self._claim.path), "reason": str(error)})
        self._index.close()
        self._folder.close()
        self._claim.release()

    def _fail(self, reason: str) -> DiskFailed:
        self.health.fail(reason)
        return DiskFailed(reason)

    def _now_ms(self) -> int:
        return int(self._clock.now() * 1000)


_FOR_EVER_MS: Final = 1 << 62
