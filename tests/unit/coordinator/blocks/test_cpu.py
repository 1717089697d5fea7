"""The CPU pool: side by side up to its threads, a bounded line behind them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from coordinator.blocks.cpu import CpuPool
from coordinator.protocol.errors import Unavailable


def test_results_and_errors_come_back() -> None:
    async def main() -> None:
        pool = CpuPool(2)
        assert await pool.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 7, 0)
        assert (pool.running, pool.queued) == (0, 0)
        pool.close()

    asyncio.run(main())


def test_line_is_bounded() -> None:
    async def main() -> None:
        pool, gate = CpuPool(1, queue_max=2), threading.Event()
        waiting = [asyncio.create_task(pool.run(gate.wait, 5.0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert (pool.running, pool.queued) == (1, 2)
        with pytest.raises(Unavailable):
            await pool.run(divmod, 1, 1)
        waiting[-1].cancel()
        gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await pool.run(divmod, 1, 1) == (1, 0)
        pool.close()

    asyncio.run(main())


def test_threads_default_to_the_cores() -> None:
    pool = CpuPool()
    assert pool.threads >= 1
    pool.close()
