"""The nodes that the plan must leave alone: an operation is at work on them, or they wait for something.

Guarantees: a node is free again only when all that its hold waits for has passed: a moment, a fetch of the feed, a scan
of the disk. Belongs to the control thread.
Does not: decide who waits for what (absorb.py after a success, failures.py after a failure).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.sync.engine.apply import Stuck
from client.sync.local.disk import Disk
from client.sync.planner.plan import Busy
from client.sync.remote.feed import Feed
from client.sync.tree import LocalId, RemoteId
from node.base.clock import Clock


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nodes wait that cannot be brought up to date: `path` as a person reads it."""

    stuck: Stuck
    path: str


@dataclass(frozen=True, slots=True)
class _Hold:
    nodes: Busy
    not_before: float
    fetch: int
    scan: int
    trouble: Trouble | None


class Holds:
    """`busy` are the nodes taken or held, as live sets that the planner may keep."""

    def __init__(self, feed: Feed, disk: Disk, clock: Clock, on_change: Callable[[], None]) -> None:
        self._feed, self._disk, self._clock = feed, disk, clock
        self._on_change = on_change
        self._remote: set[RemoteId] = set()
        self._local: set[LocalId] = set()
        self._holds: list[_Hold] = []
        self.busy = Busy(self._remote, self._local)

    def take(self, nodes: Busy) -> None:
        """An operation begins."""
        self._remote |= nodes.remote
        self._local |= nodes.local

    def free(self, nodes: Busy) -> None:
        self._remote -= nodes.remote
        self._local -= nodes.local

    def hold(
        self, nodes: Busy, *, not_before: float = 0.0, fetch: int = 0, scan: int = 0, trouble: Trouble | None = None
    ) -> None:
        """Leave the nodes alone until a moment (monotonic), the fetch `fetch` and the scan `scan` have passed
        (Feed.passed, Disk.scans_done)."""
        self.take(nodes)
        self._holds.append(_Hold(nodes, not_before, fetch, scan, trouble))

    def release(self) -> float | None:
        """Give back what was held long enough; when the next is due."""
        if not self._holds:
            return None
        now = self._clock.monotonic()
        rest: list[_Hold] = []
        for hold in self._holds:
            if hold.not_before <= now and hold.fetch <= self._feed.passed and hold.scan <= self._disk.scans_done:
                self.free(hold.nodes)
                self._on_change()
            else:
                rest.append(hold)
        self._holds = rest
        return min((hold.not_before for hold in rest if hold.not_before > now), default=None)

    @property
    def is_empty(self) -> bool:
        return not self._holds

    @property
    def troubles(self) -> list[Trouble]:
        """Those of what is held now, the oldest first."""
        return [hold.trouble for hold in self._holds if hold.trouble is not None]
