"""A long poll while it waits: a connection without its request.

A handler, its request, its task and its stream cost about 10 KB, thousands of them for nothing but waiting. So the
handler hands the bare socket over to a `ParkedPoll`, and all else is freed. The answer is written to the socket, and
the connection is served on from there as if it were new.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec

from coordinator.api.errors import error_body
from coordinator.api.routes import CLIENT_GONE, Finished, Route
from coordinator.notify.hub import Hub, Waiter, Why
from coordinator.protocol.errors import NotLoggedIn
from coordinator.protocol.types import LongpollAnswer

TIMEOUT_S_MIN: Final = 1
TIMEOUT_S_MAX: Final = 480
JITTER: Final = 0.1  # of the timeout: clients that began together do not end together
BACKOFF_S: Final = (1.0, 30.0)  # what clients of a stopping or full worker are told, at random


def draw_backoff() -> float:
    """Seconds to wait before the next try, when everybody would come back at once otherwise."""
    return round(random.uniform(*BACKOFF_S), 1)  # noqa: S311 -- spreads load, keeps no secret


def draw_timeout(asked_s: int) -> float:
    return asked_s * (1 + random.uniform(0, JITTER))  # noqa: S311 -- spreads load, keeps no secret


class ParkedPoll(Waiter):
    """One waiting connection. Owned by the event loop; the hub holds it until it is woken or its client stirs."""

    __slots__ = ("_hub", "_request_id", "_resume", "_route", "_socket", "_started", "_user_id")

    def __init__(
        self,
        hub: Hub,
        socket: socket.socket,
        *,
        positions: tuple[tuple[int, int], ...],
        device_id: int,
        user_id: int,
        timeout_s: float,
        request_id: str,
        route: Route,
        resume: Callable[[socket.socket], None] | None,
    ) -> None:
        """`resume` serves the connection on after the answer; None closes it then."""
        super().__init__(positions, device_id, asyncio.get_running_loop().time() + timeout_s)
        self._hub = hub
        self._socket = socket
        self._user_id = user_id
        self._request_id = request_id
        self._route = route
        self._resume = resume
        self._started = time.monotonic()

    def park(self) -> None:
        """Wait from now on."""
        asyncio.get_running_loop().add_reader(self._socket, self._stirred)
        self._hub.park(self)

    def woken(self, why: Why) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        status, body = answer(why, self._request_id)
        resume = None if why is Why.DRAIN else self._resume
        try:
            # An idle connection's send buffer is empty: this small answer goes out whole or not at all.
            self._socket.send(render(status, body, self._request_id, keep_alive=resume is not None))
        except OSError:
            status, resume = CLIENT_GONE, None
        seconds = time.monotonic() - self._started
        self._route.account(Finished(self._request_id, "GET", self._user_id, status, seconds), waited=True)
        if resume is None:
            self._socket.close()
        else:
            resume(self._socket)

    def _stirred(self) -> None:
        """The client left, or sends more before it has its answer. Either way the poll ends; what came is read next."""
        if self._hub.leave(self):
            self.woken(Why.TIMEOUT)


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
