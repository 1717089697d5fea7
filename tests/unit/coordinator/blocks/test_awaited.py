"""Waiting for blocks: told at once by this worker, found in the database for the others'."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from coordinator.blocks.awaited import WAITERS_MAX, AwaitedBlocks, Key
from coordinator.metadata.values import AccountId
from coordinator.protocol.errors import Unavailable

ANNA, BEN = AccountId(1), AccountId(2)


class Database:
    """What other workers have recorded; counts how often it was asked."""

    def __init__(self) -> None:
        self.recorded: set[Key] = set()
        self.asked = 0
        self.away = False

    async def find(self, keys: Collection[Key]) -> list[Key]:
        self.asked += 1
        if self.away:
            raise Unavailable()
        return [key for key in keys if key in self.recorded]


def test_a_block_of_this_worker_wakes_at_once() -> None:
    async def scenario() -> None:
        awaited = AwaitedBlocks(Database().find)
        with awaited.expect(ANNA, b"x") as place, awaited.expect(ANNA, b"x") as second:
            awaited.recorded(BEN, [b"x"])
            awaited.recorded(ANNA, [b"y"])
            await place.wait(0.01)  # over without the block
            awaited.recorded(ANNA, [b"y", b"x"])
            async with asyncio.timeout(5):
                await place.wait(100)
                await second.wait(100)
        assert awaited.count == 0
        awaited.recorded(ANNA, [b"x"])  # nobody waits

    asyncio.run(scenario())


def test_a_block_that_came_between_looking_and_waiting_is_not_missed() -> None:
    async def scenario() -> None:
        awaited = AwaitedBlocks(Database().find)
        with awaited.expect(ANNA, b"x") as place:
            awaited.recorded(ANNA, [b"x"])
            async with asyncio.timeout(5):
                await place.wait(100)

    asyncio.run(scenario())


def test_a_block_of_another_worker_is_found_and_nothing_asked_while_nobody_waits() -> None:
    async def scenario() -> None:
        database = Database()
        awaited = AwaitedBlocks(database.find)
        task = asyncio.create_task(awaited.run())
        await asyncio.sleep(0.25)
        assert database.asked == 0
        database.away = True
        with awaited.expect(ANNA, b"x") as place:
            await asyncio.sleep(0.25)  # a database that is away does not end it
            database.away = False
            database.recorded.add((ANNA, b"x"))
            async with asyncio.timeout(5):
                await place.wait(100)
        asked = database.asked
        await asyncio.sleep(0.25)
        assert database.asked <= asked + 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_not_everybody_may_wait() -> None:
    async def scenario() -> None:
        awaited = AwaitedBlocks(Database().find)
        places = [awaited.expect(ANNA, bytes([number % 256])) for number in range(WAITERS_MAX)]
        for place in places:
            place.__enter__()
        assert awaited.full
        places[0].__exit__(None, None, None)
        assert not awaited.full

    asyncio.run(scenario())


def test_draining_wakes_everyone() -> None:
    async def scenario() -> None:
        awaited = AwaitedBlocks(Database().find)
        with awaited.expect(ANNA, b"x") as place:
            awaited.drain()
            async with asyncio.timeout(5):
                await place.wait(100)
            assert awaited.full

    asyncio.run(scenario())
