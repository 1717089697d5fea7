"""The byte budget: a bound, in order, and nothing lost when a waiter leaves."""

from __future__ import annotations

import asyncio

from coordinator.blocks.budget import ByteBudget


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_waits_beyond_the_limit_and_admits_in_order() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        order: list[str] = []

        async def take(name: str, size: int, until: asyncio.Event) -> None:
            async with budget.hold(size):
                order.append(name)
                assert budget.held <= 10
                await until.wait()

        first, rest = asyncio.Event(), asyncio.Event()
        rest.set()
        tasks = [asyncio.create_task(take("a", 8, first))]
        await settle()
        tasks += [asyncio.create_task(take(name, size, rest)) for name, size in (("b", 5), ("c", 1))]
        await settle()
        assert order == ["a"], "c would fit, but b was first"
        assert budget.waiting == 2
        first.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        assert budget.held == 0

    asyncio.run(run())


def test_a_block_larger_than_the_budget_goes_alone() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        async with budget.hold(50):
            assert budget.held == 50
        assert budget.held == 0

    asyncio.run(run())


def test_a_cancelled_waiter_holds_nothing_and_lets_the_next_in() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        await budget.acquire(10)
        gone = asyncio.create_task(budget.acquire(10))
        stays = asyncio.create_task(budget.acquire(10))
        await settle()
        gone.cancel()
        await settle()
        budget.release(10)
        await asyncio.wait_for(stays, 1)
        assert budget.held == 10
        # Admitted and cancelled in the same turn: the bytes come back.
        late = asyncio.create_task(budget.acquire(10))
        await settle()
        budget.release(10)
        late.cancel()
        await settle()
        assert budget.held == 0

    asyncio.run(run())
