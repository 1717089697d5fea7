"""Membership: write down which nodes answer and how their disks are, for every coordinator and for people.

Only observations: a node that does not answer is shown as suspect. Declaring it out and moving its slots is not here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.blocks.store import BlockStore
from coordinator.metadata import groups
from coordinator.metadata.db import Door
from coordinator.metadata.values import DiskReport, NodeId, NodeState, Swept
from node.protocol.messages import DiskStatus

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the probes of this coordinator say of one node."""

    answers: bool
    disks: tuple[DiskStatus, ...]


def judge(known: NodeState, answers: bool) -> NodeState:
    """The state to write down. An operator's decision (draining, out, removed) is not ours to change."""
    if known is NodeState.UP and not answers:
        return NodeState.SUSPECT
    if known is NodeState.SUSPECT and answers:
        return NodeState.UP
    return known


async def watch_membership(db: Door, store: BlockStore) -> Swept:
    """Compare what the probes see with what is written down, and write what differs."""
    seen = observe(store)
    changed = 0
    for node_id, node in store.nodes.map.nodes.items():
        now = seen.get(node_id, Observation(answers=False, disks=()))
        state = judge(node.state, now.answers)
        if state is not node.state and await db.run(groups.set_node_state, node_id, state):
            changed += 1
            _log.warning("node.state", extra={"node": node.name, "state": state.value})
        if now.answers:
            await db.run(groups.record_status, node_id, [_report(disk) for disk in now.disks])
    silent = sum(not observation.answers for observation in seen.values())
    return Swept(found={"nodes": len(seen), "silent": silent}, done={"changed": changed})


def observe(store: BlockStore) -> Mapping[NodeId, Observation]:
    return {node_id: Observation(answers, disks) for node_id, (answers, disks) in store.nodes.statuses().items()}


def _report(disk: DiskStatus) -> DiskReport:
    return DiskReport(disk.disk_id, disk.path, disk.state, disk.reason, disk.size_bytes, disk.used_bytes)
