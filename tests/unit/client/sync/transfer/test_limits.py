"""Rate limits in a time that only passes when somebody waits."""

from __future__ import annotations

import random
import threading
from functools import partial

import pytest

from client.sync.transfer.jobs import Job, OneByOne, Parallel, Threads
from client.sync.transfer.limits import RateLimit


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds


def test_without_a_limit_nothing_waits() -> None:
    time = Time()
    RateLimit(None, time, time.pause).take(1 << 40)
    assert time.at == 1000.0


def test_what_is_taken_is_paid_for_by_who_comes_next() -> None:
    time = Time()
    limit = RateLimit(1000, time, time.pause)
    limit.take(3000)  # half a second was saved up
    assert time.at == 1000.0
    limit.take(1)
    assert time.at == pytest.approx(1002.5)


def test_over_a_long_time_the_rate_is_kept() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    tape = random.Random(seed)
    time = Time()
    limit = RateLimit(10_000, time, time.pause)
    passed = 0
    for _ in range(500):
        if tape.random() < 0.2:
            time.at += tape.random() * 3
        size = tape.randrange(5000)
        limit.take(size)
        assert passed <= (time.at - 1000.0 + 0.5) * 10_000 + 1
        passed += size


def test_a_pause_saves_up_no_more_than_half_a_second() -> None:
    time = Time()
    limit = RateLimit(1000, time, time.pause)
    time.at += 3600
    start = time.at
    for _ in range(10):
        limit.take(1000)
    assert time.at - start == pytest.approx(8.5)


@pytest.mark.parametrize("parallel", [OneByOne(), Threads()])
def test_all_jobs_are_done_and_the_first_error_is_raised(parallel: Parallel) -> None:
    done: list[int] = []
    parallel.run_all((partial(done.append, number) for number in range(20)), 4)
    assert sorted(done) == list(range(20))

    def fail() -> None:
        raise KeyError("no")

    begun: list[int] = []
    jobs: list[Job] = [fail, *(lambda: begun.append(1) for _ in range(100))]
    with pytest.raises(KeyError):
        parallel.run_all(iter(jobs), 2)
    assert len(begun) < 100


def test_no_more_jobs_run_at_once_than_allowed() -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=30)
        with lock:
            running -= 1

    Threads().run_all((job for _ in range(9)), 3)
    assert most == 3
