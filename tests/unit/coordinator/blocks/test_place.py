"""Placement: which groups take a write, and which slot holds which shard."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from coordinator.blocks.place import (
    COPIES_UP_TO_BYTES,
    Slot,
    code_for,
    plan_placement,
    slot_of_shard,
    write_floor,
)
from coordinator.blocks.write import new_block_id
from coordinator.metadata.values import Group, GroupId, GroupState, NodeId, SiteId

ROOM = 100 << 30


def group(number: int, nodes: int = 6, state: GroupState = GroupState.OPEN) -> Group:
    slots = tuple((NodeId((i + number) % nodes), f"disk{(i + number) % nodes}") for i in range(6))
    return Group(GroupId(number), SiteId(1), 4, 2, 1, state, slots)


@pytest.mark.parametrize(
    ("k", "m", "floor"), [(4, 2, 5), (2, 1, 3), (6, 3, 8), (10, 4, 12), (1, 2, 2), (1, 1, 2), (3, 0, 3)]
)
def test_write_floor(k: int, m: int, floor: int) -> None:
    assert write_floor(k, m) == floor


def test_groups_with_all_slots_come_first_and_full_ones_seldom() -> None:
    room = {NodeId(n): ROOM for n in range(12)}
    room[NodeId(0)] = 1 << 30
    fresh = Group(GroupId(1), SiteId(1), 4, 2, 1, GroupState.OPEN, tuple((NodeId(n), "d") for n in range(6, 12)))
    crowded = Group(GroupId(2), SiteId(1), 4, 2, 1, GroupState.OPEN, tuple((NodeId(n), "d") for n in range(6)))
    placement = plan_placement([fresh, crowded], lambda slot: room[slot[0]], some_disk_full=False)
    chance = random.Random(1)
    first = Counter(placement.candidates(chance)[0].id for _ in range(1000))
    assert first[GroupId(1)] > 950


def test_a_group_below_the_floor_takes_nothing() -> None:
    def all_but(dead: set[int]) -> Callable[[Slot], int | None]:
        def free(slot: Slot) -> int | None:
            return None if slot[0] in dead else ROOM

        return free

    groups = [group(n) for n in range(6)]
    chance = random.Random(1)
    one = plan_placement(groups, all_but({3}), some_disk_full=False)
    assert not one.whole
    assert len(one.candidates(chance)) == 3
    two = plan_placement(groups, all_but({3, 4}), some_disk_full=False)
    assert not two.candidates(chance)


def test_closed_groups_take_nothing() -> None:
    placement = plan_placement([group(1, state=GroupState.CLOSED)], lambda _: ROOM, some_disk_full=False)
    assert not placement.candidates(random.Random(1))


def test_small_blocks_become_copies_in_slots_that_rotate() -> None:
    place = group(1)
    assert code_for(COPIES_UP_TO_BYTES, place) == (1, 2)
    assert code_for(COPIES_UP_TO_BYTES + 1, place) == (4, 2)
    load: Counter[Slot] = Counter()
    for _ in range(3000):
        block_id = new_block_id()
        slots = [slot_of_shard(place, block_id, 1, index) for index in range(3)]
        assert len(set(slots)) == 3
        load.update(slots)
    assert min(load.values()) > 0.8 * max(load.values())
    assert [slot_of_shard(place, new_block_id(), 4, index) for index in range(6)] == list(place.slots)
