"""One volume: an append-only file of shards with self-describing headers.

Guarantees: when `append` has returned and `sync` after it, the records survive power loss; `read` returns the bytes
written or raises ShardCorrupt. One writer for each disk (its thread); any number of readers.
Does not: know which shards exist (index.py), decide what to cut (recovery.py) or delete (trash.py), retry.
Format: node/README.md, volume format 1.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

from node.protocol.errors import ShardCorrupt
from node.protocol.messages import Buffer, ShardMeta, ShardName
from node.volumes.disk_io import DiskIO
from node.volumes.format import (
    ALIGNMENT,
    FIRST_RECORD_OFFSET,
    HEADER_BYTES,
    FormatError,
    Place,
    Record,
    align,
    pack_record,
    pack_volume_header,
    unpack_record,
)

_SUFFIX: Final = ".volume"
_BUFFERS_PER_CALL: Final = 1023  # IOV_MAX is 1024, and records come as header, payload, padding
_READERS_OPEN_MAX: Final = 128
_PADDING: Final = memoryview(bytes(ALIGNMENT))


class VolumeFile:
    """An open volume file. The descriptor is closed with the last reference, so no reader ever loses it half-way."""

    def __init__(self, descriptor: int, number: int) -> None:
        self.descriptor = descriptor
        self.number = number

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        os.close(self.descriptor)


class VolumeFolder:
    """The volume files of one disk. Everything goes through the folder's descriptor: when the disk is unmounted under
    us, nothing is ever written to what lies below its mount point."""

    def __init__(self, path: str, disk_id: bytes, io: DiskIO) -> None:
        self.disk_id = disk_id
        self.io = io
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._readers: OrderedDict[int, VolumeFile] = OrderedDict()
        self._lock = threading.Lock()

    def list_numbers(self) -> list[int]:
        """The numbers of all volumes, rising."""
        names = (name.removesuffix(_SUFFIX) for name in os.listdir(self._folder) if name.endswith(_SUFFIX))
        return sorted(int(name) for name in names if name.isdecimal())

    def create(self, number: int, created_at_ms: int) -> VolumeFile:
        """A new volume with a durable header under a durable name. Raises OSError and then leaves nothing behind."""
        file = self._open(number, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(self.io, file.descriptor, [pack_volume_header(number, self.disk_id, created_at_ms)], 0)
            self.io.fdatasync(file.descriptor)
            os.fsync(self._folder)
        except OSError:
            os.unlink(_file_name(number), dir_fd=self._folder)
            raise
        return file

    def remove(self, number: int) -> None:
        """Delete a volume that never held a record."""
        os.unlink(_file_name(number), dir_fd=self._folder)
        os.fsync(self._folder)

    def open_writable(self, number: int) -> VolumeFile:
        return self._open(number, os.O_RDWR)

    def open_reader(self, number: int) -> VolumeFile:
        """A file for reading; a bounded number of them is kept open. Raises OSError."""
        with self._lock:
            if (file := self._readers.get(number)) is not None:
                self._readers.move_to_end(number)
                return file
        file = self._open(number, os.O_RDONLY)
        with self._lock:
            self._readers[number] = file
            if len(self._readers) > _READERS_OPEN_MAX:
                self._readers.popitem(last=False)
        return file

    def read(
        self, name: ShardName, place: Place, payload_bytes: int, *, fresh: bool = False
    ) -> tuple[ShardMeta, memoryview]:
        """The shard `name`, which the index says stands at `place`. `fresh` asks the medium rather than the cache.

        Raises ShardCorrupt when anything about it is not as it was written, unreadable sectors included.
        """
        size = HEADER_BYTES + payload_bytes
        try:
            file = self.open_reader(place.volume)
            if fresh:
                self.io.forget_cached(file.descriptor, place.offset, size)
            data = memoryview(self.io.pread(file.descriptor, size, place.offset))
            record = unpack_record(data, place, self.disk_id)
        except (OSError, FormatError) as error:
            raise ShardCorrupt(f"volume {place.volume} at {place.offset}: {error}") from error
        payload = data[HEADER_BYTES:]
        if record.name != name or len(payload) != record.payload_bytes or not payload_is_intact(record.meta, payload):
            raise ShardCorrupt(f"volume {place.volume} at {place.offset}: the payload is not what was written")
        return record.meta, payload

    def close(self) -> None:
        with self._lock:
            self._readers.clear()
        os.close(self._folder)

    def _open(self, number: int, flags: int) -> VolumeFile:
        return VolumeFile(os.open(_file_name(number), flags | os.O_CLOEXEC, 0o640, dir_fd=self._folder), number)


class OpenVolume:
    """The volume that a disk's writer appends to. Owned by that thread."""

    def __init__(self, file: VolumeFile, end: int, disk_id: bytes, io: DiskIO) -> None:
        self.file = file
        self.end = end  # where the next record begins
        self._disk_id = disk_id
        self._io = io

    @property
    def number(self) -> int:
        return self.file.number

    @property
    def is_empty(self) -> bool:
        return self.end == FIRST_RECORD_OFFSET

    def append(self, records: Iterable[tuple[Record, Buffer]]) -> list[Place]:
        """Write records one after the other, payloads uncopied; gives their places. Not durable before `sync`.

        Raises OSError; call `take_back` then, since some of it may have been written.
        """
        places: list[Place] = []
        buffers: list[Buffer] = []
        offset = self.end
        for record, payload in records:
            place = Place(self.number, offset)
            places.append(place)
            buffers.append(pack_record(record, place, self._disk_id))
            if record.payload_bytes:
                buffers.append(payload)
            if padding := record.span - HEADER_BYTES - record.payload_bytes:
                buffers.append(_PADDING[:padding])
            offset += record.span
        written = _write_all(self._io, self.file.descriptor, buffers, self.end)
        assert written == offset - self.end
        self.end = offset
        return places

    def sync(self) -> None:
        """Raises OSError; nobody knows then what reached the disk, so it must not be written to again."""
        self._io.fdatasync(self.file.descriptor)

    def take_back(self) -> None:
        """Cut off what a failed `append` left. Raises OSError."""
        self._io.ftruncate(self.file.descriptor, self.end)


def payload_is_intact(meta: ShardMeta, payload: Buffer) -> bool:
    """Whether the payload is the one that its digest was made from."""
    return xxhash.xxh3_128_digest(payload) == meta.payload_digest


def find_volume_end(file: VolumeFile) -> int:
    """Where the next record of an undamaged volume begins."""
    return max(align(file.size), FIRST_RECORD_OFFSET)


def _file_name(number: int) -> str:
    return f"{number:08d}{_SUFFIX}"


def _write_all(io: DiskIO, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write `buffers` one after the other; gives their size in bytes."""
    total = 0
    for start in range(0, len(buffers), _BUFFERS_PER_CALL):
        rest = list(buffers[start : start + _BUFFERS_PER_CALL])
        while rest:
            written = io.pwritev(descriptor, rest, offset + total)
            if written <= 0:
                raise OSError(errno.EIO, "the device takes no bytes")
            total += written
            rest = _skip(rest, written)
    return total


def _skip(buffers: list[Buffer], written: int) -> list[Buffer]:
    """What of `buffers` is left after the first `written` bytes."""
    for position, buffer in enumerate(buffers):
        size = memoryview(buffer).nbytes
        if written < size:
            return [memoryview(buffer)[written:], *buffers[position + 1 :]] if written else buffers[position:]
        written -= size
    return []
