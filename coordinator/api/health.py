"""For load balancers and monitoring: alive, ready, and the metrics of this worker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

import msgspec

from coordinator.access import require_admin
from coordinator.api.base import ApiHandler
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata.db import ping
from coordinator.metadata.schema.migrate import list_missing
from coordinator.metadata.values import Group, GroupId
from coordinator.metrics import expose
from coordinator.protocol.errors import ApiError

DATABASE_TIMEOUT_S: Final = 2.0


class Health(msgspec.Struct):
    """`status`: ok, read_only (ready, but writes are refused) or unavailable; `checks` says of each part "ok" or what
    is wrong."""

    status: str
    checks: dict[str, str] = {}


class Alive(ApiHandler):
    login_required = False

    @operation("Whether the process is alive", answer=Health)
    async def get(self) -> None:
        self.answer(Health(status="ok"))


class Ready(ApiHandler):
    """503 takes this worker out of a load balancer; the process itself is fine and comes back by itself.

    A cluster with too few nodes for a write still serves every read, so that refused writes alone are no 503 (all
    workers would go at once, and nobody could read): they are told, and are one for who asks with `writes`.
    """

    login_required = False
    _schema_is_current = False  # for all requests: a schema only goes forward, so it is asked for until it is current

    @operation("Whether requests can be served now; 503 when not", query={"writes": bool | None}, answer=Health)
    async def get(self) -> None:
        nodes = self.services.store.nodes
        readable = count_readable(nodes.map.groups.values(), nodes.silent_slots())
        serves = {
            "worker": "draining" if self.running.draining else "ok",
            "database": await self._check_database(),
            "reads": describe_reads(readable, len(nodes.map.groups)),
        }
        placement = nodes.placement
        writes = "ok" if placement.whole or placement.degraded else "refused: too few nodes answer"
        ready = readable > 0 and serves["worker"] == serves["database"] == "ok"
        status = "unavailable" if not ready else "ok" if writes == "ok" else "read_only"
        wanted = ("ok",) if self.flag("writes") else ("ok", "read_only")
        self.answer(Health(status=status, checks={**serves, "writes": writes}), 200 if status in wanted else 503)

    async def _check_database(self) -> str:
        try:
            if Ready._schema_is_current:
                await self.services.db.run_within(DATABASE_TIMEOUT_S, ping)
                return "ok"
            Ready._schema_is_current = not await self.services.db.run_within(DATABASE_TIMEOUT_S, list_missing)
        except ApiError:
            return "does not answer"
        return "ok" if Ready._schema_is_current else "its schema is older than this program"


def count_readable(groups: Iterable[Group], silent_slots: Iterable[tuple[GroupId, int]]) -> int:
    """How many placement groups have enough slots that answer for every block in them to be read."""
    silent = Counter(group_id for group_id, _ in silent_slots)
    return sum(len(group.slots) - silent[group.id] >= group.k for group in groups)


def describe_reads(readable: int, groups: int) -> str:
    if readable == 0:
        return "too few nodes answer"
    return "ok" if readable == groups else "some files cannot be read: too few of their nodes answer"


class OpenMetrics(ApiHandler):
    """This worker's metrics, for whoever can reach `metrics_listen`."""

    login_required = False

    @operation("Prometheus metrics of the worker that answers; for administrators and this machine")
    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        await self.finish(expose(self.services.config.name))


class Metrics(OpenMetrics):
    """The same on the port of all workers, where any of them answers and where clients come: not for everyone."""

    async def begin(self) -> None:
        if not ip_address(self.client_address).is_loopback:
            self.session = await self.read_session()
            require_admin(self.session)


ROUTES: Final = (
    RouteSpec("healthz", "/healthz", Alive, logging.DEBUG),
    RouteSpec("readyz", "/readyz", Ready, logging.DEBUG),
    RouteSpec("metrics", "/metrics", Metrics, logging.DEBUG),
)

# What `metrics_listen` serves.
OWN_ROUTES: Final = (
    RouteSpec("healthz", "/healthz", Alive, logging.DEBUG),
    RouteSpec("readyz", "/readyz", Ready, logging.DEBUG),
    RouteSpec("metrics", "/metrics", OpenMetrics, logging.DEBUG),
)
