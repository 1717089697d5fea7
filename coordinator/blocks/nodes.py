"""The storage nodes as this coordinator sees them: one connection each, how their disks are, who is suspect.

Guarantees: a request to a node that is known to be away fails at once; `placement` reflects connections and disk
states of this moment. Does not: decide for the cluster that a node is out (the membership job), retry.

Owned by the event loop. One background task (`start` to `close`) asks every node how it is and notices a new map.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq

from coordinator.blocks.place import Placement, Slot, plan_placement
from coordinator.metadata.values import ClusterMap, GroupId, NodeId, NodeInfo, NodeState
from coordinator.protocol.errors import ApiError
from node.protocol.client import NodePeer
from node.protocol.errors import DiskFailed, DiskFull, DiskUnknown, NodeError, NodeUnreachable
from node.protocol.messages import Buffer, DiskStatus, GetShard, Hello, Operation, Result, Status

PROBE_PERIOD_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 3.0
SUSPECT_S: Final = 10.0
_LATENCIES_KEPT: Final = 64
# Until a node has answered often enough to know its habits, a read waits this long before it asks for parity.
_FIRST_HEDGE_S: Final = 0.2
_HEDGE_MIN_S: Final = 0.02
_HEDGE_MAX_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeKeys:
    """This coordinator's CURVE keys (Z85); the nodes have the public one in their allow-list."""

    public: str
    secret: str = field(repr=False)


@dataclass
class _Node:
    """One node: its connection, its disks as last told, and how long its reads take."""

    facts: NodeInfo
    peer: NodePeer
    disks: dict[str, DiskStatus] = field(default_factory=dict)
    suspect_until: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))


