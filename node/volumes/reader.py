"""The reader of one disk: fetches at once, and verifies a shard at a time whenever no fetch waits."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from node.base.clock import Clock
from node.protocol.errors import NodeError, ShardCorrupt, ShardMissing
from node.protocol.messages import (
    Done,
    GetShard,
    Hello,
    Inventory,
    ListShards,
    ShardFound,
    ShardName,
    Verified,
    VerifyShards,
)
from node.volumes.index import IndexBroken
from node.volumes.queue import Job, JobQueue
from node.volumes.store import ShardStore


@dataclass(slots=True)
class _Verifying:
    job: Job
    verdicts: list[str] = field(default_factory=list)


_log = logging.getLogger(__name__)


class Reader:
    """Serves read jobs; used by one thread. `_verifying` holds what is under way, bounded by the queue before it."""

    def __init__(self, store: ShardStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._verifying: deque[_Verifying] = deque()

    def step(self, queue: JobQueue, mark_busy: Callable[[], None]) -> bool:
        """Wait for jobs and do them, or go on verifying; False once the queue is closed and all is done.

        `mark_busy` is called whenever the disk is about to be touched.
        """
        jobs = queue.take(bytes_max=0, timeout_s=0 if self._verifying else None)
        mark_busy()
        for job in jobs or ():
            mark_busy()
            self._begin(job)
        if self._verifying:
            self._verify_one()
        return jobs is not None or bool(self._verifying)

    def _begin(self, job: Job) -> None:
        if job.deadline < self._clock.monotonic():
            job.refuse_late()
        elif isinstance(job.operation, Hello):
            # Somebody wants to know how full the disk is; only this disk's threads may hang in asking it.
            self._store.health.refresh()
            job.answer(Done(), None)
        elif isinstance(job.operation, VerifyShards):
            self._verifying.append(_Verifying(job))
        else:
            self._serve(job)

    def _serve(self, job: Job) -> None:
        operation = job.operation
        try:
            if isinstance(operation, GetShard):
                meta, payload = self._store.read(operation.shard)
                job.answer(ShardFound(meta), payload)
            else:
                assert isinstance(operation, ListShards)
                rows = self._store.list_shards(operation.after, operation.limit)
                job.answer(Inventory(tuple(rows), len(rows) < operation.limit), None)
        except NodeError as error:
            job.refuse(error)
        except IndexBroken as error:
            _log.error("index.broken", extra={"reason": str(error)})
            job.refuse(NodeError(f"the disk's index cannot be read: {error}"))

    def _verify_one(self) -> None:
        current = self._verifying[0]
        names = current.job.operation.shards if isinstance(current.job.operation, VerifyShards) else ()
        if len(current.verdicts) < len(names):
            if current.job.deadline < self._clock.monotonic():
                current.job.refuse_late()
                self._verifying.popleft()
                return
            current.verdicts.append(self._judge(names[len(current.verdicts)]))
        if len(current.verdicts) == len(names):
            current.job.answer(Verified(tuple(current.verdicts)), None)
            self._verifying.popleft()

    def _judge(self, name: ShardName) -> str:
        try:
            self._store.verify(name)
        except (ShardMissing, ShardCorrupt) as error:
            return error.code
        return "ok"
