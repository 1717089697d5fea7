"""A twin of ShardStore in RAM: the same answers, nothing durable. For simulations, and as the model in tests."""

from __future__ import annotations

from collections.abc import Sequence

from node.base.clock import Clock
from node.protocol.errors import BadRequest, DiskFull, NodeError, ShardConflict, ShardCorrupt, ShardMissing
from node.protocol.messages import InventoryRow, ShardMeta, ShardName
from node.volumes.changes import Advance, Change, Epochs, Outcome, Put, Trash
from node.volumes.volume import payload_is_intact


class MemoryStore:
    """`read_only` and `damage` do to it what fullness and bad sectors do to a disk."""

    def __init__(self, *, epochs: Epochs, clock: Clock, trash_keep_s: float = 7 * 86400.0) -> None:
        self._epochs = epochs
        self._clock = clock
        self._trash_keep_s = trash_keep_s
        self._shards: dict[ShardName, tuple[ShardMeta, bytes]] = {}
        self._trash: list[float] = []  # when each went there
        self.read_only = False

    def write(self, changes: Sequence[Change]) -> list[Outcome]:
        outcomes = [self._change(change) for change in changes]
        # Like one commit: a later change of the batch is judged by the epochs from before it.
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome is True:
                self._epochs.raise_to(*change.group)
        return outcomes

    def read(self, name: ShardName) -> tuple[ShardMeta, memoryview]:
        if name not in self._shards:
            raise ShardMissing(f"no shard {name.index} of block {name.block_id.hex()}")
        meta, payload = self._shards[name]
        if not payload_is_intact(meta, payload):
            raise ShardCorrupt("the payload is not what was written")
        return meta, memoryview(payload)

    def verify(self, name: ShardName) -> None:
        self.read(name)

    def list_shards(self, after: ShardName | None, limit: int) -> list[InventoryRow]:
        names = sorted((name.block_id, name.index) for name in self._shards)
        start = None if after is None else (after.block_id, after.index)
        page = [name for name in names if start is None or name > start][:limit]
        return [InventoryRow(*name, len(self._shards[ShardName(*name)][1])) for name in page]

    def count_shards(self) -> int:
        return len(self._shards)

    def count_trashed(self) -> int:
        return len(self._trash)

    def tend(self) -> float:
        keep_from = self._clock.now() - self._trash_keep_s
        self._trash = [at for at in self._trash if at >= keep_from]
        return 3600.0

    def close(self) -> None:
        """Nothing to leave behind."""

    def damage(self, name: ShardName) -> None:
        """Flip a bit of a stored payload."""
        meta, payload = self._shards[name]
        self._shards[name] = meta, bytes([payload[0] ^ 1]) + payload[1:]

    def _change(self, change: Change) -> Outcome:
        try:
            self._epochs.check(*change.group)
            if isinstance(change, Put):
                self._put(change)
            elif isinstance(change, Trash):
                if self._shards.pop(change.name, None) is None:
                    return False
                self._trash.append(self._clock.now())
            else:
                assert isinstance(change, Advance)
        except NodeError as error:
            return error
        return True

    def _put(self, put: Put) -> None:
        if not payload_is_intact(put.meta, put.payload):
            raise BadRequest("the payload does not match its digest; it was damaged on the way")
        held = self._shards.get(put.name)
        if held is not None and payload_is_intact(*held):
            if held[0].payload_digest != put.meta.payload_digest:
                raise ShardConflict(f"another payload of shard {put.meta.index} is stored already")
            return
        if self.read_only:
            raise DiskFull("read only")
        if held is not None:
            self._trash.append(self._clock.now())
        self._shards[put.name] = put.meta, bytes(put.payload)