class NodePool:
    """Every node of the cluster map; `load_map` reads the map, `read_version` cheaply tells whether it changed."""

    def __init__(
        self,
        load_map: Callable[[], Awaitable[ClusterMap]],
        read_version: Callable[[], Awaitable[int]],
        keys: NodeKeys,
        site: str,
    ) -> None:
        self._load_map = load_map
        self._read_version = read_version
        self._keys = keys
        self._site = site
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._nodes: dict[NodeId, _Node] = {}
        self._map: ClusterMap | None = None
        self._placement: Placement | None = None
        self._placement_basis: tuple[bool, ...] = ()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def map(self) -> ClusterMap:
        if self._map is None:
            raise RuntimeError("the pool has not been started")
        return self._map

    async def start(self) -> None:
        """Read the map, connect, and ask every node once how it is. Nodes that do not answer are simply away."""
        await self.reload()
        await self._probe_all()
        self._watcher = asyncio.create_task(self._watch(), name="node-pool")

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for node in self._nodes.values():
            node.peer.close()
        self._nodes.clear()
        self._context.term()

    async def reload(self) -> None:
        """Read the cluster map again and connect to what is new in it."""
        new = await self._load_map()
        wanted = {node.id: node for node in new.nodes.values() if node.state is not NodeState.REMOVED}
        for node_id in [
            known for known, node in self._nodes.items() if not _same_address(node.facts, wanted.get(known))
        ]:
            self._nodes.pop(node_id).peer.close()
        for node_id, facts in wanted.items():
            if node_id in self._nodes:
                self._nodes[node_id].facts = facts
            else:
                peer = NodePeer(
                    self._context,
                    facts.address,
                    server_key=facts.public_key,
                    public_key=self._keys.public,
                    secret_key=self._keys.secret,
                )
                self._nodes[node_id] = _Node(facts, peer)
        self._map = new
        self._placement = None

    # --- what is known

    @property
    def placement(self) -> Placement:
        """The groups of the home site that take writes now."""
        now = asyncio.get_running_loop().time()
        basis = tuple(self._answers(node, now) for node in self._nodes.values())
        if self._placement is None or basis != self._placement_basis:
            groups = [group for group in self.map.groups.values() if self.map.sites[group.site_id].name == self._site]
            full = any(disk.state == "read_only" for node in self._nodes.values() for disk in node.disks.values())
            self._placement = plan_placement(groups, self._free_bytes, full)
            self._placement_basis = basis
        return self._placement

    def readable(self, slot: Slot) -> bool:
        """Whether asking this slot for a shard is worth while now."""
        node = self._nodes.get(slot[0])
        if node is None or not self._answers(node, asyncio.get_running_loop().time()):
            return False
        disk = node.disks.get(slot[1])
        return disk is None or disk.state in ("ok", "read_only")

    def writable(self, slot: Slot) -> bool:
        """Whether a shard may be sent to this slot now."""
        return self._free_bytes(slot) is not None

    def hedge_delay_s(self, slot: Slot) -> float:
        """How long to wait for this node's shard before asking others too: about its own 95th percentile."""
        node = self._nodes.get(slot[0])
        if node is None or len(node.latencies) < _LATENCIES_KEPT // 2:
            return _FIRST_HEDGE_S
        ordered = sorted(node.latencies)
        return min(_HEDGE_MAX_S, max(_HEDGE_MIN_S, 1.5 * ordered[int(0.95 * len(ordered))]))

    def statuses(self) -> dict[NodeId, tuple[bool, tuple[DiskStatus, ...]]]:
        """For every node by id: whether it answers now, and its disks as last told."""
        now = asyncio.get_running_loop().time()
        return {
            node_id: (self._answers(node, now), tuple(node.disks.values())) for node_id, node in self._nodes.items()
        }

    def silent_slots(self) -> list[tuple[GroupId, int]]:
        """The slots (group, number) whose disks cannot be read now."""
        return [
            (group.id, number)
            for group in self.map.groups.values()
            for number, slot in enumerate(group.slots)
            if not self.readable(slot)
        ]

    def _answers(self, node: _Node, now: float) -> bool:
        return node.peer.connected and node.suspect_until <= now

    def _free_bytes(self, slot: Slot) -> int | None:
        node = self._nodes.get(slot[0])
        if (
            node is None
            or node.facts.state is not NodeState.UP
            or not self._answers(node, asyncio.get_running_loop().time())
        ):
            return None
        disk = node.disks.get(slot[1])
        if disk is None or disk.state != "ok":
            return None
        return max(0, disk.size_bytes - disk.used_bytes)

    # --- asking

    async def request(
        self, slot: Slot, operation: Operation, payloads: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Result, memoryview | None]:
        """Ask the slot's node. Raises NodeError; what its failure says about node and disk is remembered here."""
        node = self._nodes.get(slot[0])
        if node is None:
            raise NodeUnreachable(f"node {slot[0]} is not in the cluster map")
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await node.peer.request(operation, payloads, timeout_s=timeout_s)
        except NodeUnreachable:
            # Still connected and yet silent: the machine hangs. Writers go elsewhere until it answers a probe.
            if node.peer.connected:
                self.suspect(slot)
            raise
        except (DiskFull, DiskFailed, DiskUnknown) as error:
            self._note_disk(node, slot[1], error)
            raise
        node.suspect_until = 0.0
        if isinstance(operation, GetShard):
            node.latencies.append(loop.time() - began)
        return answer

    def suspect(self, slot: Slot) -> None:
        """The node was late beyond every expectation: leave it alone until it answers a probe or the time is over."""
        node = self._nodes.get(slot[0])
        if node is not None:
            node.suspect_until = asyncio.get_running_loop().time() + SUSPECT_S
            _log.warning("node.suspect", extra={"node": node.facts.name})

    def _note_disk(self, node: _Node, disk_id: str, error: NodeError) -> None:
        state = "read_only" if isinstance(error, DiskFull) else "failed" if isinstance(error, DiskFailed) else "foreign"
        known = node.disks.get(disk_id)
        if known is None or known.state != state:
            _log.warning("disk.out_of_use", extra={"node": node.facts.name, "disk": disk_id, "state": state})
            node.disks[disk_id] = DiskStatus(disk_id, "", state, str(error), 0, 0, 0, 0)
            self._placement = None

    # --- the background task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_PERIOD_S)
            await self._probe_all()
            try:
                if await self._read_version() != self.map.version:
                    await self.reload()
            except ApiError as error:
                # The database is away: the map that we have stays good, nodes fence what is older than they know.
                _log.warning("map.not_read", extra={"reason": str(error)})

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(node) for node in self._nodes.values()))

    async def _probe(self, node: _Node) -> None:
        try:
            status, _ = await node.peer.request(Hello(), timeout_s=PROBE_TIMEOUT_S)
        except NodeError as error:
            _log.debug("node.silent", extra={"node": node.facts.name, "reason": str(error)})
            return
        if not isinstance(status, Status) or status.cluster_id != self.map.cluster_id:
            _log.error("node.foreign", extra={"node": node.facts.name})
            return
        disks = {disk.disk_id: disk for disk in status.disks}
        if {d: s.state for d, s in disks.items()} != {d: s.state for d, s in node.disks.items()}:
            _log.info("node.disks", extra={"node": node.facts.name, "states": {d: s.state for d, s in disks.items()}})
        node.disks = disks
        node.suspect_until = 0.0
        self._placement = None


def _same_address(one: NodeInfo, other: NodeInfo | None) -> bool:
    return other is not None and (one.address, one.public_key) == (other.address, other.public_key)
