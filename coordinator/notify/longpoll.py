"""A long poll while it waits: a connection without its request.

A handler, its request and its task cost about 10 KB, thousands of them for nothing but waiting. So the handler hands
the connection's stream over to a `ParkedPoll`, and all else of the request is freed. The answer is written to the bare
stream, and the connection is served on from there as if it were new.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from tornado.iostream import IOStream, StreamClosedError

from coordinator.api.errors import error_body
from coordinator.notify.hub import Hub, Waiter, Why
from coordinator.protocol.errors import NotLoggedIn
from coordinator.protocol.types import LongpollAnswer

log = logging.getLogger("coordinator.api")

TIMEOUT_S_MIN: Final = 1
TIMEOUT_S_MAX: Final = 480
JITTER: Final = 0.1  # of the timeout: clients that began together do not end together
BACKOFF_S: Final = (1.0, 30.0)  # what clients of a stopping or full worker are told, at random

# Serves a stream on as a connection of its own: (stream, address).
Resume = Callable[[IOStream, object], None]
# Accounts for the answered request: (status, seconds).
Account = Callable[[int, float], None]


def draw_backoff() -> float:
    """Seconds to wait before the next try, when everybody would come back at once otherwise."""
    return round(random.uniform(*BACKOFF_S), 1)  # noqa: S311 -- spreads load, keeps no secret


def draw_timeout(asked_s: int) -> float:
    return asked_s * (1 + random.uniform(0, JITTER))  # noqa: S311 -- spreads load, keeps no secret


class ParkedPoll(Waiter):
    """One waiting connection. Owned by the event loop; the hub holds it until it is woken or its client leaves."""

    __slots__ = ("_account", "_address", "_hub", "_keep_alive", "_request_id", "_resume", "_started", "_stream")

    def __init__(
        self,
        hub: Hub,
        stream: IOStream,
        address: object,
        *,
        positions: Mapping[int, int],
        device_id: int,
        deadline: float,
        request_id: str,
        keep_alive: bool,
        resume: Resume,
        account: Account,
    ) -> None:
        super().__init__(positions, device_id, deadline)
        self._hub = hub
        self._stream = stream
        self._address = address
        self._request_id = request_id
        self._keep_alive = keep_alive
        self._resume = resume
        self._account = account
        self._started = time.monotonic()

    def park(self) -> None:
        """Wait from now on."""
        self._hub.park(self)
        self._stream.set_close_callback(self._gone)

    def woken(self, why: Why) -> None:
        stream = self._stream
        if stream.closed():
            return
        stream.set_close_callback(None)
        status, body = answer(why, self._request_id)
        keep_alive = self._keep_alive and why is not Why.DRAIN
        try:
            written = stream.write(render(status, body, self._request_id, keep_alive))
        except StreamClosedError:
            return
        self._account(status, time.monotonic() - self._started)
        if keep_alive:
            self._resume(stream, self._address)
        else:
            written.add_done_callback(lambda _: stream.close())

    def _gone(self) -> None:
        """The client closed the connection."""
        self._hub.leave(self)


def answer(why: Why, request_id: str) -> tuple[int, bytes]:
    """Status and body for a poll that ends because of `why`."""
    if why is Why.SIGNED_OUT:
        error = NotLoggedIn()
        return error.status, error_body(error, request_id)
    backoff = draw_backoff() if why is Why.DRAIN else 0.0
    return 200, msgspec.json.encode(LongpollAnswer(changes=why is Why.MOVED, backoff=backoff))


def render(status: int, body: bytes, request_id: str, keep_alive: bool) -> bytes:
    """The HTTP answer as it goes over the wire."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Server: holdfast\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(body)}\r\n"
    )
    if not keep_alive:
        head += "Connection: close\r\n"
    return f"{head}\r\n".encode() + body
