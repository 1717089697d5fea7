"""Blocks that were sent by hash: made durable, recorded for their sender, and told to who waits for them."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.blocks.write import PlainBlock
from coordinator.following import tell_arrived
from coordinator.metadata import blocks
from coordinator.metadata.values import Session, Target
from coordinator.services import Services


async def stage_blocks(services: Services, session: Session, target: Target, plain: Sequence[PlainBlock]) -> None:
    """Make the blocks durable together and record them for the caller, who is going to commit them in this namespace.

    Raises as BlockWriter.write and blocks.record; then nobody was told of anything.
    """
    account_id = target.account_id
    written = await services.store.write(account_id, plain)
    rows = await services.db.run(blocks.record, account_id, target.namespace_id, session.user_id, None, written)
    tell_arrived(services, account_id, rows, [block.plain for block in plain])
