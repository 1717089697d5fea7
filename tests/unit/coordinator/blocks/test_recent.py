"""What is kept of recent blocks: within its bound, for some seconds, for who wants them."""

from __future__ import annotations

import asyncio

from coordinator.blocks.recent import RecentBlocks
from coordinator.metadata.values import AccountId


async def until_empty(recent: RecentBlocks) -> None:
    async with asyncio.timeout(5):
        while recent.held:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.005)


def test_the_oldest_give_way() -> None:
    async def scenario() -> None:
        recent = RecentBlocks(100)
        for number in range(5):
            recent.put(bytes([number]), bytes(30))
        assert [recent.get(bytes([number])) is not None for number in range(5)] == [False, False, True, True, True]
        assert recent.held == 90
        recent.put(b"\2", bytes(40))  # the same block again counts once
        assert recent.held == 100
        recent.put(b"large", bytes(101))
        assert recent.held == 0
        recent.clear()

    asyncio.run(scenario())


def test_nothing_is_kept_for_long() -> None:
    async def scenario() -> None:
        recent = RecentBlocks(100, keep_s=0.02)
        recent.put(b"a", b"plain")
        assert recent.get(b"a") == b"plain"
        await until_empty(recent)
        assert recent.get(b"a") is None
        recent.put(b"b", b"plain")  # the timer is set anew
        await until_empty(recent)

    asyncio.run(scenario())


def test_only_who_is_followed_is_wanted() -> None:
    async def scenario() -> None:
        recent = RecentBlocks()
        assert not recent.wants(AccountId(1))
        recent.want(AccountId(1))
        assert recent.wants(AccountId(1))
        assert not recent.wants(AccountId(2))

    asyncio.run(scenario())
