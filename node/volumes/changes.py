"""What a disk can be asked to change, and planning one group commit of such changes.

`Batch.plan` decides change by change against the index and what the batch itself will do; it reads but writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from node.protocol.errors import BadRequest, DiskFull, NodeError, ShardConflict, ShardCorrupt, StaleEpoch
from node.protocol.messages import Buffer, ShardMeta, ShardName
from node.volumes.format import HEADER_BYTES, Kind, Place, Record, align, make_bare_meta
from node.volumes.index import Entry
from node.volumes.volume import payload_is_intact

_NO_PAYLOAD = b""
_NO_NAME = ShardName(bytes(16), 0)


@dataclass(frozen=True, slots=True)
class Put:
    """Keep this shard."""

    meta: ShardMeta
    payload: Buffer

    @property
    def name(self) -> ShardName:
        return ShardName(self.meta.block_id, self.meta.index)

    @property
    def group(self) -> tuple[int, int]:
        return self.meta.group_id, self.meta.group_epoch


@dataclass(frozen=True, slots=True)
class Trash:
    """Move this shard to the trash."""

    name: ShardName
    group: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Advance:
    """From now on refuse writes of an older epoch of this group."""

    group: tuple[int, int]


# `group` is always (group id, group epoch).
Change = Put | Trash | Advance

# True: done and durable. False: there was nothing to do (a Trash of what is not there). An error: not done.
Outcome = bool | NodeError


@dataclass(slots=True)
class Epochs:
    """The highest epoch of each placement group that this node has seen; one object for all its disks."""

    known: dict[int, int] = field(default_factory=dict)

    def check(self, group_id: int, group_epoch: int) -> None:
        """Raises StaleEpoch when the group has moved on."""
        if group_epoch < (known := self.known.get(group_id, 0)):
            raise StaleEpoch(f"group {group_id} is at epoch {known}, the request knows {group_epoch}")

    def raise_to(self, group_id: int, group_epoch: int) -> None:
        if group_epoch > self.known.get(group_id, 0):
            self.known[group_id] = group_epoch


class Basis(NamedTuple):
    """What a batch is planned against."""

    find: Callable[[ShardName], Entry | None]
    check_stored: Callable[[ShardName], object]  # raises ShardCorrupt when the stored bytes are not what was written
    epochs: Epochs
    refuse_puts: str | None  # why, when the disk takes no more data
    now_ms: int


@dataclass(slots=True)
class Batch:
    """What one group commit writes to `volume` from `end` on."""

    volume: int
    end: int
    records: list[tuple[Record, Buffer]] = field(default_factory=list)
    _staged: dict[ShardName, tuple[Place, bytes] | None] = field(default_factory=dict)  # None: trashed by this batch

    def add(self, record: Record, payload: Buffer = _NO_PAYLOAD) -> Place:
        place = Place(self.volume, self.end)
        self.records.append((record, payload))
        self.end += record.span
        return place

    def places(self) -> Iterator[Place]:
        """Where the records stand, in order."""
        offset = self.end - sum(record.span for record, _ in self.records)
        for record, _ in self.records:
            yield Place(self.volume, offset)
            offset += record.span

    def plan(self, change: Change, basis: Basis) -> Outcome:
        """Take `change` in; the outcome holds once the batch is durable."""
        try:
            basis.epochs.check(*change.group)
            if isinstance(change, Put):
                return self._plan_put(change, basis)
            if isinstance(change, Trash):
                return self._plan_trash(change, basis)
            self.add(Record(Kind.EPOCH, _make_meta(_NO_NAME, change.group), 0, basis.now_ms))
        except NodeError as error:
            return error
        return True

    def _plan_put(self, put: Put, basis: Basis) -> bool:
        if not payload_is_intact(put.meta, put.payload):
            raise BadRequest("the payload does not match its digest; it was damaged on the way")
        if self._is_held(put, basis):
            return True
        if basis.refuse_puts is not None:
            raise DiskFull(basis.refuse_puts)
        record = Record(Kind.SHARD, put.meta, memoryview(put.payload).nbytes, basis.now_ms)
        self._staged[put.name] = self.add(record, put.payload), put.meta.payload_digest
        return True

    def _is_held(self, put: Put, basis: Basis) -> bool:
        """Whether nothing need be written. Raises ShardConflict when other bytes stand under this name."""
        if put.name in self._staged:
            staged = self._staged[put.name]
            if staged is not None and staged[1] != put.meta.payload_digest:
                raise ShardConflict(f"another payload of shard {put.meta.index} came in the same moment")
            return staged is not None
        entry = basis.find(put.name)
        if entry is None or entry.bad:
            return False
        try:
            # Putting what is there is a retry or a repair: the word of the index alone is not enough to say "done".
            basis.check_stored(put.name)
        except ShardCorrupt:
            return False
        if entry.payload_digest != put.meta.payload_digest:
            raise ShardConflict(f"another payload of shard {put.meta.index} is stored already")
        return True

    def _plan_trash(self, trash: Trash, basis: Basis) -> bool:
        if trash.name in self._staged:
            staged = self._staged[trash.name]
            place = None if staged is None else staged[0]
        else:
            entry = basis.find(trash.name)
            place = None if entry is None else entry.place
        if place is None:
            return False
        self.add(Record(Kind.TRASH, _make_meta(trash.name, trash.group), 0, basis.now_ms, place))
        self._staged[trash.name] = None
        return True


def estimate_span(change: Change) -> int:
    """The bytes that `change` takes in a volume at most."""
    return align(HEADER_BYTES + (memoryview(change.payload).nbytes if isinstance(change, Put) else 0))


def _make_meta(name: ShardName, group: tuple[int, int]) -> ShardMeta:
    group_id, group_epoch = group
    return make_bare_meta(name, group_id=group_id, group_epoch=group_epoch)
