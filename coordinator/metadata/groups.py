"""The cluster: sites, nodes, disks and placement groups, as one small map that every worker caches.

`map_version` rises in the transaction that changes anything placement or reading depends on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from coordinator.metadata import db
from coordinator.metadata.values import (
    ClusterMap,
    DiskInfo,
    DiskReport,
    Group,
    GroupId,
    GroupState,
    Layout,
    NodeId,
    NodeInfo,
    NodeLayout,
    NodeState,
    SiteId,
    SiteRow,
)

GROUPS_MIN: Final = 16
GROUPS_MAX: Final = 256
GROUPS_PER_DISK: Final = 4


class StaleGroup(Exception):
    """The group has moved on since the caller read it."""


# --- reading ----------------------------------------------------------------------------------------------------


def map_version() -> int:
    """Cheap: poll this and load_map when it has risen. 0 before the first bootstrap."""
    found = db.row("SELECT map_version FROM cluster")
    return found[0] if found else 0


def load_map() -> ClusterMap:
    """Everything, consistently."""
    with db.transaction():
        db.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cluster = db.row("SELECT map_version, cluster_id FROM cluster") or (0, "")
        sites = db.rows("SELECT id, name FROM site ORDER BY id")
        nodes = db.rows("SELECT id, name, site_id, address, public_key, state, state_since FROM node ORDER BY id")
        disks = db.rows(
            "SELECT id, node_id, path, state, reason, size_bytes, used_bytes, reported_at FROM disk ORDER BY id"
        )
        groups = db.rows("SELECT id, site_id, k, m, epoch, state FROM placement_group ORDER BY id")
        slots: dict[GroupId, list[db.Row]] = defaultdict(list)
        for group_id, node_id, disk_id in db.rows(
            "SELECT group_id, node_id, disk_id FROM group_slot ORDER BY group_id, slot"
        ):
            slots[group_id].append((node_id, disk_id))
    return ClusterMap(
        version=cluster[0],
        cluster_id=cluster[1],
        sites={row[0]: SiteRow(*row) for row in sites},
        nodes={row[0]: _node(row) for row in nodes},
        disks={row[0]: DiskInfo(*row) for row in disks},
        groups={row[0]: _group(row, slots[row[0]]) for row in groups},
    )


def _node(row: db.Row) -> NodeInfo:
    node_id, name, site_id, address, public_key, state, state_since = row
    return NodeInfo(node_id, name, site_id, address, public_key, NodeState(state), state_since)


def _group(row: db.Row, slots: Sequence[db.Row]) -> Group:
    group_id, site_id, k, m, epoch, state = row
    return Group(group_id, site_id, k, m, epoch, GroupState(state), tuple((node, disk) for node, disk in slots))


# --- making -----------------------------------------------------------------------------------------------------


def bootstrap(layout: Layout) -> ClusterMap:
    """Create what the layout names and does not exist yet; idempotent. Changed addresses and keys are taken over.

    Groups of the layout's code are made for each site that has none of that code: max(16, 4 x disks), at most 256,
    slots rotated over the nodes, never two slots of a group on one node. Raises ValueError when a site has fewer nodes
    than k + m, or the database belongs to another cluster.
    """
    by_site: dict[str, list[NodeLayout]] = defaultdict(list)
    for node in layout.nodes:
        by_site[node.site].append(node)
    with db.transaction():
        db.run("INSERT INTO cluster (cluster_id) VALUES (%s) ON CONFLICT DO NOTHING", (layout.cluster_id,))
        # The lock makes a second bootstrap wait, and it then finds everything there.
        (cluster_id,) = db.one("SELECT cluster_id FROM cluster FOR UPDATE")
        if cluster_id != layout.cluster_id:
            raise ValueError(f"this database belongs to cluster {cluster_id}, not to {layout.cluster_id}")
        changed = False
        for site, nodes in by_site.items():
            changed |= _bootstrap_site(layout, site, nodes)
        if changed:
            _raise_version()
    return load_map()


def _bootstrap_site(layout: Layout, name: str, nodes: Sequence[NodeLayout]) -> bool:
    changed = db.run("INSERT INTO site (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,)) > 0
    (site_id,) = db.one("SELECT id FROM site WHERE name = %s", (name,))
    members: list[tuple[NodeId, tuple[str, ...]]] = []
    for node in nodes:
        node_id, node_changed = _bootstrap_node(site_id, node)
        changed |= node_changed
        members.append((node_id, tuple(disk.id for disk in node.disks)))
    there = db.row(
        "SELECT 1 FROM placement_group WHERE site_id = %s AND k = %s AND m = %s LIMIT 1", (site_id, layout.k, layout.m)
    )
    if there is None:
        for slots in plan_groups(members, layout.k + layout.m):
            _add_group(site_id, layout.k, layout.m, slots)
        changed = True
    return changed


def _bootstrap_node(site_id: SiteId, node: NodeLayout) -> tuple[NodeId, bool]:
    values = (site_id, node.name, node.address, node.public_key)
    changed = db.run(
        """INSERT INTO node (site_id, name, address, public_key) VALUES (%s, %s, %s, %s)
           ON CONFLICT (name) DO UPDATE SET address = excluded.address, public_key = excluded.public_key
           WHERE (node.address, node.public_key) <> (excluded.address, excluded.public_key)""",
        values,
    )
    (node_id,) = db.one("SELECT id FROM node WHERE name = %s", (node.name,))
    for disk in node.disks:
        changed += db.run(
            """INSERT INTO disk (id, node_id, path) VALUES (%s, %s, %s)
               ON CONFLICT (id) DO UPDATE SET node_id = excluded.node_id, path = excluded.path
               WHERE (disk.node_id, disk.path) <> (excluded.node_id, excluded.path)""",
            (disk.id, node_id, disk.path),
        )
    return node_id, changed > 0


def _add_group(site_id: SiteId, k: int, m: int, slots: Sequence[tuple[NodeId, str]]) -> None:
    (group_id,) = db.one(
        "INSERT INTO placement_group (site_id, k, m) VALUES (%s, %s, %s) RETURNING id", (site_id, k, m)
    )
    db.run(
        """INSERT INTO group_slot (group_id, slot, node_id, disk_id)
           SELECT %s, e.n - 1, e.node, e.disk
           FROM unnest(%s::bigint[], %s::text[]) WITH ORDINALITY AS e(node, disk, n)""",
        (group_id, [node for node, _ in slots], [disk for _, disk in slots]),
    )


def plan_groups(nodes: Sequence[tuple[NodeId, tuple[str, ...]]], width: int) -> list[list[tuple[NodeId, str]]]:
    """Slots for the placement groups of one site: each node's disks in turn, every slot of a group on another node.

    Neighbouring groups are rotated, so that data and parity spread evenly and a lost disk is rebuilt from many. Raises
    ValueError when there are fewer nodes with disks than slots.
    """
    usable = [(node, disks) for node, disks in nodes if disks]
    if len(usable) < width:
        raise ValueError(f"a code of {width} shards needs as many nodes in each site; there are {len(usable)}")
    count = min(GROUPS_MAX, max(GROUPS_MIN, GROUPS_PER_DISK * sum(len(disks) for _, disks in usable)))
    used = [0] * len(usable)
    groups = []
    for number in range(count):
        slots = []
        for slot in range(width):
            # One step further with each group, and one more with each full turn: else, where the number of nodes is a
            # multiple of the width, the same nodes would always meet.
            turn = number // len(usable)
            at = (number + slot * (1 + turn % _strides(len(usable), width))) % len(usable)
            node, disks = usable[at]
            slots.append((node, disks[used[at] % len(disks)]))
            used[at] += 1
        groups.append(slots)
    return groups


def _strides(nodes: int, width: int) -> int:
    """How many strides 1, 2, … may be walked so that `width` steps never meet a node twice."""
    stride = 1
    while len({step * (stride + 1) % nodes for step in range(width)}) == width and stride + 1 < nodes:
        stride += 1
    return stride


# --- changing ---------------------------------------------------------------------------------------------------


def record_status(node_id: NodeId, disks: Sequence[DiskReport]) -> None:
    """The node answered just now and says this of its disks. Raises the map version when a disk's state changed.

    Disks that the cluster does not know, or knows in another node, are left alone: an operator adds them.
    """
    with db.transaction():
        db.run("UPDATE node SET last_seen_at = now() WHERE id = %s", (node_id,))
        (changed,) = db.one(
            """WITH told AS (
                   SELECT e.*, d.state AS was FROM unnest(%(ids)s::text[], %(paths)s::text[], %(states)s::text[],
                       %(reasons)s::text[], %(sizes)s::bigint[], %(used)s::bigint[])
                       AS e(id, path, state, reason, size, used)
                   JOIN disk d ON d.id = e.id AND d.node_id = %(node)s
                   ORDER BY e.id FOR UPDATE OF d
               ), kept AS (
                   UPDATE disk d SET path = t.path, state = t.state, reason = t.reason, size_bytes = t.size,
                          used_bytes = t.used, reported_at = now() FROM told t WHERE d.id = t.id
               )
               SELECT coalesce(bool_or(state <> was), false) FROM told""",
            {
                "node": node_id,
                "ids": [disk.disk_id for disk in disks],
                "paths": [disk.path for disk in disks],
                "states": [disk.state for disk in disks],
                "reasons": [disk.reason for disk in disks],
                "sizes": [disk.size_bytes for disk in disks],
                "used": [disk.used_bytes for disk in disks],
            },
        )
        if changed:
            _raise_version()


def set_node_state(node_id: NodeId, state: NodeState) -> bool:
    """False when it was so already."""
    with db.transaction():
        changed = db.run(
            "UPDATE node SET state = %(state)s, state_since = now() WHERE id = %(id)s AND state <> %(state)s",
            {"id": node_id, "state": state.value},
        )
        if changed:
            _raise_version()
    return changed > 0


def replace_slot(group_id: GroupId, slot: int, node_id: NodeId, disk_id: str, group_epoch: int) -> Group:
    """Move one slot to another disk under a new epoch. Raises StaleGroup unless the group is at `group_epoch` still."""
    with db.transaction():
        moved = db.run(
            "UPDATE placement_group SET epoch = epoch + 1 WHERE id = %s AND epoch = %s", (group_id, group_epoch)
        )
        if not moved:
            raise StaleGroup(f"group {group_id} is not at epoch {group_epoch} any more")
        db.run(
            "UPDATE group_slot SET node_id = %s, disk_id = %s WHERE group_id = %s AND slot = %s",
            (node_id, disk_id, group_id, slot),
        )
        _raise_version()
        row = db.one("SELECT id, site_id, k, m, epoch, state FROM placement_group WHERE id = %s", (group_id,))
        slots = db.rows("SELECT node_id, disk_id FROM group_slot WHERE group_id = %s ORDER BY slot", (group_id,))
    return _group(row, slots)


def _raise_version() -> None:
    db.run("UPDATE cluster SET map_version = map_version + 1")
