"""Every metric of a coordinator worker. README.md lists them for operators; a test holds the two together.

The metrics live in one registry for each process; `expose` adds the label `worker`, since the workers of one machine
share a port and a scrape through it answers for any one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

REQUESTS: Final = Counter(
    "holdfast_requests_total", "Requests answered", ("route", "method", "status"), registry=REGISTRY
)
REQUEST_SECONDS: Final = Histogram(
    "holdfast_request_seconds",
    "From a request's headers to the end of its answer; long polls excluded",
    ("route",),
    buckets=_LATENCY_S,
    registry=REGISTRY,
)
REQUESTS_RUNNING: Final = Gauge("holdfast_requests_running", "Requests being worked on", registry=REGISTRY)
BYTES_IN: Final = Counter("holdfast_request_bytes_total", "Bytes of request bodies", ("route",), registry=REGISTRY)
BYTES_OUT: Final = Counter("holdfast_response_bytes_total", "Bytes of answers' bodies", ("route",), registry=REGISTRY)
CONNECTIONS: Final = Gauge("holdfast_connections", "Open client connections, long polls included", registry=REGISTRY)
LOGINS_FAILED: Final = Counter(
    "holdfast_logins_failed_total", "Logins refused", ("reason",), registry=REGISTRY
)  # an error code: wrong_password, too_many_requests, unavailable

LONGPOLLS: Final = Gauge("holdfast_longpolls", "Open long polls", registry=REGISTRY)
LONGPOLLS_ANSWERED: Final = Counter(
    "holdfast_longpolls_answered_total", "Long polls answered", ("why",), registry=REGISTRY
)  # moved, timeout, drain, signed_out
NOTICES_SENT: Final = Counter(
    "holdfast_notices_sent_total", "Notices sent to the other workers through the database", registry=REGISTRY
)
NOTICES_RECEIVED: Final = Counter(
    "holdfast_notices_received_total", "Notices received from workers through the database", registry=REGISTRY
)
NOTICES_MISSED: Final = Counter(
    "holdfast_notices_missed_total", "Namespaces found to have moved by polling, without a notice", registry=REGISTRY
)
NOTICE_CONNECTION_UP: Final = Gauge(
    "holdfast_notice_connection_up", "1 while the connection for notices is open", registry=REGISTRY
)

LOOP_LAG_SECONDS: Final = Histogram(
    "holdfast_loop_lag_seconds",
    "How late the event loop ran a timer",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
    registry=REGISTRY,
)
DRAINING: Final = Gauge("holdfast_draining", "1 while the worker finishes its requests and stops", registry=REGISTRY)

DATABASE_QUEUED: Final = Gauge("holdfast_database_queued", "Transactions waiting for a thread", registry=REGISTRY)
DATABASE_RUNNING: Final = Gauge("holdfast_database_running", "Transactions running", registry=REGISTRY)
DATABASE_THREADS: Final = Gauge("holdfast_database_threads", "Threads, each with one connection", registry=REGISTRY)
CPU_QUEUED: Final = Gauge("holdfast_cpu_queued", "Functions waiting for the CPU pool", registry=REGISTRY)
CPU_RUNNING: Final = Gauge("holdfast_cpu_running", "Functions that run in the CPU pool", registry=REGISTRY)
CPU_THREADS: Final = Gauge("holdfast_cpu_threads", "Threads of the CPU pool", registry=REGISTRY)

BLOCKS: Final = Gauge(
    "holdfast_blocks",
    "Blocks by how many more shards they may lose before their data is gone (counted every minute)",
    ("margin",),
    registry=REGISTRY,
)
BLOCK_BYTES: Final = Counter(
    "holdfast_block_bytes_total",
    "Plaintext bytes of blocks written, read, or remembered from just before",
    ("direction",),
    registry=REGISTRY,
)
BLOCK_BUDGET_WAITING: Final = Gauge(
    "holdfast_block_budget_waiting", "Blocks waiting for room in memory", ("budget",), registry=REGISTRY
)
SHARDS_BAD: Final = Counter(
    "holdfast_shards_bad_total", "Shards that reads found missing or damaged", registry=REGISTRY
)
REPAIRS_QUEUED: Final = Gauge("holdfast_repairs_queued", "Shards waiting to be rebuilt", registry=REGISTRY)
NODES: Final = Gauge("holdfast_nodes", "Storage nodes by state (counted every minute)", ("state",), registry=REGISTRY)


class _Labelled:
    """The registry's metrics, each sample with the label `worker` added."""

    def __init__(self, worker: str) -> None:
        self._worker = {"worker": worker}

    def collect(self) -> Iterable[Metric]:
        for metric in REGISTRY.collect():
            metric.samples = [
                Sample(s.name, {**s.labels, **self._worker}, s.value, s.timestamp, s.exemplar) for s in metric.samples
            ]
            yield metric


def expose(worker: str) -> bytes:
    """The metrics in Prometheus's text format."""
    return generate_latest(_Labelled(worker))
