"""How much somebody may send by hash without committing it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.metadata.values import AccountId, Staged, UserId
from coordinator.protocol.errors import QuotaExceeded
from coordinator.staging import StagingRoom

MIB = 1 << 20
ANNA, BEN, HOME = UserId(1), UserId(2), AccountId(1)


class Books:
    """What the database would say; `asked` counts how often it had to."""

    def __init__(self, quota_bytes: int) -> None:
        self.quota_bytes = quota_bytes
        self.staged: dict[UserId, int] = {}
        self.asked = 0

    async def count(self, user_id: UserId, _account_id: AccountId) -> Staged:
        self.asked += 1
        return Staged(self.staged.get(user_id, 0), self.quota_bytes)

    def send(self, room: StagingRoom, user_id: UserId, size_bytes: int) -> None:
        asyncio.run(room.take(user_id, HOME, size_bytes))
        self.staged[user_id] = self.staged.get(user_id, 0) + size_bytes


def test_a_sender_may_have_as_much_uncommitted_as_the_account_may_hold() -> None:
    books = Books(100 * MIB)
    room = StagingRoom(books.count)
    for _ in range(25):
        books.send(room, ANNA, 4 * MIB)
    with pytest.raises(QuotaExceeded):
        books.send(room, ANNA, 1)
    books.send(room, BEN, 4 * MIB)
    books.staged[ANNA] -= 4 * MIB  # committed
    books.send(room, ANNA, 4 * MIB)


def test_a_small_account_may_send_what_only_its_commit_refuses() -> None:
    books = Books(1 * MIB)
    room = StagingRoom(books.count)
    for _ in range(4):
        books.send(room, ANNA, 8 * MIB)
    with pytest.raises(QuotaExceeded):
        books.send(room, ANNA, 1)


def test_the_database_is_asked_now_and_then_and_not_for_each_block() -> None:
    books = Books(1 << 40)
    room = StagingRoom(books.count)
    for _ in range(1000):
        books.send(room, ANNA, 4 * MIB)
    assert books.asked == 1
    small = Books(1 << 30)
    room = StagingRoom(small.count)
    for _ in range(250):
        small.send(room, ANNA, 4 * MIB)
    assert small.asked < 40
