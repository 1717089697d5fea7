"""Which small files travel together."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from client.batches import SMALL_BYTES_MAX, group
from coordinator.protocol.types import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX, COMMIT_ENTRIES_MAX


@dataclass(frozen=True)
class Item:
    size: int


@given(st.lists(st.one_of(st.integers(0, 2000), st.integers(0, SMALL_BYTES_MAX)), max_size=600))
def test_every_group_fits_one_call_and_nothing_is_lost(sizes: list[int]) -> None:
    items = [Item(size) for size in sizes]
    groups = list(group(items))
    assert [item for batch in groups for item in batch] == items
    for batch in groups:
        assert 0 < len(batch) <= min(BATCH_BLOCKS_MAX, COMMIT_ENTRIES_MAX)
        assert sum(item.size for item in batch) <= BATCH_BYTES_MAX


def test_groups_are_as_full_as_they_may_be() -> None:
    assert [len(batch) for batch in group([Item(10)] * 300)] == [
        BATCH_BLOCKS_MAX,
        BATCH_BLOCKS_MAX,
        300 - 2 * BATCH_BLOCKS_MAX,
    ]
    assert [len(batch) for batch in group([Item(100_000)] * 100)] == [83, 17]


def test_two_full_blocks_do_not_share_a_call_that_their_frames_would_overflow() -> None:
    assert [len(batch) for batch in group([Item(SMALL_BYTES_MAX)] * 3)] == [1, 1, 1]
