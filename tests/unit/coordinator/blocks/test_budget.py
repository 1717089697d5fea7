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


class Sender:
    """A holder whose client has been silent for `stalled_s`."""

    def __init__(self, stalled_s: float) -> None:
        self.stalled_s = stalled_s
        self.gave_up = asyncio.Event()

    def give_up(self) -> None:
        self.gave_up.set()


def test_who_is_silent_leaves_when_others_wait_and_not_before() -> None:
    async def hold(budget: ByteBudget, sender: Sender) -> None:
        async with budget.hold(5, sender):
            await sender.gave_up.wait()

    async def run() -> None:
        budget = ByteBudget(10, patience_s=5.0, check_s=0.001)
        silent, busy = Sender(6.0), Sender(4.0)
        tasks = [asyncio.create_task(hold(budget, sender)) for sender in (silent, busy)]
        await asyncio.sleep(0.01)
        assert not silent.gave_up.is_set(), "nobody waits"
        async with asyncio.timeout(5), budget.hold(5):
            assert silent.gave_up.is_set()
            assert not busy.gave_up.is_set()
        busy.give_up()
        await asyncio.gather(*tasks)
        assert budget.held == 0

    asyncio.run(run())
