"""The writer of one disk: gather whatever waits, make it durable with one fdatasync, acknowledge.

No request waits for company on purpose: while one group commit is being synced the next one gathers.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.base.clock import Clock
from node.protocol.errors import NodeError
from node.protocol.messages import (
    AdvanceEpoch,
    Done,
    Operation,
    PutDone,
    PutShards,
    Refused,
    Result,
    TrashDone,
    TrashShards,
)
from node.volumes.changes import Advance, Change, Outcome, Put, Trash
from node.volumes.queue import Job
from node.volumes.store import ShardStore


def write_jobs(store: ShardStore, jobs: Sequence[Job], clock: Clock) -> None:
    """One group commit for `jobs`; answers each of them."""
    now = clock.monotonic()
    in_time: list[tuple[Job, int]] = []
    changes: list[Change] = []
    for job in jobs:
        if job.deadline < now:
            job.refuse_late()
            continue
        wanted = list_changes(job)
        in_time.append((job, len(wanted)))
        changes += wanted
    outcomes = store.write(changes)
    start = 0
    for job, count in in_time:
        job.answer(make_result(job.operation, outcomes[start : start + count]), None)
        start += count


def list_changes(job: Job) -> list[Change]:
    """What a writing request asks of the disk."""
    operation = job.operation
    if isinstance(operation, PutShards):
        return [Put(meta, payload) for meta, payload in zip(operation.shards, job.payloads, strict=True)]
    if isinstance(operation, TrashShards):
        return [Trash(name, (operation.group_id, operation.group_epoch)) for name in operation.shards]
    assert isinstance(operation, AdvanceEpoch)
    return [Advance((operation.group_id, operation.group_epoch))]


def make_result(operation: Operation, outcomes: Sequence[Outcome]) -> Result:
    """The answer to a writing request. One error refuses all of it, though the rest may have been stored: a repeat is
    safe and finds it there."""
    for outcome in outcomes:
        if isinstance(outcome, NodeError):
            return Refused(outcome.code, str(outcome))
    if isinstance(operation, PutShards):
        return PutDone()
    if isinstance(operation, TrashShards):
        return TrashDone(sum(outcome is True for outcome in outcomes))
    return Done()
