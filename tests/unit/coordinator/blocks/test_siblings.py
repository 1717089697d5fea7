"""Workers pass each other blocks; whatever goes wrong is "not here"."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coordinator.blocks import siblings
from coordinator.blocks.recent import RecentBlocks
from coordinator.blocks.siblings import Siblings

A, B = b"a" * 16, b"b" * 16
PLAIN = bytearray(os.urandom(3_000_000))


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[RecentBlocks, Siblings]]:
    recent = RecentBlocks()
    one = Siblings(recent)
    one.start()
    try:
        yield recent, one
    finally:
        one.close()
        recent.clear()


def test_a_block_is_passed_on() -> None:
    async def scenario() -> None:
        async with worker() as (recent, giver), worker() as (_, taker):
            recent.put(A, PLAIN)
            assert await taker.fetch(A, len(PLAIN)) is None  # nobody said who has it
            for _ in range(3):  # over the same connection
                taker.note(A, giver.address)
                assert await taker.fetch(A, len(PLAIN)) == PLAIN
            taker.note(B, giver.address)
            assert await taker.fetch(B, 5) is None
            assert len(giver._serving) == 1

    asyncio.run(scenario())


def test_many_at_once() -> None:
    async def scenario() -> None:
        async with worker() as (recent, giver), worker() as (_, taker):
            ids = [bytes([number]) * 16 for number in range(20)]
            for number, block_id in enumerate(ids):
                recent.put(block_id, bytes([number]) * 100_000)
                taker.note(block_id, giver.address)
            found = await asyncio.gather(*(taker.fetch(block_id, 100_000) for block_id in ids))
            assert found == [bytearray([number]) * 100_000 for number in range(20)]

    asyncio.run(scenario())


def test_a_worker_that_died_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with worker() as (_, taker):
            async with worker() as (recent, giver):
                recent.put(A, PLAIN)
                taker.note(A, giver.address)
                assert await taker.fetch(A, len(PLAIN)) == PLAIN
            taker.note(A, giver.address)
            assert await taker.fetch(A, len(PLAIN)) is None  # over the connection that was kept
            taker.note(A, giver.address)
            assert await taker.fetch(A, len(PLAIN)) is None  # over a new one

    asyncio.run(scenario())


def test_a_block_of_another_size_is_not_taken() -> None:
    async def scenario() -> None:
        async with worker() as (recent, giver), worker() as (_, taker):
            recent.put(A, PLAIN)
            taker.note(A, giver.address)
            assert await taker.fetch(A, len(PLAIN) - 1) is None

    asyncio.run(scenario())


def test_a_worker_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "TIMEOUT_S", 0.05)

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.bind("\0holdfast-test-" + os.urandom(8).hex())
            silent.listen()
            async with worker() as (_, taker):
                taker.note(A, silent.getsockname()[1:].decode())
                assert await taker.fetch(A, 5) is None

    asyncio.run(scenario())


def test_other_users_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says who is at the other end; here each side believes that it is somebody else."""

    async def scenario() -> None:
        async with worker() as (recent, giver), worker() as (_, taker):
            recent.put(A, PLAIN)
            monkeypatch.setattr(os, "geteuid", lambda: 4242)
            taker.note(A, giver.address)
            assert await taker.fetch(A, len(PLAIN)) is None
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
                stranger.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(stranger, "\0" + giver.address)
                async with asyncio.timeout(5):
                    assert await loop.sock_recv(stranger, 1) == b""

    asyncio.run(scenario())
