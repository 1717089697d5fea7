"""The index of one disk: which shards it holds and where, in LMDB. A cache of the volumes, nothing more.

Guarantees: what a transaction applied is seen by the next reader; after a kill of the process everything that was
committed is still there (the page cache lives on). After a crash of the machine it is worthless, since it is never
synced while in use: `IndexState` tells the cases apart, and recovery.py rebuilds it from record headers.
Does not: decide anything. `Changes.apply` is the only place that knows what a record means for the index, so a rebuilt
index equals one that grew record by record.

Tables (big-endian keys, so that they sort): `shards` block id, index -> where; `trash` time, place -> which;
`volumes` number -> where the indexed part ends; `epochs` group -> highest epoch seen.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import msgspec

from node.base.durable import write_file_durably
from node.protocol.messages import InventoryRow, ShardName
from node.volumes.format import Kind, Place, Record
from node.volumes.identity import INDEX_STATE_FILE

IndexBroken = lmdb.Error  # anything LMDB cannot do: no room on the disk, map full, a damaged file

_NAME = struct.Struct(">16sB")
_ENTRY = struct.Struct("<IQI16sB")
_TRASH_KEY = struct.Struct(">QIQ")
_TRASHED = struct.Struct("<16sBI")
_NUMBER = struct.Struct(">I")
_VALUE = struct.Struct("<Q")
_BAD: Final = 1


class Entry(NamedTuple):
    """One shard. `bad` once its bytes were found not to match its digest."""

    place: Place
    payload_bytes: int
    payload_digest: bytes
    bad: bool


class Trashed(NamedTuple):
    """One shard in the trash, since `at_ms` (Unix milliseconds)."""

    at_ms: int
    place: Place
    name: ShardName
    payload_bytes: int


class Index:
    """One writer at a time (the disk's writer thread, or for `mark_bad` its reader), any number of readers."""

    def __init__(self, folder: Path, *, map_bytes: int, read_only: bool = False) -> None:
        """Open or make the index in `folder`. `map_bytes` bounds its size; only what is used takes space."""
        self._env: Any = lmdb.open(
            os.fspath(folder),
            map_size=map_bytes,
            max_dbs=4,
            sync=False,
            metasync=False,
            readahead=False,
            readonly=read_only,
            create=not read_only,
            lock=not read_only,
            mode=0o640,
        )
        self._shards: Any = self._env.open_db(b"shards", create=not read_only)
        self._trash: Any = self._env.open_db(b"trash", create=not read_only)
        self._volumes: Any = self._env.open_db(b"volumes", create=not read_only)
        self._epochs: Any = self._env.open_db(b"epochs", create=not read_only)

    def get(self, name: ShardName) -> Entry | None:
        with self._env.begin(self._shards) as txn:
            return _unpack_entry(txn.get(_pack_name(name)))

    def list_shards(self, after: ShardName | None, limit: int) -> list[InventoryRow]:
        """At most `limit` shards that follow `after`, in (block id, index) order."""
        rows: list[InventoryRow] = []
        with self._env.begin(self._shards) as txn, txn.cursor() as cursor:
            # The smallest key above `after` is the key itself with one more byte.
            found = cursor.first() if after is None else cursor.set_range(_pack_name(after) + b"\0")
            while found and len(rows) < limit:
                block_id, position = _NAME.unpack(cursor.key())
                rows.append(InventoryRow(block_id, position, _ENTRY.unpack(cursor.value())[2]))
                found = cursor.next()
        return rows

    def list_trash(self, until_ms: int, limit: int) -> list[Trashed]:
        """At most `limit` shards that went to the trash before `until_ms`, oldest first."""
        found: list[Trashed] = []
        with self._env.begin(self._trash) as txn, txn.cursor() as cursor:
            for key, value in cursor:
                at_ms, volume, offset = _TRASH_KEY.unpack(key)
                if at_ms >= until_ms or len(found) == limit:
                    break
                block_id, position, payload_bytes = _TRASHED.unpack(value)
                found.append(Trashed(at_ms, Place(volume, offset), ShardName(block_id, position), payload_bytes))
        return found

    def volume_ends(self) -> dict[int, int]:
        """Volume number -> the offset up to which its records are in the index."""
        with self._env.begin(self._volumes) as txn, txn.cursor() as cursor:
            return {_NUMBER.unpack(key)[0]: _VALUE.unpack(value)[0] for key, value in cursor}

    def epochs(self) -> dict[int, int]:
        """Group id -> the highest epoch seen."""
        with self._env.begin(self._epochs) as txn, txn.cursor() as cursor:
            return {_NUMBER.unpack(key)[0]: _VALUE.unpack(value)[0] for key, value in cursor}

    def count_shards(self) -> int:
        with self._env.begin() as txn:
            return int(txn.stat(self._shards)["entries"])

    def count_trashed(self) -> int:
        with self._env.begin() as txn:
            return int(txn.stat(self._trash)["entries"])

    @contextmanager
    def change(self) -> Iterator[Changes]:
        """One write transaction: all of it or nothing. Raises IndexBroken."""
        with self._env.begin(write=True) as txn:
            yield Changes(txn, self._shards, self._trash, self._volumes, self._epochs)

    def mark_bad(self, name: ShardName, place: Place) -> bool:
        """Remember that the shard at `place` is not what was written. False when it is known or gone already."""
        with self._env.begin(self._shards, write=True) as txn:
            entry = _unpack_entry(txn.get(_pack_name(name)))
            if entry is None or entry.place != place or entry.bad:
                return False
            txn.put(_pack_name(name), _pack_entry(entry._replace(bad=True)))
            return True

    def sync(self) -> None:
        self._env.sync(True)

    def close(self) -> None:
        self._env.close()


class Changes:
    """What a write transaction can do."""

    def __init__(self, txn: Any, shards: Any, trash: Any, volumes: Any, epochs: Any) -> None:
        self._txn, self._shards, self._trash, self._volumes, self._epochs = txn, shards, trash, volumes, epochs

    def apply(self, record: Record, place: Place, *, bad: bool = False) -> None:
        """Take one record, which stands at `place` and follows all applied before, into the index."""
        if record.kind is Kind.SHARD:
            self._put_shard(record, place, bad)
        elif record.kind is Kind.TRASH:
            entry = _unpack_entry(self._txn.get(_pack_name(record.name), db=self._shards))
            if entry is not None and entry.place == record.target:
                self._txn.delete(_pack_name(record.name), db=self._shards)
                self._put_trash(record.written_at_ms, entry, record.name)
        elif record.kind is Kind.TOMBSTONE:
            self._txn.delete(_TRASH_KEY.pack(record.target_at_ms, *record.target), db=self._trash)
        self.raise_epoch(record.meta.group_id, record.meta.group_epoch)

    def raise_epoch(self, group_id: int, group_epoch: int) -> None:
        key = _NUMBER.pack(group_id)
        known = self._txn.get(key, db=self._epochs)
        if group_epoch and (known is None or _VALUE.unpack(known)[0] < group_epoch):
            self._txn.put(key, _VALUE.pack(group_epoch), db=self._epochs)

    def set_volume_end(self, number: int, end: int) -> None:
        self._txn.put(_NUMBER.pack(number), _VALUE.pack(end), db=self._volumes)

    def _put_shard(self, record: Record, place: Place, bad: bool) -> None:
        key = _pack_name(record.name)
        replaced = _unpack_entry(self._txn.get(key, db=self._shards))
        if replaced is not None:
            self._put_trash(record.written_at_ms, replaced, record.name)
        entry = Entry(place, record.payload_bytes, record.meta.payload_digest, bad)
        self._txn.put(key, _pack_entry(entry), db=self._shards)

    def _put_trash(self, at_ms: int, entry: Entry, name: ShardName) -> None:
        value = _TRASHED.pack(name.block_id, name.index, entry.payload_bytes)
        self._txn.put(_TRASH_KEY.pack(at_ms, *entry.place), value, db=self._trash)


class _StateFile(msgspec.Struct, frozen=True):
    boot_id: str
    clean: bool


class IndexState:
    """Whether the index in a folder may be believed: it was closed cleanly, or only processes died since.

    It stands in a file of its own because it must be durable, and before the first unsynced page of the index is.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self._file = folder / INDEX_STATE_FILE
        self._folder = folder
        self._boot_id = boot_id

    def is_trustworthy(self) -> bool:
        try:
            state = msgspec.json.decode(self._file.read_bytes(), type=_StateFile)
        except (OSError, msgspec.MsgspecError):
            return False
        return state.clean or state.boot_id == self._boot_id

    def write(self, *, clean: bool) -> None:
        write_file_durably(self._file, msgspec.json.encode(_StateFile(self._boot_id, clean)))

    def reset(self) -> None:
        """Throw the index away."""
        if self._folder.exists():
            # The state goes first: a half-deleted index must not be believed.
            self._file.unlink(missing_ok=True)
            shutil.rmtree(self._folder)
        self._folder.mkdir(mode=0o750)


def read_boot_id() -> str:
    """Changes whenever the machine boots, and with it the page cache is lost."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _pack_name(name: ShardName) -> bytes:
    return _NAME.pack(name.block_id, name.index)


def _pack_entry(entry: Entry) -> bytes:
    return _ENTRY.pack(*entry.place, entry.payload_bytes, entry.payload_digest, _BAD if entry.bad else 0)


def _unpack_entry(value: bytes | None) -> Entry | None:
    if value is None:
        return None
    volume, offset, payload_bytes, digest, flags = _ENTRY.unpack(value)
    return Entry(Place(volume, offset), payload_bytes, digest, bool(flags & _BAD))
