"""One disk of a node: its two threads, their queues, and what the rest of the node may know of it.

Guarantees: `submit` and `status` never touch the disk, so a disk that hangs blocks its own threads only; every job that
`submit` took is answered. A directory that is not our disk (unmounted, swapped, in use) is never written to; it is
looked at again now and then, since disks get mounted late.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.base.clock import Clock
from node.protocol.errors import BadRequest, DiskFailed, DiskUnknown, NodeBusy
from node.protocol.messages import (
    AdvanceEpoch,
    Buffer,
    DiskStatus,
    GetShard,
    Hello,
    ListShards,
    PutShards,
    Result,
    TrashShards,
    VerifyShards,
)
from node.volumes.changes import Epochs
from node.volumes.disk_io import DiskIO
from node.volumes.health import USAGE_KEPT_S, DiskState, Health, Thresholds
from node.volumes.identity import Claim, DiskForeign, claim_disk
from node.volumes.opening import open_store
from node.volumes.queue import Job, JobQueue
from node.volumes.reader import Reader
from node.volumes.store import ShardStore, StoreSettings
from node.volumes.writer import write_jobs

# After this long inside one call the disk counts as hung, and new requests are told so at once.
STUCK_AFTER_S: Final = 5.0
FOREIGN_RETRY_S: Final = 30.0

Write = PutShards | TrashShards | AdvanceEpoch
Read = GetShard | VerifyShards | ListShards

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """Queue bounds are for each of the two threads. Sizes in bytes."""

    store: StoreSettings = field(default_factory=StoreSettings)
    thresholds: Thresholds = field(default_factory=Thresholds)
    queue_jobs_max: int = 256
    queue_bytes_max: int = 128 << 20
    commit_bytes_max: int = 32 << 20  # what one group commit gathers at most


@dataclass(frozen=True, slots=True)
class DiskName:
    """What the configuration says that stands at `path`."""

    path: Path
    cluster_id: str
    node: str
    disk_id: str


class Disk:
    """The writer thread owns the store and opens and closes it; the reader thread reads from it. `_busy_since` is set
    by each thread around its work and read by the server's; all other fields are set before the threads run or
    replaced whole."""

    def __init__(
        self, name: DiskName, *, settings: DiskSettings, epochs: Epochs, clock: Clock, io: DiskIO, boot_id: str
    ) -> None:
        self.name = name
        self._settings = settings
        self._epochs = epochs
        self._clock = clock
        self._io = io
        self._boot_id = boot_id
        self._writes = JobQueue(jobs_max=settings.queue_jobs_max, bytes_max=settings.queue_bytes_max)
        self._reads = JobQueue(jobs_max=settings.queue_jobs_max, bytes_max=settings.queue_bytes_max)
        self._store: ShardStore | None = None
        self._health: Health | None = None
        self._foreign: str | None = None
        self._looked = threading.Event()  # the first attempt to open has ended, either way
        self._stopping = threading.Event()
        self._busy_since = {"writer": 0.0, "reader": 0.0}
        self._refresh_asked = False
        self._shards = 0
        self._writer = threading.Thread(target=self._run_writer, name=f"write-{name.path.name}", daemon=True)
        self._reader = threading.Thread(target=self._run_reader, name=f"read-{name.path.name}", daemon=True)

    # --- for the server's thread

    def start(self) -> None:
        """Open the disk in its own thread."""
        self._writer.start()

    def wait_until_looked_at(self, timeout_s: float) -> bool:
        """Whether the disk was opened, or found unusable, in that time."""
        return self._looked.wait(timeout_s)

    def submit(self, job: Job) -> None:
        """Queue `job`, a Write or a Read. Raises a NodeError instead of answering when that is impossible."""
        self._check_usable()
        if job.size_bytes > self._settings.queue_bytes_max:
            raise BadRequest(f"a request of {job.size_bytes} bytes; {self._settings.queue_bytes_max} is the most")
        writing = isinstance(job.operation, Write)
        since = self._busy_since["writer" if writing else "reader"]
        if since and (hung_s := self._clock.monotonic() - since) > STUCK_AFTER_S:
            raise NodeBusy(f"the disk has not answered for {hung_s:.0f} s")
        if not (self._writes if writing else self._reads).put(job):
            raise NodeBusy("the disk's queue is full" if not self._stopping.is_set() else "the node is stopping")

    def _check_usable(self) -> None:
        """Raises what a request for this disk is refused with when it could not be opened."""
        if self._store is not None:
            return
        if self._foreign is not None:
            raise DiskUnknown(self._foreign)
        if self._health is not None and self._health.state is DiskState.FAILED:
            raise DiskFailed(self._health.reason)
        raise NodeBusy("the disk is being opened")

    @property
    def queued(self) -> int:
        return len(self._writes) + len(self._reads)

    @property
    def store(self) -> ShardStore | None:
        """For counts and metrics only."""
        return self._store

    def refuse_late(self) -> None:
        """Answer the requests whose deadline passed in a queue; needed only while a thread hangs."""
        now = self._clock.monotonic()
        for queue in (self._writes, self._reads):
            for job in queue.take_late(now):
                job.refuse_late()

    def status(self) -> DiskStatus:
        """How the disk is, from what is known without asking it; figures may be as old as the last request."""
        health = self._health
        state, reason = self._describe()
        usage = health.usage if health is not None else None
        if health is not None and self._clock.monotonic() - health.usage_read_at > USAGE_KEPT_S:
            self._ask_refresh()
        return DiskStatus(
            self.name.disk_id,
            str(self.name.path),
            state,
            reason,
            usage.size if usage else 0,
            usage.used if usage else 0,
            self._shards,
            self.queued,
        )

    def begin_stop(self) -> None:
        """Take no more requests; those that wait are still done."""
        self._stopping.set()
        self._writes.close()
        self._reads.close()

    def wait_until_stopped(self, timeout_s: float) -> bool:
        """Whether both threads have ended and the store is closed."""
        deadline = self._clock.monotonic() + timeout_s
        self._writer.join(max(0.0, deadline - self._clock.monotonic()))
        return not self._writer.is_alive()

    def _describe(self) -> tuple[DiskState, str]:
        if self._foreign is not None:
            return DiskState.FOREIGN, self._foreign
        if self._health is None or (self._store is None and self._health.state is not DiskState.FAILED):
            return DiskState.READ_ONLY, "being opened"
        return self._health.state, self._health.reason

    def _ask_refresh(self) -> None:
        if self._refresh_asked or self._store is None:
            return
        self._refresh_asked = self._reads.put(Job(Hello(), (), 0, float("inf"), self._refreshed))

    def _refreshed(self, _result: Result, _payload: Buffer | None) -> None:
        self._refresh_asked = False

    # --- the disk's threads

    def _run_writer(self) -> None:
        store = self._open_when_ours()
        if store is None:
            return
        self._reader.start()
        try:
            self._write_until_closed(store)
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may write to this disk after it
            store.health.fail(f"the writer stopped: {error!r}")
            _log.exception("disk.writer_failed", extra={"path": str(self.name.path)})
            self._refuse_until_closed()
        self._reader.join()
        store.close()

    def _write_until_closed(self, store: ShardStore) -> None:
        next_tend = self._clock.monotonic()
        while True:
            wait_s = max(0.0, next_tend - self._clock.monotonic())
            jobs = self._writes.take(bytes_max=self._settings.commit_bytes_max, timeout_s=wait_s)
            if jobs is None:
                return
            self._busy_since["writer"] = self._clock.monotonic()
            if jobs:
                write_jobs(store, jobs, self._clock)
                if any(isinstance(job.operation, TrashShards) for job in jobs):
                    next_tend = min(next_tend, self._clock.monotonic() + self._settings.store.trash_keep_s)
            if self._clock.monotonic() >= next_tend:
                next_tend = self._clock.monotonic() + store.tend()
            self._shards = store.count_shards()
            self._busy_since["writer"] = 0.0
            del jobs  # the payloads need not stay in memory until the next request

    def _refuse_until_closed(self) -> None:
        self._busy_since["writer"] = 0.0
        while (jobs := self._writes.take(bytes_max=1 << 62, timeout_s=None)) is not None:
            for job in jobs:
                job.refuse(DiskFailed("the disk failed"))

    def _run_reader(self) -> None:
        assert self._store is not None
        reader = Reader(self._store, self._clock)
        while reader.step(self._reads, self._mark_reader_busy):
            self._busy_since["reader"] = 0.0

    def _mark_reader_busy(self) -> None:
        self._busy_since["reader"] = self._clock.monotonic()

    def _open_when_ours(self) -> ShardStore | None:
        """The opened store; None when the disk failed in opening, or the node stops before it is ours."""
        while not self._stopping.is_set():
            try:
                claim = claim_disk(self.name.path, self.name.cluster_id, self.name.node, self.name.disk_id)
            except DiskForeign as error:
                if self._foreign != str(error):
                    _log.error("disk.foreign", extra={"path": str(self.name.path), "reason": str(error)})
                self._foreign = str(error)
                self._looked.set()
                self._stopping.wait(FOREIGN_RETRY_S)
                continue
            return self._open(claim)
        return None

    def _open(self, claim: Claim) -> ShardStore | None:
        started = self._clock.monotonic()
        self._health = Health(self.name.path, self._settings.thresholds, self._clock)
        self._foreign = None
        try:
            store = open_store(
                claim,
                health=self._health,
                epochs=self._epochs,
                clock=self._clock,
                io=self._io,
                settings=self._settings.store,
                boot_id=self._boot_id,
            )
        except DiskFailed as error:
            _log.error("disk.not_opened", extra={"path": str(self.name.path), "reason": str(error)})
            self._looked.set()
            return None
        self._shards = store.count_shards()
        self._store = store
        took_ms = round((self._clock.monotonic() - started) * 1000)
        _log.info("disk.opened", extra={"path": str(self.name.path), "shards": self._shards, "took_ms": took_ms})
        self._looked.set()
        return store
