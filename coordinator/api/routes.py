"""What a route is: its line in the table, what its methods are described as, and what is counted of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from tornado.web import RequestHandler

from coordinator.metrics import BYTES_IN, BYTES_OUT, REQUEST_SECONDS, REQUESTS

log = logging.getLogger("coordinator.api")

CLIENT_GONE: Final = 499  # only in the log and the metrics: the client left before the answer

_F = TypeVar("_F", bound=Callable[..., object])
_METHODS: Final = frozenset(RequestHandler.SUPPORTED_METHODS)


class RouteSpec(NamedTuple):
    """A line of the routes table; `{name}` in the path becomes the handler's argument `name`."""

    name: str
    path: str
    handler: type[RequestHandler]
    log_level: int = logging.INFO


@dataclass(frozen=True)
class Operation:
    """One method of a handler as the API's description tells it. `query` maps an argument's name to its type."""

    summary: str
    body: type | None = None
    answer: type | None = None
    status: int = 200
    query: Mapping[str, Any] = field(default_factory=dict)


def operation(
    summary: str,
    *,
    body: type | None = None,
    answer: type | None = None,
    status: int = 200,
    query: Mapping[str, Any] | None = None,
) -> Callable[[_F], _F]:
    """Describe a handler's method for openapi.py."""

    def describe(method: _F) -> _F:
        method.operation = Operation(summary, body, answer, status, query or {})  # type: ignore[attr-defined]  # read back by openapi.py
        return method

    return describe


class Finished(NamedTuple):
    """An answered request, as it is counted and logged. It names no path: that would be a user's file name."""

    request_id: str
    method: str
    user_id: int | None
    status: int
    seconds: float
    bytes_in: int = 0
    bytes_out: int = 0


class Route:
    """One route's name and metrics, the labels resolved once: looking one up costs more than counting."""

    def __init__(self, name: str, log_level: int = logging.INFO) -> None:
        self.name = name
        self._log_level = log_level
        self._seconds = REQUEST_SECONDS.labels(name)
        self._bytes_in = BYTES_IN.labels(name)
        self._bytes_out = BYTES_OUT.labels(name)
        self._requests: dict[tuple[str, int], Any] = {}

    def account(self, request: Finished, *, waited: bool = False) -> None:
        """Count the request and write its one line. `waited`: for something else, so its time says nothing."""
        method = request.method if request.method in _METHODS else "other"
        counter = self._requests.get((method, request.status))
        if counter is None:
            counter = self._requests[method, request.status] = REQUESTS.labels(self.name, method, str(request.status))
        counter.inc()
        if not waited:
            self._seconds.observe(request.seconds)
        if request.bytes_in:
            self._bytes_in.inc(request.bytes_in)
        if request.bytes_out:
            self._bytes_out.inc(request.bytes_out)
        if log.isEnabledFor(self._log_level):
            fields = {
                "request": request.request_id,
                "method": method,
                "route": self.name,
                "status": request.status,
                "took_ms": round(request.seconds * 1000, 2),
                "bytes_in": request.bytes_in,
                "bytes_out": request.bytes_out,
                "user": request.user_id,
            }
            log.log(self._log_level, "request.done", extra=fields)
