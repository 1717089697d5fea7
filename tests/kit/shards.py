"""Shards and stores for tests: quick to make, and on a disk that can forget, fail or fill up."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from node.protocol.messages import Buffer, ShardMeta, ShardName
from node.volumes.changes import Epochs, Put
from node.volumes.disk_io import DiskIO, RealDiskIO
from node.volumes.health import Health, Thresholds, Usage
from node.volumes.identity import Identity, claim_disk, format_disk
from node.volumes.opening import open_store
from node.volumes.store import ShardStore, StoreSettings

CLUSTER, NODE, DISK = "c" * 32, "node1", "d" * 32
SECTOR = 512


def make_name(number: int, index: int = 0) -> ShardName:
    return ShardName(number.to_bytes(16, "big"), index)


def make_meta(number: int, payload: bytes, *, index: int = 0, group_id: int = 1, group_epoch: int = 1) -> ShardMeta:
    digest = xxhash.xxh3_128_digest(payload)
    return ShardMeta(
        block_id=number.to_bytes(16, "big"),
        index=index,
        k=4,
        m=2,
        group_id=group_id,
        group_epoch=group_epoch,
        plain_size=4 * len(payload),
        sealed_size=4 * len(payload),
        codec=0,
        account_id=7,
        payload_digest=digest,
        sealed_digest=digest,
        wrapped_key=bytes(range(40)),
    )


def make_put(number: int, payload: bytes, **more: int) -> Put:
    return Put(make_meta(number, payload, **more), payload)


class FakeClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> float:
        return self.seconds


class PowerCut(BaseException):
    """The machine is gone in the middle of a call. Not an Exception: no code may handle it."""


@dataclass
class _Unsynced:
    path: str
    offset: int
    data: bytes
    old_size: int
    old_data: bytes


class ForgetfulIO:
    """A disk whose unsynced writes `crash` undoes in part, as power loss does. `cut_after` counts calls down to a
    PowerCut in the middle of a write; `fail_write` and `fail_sync` raise the given errno."""

    def __init__(self) -> None:
        self._real = RealDiskIO()
        self._unsynced: list[_Unsynced] = []
        self.cut_after: int | None = None
        self.fail_write: int | None = None
        self.fail_sync: int | None = None
        self.syncs = 0

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        self._count_down(descriptor, data, offset)
        if self.fail_write is not None:
            self._write(descriptor, data[: len(data) // 2], offset)
            raise OSError(self.fail_write, os.strerror(self.fail_write))
        return self._write(descriptor, data, offset)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        return self._real.pread(descriptor, size, offset)

    def fdatasync(self, descriptor: int) -> None:
        self._count_down()
        if self.fail_sync is not None:
            raise OSError(self.fail_sync, os.strerror(self.fail_sync))
        self.syncs += 1
        path = _path_of(descriptor)
        self._unsynced = [write for write in self._unsynced if write.path != path]

    def ftruncate(self, descriptor: int, size: int) -> None:
        old = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, max(0, old - size), size)
        self._real.ftruncate(descriptor, size)
        self._unsynced.append(_Unsynced(_path_of(descriptor), size, b"", old, tail))

    def punch_hole(self, descriptor: int, offset: int, size: int) -> None:
        self._real.punch_hole(descriptor, offset, size)

    def forget_cached(self, descriptor: int, offset: int, size: int) -> None:
        self._real.forget_cached(descriptor, offset, size)

    def crash(self, choice: random.Random) -> None:
        """Of what was not synced keep all, nothing, or any sectors, write by write."""
        for write in reversed(self._unsynced):
            with open(write.path, "r+b") as file:
                file.seek(write.offset)
                file.write(write.old_data)
                file.truncate(write.old_size)
        for write in self._unsynced:
            for start in _choose_sectors(choice, write.data):
                with open(write.path, "r+b") as file:
                    file.seek(write.offset + start)
                    file.write(write.data[start : start + SECTOR])
        self._unsynced.clear()
        self.cut_after = None

    def _write(self, descriptor: int, data: bytes, offset: int) -> int:
        old_size = os.fstat(descriptor).st_size
        old_data = os.pread(descriptor, len(data), offset)
        self._unsynced.append(_Unsynced(_path_of(descriptor), offset, data, old_size, old_data))
        assert os.pwrite(descriptor, data, offset) == len(data)
        return len(data)

    def _count_down(self, descriptor: int = -1, data: bytes = b"", offset: int = 0) -> None:
        if self.cut_after is None:
            return
        if self.cut_after == 0:
            if data:
                self._write(descriptor, data, offset)
            raise PowerCut
        self.cut_after -= 1


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _choose_sectors(choice: random.Random, data: bytes) -> list[int]:
    starts = list(range(0, len(data), SECTOR))
    how = choice.choice(["all", "none", "prefix", "suffix", "some"])
    if how == "all":
        return starts
    if how == "none":
        return []
    cut = choice.randrange(len(starts) + 1)
    if how == "prefix":
        return starts[:cut]
    return starts[cut:] if how == "suffix" else [start for start in starts if choice.random() < 0.5]


@dataclass
class StoreBox:
    """One disk directory and the store that is open on it, if any."""

    path: Path
    settings: StoreSettings
    io: DiskIO
    clock: FakeClock
    boot: int = 1
    store: ShardStore | None = None
    usage: Usage | None = None

    @classmethod
    def make(cls, path: Path, *, io: DiskIO | None = None, settings: StoreSettings | None = None) -> StoreBox:
        path.mkdir(parents=True, exist_ok=True)
        format_disk(path, Identity(cluster_id=CLUSTER, node=NODE, disk_id=DISK))
        quiet = settings or StoreSettings(volume_bytes=64 * 1024, trash_keep_s=3600.0, reserve_bytes=0)
        return cls(path, quiet, io or RealDiskIO(), FakeClock())

    def open(self) -> ShardStore:
        assert self.store is None
        claim = claim_disk(self.path, CLUSTER, NODE, DISK)
        usage = self.usage
        health = (
            Health(self.path, Thresholds(), self.clock)
            if usage is None
            else Health(self.path, Thresholds(), self.clock, lambda _path: self.usage or usage)
        )
        self.store = open_store(
            claim,
            health=health,
            epochs=Epochs(),
            clock=self.clock,
            io=self.io,
            settings=self.settings,
            boot_id=f"boot-{self.boot}",
        )
        return self.store

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None

    def kill(self) -> None:
        """The process dies: nothing more is written, but what was written stays in the page cache."""
        store, self.store = self.store, None
        if store is not None:
            store._index.close()
            store._folder.close()
            store._claim.release()

    def cut_power(self, choice: random.Random) -> None:
        """The machine dies: what was not synced is gone in part, the index is worth nothing."""
        self.kill()
        if isinstance(self.io, ForgetfulIO):
            self.io.crash(choice)
        self.boot += 1

    def volume_files(self) -> list[Path]:
        return sorted((self.path / "volumes").iterdir())

    def flip_bit(self, name: ShardName, at: int = 0) -> None:
        """One bit of a stored payload changes on the medium."""
        assert self.store is not None
        entry = self.store._index.get(name)
        assert entry is not None
        file = self.path / "volumes" / f"{entry.place.volume:08d}.volume"
        flip_bit(file, entry.place.offset + 256 + at)


def flip_bit(file: Path, offset: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)
        handle.seek(offset)
        handle.write(bytes([byte[0] ^ 1]))


NO_SPACE, BAD_DISK = errno.ENOSPC, errno.EIO
