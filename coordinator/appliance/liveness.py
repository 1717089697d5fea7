"""Notices processes that are there and answer nothing, stopped or stuck, and has them killed and started again.

Guarantees: what is killed has answered before in this life (a node that recovers its disks may take its time), and then
left several questions in a row without an answer. They are counted, not timed, so that a pause of the whole machine, or
of this process, is no reason. Nodes are asked in their own protocol and coordinators over HTTP: by the loops that do
their work. Does not: watch PostgreSQL (who uses it has deadlines, and to kill it for being slow would make it slower),
nor judge whether a process can do its work; a node without disks that says so is well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import zmq

from coordinator.appliance.layout import Layout, NodeLayout, Paths
from coordinator.appliance.ports import answers_ok
from coordinator.appliance.programs import node_address, read_public_key
from coordinator.appliance.supervisor import Child, Supervisor
from node.protocol.client import NodePeer
from node.protocol.errors import NodeError, NodeUnreachable
from node.protocol.messages import Hello

MISSES_MAX: Final = 6

_log = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[bool]]


class Patience:
    """Counts what one process leaves unanswered. `life` is its pid, None while it is down."""

    def __init__(self) -> None:
        self._life: int | None = None
        self._misses: int | None = None  # None: it has not answered yet in this life

    def is_over(self, life: int | None, *, answered: bool) -> bool:
        """To be told of every question; True when the process is to be killed, once for each silence."""
        if life != self._life:
            self._life, self._misses = life, None
        if answered:
            self._misses = 0
        elif self._misses is not None:
            self._misses += 1
            if self._misses == MISSES_MAX:
                self._misses = None
                return True
        return False


class Liveness:
    """Asks every node and coordinator how it is. Belongs to the supervisor's loop; `run` is called once."""

    def __init__(self, layout: Layout, paths: Paths, supervisor: Supervisor, *, hung_after_s: float) -> None:
        self._layout = layout
        self._paths = paths
        self._supervisor = supervisor
        self._period_s = hung_after_s / MISSES_MAX

    async def run(self) -> None:
        """Watch until cancelled."""
        children = {child.program.name: child for child in self._supervisor.children}
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        peers = {node.name: self._connect(context, node) for node in self._layout.nodes}
        try:
            async with asyncio.TaskGroup() as watches:
                for name, peer in peers.items():
                    watches.create_task(self._watch(children[name], self._ask_node(peer)))
                for worker in self._layout.workers:
                    watches.create_task(self._watch(children[worker.name], self._ask_worker(worker.metrics_port)))
        finally:
            for peer in peers.values():
                peer.close()
            context.term()

    async def _watch(self, child: Child, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        patience = Patience()
        while True:
            asked_at, life = loop.time(), child.pid
            answered = await ask()
            if life is not None and life == child.pid and patience.is_over(life, answered=answered):
                _log.error("child.silent", extra={"child": child.program.name, "pid": life})
                self._supervisor.kill(child)
            await asyncio.sleep(max(0.0, asked_at + self._period_s - loop.time()))

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]], node: NodeLayout) -> NodePeer:
        return NodePeer(
            context,
            node_address(node),
            server_key=read_public_key(self._paths.node_key(node.name)),
            public_key=read_public_key(self._paths.coordinator_key),
            secret_key=self._paths.coordinator_key.read_text("ascii").strip(),
        )

    def _ask_node(self, peer: NodePeer) -> Ask:
        async def ask() -> bool:
            try:
                await peer.request(Hello(), timeout_s=self._period_s)
            except NodeUnreachable:
                return False
            except NodeError:
                pass  # a refusal is an answer
            return True

        return ask

    def _ask_worker(self, port: int) -> Ask:
        return lambda: answers_ok(port, "/healthz", timeout_s=self._period_s)
