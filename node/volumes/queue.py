"""The bounded queue before a disk's thread, and the jobs in it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.protocol.errors import DeadlinePassed, NodeError
from node.protocol.messages import Buffer, Operation, Refused, Result

Answer = Callable[[Result, Buffer | None], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way through a disk. `answer` is called exactly once, from any thread.

    `deadline` is in seconds of the node's monotonic clock; `size_bytes` is what the job holds in memory.
    """

    operation: Operation
    payloads: Sequence[Buffer]
    size_bytes: int
    deadline: float
    answer: Answer

    def refuse(self, error: NodeError) -> None:
        self.answer(Refused(error.code, str(error)), None)

    def refuse_late(self) -> None:
        self.refuse(DeadlinePassed("the request waited longer than it may"))


class JobQueue:
    """First in, first out; bounded by number and by bytes. Any thread puts, one thread takes."""

    def __init__(self, *, jobs_max: int, bytes_max: int) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> bool:
        """False when the queue is full or closed; the job is not taken then."""
        with self._changed:
            if self._closed or len(self._jobs) >= self._jobs_max or self._bytes + job.size_bytes > self._bytes_max:
                return False
            self._jobs.append(job)
            self._bytes += job.size_bytes
            self._changed.notify()
            return True

    def take(self, *, bytes_max: int, timeout_s: float | None) -> list[Job] | None:
        """All jobs that wait, at most `bytes_max` of them but at least one; [] after `timeout_s` (None: no timeout)
        without any; None once the queue is closed and empty."""
        with self._changed:
            if not self._jobs and not self._closed:
                self._changed.wait(timeout_s)
            if not self._jobs:
                return None if self._closed else []
            taken: list[Job] = []
            size = 0
            while self._jobs and (not taken or size + self._jobs[0].size_bytes <= bytes_max):
                job = self._jobs.popleft()
                size += job.size_bytes
                taken.append(job)
            self._bytes -= size
            return taken

    def take_late(self, now: float) -> list[Job]:
        """Jobs whose deadline has passed while they waited."""
        with self._changed:
            late = [job for job in self._jobs if job.deadline < now]
            if late:
                self._jobs = deque(job for job in self._jobs if job.deadline >= now)
                self._bytes -= sum(job.size_bytes for job in late)
            return late

    def close(self) -> None:
        """Take no more; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
