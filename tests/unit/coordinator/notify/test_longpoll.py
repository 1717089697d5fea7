"""The answers of a long poll, as bytes, and what happens to its connection afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping

from coordinator.api.routes import Route
from coordinator.notify.hub import Hub, Why
from coordinator.notify.longpoll import BACKOFF_S, Lot, ParkedPoll, answer, draw_timeout, render


def test_answer_says_whether_something_moved_and_when_to_come_back() -> None:
    assert json.loads(answer(Why.MOVED, "r")[1]) == {"changes": True, "backoff": 0.0}
    assert json.loads(answer(Why.TIMEOUT, "r")[1]) == {"changes": False, "backoff": 0.0}
    drained = [json.loads(answer(Why.DRAIN, "r")[1]) for _ in range(50)]
    assert all(not said["changes"] and BACKOFF_S[0] <= said["backoff"] <= BACKOFF_S[1] for said in drained)
    assert len({said["backoff"] for said in drained}) > 10
    status, body = answer(Why.SIGNED_OUT, "the-request")
    assert status == 401 and json.loads(body)["error"]["request_id"] == "the-request"


def test_rendered_answer_is_whole_http() -> None:
    kept = render(200, b"{}", "id-1", keep_alive=True)
    assert kept.startswith(b"HTTP/1.1 200 OK\r\n") and kept.endswith(b"\r\n\r\n{}")
    assert b"\r\nContent-Length: 2\r\n" in kept and b"\r\nX-Request-ID: id-1\r\n" in kept
    assert b"Connection" not in kept
    assert b"\r\nConnection: close\r\n" in render(200, b"{}", "id-1", keep_alive=False)


def test_timeout_gets_some_jitter() -> None:
    drawn = [draw_timeout(100) for _ in range(100)]
    assert all(100 <= timeout_s <= 110 for timeout_s in drawn)
    assert len(set(drawn)) > 50


class Clients:
    """Parked connections and their other ends, `resumed` in the order in which they are served on."""

    def __init__(self, count: int, *, keep_alive: bool = True) -> None:
        self.hub = Hub("", name="test", read_heads=_no_heads, mark_seen=_none_signed_out, waiters_max=count)
        self.resumed: list[socket.socket] = []
        self.lot = Lot(self.hub, self._resume)
        self.ends = []
        route = Route("longpoll")
        for number in range(count):
            ours, theirs = socket.socketpair()
            for end in (ours, theirs):
                end.setblocking(False)
            self.ends.append(theirs)
            poll = ParkedPoll(
                self.lot,
                ours,
                positions=(1, 4),
                device_id=1,
                user_id=1,
                timeout_s=60,
                request_id=f"id-{number}",
                route=route,
                keep_alive=keep_alive,
            )
            self.lot.park(poll)

    def _resume(self, taken: socket.socket) -> None:
        self.resumed.append(taken)

    @property
    def told(self) -> int:
        """How many have their answer."""
        return sum(_peek(end) != b"" for end in self.ends)

    async def all_told(self) -> None:
        async with asyncio.timeout(10):
            while self.hub.telling or not self.told:  # noqa: ASYNC110 - it goes on turn by turn
                await asyncio.sleep(0)

    async def settled(self) -> None:
        async with asyncio.timeout(10):
            while self.hub.telling or self.lot.unsettled:  # noqa: ASYNC110 - it goes on turn by turn
                await asyncio.sleep(0)

    def close(self) -> None:
        self.lot.close()
        for end in (*self.ends, *self.resumed):
            end.close()


def with_clients(count: int, act: Callable[[Clients], Awaitable[None]], *, keep_alive: bool = True) -> None:
    async def main() -> None:
        clients = Clients(count, keep_alive=keep_alive)
        try:
            await act(clients)
        finally:
            clients.close()

    asyncio.run(main())


async def _no_heads(_: Collection[int]) -> Mapping[int, int]:
    return {}


async def _none_signed_out(_: Collection[int]) -> Collection[int]:
    return ()


def _peek(end: socket.socket) -> bytes:
    try:
        return end.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def test_who_is_told_is_served_on_once() -> None:
    async def act(clients: Clients) -> None:
        clients.hub.published(1, 5)
        await clients.settled()
        assert clients.told == 7
        assert len(set(clients.resumed)) == len(clients.resumed) == 7

    with_clients(7, act)


def test_nearly_all_are_told_before_most_are_served_on() -> None:
    async def act(clients: Clients) -> None:
        clients.hub.published(1, 5)
        await clients.all_told()
        assert clients.told == 300
        assert 0 < len(clients.resumed) < 100, "who was told gets on meanwhile, but not at the others' expense"
        assert len(clients.resumed) + clients.lot.unsettled == 300
        await clients.settled()
        assert len(set(clients.resumed)) == 300

    with_clients(300, act)


def test_a_closed_lot_leaves_no_connection_open() -> None:
    async def act(clients: Clients) -> None:
        clients.hub.published(1, 5)
        await clients.all_told()
        unsettled = clients.lot.unsettled
        assert unsettled > 0
        clients.lot.close()
        assert clients.lot.unsettled == 0
        ended = 0
        for end in clients.ends:
            assert end.recv(65536).startswith(b"HTTP/1.1 200")
            with contextlib.suppress(BlockingIOError):
                ended += end.recv(1) == b""
        assert ended == unsettled
        clients.lot = Lot(clients.hub, clients._resume)

    with_clients(200, act)


def test_a_connection_that_is_not_to_be_kept_is_closed_after_its_answer() -> None:
    async def act(clients: Clients) -> None:
        clients.hub.published(1, 5)
        await clients.settled()
        assert clients.resumed == []
        assert all(b"Connection: close" in end.recv(65536) and end.recv(1) == b"" for end in clients.ends)

    with_clients(3, act, keep_alive=False)
