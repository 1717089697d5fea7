"""What a worker measures of itself and of the cluster: loop lag, queue depths, blocks by margin, nodes by state.

Does not: act on anything it sees (the jobs do).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Final

from coordinator.metadata import blocks
from coordinator.metrics import (
    BLOCKS,
    CPU_QUEUED,
    CPU_RUNNING,
    CPU_THREADS,
    DATABASE_QUEUED,
    DATABASE_RUNNING,
    DATABASE_THREADS,
    LOOP_LAG_SECONDS,
    NODES,
    REPAIRS_QUEUED,
)
from coordinator.protocol.errors import ApiError
from coordinator.services import Services

log = logging.getLogger("coordinator.monitor")

LAG_PERIOD_S: Final = 0.5
LAG_WARN_S: Final = 0.5
COUNT_PERIOD_S: Final = 60.0
# Counting every block may take long in a large cluster: it gets at most this share of a database thread's time.
COUNT_SHARE_MAX: Final = 0.02
COUNT_TIMEOUT_S: Final = 120.0


def watch_queues(services: Services) -> None:
    """Let the gauges read the queues whenever they are scraped."""
    DATABASE_THREADS.set(services.db.threads)
    DATABASE_QUEUED.set_function(lambda: services.db.waiting)
    DATABASE_RUNNING.set_function(lambda: services.db.in_use)
    CPU_THREADS.set(services.cpu.threads)
    CPU_QUEUED.set_function(lambda: services.cpu.queued)
    CPU_RUNNING.set_function(lambda: services.cpu.running)


async def watch_loop() -> None:
    """Measure how late the event loop runs a timer, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        lag_s = max(0.0, loop.time() - due)
        LOOP_LAG_SECONDS.observe(lag_s)
        if lag_s > LAG_WARN_S:
            log.warning("loop.late", extra={"lag_ms": round(lag_s * 1000)})


async def watch_cluster(services: Services) -> None:
    """Count blocks and nodes every so often, until cancelled."""
    while True:
        started = time.monotonic()
        try:
            await _count(services)
        except ApiError as error:
            log.warning("cluster.not_counted", extra={"cause": error.message})
        took_s = time.monotonic() - started
        await asyncio.sleep(max(COUNT_PERIOD_S, took_s / COUNT_SHARE_MAX))


async def _count(services: Services) -> None:
    nodes = services.store.nodes
    states = Counter(
        node.state.value if answers or node.state.value != "up" else "silent"
        for node_id, (answers, _) in nodes.statuses().items()
        if (node := nodes.map.nodes.get(node_id)) is not None
    )
    NODES.clear()
    for state, count in states.items():
        NODES.labels(state).set(count)
    REPAIRS_QUEUED.set(await services.db.run(blocks.count_missing))
    margins = await services.db.run_within(COUNT_TIMEOUT_S, blocks.count_by_margin, nodes.silent_slots())
    BLOCKS.clear()
    for margin, count in margins.items():
        BLOCKS.labels(str(margin)).set(count)
