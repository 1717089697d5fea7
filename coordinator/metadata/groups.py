"""The cluster: sites, nodes, disks and placement groups, as one small map that every worker caches.

`map_version` rises in the transaction that changes anything placement or reading depends on.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.metadata.values import ClusterMap, DiskReport, Group, GroupId, Layout, NodeId, NodeState


def load_map() -> ClusterMap:
    """Everything, consistently."""
    raise NotImplementedError


def map_version() -> int:
    """Cheap: poll this and load_map when it has risen. 0 before the first bootstrap."""
    raise NotImplementedError


def bootstrap(layout: Layout) -> ClusterMap:
    """Create what the layout names and does not exist yet; idempotent. Changed addresses and keys are taken over.

    Groups of the layout's code are made for each site that has none of that code: max(16, 4 x disks), at most 256,
    slots rotated over the nodes, never two slots of a group on one node. Raises ValueError when a site has fewer nodes
    than k + m, or the database belongs to another cluster.
    """
    raise NotImplementedError


def record_status(node_id: NodeId, disks: Sequence[DiskReport]) -> None:
    """The node answered just now and says this of its disks. Raises the map version when a disk's state changed."""
    raise NotImplementedError


def set_node_state(node_id: NodeId, state: NodeState) -> bool:
    """False when it was so already."""
    raise NotImplementedError


def replace_slot(group_id: GroupId, slot: int, node_id: NodeId, disk_id: str, group_epoch: int) -> Group:
    """Move one slot to another disk under a new epoch. Raises StaleGroup unless the group is at `group_epoch` still."""
    raise NotImplementedError


class StaleGroup(Exception):
    """The group has moved on since the caller read it."""
