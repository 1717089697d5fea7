"""Where a block's shards go: pure decisions over the cluster map and what is known of the disks now.

A group takes writes while enough of its slots do (`write_floor`). Groups whose slots are all well come first, weighted
by the free space of their fullest disk, so that disks fill evenly; degraded ones are the last resort.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from coordinator.metadata.values import Group, GroupState, NodeId

Slot = tuple[NodeId, str]  # a node and one of its disks

# A sealed block of at most this size is kept as whole copies: coding it would make shards smaller than a disk sector.
COPIES_UP_TO_BYTES: Final = 64 * 1024


def write_floor(k: int, m: int) -> int:
    """How many fsynced shards a write needs before it may be acknowledged without the others.

    One more than can be lost at once for m up to 2, two more beyond; never more than there are.
    """
    return min(k + m, k + (2 if m > 2 else 1))


def code_for(sealed_size: int, group: Group) -> tuple[int, int]:
    """(k, m) for a sealed block of this size in this group: the group's own code, or m + 1 whole copies."""
    return (1, group.m) if sealed_size <= COPIES_UP_TO_BYTES else (group.k, group.m)


def slot_of_shard(group: Group, block_id: bytes, k: int, index: int) -> Slot:
    """The slot that holds shard `index`: slot `index`, but copies (k = 1) rotate over the slots with the block id."""
    if k > 1:
        return group.slots[index]
    first = int.from_bytes(block_id[-4:], "big")
    return group.slots[(first + index) % len(group.slots)]


@dataclass(frozen=True, slots=True)
class Placement:
    """The groups of one site that take writes at this moment; made anew whenever a node or disk changes."""

    whole: tuple[Group, ...]
    whole_weights: tuple[int, ...]  # cumulative
    degraded: tuple[Group, ...]
    some_disk_full: bool

    def candidates(self, chance: random.Random, most: int = 3) -> Sequence[Group]:
        """Up to `most` different groups to try in turn. Empty when nothing may be written."""
        chosen: list[Group] = []
        if self.whole:
            for group in chance.choices(self.whole, cum_weights=self.whole_weights, k=most):
                if group not in chosen:
                    chosen.append(group)
        for group in self.degraded[: max(0, most - len(chosen))]:
            chosen.append(group)
        return chosen


def plan_placement(
    groups: Iterable[Group], free_bytes: Callable[[Slot], int | None], some_disk_full: bool
) -> Placement:
    """Sort the groups by what their slots can take. `free_bytes` is None for a slot that takes no writes now."""
    whole: list[tuple[Group, int]] = []
    degraded: list[tuple[int, Group]] = []
    for group in groups:
        if group.state is not GroupState.OPEN:
            continue
        free = [room for slot in group.slots if (room := free_bytes(slot)) is not None]
        if len(free) == len(group.slots):
            whole.append((group, max(1, min(free) >> 20)))
        elif len(free) >= write_floor(group.k, group.m):
            degraded.append((len(group.slots) - len(free), group))
    degraded.sort(key=lambda pair: (pair[0], pair[1].id))
    return Placement(
        whole=tuple(group for group, _ in whole),
        whole_weights=tuple(accumulate(weight for _, weight in whole)),
        degraded=tuple(group for _, group in degraded),
        some_disk_full=some_disk_full,
    )
