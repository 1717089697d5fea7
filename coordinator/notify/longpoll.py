"""A long poll while it waits: a connection without its request.

A handler, its request, its task and its stream cost about 10 KB, thousands of them for nothing but waiting. So the
handler hands the bare socket over to a `ParkedPoll`, and all else is freed. The answer is written to the socket, and
the connection is served on from there as if it were new. When thousands are woken, all are told first: the log's lines
and the connections' next requests take more time than the answers.
"""

from __future__ import annotations

import asyncio
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from coordinator.api.errors import error_body
from coordinator.api.routes import CLIENT_GONE, Finished, Route
from coordinator.notify.hub import Hub, Waiter, Why
from coordinator.protocol.errors import NotLoggedIn
from coordinator.protocol.types import LongpollAnswer

TIMEOUT_S_MIN: Final = 1
TIMEOUT_S_MAX: Final = 480
STIRS_PER_TURN: Final = 100
SETTLES_PER_TURN: Final = 50
SETTLES_WHILE_TELLING: Final = 5  # in each turn: however much moves, who was told gets on
JITTER: Final = 0.1  # of the timeout: clients that began together do not end together
BACKOFF_S: Final = (1.0, 30.0)  # what clients of a stopping or full worker are told, at random


def draw_backoff() -> float:
    """Seconds to wait before the next try, when everybody would come back at once otherwise."""
    return round(random.uniform(*BACKOFF_S), 1)  # noqa: S311 -- spreads load, keeps no secret


def draw_timeout(asked_s: int) -> float:
    return asked_s * (1 + random.uniform(0, JITTER))  # noqa: S311 -- spreads load, keeps no secret


class Lot:
    """Where waiting connections are parked: their sockets in one epoll of their own.

    A reader of the event loop for each would cost another 300 bytes. Owned by the event loop; a socket belongs to its
    poll from `park` until the poll is woken or its client stirs, and to the lot from `told` until it is served on.
    """

    def __init__(self, hub: Hub, resume: Callable[[socket.socket], None]) -> None:
        """`resume` serves a connection on after its answer."""
        self.hub = hub
        self.resume = resume
        self._polls: dict[int, ParkedPoll] = {}
        self._told: deque[tuple[ParkedPoll, Told]] = deque()
        self._epoll = select.epoll()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._look)

    @property
    def unsettled(self) -> int:
        """Connections that have their answer and are about to be served on or closed."""
        return len(self._told)

    def park(self, poll: ParkedPoll) -> None:
        """Let `poll` wait from now on."""
        descriptor = poll.socket.fileno()
        self._polls[descriptor] = poll
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
        self.hub.park(poll)

    def take_out(self, poll: ParkedPoll) -> None:
        """Stop watching the poll's socket."""
        descriptor = poll.socket.fileno()
        if self._polls.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def told(self, poll: ParkedPoll, told: Told) -> None:
        """The poll has its answer; do the rest when there is time."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._settle_some)
        self._told.append((poll, told))

    def close(self) -> None:
        """Close what is still parked or not served on yet."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        while self._told:
            poll, told = self._told.popleft()
            poll.account(told)
            poll.socket.close()
        for poll in self._polls.values():
            self.hub.leave(poll)
            poll.socket.close()
        self._polls.clear()
        self._epoll.close()

    def _settle_some(self) -> None:
        count = SETTLES_WHILE_TELLING if self.hub.telling else SETTLES_PER_TURN
        try:
            for _ in range(min(count, len(self._told))):
                poll, told = self._told.popleft()
                poll.account(told)
                if told.keep_alive:
                    self.resume(poll.socket)
                else:
                    poll.socket.close()
        finally:
            if self._told:
                asyncio.get_running_loop().call_soon(self._settle_some)

    def _look(self) -> None:
        for descriptor, events in self._epoll.poll(0, STIRS_PER_TURN):
            poll = self._polls[descriptor]
            self.take_out(poll)
            if self.hub.leave(poll):  # else it is about to be woken, and finds out then
                poll.stirred(left=bool(events & ~select.EPOLLIN))


class Told(NamedTuple):
    """How a long poll ended. `keep_alive`: the connection is served on, else closed."""

    status: int
    seconds: float
    keep_alive: bool


class ParkedPoll(Waiter):
    """One waiting connection. Owned by the event loop."""

    __slots__ = ("_keep_alive", "_lot", "_request_id", "_route", "_started", "_user_id", "socket")

    def __init__(
        self,
        lot: Lot,
        socket: socket.socket,
        *,
        positions: tuple[int, ...],
        device_id: int,
        user_id: int,
        timeout_s: float,
        request_id: str,
        route: Route,
        keep_alive: bool,
    ) -> None:
        """`keep_alive`: the connection is served on after the answer, else closed."""
        super().__init__(positions, device_id, asyncio.get_running_loop().time() + timeout_s)
        self.socket = socket
        self._lot = lot
        self._user_id = user_id
        self._request_id = request_id
        self._route = route
        self._keep_alive = keep_alive
        self._started = time.monotonic()

    def woken(self, why: Why) -> None:
        self._lot.take_out(self)
        status, body = answer(why, self._request_id)
        keep_alive = self._keep_alive and why is not Why.DRAIN
        try:
            # An idle connection's send buffer is empty: this small answer goes out whole or not at all.
            self.socket.send(render(status, body, self._request_id, keep_alive=keep_alive))
        except OSError:
            status, keep_alive = CLIENT_GONE, False
        self._lot.told(self, Told(status, time.monotonic() - self._started, keep_alive))

    def stirred(self, *, left: bool) -> None:
        """The client `left`, or sends more before it has its answer: then that is answered first."""
        if left:
            self.socket.close()
            self.account(Told(CLIENT_GONE, time.monotonic() - self._started, keep_alive=False))
        else:
            self.woken(Why.TIMEOUT)

    def account(self, told: Told) -> None:
        """Count and log the request."""
        self._route.account(Finished(self._request_id, "GET", self._user_id, told.status, told.seconds), waited=True)


def answer(why: Why, request_id: str) -> tuple[int, bytes]:
    """Status and body for a poll that ends because of `why`."""
    if why is Why.SIGNED_OUT:
        error = NotLoggedIn()
        return error.status, error_body(error, request_id)
    backoff = draw_backoff() if why is Why.DRAIN else 0.0
    return 200, msgspec.json.encode(LongpollAnswer(changes=why is Why.MOVED, backoff=backoff))


def render(status: int, body: bytes, request_id: str, *, keep_alive: bool) -> bytes:
    """The HTTP answer as it goes over the wire."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Server: holdfast\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(body)}\r\n"
    )
    if not keep_alive:
        head += "Connection: close\r\n"
    return f"{head}\r\n".encode() + body
