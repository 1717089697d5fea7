"""Every metric of a node. Counting costs the hot path nothing: numbers are read from the parts when somebody asks.

| metric | type | labels | meaning |
|---|---|---|---|
| holdfast_node_requests_total | counter | operation | requests understood |
| holdfast_node_refusals_total | counter | code | requests refused, by error code of the protocol |
| holdfast_node_received_bytes_total | counter | | bytes of requests |
| holdfast_node_sent_bytes_total | counter | | bytes of payloads sent |
| holdfast_node_answers_dropped_total | counter | | answers whose peer was gone |
| holdfast_node_peers_refused_total | counter | | connections with a key that is not in the allow-list |
| holdfast_node_disk_state | gauge | disk, state | 1 for the state the disk is in: ok, read_only, failed, foreign |
| holdfast_node_disk_size_bytes | gauge | disk | size of its file system |
| holdfast_node_disk_used_bytes | gauge | disk | of that, in use |
| holdfast_node_disk_shards | gauge | disk | shards held |
| holdfast_node_disk_queued | gauge | disk | requests that wait for its threads |
| holdfast_node_disk_commits_total | counter | disk | group commits (one fdatasync each) |
| holdfast_node_disk_commit_seconds_total | counter | disk | time spent in them |
| holdfast_node_disk_records_total | counter | disk | records written |
| holdfast_node_disk_written_bytes_total | counter | disk | payload bytes written |
| holdfast_node_disk_shards_bad_total | counter | disk | shards found not to match their digest |
| holdfast_node_disk_damaged_total | counter | disk | damaged stretches met at the last start |
| holdfast_node_disk_torn_tails_total | counter | disk | torn tails cut at the last start |
| holdfast_node_disk_index_rebuilds_total | counter | disk | whether the index was rebuilt at the last start |
| holdfast_node_disk_purged_total | counter | disk | shards that left the trash |
| holdfast_node_disk_punched_bytes_total | counter | disk | bytes given back to the file system |
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import HTTPServer
from typing import Final

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.server import Server
from node.volumes.disk import Disk
from node.volumes.health import DiskState
from node.volumes.store import StoreCounts

REQUEST_TIMEOUT_S: Final = 5.0

_PREFIX: Final = "holdfast_node_"

_STORE_COUNTERS: tuple[tuple[str, str, Callable[[StoreCounts], float]], ...] = (
    ("commits", "group commits (one fdatasync each)", lambda counts: counts.commits),
    ("commit_seconds", "time spent in group commits", lambda counts: counts.commit_s),
    ("records", "records written", lambda counts: counts.records_written),
    ("written_bytes", "payload bytes written", lambda counts: counts.bytes_written),
    ("shards_bad", "shards found not to match their digest", lambda counts: counts.shards_found_bad),
    ("damaged", "damaged stretches met at the last start", lambda counts: counts.damaged_stretches),
    ("torn_tails", "torn tails cut at the last start", lambda counts: counts.torn_tails),
    ("index_rebuilds", "whether the index was rebuilt at the last start", lambda counts: counts.index_rebuilds),
    ("purged", "shards that left the trash", lambda counts: counts.shards_purged),
    ("punched_bytes", "bytes given back to the file system", lambda counts: counts.bytes_punched),
)


class NodeCollector(Collector):
    """Reads the parts' own counts."""

    def __init__(self, disks: Mapping[str, Disk], server: Server) -> None:
        self._disks = disks
        self._server = server

    def collect(self) -> Iterable[Metric]:
        yield from self._collect_server()
        yield from self._collect_disks()

    def _collect_server(self) -> Iterable[Metric]:
        counts = self._server.counts
        yield _count_by("requests", "requests understood", "operation", counts.requests)
        yield _count_by("refusals", "requests refused", "code", counts.refusals)
        yield CounterMetricFamily(_PREFIX + "received_bytes", "bytes of requests", counts.bytes_received)
        yield CounterMetricFamily(_PREFIX + "sent_bytes", "bytes of payloads sent", counts.bytes_sent)
        yield CounterMetricFamily(_PREFIX + "answers_dropped", "answers whose peer was gone", counts.answers_dropped)
        yield CounterMetricFamily(
            _PREFIX + "peers_refused", "connections with a key not in the allow-list", self._server.gate.refused
        )

    def _collect_disks(self) -> Iterable[Metric]:
        states = GaugeMetricFamily(_PREFIX + "disk_state", "1 for the state the disk is in", labels=("disk", "state"))
        gauges = {
            name: GaugeMetricFamily(f"{_PREFIX}disk_{name}", text, labels=("disk",))
            for name, text in (
                ("size_bytes", "size of its file system"),
                ("used_bytes", "of that, in use"),
                ("shards", "shards held"),
                ("queued", "requests that wait for its threads"),
            )
        }
        counters = {
            name: CounterMetricFamily(f"{_PREFIX}disk_{name}", text, labels=("disk",))
            for name, text, _ in _STORE_COUNTERS
        }
        for disk in self._disks.values():
            status = disk.status()
            for state in DiskState:
                states.add_metric((status.disk_id, state), float(status.state == state))
            gauges["size_bytes"].add_metric((status.disk_id,), status.size_bytes)
            gauges["used_bytes"].add_metric((status.disk_id,), status.used_bytes)
            gauges["shards"].add_metric((status.disk_id,), status.shards)
            gauges["queued"].add_metric((status.disk_id,), status.queued)
            if (store := disk.store) is not None:
                for name, _, read in _STORE_COUNTERS:
                    counters[name].add_metric((status.disk_id,), read(store.counts))
        yield states
        yield from gauges.values()
        yield from counters.values()


def start_metrics(listen: str, disks: Mapping[str, Disk], server: Server) -> Callable[[], None]:
    """Serve /metrics on `listen` ("address:port") from a thread; gives the function that stops it. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(disks, server))
    ProcessCollector(registry=registry)
    address, _, port = listen.rpartition(":")
    http = _MetricsServer((address.strip("[]"), int(port)), MetricsHandler.factory(registry))
    thread = threading.Thread(target=http.serve_until_stopped, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        http.stop()
        thread.join(REQUEST_TIMEOUT_S)
        http.server_close()

    return stop


class _MetricsServer(HTTPServer):
    """One request at a time, and none of serve_forever's two wake-ups a second."""

    def __init__(self, address: tuple[str, int], handler: type[MetricsHandler]) -> None:
        handler.timeout = REQUEST_TIMEOUT_S
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._stopping = False
        super().__init__(address, handler)
        self._address = (address[0], self.server_port)

    def serve_until_stopped(self) -> None:
        while not self._stopping:
            self.handle_request()

    def stop(self) -> None:
        self._stopping = True
        with socket.create_connection(self._address, timeout=1.0):
            pass  # handle_request returns


def _count_by(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=(label,))
    for value, count in sorted(dict(counts).items()):
        family.add_metric((value,), count)
    return family
