from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import psycopg
import pytest

from coordinator.metadata import db
from coordinator.metadata.db import Door
from coordinator.protocol.errors import NotFound, Unavailable
from tests.kit.postgres import PostgresServer


def run(conninfo: str, use: Callable[[Door], Coroutine[Any, Any, None]], **options: Any) -> None:
    door = Door(conninfo, **options)
    try:
        asyncio.run(use(door))
    finally:
        door.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may kill."""
    server = PostgresServer()
    yield server
    server.close()


def one_row() -> int:
    return int(db.one("SELECT 1")[0])


def test_values_and_errors_come_back_from_the_threads(conninfo: str) -> None:
    def add(a: int, b: int = 1) -> int:
        return int(db.one("SELECT %s::int + %s::int", (a, b))[0])

    def refuse() -> None:
        raise NotFound(what="thing")

    async def use(door: Door) -> None:
        assert await door.run(add, 2, b=3) == 5
        assert await asyncio.gather(*(door.run(add, number) for number in range(20))) == list(range(1, 21))
        with pytest.raises(NotFound):
            await door.run(refuse)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await door.run(db.rows, "SELECT 1 FROM nothing")
        assert (door.waiting, door.in_use) == (0, 0)

    run(conninfo, use)


def test_an_error_undoes_the_transaction_and_leaves_the_connection_good(conninfo: str) -> None:
    def write_then_fail() -> None:
        with db.transaction():
            db.run("INSERT INTO site (name) VALUES ('s')")
            db.rows("SELECT 1 / 0")

    async def use(door: Door) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await door.run(write_then_fail)
        assert await door.run(db.rows, "SELECT 1 FROM site") == []

    run(conninfo, use, threads=1)


def test_a_statement_ends_at_its_deadline(conninfo: str, caplog: pytest.LogCaptureFixture) -> None:
    async def use(door: Door) -> None:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            await door.run_within(0.2, db.rows, "SELECT pg_sleep(20)")
        assert time.monotonic() - begun < 5
        assert await door.run(one_row) == 1

    run(conninfo, use, threads=1)


def test_more_calls_than_may_wait_are_refused(conninfo: str) -> None:
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        release.wait(20)

    async def use(door: Door) -> None:
        held = asyncio.ensure_future(door.run(hold))
        await asyncio.to_thread(begun.wait, 10)
        assert door.in_use == 1
        waiting = [asyncio.ensure_future(door.run(one_row)) for _ in range(2)]
        await asyncio.sleep(0)
        assert door.waiting == 2
        with pytest.raises(Unavailable):
            await door.run(one_row)
        release.set()
        await held
        assert await asyncio.gather(*waiting) == [1, 1]

    run(conninfo, use, threads=1, queue_max=2)


def test_a_call_that_waited_past_its_deadline_is_not_begun(conninfo: str) -> None:
    begun = []

    def note() -> None:
        begun.append(1)

    async def use(door: Door) -> None:
        blocking = asyncio.ensure_future(door.run_within(20, db.rows, "SELECT pg_sleep(0.5)"))
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable):
            await door.run_within(0.1, note)
        await blocking
        assert begun == []

    run(conninfo, use, threads=1)


def test_a_deadlock_is_run_again(conninfo: str) -> None:
    """Two transactions take two rows in opposite order; PostgreSQL ends one, which then succeeds on its own."""
    barrier = threading.Barrier(2)
    attempts = []

    def take(first: int, second: int) -> None:
        attempts.append(first)
        with db.transaction():
            db.run("UPDATE site SET name = name || '.' WHERE id = %s", (first,))
            if len(attempts) <= 2:
                barrier.wait(10)
            db.run("UPDATE site SET name = name || '.' WHERE id = %s", (second,))

    async def use(door: Door) -> None:
        await door.run(db.run, "INSERT INTO site (id, name) VALUES (1, 'a'), (2, 'b')")
        await asyncio.gather(door.run(take, 1, 2), door.run(take, 2, 1))
        assert await door.run(db.rows, "SELECT name FROM site ORDER BY id") == [("a..",), ("b..",)]
        assert len(attempts) >= 3

    run(conninfo, use, threads=2)


def test_a_killed_server_is_unavailable_and_back_after_its_restart(own_postgres: PostgresServer) -> None:
    async def use(door: Door) -> None:
        assert await door.run(one_row) == 1
        own_postgres.kill()
        with pytest.raises(Unavailable):
            await door.run(one_row)
        own_postgres.start()
        assert await door.run(one_row) == 1

    run(own_postgres.conninfo(), use, threads=1)


def test_a_connection_that_the_server_ended_is_replaced_before_the_next_call(conninfo: str) -> None:
    async def use(door: Door) -> None:
        [(pid,)] = await door.run(db.rows, "SELECT pg_backend_pid()")
        with psycopg.connect(conninfo, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        assert await door.run(one_row) == 1  # no error: nothing had been begun

    run(conninfo, use, threads=1)


def test_a_frozen_server_does_not_hold_anybody_past_the_deadline(own_postgres: PostgresServer) -> None:
    async def use(door: Door) -> None:
        [(pid,)] = await door.run(db.rows, "SELECT pg_backend_pid()")
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await door.run_within(0.3, one_row)
            assert time.monotonic() - begun < 5
            assert await door.run(one_row) == 1  # the thread is free again, on a new connection
        finally:
            os.kill(pid, signal.SIGCONT)

    run(own_postgres.conninfo(), use, threads=1)


def test_a_transaction_that_was_cut_leaves_nothing_behind_in_its_thread(conninfo: str) -> None:
    def write_and_lose() -> None:
        with db.transaction():
            db.run("INSERT INTO site (name) VALUES ('s')")
            [(pid,)] = db.rows("SELECT pg_backend_pid()")
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            db.rows("SELECT 1")

    async def use(door: Door) -> None:
        with pytest.raises(Unavailable):
            await door.run(write_and_lose)
        assert await door.run(db.rows, "SELECT 1 FROM site") == []

        def in_transaction() -> list[db.Row]:
            with db.transaction():
                db.run("INSERT INTO site (name) VALUES ('t')")
            return db.rows("SELECT name FROM site")

        assert await door.run(in_transaction) == [("t",)]

    run(conninfo, use, threads=1)


def test_a_closed_door_refuses(conninfo: str) -> None:
    async def use(door: Door) -> None:
        door.close()
        with pytest.raises(Unavailable):
            await door.run(one_row)

    run(conninfo, use)


def test_nothing_listens_where_the_database_should_be(caplog: pytest.LogCaptureFixture) -> None:
    async def use(door: Door) -> None:
        with pytest.raises(Unavailable):
            await door.run(one_row)

    with caplog.at_level(logging.WARNING):
        run("host=/nonexistent dbname=x user=y", use)
    assert [record.message for record in caplog.records] == ["db.unavailable"]


def test_cancellation_that_meets_the_answer_is_not_lost(conninfo: str) -> None:
    async def use(door: Door) -> None:
        async def work() -> None:
            while True:
                await door.run(one_row)

        await door.run(one_row)  # connected
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  # the loop stands still while the answer comes: it and the cancellation meet
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
        assert task.cancelled()

    run(conninfo, use)
