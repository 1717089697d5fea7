"""Grouping small files into calls: as few round trips as the service's limits and this side's memory allow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX

SMALL_BYTES_MAX: Final = BLOCK_BYTES  # one block at most; a larger file is worth its own calls
_FRAME_BYTES: Final = 36  # hash and size before each block of a batch


class Sized(Protocol):
    @property
    def size(self) -> int: ...


S = TypeVar("S", bound=Sized)


def group(items: Iterable[S]) -> Iterator[list[S]]:
    """Neighbours together, in order; each group fits one batch call and one commit. Every item is small."""
    batch: list[S] = []
    batch_bytes = 0
    for item in items:
        weight = item.size + _FRAME_BYTES
        if batch and (len(batch) == BATCH_BLOCKS_MAX or batch_bytes + weight > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(item)
        batch_bytes += weight
    if batch:
        yield batch
