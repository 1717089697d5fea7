"""How rows become blocks: the columns that every query for blocks selects."""

from __future__ import annotations

from typing import Final

from coordinator.metadata.db import Row
from coordinator.metadata.values import BlockRow

# Of a block row `b`, in the order of BlockRow's fields.
BLOCK: Final = """b.id, b.hash, b.group_id, b.group_epoch, b.k, b.m, b.codec, b.plain_size, b.sealed_size,
    b.sealed_digest, b.account_id, b.wrapped_key"""
BLOCK_COLUMNS: Final = 12


def block_of(row: Row) -> BlockRow:
    """From BLOCK's columns."""
    return BlockRow(*row)
