"""Blocks that were sent by hash: made durable, recorded for their sender, and told to who waits for them.

What is sent and never committed counts towards no quota and is collected only days later, so that it is bounded by
itself: for each sender by the account's quota once more, or 32 MiB (`StagingRoom`): a batch of small files of which
only some fit the quota is taken, so that its commit can say which.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from coordinator.blocks.write import PlainBlock
from coordinator.following import tell_arrived
from coordinator.metadata import blocks
from coordinator.metadata.values import AccountId, Session, Staged, Target, UserId
from coordinator.protocol.errors import QuotaExceeded

if TYPE_CHECKING:
    from coordinator.services import Services

_SENDERS_KEPT: Final = 10_000
_ROOM_MIN_BYTES: Final = 32 << 20
_STEP_MIN_BYTES: Final = 32 << 20


class StagingRoom:
    """How much each sender may still send before it is counted again.

    The database is asked each time that a sixteenth of the room is used up, not for each block; by so much, or 32 MiB,
    each worker may let too much through. Owned by the event loop.
    """

    def __init__(self, count: Callable[[UserId, AccountId], Awaitable[Staged]]) -> None:
        self._count = count
        self._left: OrderedDict[tuple[UserId, AccountId], int] = OrderedDict()  # the longest unasked first

    async def take(self, user_id: UserId, account_id: AccountId, size_bytes: int) -> None:
        """Raises QuotaExceeded where the sender has as much lying uncommitted as the account may hold."""
        key = user_id, account_id
        left = self._left.get(key, 0)
        if left < size_bytes:
            staged = await self._count(user_id, account_id)
            room = max(staged.quota_bytes, _ROOM_MIN_BYTES) - staged.bytes
            if size_bytes > room:
                raise QuotaExceeded(used=staged.bytes, quota=staged.quota_bytes)
            left = max(size_bytes, min(room, max(_STEP_MIN_BYTES, room // 16)))
        self._left[key] = left - size_bytes
        self._left.move_to_end(key)
        if len(self._left) > _SENDERS_KEPT:
            self._left.popitem(last=False)


async def stage_blocks(services: Services, session: Session, target: Target, plain: Sequence[PlainBlock]) -> None:
    """Make the blocks durable together and record them for the caller, who is going to commit them in this namespace.

    Raises as StagingRoom.take, BlockWriter.write and blocks.record; then nobody was told of anything.
    """
    account_id = target.account_id
    await services.staging.take(session.user_id, account_id, sum(len(block.plain) for block in plain))
    written = await services.store.write(account_id, plain)
    rows = await services.db.run(blocks.record, account_id, target.namespace_id, session.user_id, None, written)
    tell_arrived(services, account_id, rows, [block.plain for block in plain])
