from __future__ import annotations

from collections import Counter

import psycopg
import pytest

from coordinator.metadata import groups
from coordinator.metadata.values import DiskReport, GroupId, NodeId, NodeState
from tests.kit.metadata import make_layout as layout


def test_bootstrap_makes_everything_once(database: str) -> None:
    assert groups.map_version() == 0
    first = groups.bootstrap(layout())
    assert groups.bootstrap(layout()) == first
    assert groups.load_map() == first
    assert groups.map_version() == first.version
    assert (len(first.nodes), len(first.disks), len(first.groups)) == (6, 6, 24)
    assert {group.k + group.m for group in first.groups.values()} == {6}


def test_every_site_has_groups_of_its_own(database: str) -> None:
    found = groups.bootstrap(layout(sites=("s1", "s2")))
    for group in found.groups.values():
        assert {found.nodes[node].site_id for node, _ in group.slots} == {group.site_id}
    assert Counter(group.site_id for group in found.groups.values()) == dict.fromkeys(found.sites, 24)


def test_changed_addresses_are_taken_over(database: str) -> None:
    before = groups.bootstrap(layout())
    after = groups.bootstrap(layout(port=6700))
    assert after.version > before.version
    assert {node.address for node in after.nodes.values()} == {f"tcp://127.0.0.1:{6700 + n}" for n in range(6)}
    assert after.groups == before.groups


def test_a_database_of_another_cluster_is_refused(database: str) -> None:
    groups.bootstrap(layout())
    with pytest.raises(ValueError, match="belongs to cluster c1"):
        groups.bootstrap(layout(cluster="c2"))


def test_too_few_nodes_are_refused_and_nothing_is_left(database: str) -> None:
    with pytest.raises(ValueError, match="needs as many nodes"):
        groups.bootstrap(layout(nodes=5))
    assert groups.map_version() == 0


@pytest.mark.parametrize(
    ("nodes", "disks", "width"), [(6, 1, 6), (7, 3, 6), (12, 2, 6), (9, 1, 9), (30, 4, 14), (3, 1, 3)]
)
def test_groups_spread_evenly_and_never_meet_a_node_twice(nodes: int, disks: int, width: int) -> None:
    members = [(NodeId(n), tuple(f"{n}-{d}" for d in range(disks))) for n in range(nodes)]
    planned = groups.plan_groups(members, width)
    assert len(planned) == min(256, max(16, 4 * nodes * disks))
    assert all(len({node for node, _ in slots}) == width for slots in planned)
    used = Counter(disk for slots in planned for _, disk in slots)
    assert len(used) == nodes * disks
    assert max(used.values()) - min(used.values()) <= max(2, 0.2 * max(used.values()))
    first = Counter(slots[0][0] for slots in planned)
    assert len(first) == nodes  # data and parity are everybody's turn


def test_status_is_written_and_a_changed_state_raises_the_version(database: str) -> None:
    found = groups.bootstrap(layout())
    node = next(iter(found.nodes))
    [disk] = [disk for disk in found.disks.values() if disk.node_id == node]
    report = DiskReport(disk.id, "/d0", "ok", "", 1000, 10)
    groups.record_status(node, [report, DiskReport("unknown disk", "/x", "ok", "", 1, 1)])
    first = groups.load_map()
    assert first.version == found.version + 1
    assert (first.disks[disk.id].state, first.disks[disk.id].used_bytes) == ("ok", 10)
    groups.record_status(node, [DiskReport(disk.id, "/d0", "ok", "", 1000, 20)])
    assert groups.map_version() == first.version  # only the filling changed
    groups.record_status(node, [DiskReport(disk.id, "/d0", "failed", "fsync", 1000, 20)])
    assert groups.map_version() == first.version + 1


def test_a_node_does_not_speak_for_anothers_disk(database: str) -> None:
    found = groups.bootstrap(layout())
    one, two = list(found.nodes)[:2]
    [disk] = [disk for disk in found.disks.values() if disk.node_id == two]
    groups.record_status(one, [DiskReport(disk.id, "/d0", "failed", "", 0, 0)])
    assert groups.load_map().disks[disk.id].state == "unknown"


def test_node_states_change_once(database: str) -> None:
    found = groups.bootstrap(layout())
    node = next(iter(found.nodes))
    assert groups.set_node_state(node, NodeState.OUT)
    assert not groups.set_node_state(node, NodeState.OUT)
    assert groups.load_map().nodes[node].state is NodeState.OUT
    assert groups.map_version() == found.version + 1


def test_a_slot_moves_under_a_new_epoch_and_never_onto_a_node_of_the_group(database: str) -> None:
    found = groups.bootstrap(layout(nodes=7))
    group = found.groups[GroupId(1)]
    [spare] = [disk for disk in found.disks.values() if disk.node_id not in {node for node, _ in group.slots}]
    moved = groups.replace_slot(group.id, 2, spare.node_id, spare.id, group.epoch)
    assert moved.epoch == group.epoch + 1
    assert moved.slots[2] == (spare.node_id, spare.id)
    assert groups.load_map().groups[group.id] == moved
    with pytest.raises(groups.StaleGroup):
        groups.replace_slot(group.id, 3, spare.node_id, spare.id, group.epoch)
    with pytest.raises(psycopg.errors.UniqueViolation):
        groups.replace_slot(group.id, 3, spare.node_id, spare.id, moved.epoch)
    assert groups.load_map().groups[group.id] == moved
