"""Runs the background jobs: each at its period, once at a time in the whole cluster, in whichever worker is free.

Every worker has a runner. A run takes the job's lease, renews it while it works and gives it back at its end; when the
lease is lost (the worker was frozen, the database away), the run is cancelled, and its fenced writes are refused
anyway. What a run found and did, or why it failed, stands in the database for status. A failed job is logged and comes
again at its next period; it never stops the others.
Owns: one task for each run in progress; `close` cancels them, waits, and gives the leases back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from coordinator.metadata import leases
from coordinator.metadata.db import Door
from coordinator.metadata.values import Lease, Swept
from coordinator.protocol.errors import NotFound, Unavailable

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

LEASE_S: Final = 30.0
_TICK_S: Final = 1.0
_WAIT_FOR_LEASE_S: Final = 60.0  # a person who asks for a run waits this long for the one in progress


@dataclass(frozen=True)
class Job:
    """`work` does one run under the lease. Periods are measured from begin to begin."""

    name: str
    period_s: float
    work: Callable[[Lease], Awaitable[Swept]]
    timeout_s: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run found and did, and how long it took."""

    job: str
    swept: Swept
    took_s: float


class Runner:
    """`holder` names this worker among all and across restarts (a pid or random part is wise)."""

    def __init__(self, db: Door, holder: str, jobs: Sequence[Job]) -> None:
        self._db = db
        self._holder = holder
        self._jobs: Mapping[str, Job] = {job.name: job for job in jobs}
        self._running: dict[str, asyncio.Task[Ran | None]] = {}

    async def run(self) -> None:
        """Begin what is due, until cancelled; then as `close`."""
        periods = {job.name: job.period_s for job in self._jobs.values()}
        try:
            while True:
                with contextlib.suppress(Unavailable):  # the door has logged it; the next tick asks again
                    for name in await self._db.run(leases.list_due, periods):
                        self._begin(self._jobs[name])
                # Workers started together must not ask together for ever.
                await asyncio.sleep(_TICK_S * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            await self.close()

    async def run_now(self, name: str) -> Ran:
        """Run a job now and wait for its end. A run in progress, anywhere, is waited for first.

        Raises NotFound (no such job), Unavailable (the other run takes too long, or the lease was lost), and what the
        job raises.
        """
        job = self._jobs.get(name)
        if job is None:
            raise NotFound(what="job")
        deadline = time.monotonic() + _WAIT_FOR_LEASE_S
        while (lease := await self._db.run(leases.acquire, name, self._holder, LEASE_S)) is None:
            if time.monotonic() > deadline:
                raise Unavailable()
            await asyncio.sleep(0.2)
        return await self._work(job, lease)

    async def close(self) -> None:
        """Cancel the runs in progress and wait until they have ended."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, job: Job) -> None:
        if job.name in self._running:
            return
        task = asyncio.create_task(self._run_due(job), name=f"job-{job.name}")
        self._running[job.name] = task
        task.add_done_callback(lambda _: self._running.pop(job.name))

    async def _run_due(self, job: Job) -> Ran | None:
        try:
            lease = await self._acquire(job)
            return await self._work(job, lease) if lease is not None else None
        except Exception:  # noqa: BLE001
            # Whatever a job stumbles over, the runner and its other jobs go on; the log is where it is seen.
            _log.exception("job.failed", extra={"job": job.name})
            return None

    async def _acquire(self, job: Job) -> Lease | None:
        """The lease of a job that is due. One that arrives after the runner was told to stop is given back at once."""
        asked = asyncio.ensure_future(self._db.run(leases.acquire, job.name, self._holder, LEASE_S, job.period_s))
        try:
            return await _to_the_end(asked)
        except asyncio.CancelledError:
            if asked.exception() is None and (lease := asked.result()) is not None:
                with contextlib.suppress(Unavailable):
                    await self._db.run(leases.release, lease)
            raise

    async def _work(self, job: Job, lease: Lease) -> Ran:
        """One run under its lease, from mark to mark."""
        started = time.monotonic()
        outcome = "stopped"
        try:
            await self._db.run(leases.mark_started, lease)
            swept = await self._work_renewed(job, lease)
            outcome = describe(swept)
        except Exception as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        finally:
            await self._finish(lease, outcome)
        took_s = time.monotonic() - started
        # Some jobs run every few seconds: the log tells of those that did something.
        level = logging.INFO if any(swept.done.values()) else logging.DEBUG
        _log.log(level, "job.done", extra={"job": job.name, "outcome": outcome, "took_ms": round(took_s * 1000)})
        return Ran(job.name, swept, took_s)

    async def _work_renewed(self, job: Job, lease: Lease) -> Swept:
        """The work, cancelled when the lease is lost: then Unavailable."""
        work = asyncio.ensure_future(job.work(lease))
        renewal = asyncio.create_task(self._renew(lease))
        try:
            async with asyncio.timeout(job.timeout_s):
                await asyncio.wait((work, renewal), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            _log.warning("job.lease_lost", extra={"job": job.name, "epoch": lease.epoch})
            raise Unavailable()
        finally:
            for task in (work, renewal):
                task.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)

    async def _renew(self, lease: Lease) -> None:
        """Keep the lease; ends when it is lost, or could not be renewed for its whole length."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < LEASE_S:
            await asyncio.sleep(LEASE_S / 5)
            try:
                await self._db.run(leases.renew, lease, LEASE_S)
                renewed = time.monotonic()
            except leases.LeaseLost:
                return
            except Unavailable:
                continue  # it lasts a while yet

    async def _finish(self, lease: Lease, outcome: str) -> None:
        """Note the outcome and give the lease back; where that fails the lease ends by itself."""
        with contextlib.suppress(Unavailable, leases.LeaseLost):
            await _to_the_end(asyncio.ensure_future(self._mark_and_release(lease, outcome)))

    async def _mark_and_release(self, lease: Lease, outcome: str) -> None:
        await self._db.run(leases.mark_finished, lease, outcome)
        await self._db.run(leases.release, lease)


async def _to_the_end(task: asyncio.Future[_T]) -> _T:
    """The task's result; a cancellation meanwhile waits for the task and is raised then."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def describe(swept: Swept) -> str:
    """What a run found and did, in words for status."""
    parts = [f"found {count} {what}" for what, count in swept.found.items()]
    parts += [f"{what} {count}" for what, count in swept.done.items()]
    return ", ".join(parts) or "nothing to do"
