"""What goes together, what runs beside what, and that one content is fetched once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from client.sync.engine.apply import Gone, Outcome
from client.sync.engine.lanes import SLOTS, Lanes
from client.sync.engine.work import Lane, Work
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.tree import Content, DeleteRemote, Download, LocalId, PendingUpload, RemoteId, RemoteNode
from client.sync.workers import Result, run
from coordinator.protocol.types import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX, Kind


class Rig:
    """Jobs are kept until they are done here; a carrier that only counts."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = []
        self.batches: list[list[str]] = []
        self.done: list[str] = []
        self.lanes = Lanes(self, self, self._told)

    def _told(self, batch: list[tuple[Work, Outcome]]) -> None:
        self.done += [work.operation.name for work, _ in batch if isinstance(work.operation, Download)]

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self.jobs.append((job, done))

    def next_event(self, deadline: float | None) -> bool:
        raise NotImplementedError

    def upload(self, files: Sequence[ToUpload]) -> list[Outcome]:
        raise NotImplementedError

    def prefetch(self, row: PendingUpload, remote_path: str) -> None:
        raise NotImplementedError

    def download(self, files: Sequence[ToDownload]) -> list[Outcome]:
        self.batches.append([one.remote.name for one in files])
        return [Gone() for _ in files]

    def add(self, name: str, size: int = 1, digest: bytes | None = None) -> None:
        node = RemoteNode(RemoteId(1), RemoteId(0), name, Kind.FILE, 1, size, Content(digest or name.encode()))
        lane = Lane.DOWNLOADS if size <= BATCH_BYTES_MAX else Lane.LARGE_DOWNLOADS
        self.lanes.add(
            Work(
                operation=Download(node, LocalId(1), name, None),
                lane=lane,
                task=ToDownload(node, f"/{name}", (name,), None),
                size=size,
                scans_begun=0,
                asked_at=0,
            )
        )

    def finish(self) -> None:
        """Do what was begun, and begin what there are slots for then."""
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            done(run(job))
        self.lanes.start()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_small_ones_go_together_up_to_a_batch(rig: Rig) -> None:
    for number in range(BATCH_BLOCKS_MAX + 1):
        rig.add(f"{number}")
    for name in ("a", "b", "c"):
        rig.add(name, BATCH_BYTES_MAX // 2)
    rig.lanes.start()
    rig.finish()
    assert [len(batch) for batch in rig.batches] == [BATCH_BLOCKS_MAX, 2, 2]
    assert rig.lanes.active == 0
    assert len(rig.done) == BATCH_BLOCKS_MAX + 4


def test_only_so_many_run_at_once(rig: Rig) -> None:
    for number in range(5):
        rig.add(f"{number}", BATCH_BYTES_MAX + 1)
    rig.lanes.start()
    assert len(rig.jobs) == SLOTS[Lane.LARGE_DOWNLOADS]
    while rig.jobs:
        rig.finish()
    assert rig.done == ["0", "1", "2", "3", "4"]


def test_one_content_is_fetched_at_one_time_only_and_others_pass(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.add(name, BATCH_BYTES_MAX, digest=b"same" if name != "c" else None)
    rig.lanes.start()
    rig.finish()
    assert rig.batches == [["a"], ["c"]]
    rig.finish()
    assert rig.batches == [["a"], ["c"], ["b"]]


def test_calls_are_made_one_by_one(rig: Rig) -> None:
    node = RemoteNode(RemoteId(1), RemoteId(0), "x", Kind.FILE)
    for _ in range(SLOTS[Lane.CALLS] + 1):
        rig.lanes.add(Work(operation=DeleteRemote(node), lane=Lane.CALLS, task=Gone, scans_begun=0, asked_at=0))
    rig.lanes.start()
    assert len(rig.jobs) == SLOTS[Lane.CALLS]
    rig.finish()
    assert len(rig.jobs) == 1
