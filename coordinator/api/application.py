"""All addresses of the API: the table of routes, and the way from a request to its handler.

Guarantees: an address that is not in the table is answered in the API's error form. Does not: listen (server.py) or
know what a route does (one module for each resource).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine, ResponseStartLine
from tornado.web import Application, RequestHandler, _HandlerDelegate

from coordinator.api import (
    admin,
    auth,
    blocks,
    changes,
    deltas,
    devices,
    download,
    fetch,
    files,
    health,
    notifications,
    openapi,
    tus,
    upload,
)
from coordinator.api.base import Running, UnknownAddress
from coordinator.api.routes import Route, RouteSpec
from coordinator.services import Services

ROUTES: Final[tuple[RouteSpec, ...]] = (
    *deltas.ROUTES,
    *blocks.ROUTES,
    *changes.ROUTES,
    *files.ROUTES,
    *upload.ROUTES,
    *download.ROUTES,
    *fetch.ROUTES,
    *tus.ROUTES,
    *auth.ROUTES,
    *devices.ROUTES,
    *notifications.ROUTES,
    *admin.ROUTES,
    *health.ROUTES,
    *openapi.ROUTES,
)


_Target = tuple[type[RequestHandler], dict[str, Any]]  # a handler and what its `initialize` takes


class Api(Application):
    """Tornado's application with a dispatcher of its own: an address without parameters costs one look into a dict,
    where tornado tries one regular expression after another."""

    def __init__(self, services: Services, running: Running, routes: Sequence[RouteSpec] = ROUTES) -> None:
        super().__init__(log_function=_log_nothing, routes=routes)
        self._plain: dict[str, _Target] = {}
        self._templates: list[tuple[re.Pattern[str], _Target]] = []
        for spec in routes:
            target = _target(spec.handler, services, running, Route(spec.name, spec.log_level))
            if "{" in spec.path:
                self._templates.append((compile_template(spec.path), target))
            else:
                self._plain[spec.path] = target
        self._unknown = _target(UnknownAddress, services, running, Route("unknown"))

    def find_handler(self, request: HTTPServerRequest, **_kwargs: Any) -> _Delegate:
        path = request.path
        target = self._plain.get(path)
        if target is not None:
            return _Delegate(self, request, *target, None, None)
        for pattern, target in self._templates:
            if match := pattern.fullmatch(path):
                arguments = {name: unquote_to_bytes(value) for name, value in match.groupdict().items()}
                return _Delegate(self, request, *target, None, arguments)
        return _Delegate(self, request, *self._unknown, None, None)


class _Delegate(_HandlerDelegate):
    """All handlers stream their bodies. Where there is none, that costs two turns of the loop for nothing."""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
            return super().headers_received(start_line, headers)
        self.stream_request_body = False
        self.request._body_future = asyncio.get_running_loop().create_future()
        self.request._body_future.set_result(None)
        return None


def compile_template(path: str) -> re.Pattern[str]:
    """The regular expression for a path template: `{name}` stands for one part of the path."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def _target(handler: type[RequestHandler], services: Services, running: Running, route: Route) -> _Target:
    return handler, {"services": services, "route": route, "running": running}


def _log_nothing(_handler: object) -> None:
    """ApiHandler writes the access log itself."""
