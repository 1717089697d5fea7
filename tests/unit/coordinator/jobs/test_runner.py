from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.jobs import runner
from coordinator.jobs.runner import Job, Runner
from coordinator.metadata import db, leases
from coordinator.metadata.db import Door
from coordinator.metadata.values import Lease, Swept
from coordinator.protocol.errors import NotFound, Unavailable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_TICK_S", 0.02)


def counting(name: str, period_s: float, ran: list[str]) -> Job:
    async def work(lease: Lease) -> Swept:
        ran.append(name)
        return Swept(found={"things": 2}, done={"mended": 1})

    return Job(name, period_s, work)


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in other threads
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_job_runs_at_its_period_once_among_all_workers(door: Door, database: str) -> None:
    async def use() -> None:
        ran: list[str] = []
        jobs = [counting("often", 0.05, ran), counting("rarely", 3600, ran)]
        workers = [asyncio.create_task(Runner(door, f"w{n}", jobs).run()) for n in range(3)]
        await until(lambda: ran.count("often") >= 5)
        assert ran.count("rarely") == 1
        for worker in workers:
            await ended(worker)
        [often, rarely] = await door.run(leases.list_jobs)
        assert rarely.outcome == "found 2 things, mended 1"
        assert (often.holder, rarely.holder) == ("", "")  # given back

    asyncio.run(use())


def test_a_failing_job_is_noted_and_stops_nobody(door: Door, database: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(lease: Lease) -> Swept:
        raise ValueError("broken")

    async def use() -> None:
        ran: list[str] = []
        worker = asyncio.create_task(Runner(door, "w", [Job("bad", 0.05, fail), counting("good", 0.05, ran)]).run())
        await until(lambda: len(ran) >= 3)
        # Seen while it runs: a run that the end below interrupts is noted as stopped.
        async with asyncio.timeout(10):
            while (await door.run(leases.list_jobs))[0].outcome != "failed: ValueError":  # noqa: ASYNC110 - a row in the database sets no event
                await asyncio.sleep(0.01)
        await ended(worker)

    with caplog.at_level(logging.ERROR):
        asyncio.run(use())
    assert {record.message for record in caplog.records} == {"job.failed"}


def test_a_run_on_request_waits_for_the_one_in_progress(door: Door, database: str) -> None:
    async def use() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        running = 0

        async def work(lease: Lease) -> Swept:
            nonlocal running
            running += 1
            assert running == 1
            begun.set()
            await go_on.wait()
            running -= 1
            return Swept(done={"runs": 1})

        one, two = (Runner(door, name, [Job("job", 3600, work)]) for name in ("w1", "w2"))
        worker = asyncio.create_task(one.run())
        await begun.wait()
        asked = asyncio.create_task(two.run_now("job"))
        await asyncio.sleep(0.3)
        assert not asked.done()
        go_on.set()
        assert (await asked).swept == Swept(done={"runs": 1})
        await ended(worker)
        with pytest.raises(NotFound):
            await one.run_now("nothing")

    asyncio.run(use())


def test_a_run_that_loses_its_lease_is_cancelled(
    door: Door, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "LEASE_S", 0.5)

    async def use() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work(lease: Lease) -> Swept:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return Swept()

        asked = asyncio.create_task(Runner(door, "w", [Job("job", 1, work)]).run_now("job"))
        await begun.wait()
        await door.run(db.run, "UPDATE job_lease SET epoch = epoch + 1, holder = 'another'")
        with pytest.raises(Unavailable):
            await asked
        assert cancelled.is_set()
        [job] = await door.run(leases.list_jobs)
        assert job.holder == "another"  # and its lease was not given back in its name

    asyncio.run(use())


def test_ending_the_runner_cancels_what_runs_and_frees_the_lease(door: Door, database: str) -> None:
    async def use() -> None:
        begun = asyncio.Event()

        async def work(lease: Lease) -> Swept:
            begun.set()
            await asyncio.sleep(60)
            return Swept()

        worker = asyncio.create_task(Runner(door, "w1", [Job("job", 0.0, work)]).run())
        await begun.wait()
        await ended(worker)
        [job] = await door.run(leases.list_jobs)
        assert (job.holder, job.outcome) == ("", "stopped")

    asyncio.run(use())


def test_a_job_that_takes_too_long_is_ended(door: Door, database: str) -> None:
    async def forever(lease: Lease) -> Swept:
        await asyncio.sleep(60)
        return Swept()

    async def use() -> None:
        job = Job("job", 1, forever, timeout_s=0.1)
        with pytest.raises(TimeoutError):
            await Runner(door, "w", [job]).run_now("job")

    asyncio.run(use())


def test_a_database_that_is_away_for_a_while_ends_nothing(
    door: Door, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = door.run
    away = {"calls": 0}

    async def sometimes(fn: Callable[..., Any], *args: Any) -> Any:
        away["calls"] += 1
        if away["calls"] <= 5:
            raise Unavailable()
        return await real(fn, *args)

    async def use() -> None:
        monkeypatch.setattr(door, "run", sometimes)
        ran: list[str] = []
        worker: asyncio.Task[None] = asyncio.create_task(Runner(door, "w", [counting("job", 0.05, ran)]).run())
        await until(lambda: len(ran) >= 2)
        await ended(worker)

    asyncio.run(use())
