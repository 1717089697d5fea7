"""Blocks that were sent by hash: made durable, recorded for their sender, and told to who waits for them."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.blocks.write import PlainBlock
from coordinator.metadata import blocks
from coordinator.metadata.values import Session, Target
from coordinator.services import Services


async def stage_blocks(services: Services, session: Session, target: Target, plain: Sequence[PlainBlock]) -> None:
    """Make the blocks durable together and record them for the caller, who is going to commit them in this namespace.

    Raises as BlockWriter.write and blocks.record; then nobody was told of anything.
    """
    account_id, store = target.account_id, services.store
    written = await store.write(account_id, plain)
    rows = await services.db.run(blocks.record, account_id, target.namespace_id, session.user_id, None, written)
    if store.recent.wants(account_id):
        for row, block in zip(rows, plain, strict=True):
            store.recent.put(row.block_id, bytes(block.plain))
    services.awaited.recorded(account_id, [row.hash for row in rows])
