"""Worker threads: every job is begun, whatever the others do, and what it gave is told in the control thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from client.sync.workers import Result, ThreadWorkers

PATIENCE_S = 10.0


def do(workers: ThreadWorkers, job: Callable[[], Any]) -> Any:
    """Submit a job and wait for what it gives."""
    told: list[Result[Any]] = []
    workers.submit(job, told.append)
    until = time.monotonic() + PATIENCE_S
    while not told:
        assert workers.next_event(until), "the job was never done"
    return told[0].get()


class SlowQueue:
    """The workers' queue, whose `get` stops when it has its job: as if the thread lost the processor just there."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.got = threading.Event()
        self.go_on = threading.Event()

    def put(self, item: object) -> None:
        self._inner.put(item)

    def qsize(self) -> int:
        return int(self._inner.qsize())

    def get(self) -> Any:
        item = self._inner.get()
        self.got.set()
        self.go_on.wait()
        return item


def wait_until_idle(workers: ThreadWorkers) -> None:
    until = time.monotonic() + PATIENCE_S
    while workers._idle != 1:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_job_does_not_wait_behind_one_that_a_thread_has_just_taken() -> None:
    workers = ThreadWorkers()
    do(workers, lambda: None)
    wait_until_idle(workers)
    slow = SlowQueue(workers._jobs)
    workers._jobs = slow  # type: ignore[assignment]  # the same queue, slower
    slow.go_on.set()
    do(workers, lambda: None)  # the thread comes back to the slow queue and is idle there
    wait_until_idle(workers)
    slow.go_on.clear()
    slow.got.clear()
    end = threading.Event()
    workers.submit(end.wait, lambda result: None)  # like the watcher: it may never end
    assert slow.got.wait(PATIENCE_S)
    told: list[Result[int]] = []
    workers.submit(lambda: 2, told.append)
    slow.go_on.set()
    try:
        assert workers.next_event(time.monotonic() + PATIENCE_S), "the job was never begun"
        assert told[0].get() == 2
    finally:
        end.set()


def test_no_more_threads_than_allowed_and_every_job_is_done() -> None:
    workers = ThreadWorkers(threads_max=3)
    lock, at_once, most = threading.Lock(), 0, 0

    def job() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.001)
        with lock:
            at_once -= 1

    done: list[Result[None]] = []
    for _ in range(200):
        workers.submit(job, done.append)
    until = time.monotonic() + PATIENCE_S
    while len(done) < 200:
        assert workers.next_event(until)
    assert most <= 3
    assert do(workers, lambda: "and again") == "and again"


def test_what_a_job_raises_is_told_and_its_thread_goes_on() -> None:
    workers = ThreadWorkers(threads_max=1)
    with pytest.raises(KeyError):
        do(workers, lambda: dict[str, int]()["nothing"])
    assert do(workers, lambda: 1) == 1


def test_it_ends_when_its_jobs_have_ended() -> None:
    workers = ThreadWorkers(threads_max=2)
    go_on = threading.Event()
    ended: list[int] = []

    def job() -> None:
        go_on.wait(PATIENCE_S)
        ended.append(threading.get_ident())

    for _ in range(5):
        workers.submit(job, lambda result: None)
    assert not workers.end(0.01)
    go_on.set()
    assert workers.end(PATIENCE_S)
    assert len(ended) == 5
    deadline = time.monotonic() + PATIENCE_S
    while any(thread.ident in ended for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread stays"
        time.sleep(0.001)
