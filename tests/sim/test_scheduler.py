"""The scheduler: the same tape gives the same run, time passes only when all wait, a crash leaves nothing running."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.kit.scheduler import Crashed, Machine, Scheduler, Signal, SimClock, Stuck


def _letters(seed: int) -> str:
    """Three tasks that each say their letter at ten switch points."""
    scheduler = Scheduler(random.Random(seed))
    machine = scheduler.machine("m")
    said: list[str] = []

    def speak(letter: str) -> None:
        for _ in range(10):
            scheduler.pause("say", letter)
            said.append(letter)

    for letter in "abc":
        scheduler.spawn(machine, letter, partial(speak, letter))
    assert scheduler.run()
    return "".join(said)


def test_the_same_tape_gives_the_same_run_and_another_tape_another() -> None:
    runs = [_letters(seed) for seed in range(20)]
    assert runs == [_letters(seed) for seed in range(20)]
    assert len(set(runs)) > 15
    assert all(sorted(run) == sorted("abc" * 10) for run in runs)


def test_time_passes_only_when_all_wait() -> None:
    scheduler = Scheduler(random.Random(1))
    machine = scheduler.machine("m")
    seen: list[tuple[str, float]] = []

    def sleeper() -> None:
        scheduler.sleep(5)
        seen.append(("sleeper", scheduler.now))

    def worker() -> None:
        for _ in range(50):
            scheduler.pause("work")
        seen.append(("worker", scheduler.now))
        scheduler.sleep(7)
        seen.append(("worker", scheduler.now))

    scheduler.spawn(machine, "sleeper", sleeper)
    scheduler.spawn(machine, "worker", worker)
    assert scheduler.run()
    assert seen == [("worker", 0.0), ("sleeper", 5.0), ("worker", 7.0)]


def test_a_signal_wakes_who_waits_and_a_timeout_says_so() -> None:
    scheduler = Scheduler(random.Random(1))
    machine, signal = scheduler.machine("m"), Signal(scheduler)
    seen: list[tuple[bool, float]] = []

    def wait() -> None:
        seen.append((signal.wait(2), scheduler.now))
        seen.append((signal.wait(2), scheduler.now))

    def notify() -> None:
        scheduler.sleep(3)
        signal.notify()

    scheduler.spawn(machine, "waits", wait)
    scheduler.spawn(machine, "notifies", notify)
    assert scheduler.run()
    assert seen == [(False, 2.0), (True, 3.0)]


def test_a_crash_stops_a_machine_where_it_stands_and_no_cleaning_up_happens_after_it() -> None:
    for seed in range(50):
        scheduler = Scheduler(random.Random(seed))
        doomed, other = scheduler.machine("doomed"), scheduler.machine("other")
        done: list[str] = []

        def work(done: list[str] = done, scheduler: Scheduler = scheduler) -> None:
            try:
                for number in range(20):
                    scheduler.pause("step", number)
                    done.append(f"step {number}")
            finally:
                scheduler.pause("cleaning up")
                done.append("cleaned up")

        def fate(scheduler: Scheduler = scheduler, doomed: Machine = doomed) -> None:
            for _ in range(5):
                scheduler.pause("wait")
            scheduler.crash(doomed)

        scheduler.spawn(doomed, "one", work)
        scheduler.spawn(doomed, "two", work)
        scheduler.spawn(other, "fate", fate)
        assert scheduler.run()
        assert done.count("cleaned up") == sum(one == "step 19" for one in done)
        with pytest.raises(Crashed):
            scheduler.spawn(doomed, "late", work)


def test_what_a_task_raises_ends_the_run() -> None:
    scheduler = Scheduler(random.Random(1))

    def fail() -> None:
        scheduler.pause("work")
        raise KeyError("lost")

    scheduler.spawn(scheduler.machine("m"), "fails", fail)
    with pytest.raises(KeyError, match="lost"):
        scheduler.run()


def test_a_run_that_never_ends_is_noticed() -> None:
    scheduler = Scheduler(random.Random(1), steps_max=1000)

    def turn() -> None:
        while True:
            scheduler.pause("round and round")

    machine = scheduler.machine("m")
    scheduler.spawn(machine, "turns", turn)
    with pytest.raises(Stuck):
        scheduler.run()
    scheduler.close([machine])


def test_clocks_may_differ_but_never_in_how_fast_they_run() -> None:
    scheduler = Scheduler(random.Random(1))
    here, there = SimClock(scheduler), SimClock(scheduler, skew_s=-3600)
    scheduler.spawn(scheduler.machine("m"), "sleeps", lambda: scheduler.sleep(10))
    before = here.now(), there.now(), here.monotonic()
    scheduler.run()
    assert (here.now() - before[0], there.now() - before[1], here.monotonic() - before[2]) == (10, 10, 10)
    assert here.now() - there.now() == 3600
    there.jump(3600)
    assert here.now() == there.now()
