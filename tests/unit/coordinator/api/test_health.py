"""What a cluster with silent nodes can still serve."""

from __future__ import annotations

import pytest

from coordinator.api.health import count_readable, describe_reads
from coordinator.metadata.values import Group, GroupId, GroupState, NodeId, SiteId


def group(number: int) -> Group:
    slots = tuple((NodeId(6 * number + slot), "d") for slot in range(6))
    return Group(GroupId(number), SiteId(1), 4, 2, 1, GroupState.OPEN, slots)


@pytest.mark.parametrize(("silent", "readable"), [(0, 2), (2, 2), (3, 1), (6, 1)])
def test_a_group_is_readable_with_as_many_slots_as_its_code_needs(silent: int, readable: int) -> None:
    assert count_readable([group(1), group(2)], [(GroupId(1), slot) for slot in range(silent)]) == readable


def test_what_is_said_of_reads() -> None:
    assert describe_reads(2, 2) == "ok"
    assert "some files" in describe_reads(1, 2)
    assert describe_reads(0, 2) == describe_reads(0, 0) == "too few nodes answer"
