"""One coordinator worker: wires its parts together, serves until SIGTERM, then drains.

Drain: stop accepting and answer /readyz with 503; end every long poll with a random back-off; let running requests
finish within `drain_s`; give up what is left, release the jobs, close the connections, exit 0. A second signal ends the
waiting at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from coordinator import following
from coordinator.api.health import OWN_ROUTES
from coordinator.api.server import Server
from coordinator.blocks.awaited import AwaitedBlocks
from coordinator.blocks.cpu import CpuPool
from coordinator.blocks.store import BlockStore
from coordinator.config import CoordinatorConfig
from coordinator.jobs.schedule import make_runner
from coordinator.metadata import accounts, blocks, journal
from coordinator.metadata.db import Door
from coordinator.metadata.values import DeviceId, NamespaceId
from coordinator.metrics import DRAINING
from coordinator.monitor import watch_cluster, watch_loop, watch_queues
from coordinator.notify.hub import Hub
from coordinator.passwords import LoginGuard
from coordinator.services import Services
from coordinator.staging import StagingRoom
from node.base.clock import SystemClock

log = logging.getLogger("coordinator")

WAKE_S_MAX: Final = 10.0
JOBS: Final = "jobs"


class WorkerBroken(Exception):
    """A part of the worker that should run for ever has ended; the log holds why. A fresh process is needed."""


async def serve(config: CoordinatorConfig) -> None:
    """Run the worker until a signal asks it to stop.

    Raises ListenError and what the parts raise at their start, and WorkerBroken.
    """
    _prepare_process()
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    async with running_worker(config) as worker:
        stopping = asyncio.create_task(stop.wait())
        breaking = asyncio.create_task(worker.wait_until_broken())
        await asyncio.wait((stopping, breaking), return_when=asyncio.FIRST_COMPLETED)
        broken = breaking.done()
        await _end(stopping)
        await _end(breaking)
        await worker.drain(hurry, config.drain_s)
    if broken:
        raise WorkerBroken("a part of the worker has ended; the log holds why")
    log.info("worker.stopped", extra={"worker": config.name})


@dataclass(frozen=True)
class Worker:
    """A worker that serves. `parts` are its background tasks, which never end by themselves."""

    services: Services
    server: Server
    parts: tuple[asyncio.Task[None], ...]

    async def wait_until_broken(self) -> None:
        """Return when a part has ended."""
        ended, _ = await asyncio.wait(self.parts, return_when=asyncio.FIRST_COMPLETED)
        for part in ended:
            log.error("worker.part_ended", extra={"part": part.get_name()}, exc_info=part.exception())

    async def drain(self, hurry: asyncio.Event, timeout_s: float) -> None:
        """Finish what runs; new requests go to other workers. Ends early when `hurry` is set."""
        server, hub = self.server, self.services.hub
        log.info("worker.draining", extra={"running": len(server.running), "waiting": hub.waiting})
        DRAINING.set(1)
        server.stop_accepting()
        finishing = asyncio.create_task(self._finish(timeout_s))
        hurrying = asyncio.create_task(hurry.wait())
        await asyncio.wait((finishing, hurrying), return_when=asyncio.FIRST_COMPLETED)
        await _end(finishing)
        await _end(hurrying)

    async def _finish(self, timeout_s: float) -> None:
        # Another worker can go on with the jobs at once; the requests take their time.
        for part in self.parts:
            if part.get_name() == JOBS:
                await _end(part)
        self.services.awaited.drain()
        try:
            await self.services.hub.drain(WAKE_S_MAX)
        except TimeoutError:
            log.warning("worker.polls_not_told", extra={"waiting": self.services.hub.waiting})
        if not await self.server.finish(timeout_s):
            log.warning("worker.gave_up", extra={"running": len(self.server.running)})


@asynccontextmanager
async def running_worker(config: CoordinatorConfig) -> AsyncIterator[Worker]:
    """A worker that serves; at the end of the block everything of it is closed."""
    async with AsyncExitStack() as stack:
        services = await _start_services(config, stack)
        parts = _start_parts(services, stack)
        server = Server(services)
        stack.push_async_callback(server.close)
        if config.metrics_listen is not None:
            own = Server(services, routes=OWN_ROUTES, tls=False)
            stack.push_async_callback(own.close)
            own.listen(config.metrics_listen)
        server.listen(config.listen)
        log.info("worker.ready", extra={"worker": config.name, "listen": config.listen})
        yield Worker(services, server, parts)


async def _start_services(config: CoordinatorConfig, stack: AsyncExitStack) -> Services:
    """Start the parts in the order in which they need each other; `stack` closes them in the reverse one."""
    cpu = CpuPool(config.cpu_threads, queue_max=config.cpu_queue_max)
    stack.callback(cpu.close)
    db = Door(config.database, config.database_threads, queue_max=config.database_queue_max)
    stack.callback(db.close)
    store = BlockStore(config, db, cpu)
    stack.push_async_callback(store.close)
    await store.start()
    hub = _make_hub(config, db)
    clock = SystemClock()
    services = Services(
        config=config,
        db=db,
        store=store,
        hub=hub,
        cpu=cpu,
        clock=clock,
        runner=make_runner(config.name, db, store, hub, clock),
        logins=LoginGuard(
            cpu,
            db,
            per_account_max=config.login_failures_per_account_max,
            per_address_max=config.login_failures_per_address_max,
        ),
        awaited=AwaitedBlocks(lambda keys: db.run(blocks.find_recorded, keys)),
        staging=StagingRoom(lambda user_id, account_id: db.run(blocks.count_staged, user_id, account_id)),
    )
    following.subscribe(services)
    return services


def _start_parts(services: Services, stack: AsyncExitStack) -> tuple[asyncio.Task[None], ...]:
    """The tasks that work for as long as the worker runs."""
    watch_queues(services)
    works = {
        "hub": services.hub.run(),
        "awaited-blocks": services.awaited.run(),
        "loop-lag": watch_loop(),
        "cluster-count": watch_cluster(services),
        JOBS: services.runner.run(),
    }
    parts = tuple(asyncio.create_task(work, name=name) for name, work in works.items())
    for part in parts:
        stack.push_async_callback(_end, part)
    return parts


def _make_hub(config: CoordinatorConfig, db: Door) -> Hub:
    async def read_heads(namespace_ids: Collection[int]) -> Mapping[int, int]:
        heads = await db.run(journal.heads, [NamespaceId(namespace_id) for namespace_id in namespace_ids])
        return {namespace_id: head.seq for namespace_id, head in heads.items()}

    async def mark_seen(device_ids: Collection[int]) -> Collection[int]:
        return await db.run(accounts.touch_devices, [DeviceId(device_id) for device_id in device_ids])

    return Hub(
        config.database,
        name=config.name,
        read_heads=read_heads,
        mark_seen=mark_seen,
        poll_s=config.longpoll_poll_s,
        seen_s=config.device_seen_s,
        waiters_max=config.longpolls_max,
    )


def _prepare_process() -> None:
    """Settings of the whole process that suit many connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a waiting connection is a descriptor
    # What is loaded by now stays: the collector need not look at it again, and a full collection over thousands of
    # connections is to be rare.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _end(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
