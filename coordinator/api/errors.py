"""How a failure becomes an answer: any exception to an ApiError, an ApiError to its JSON object and headers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from tornado.httputil import HTTPInputError
from tornado.web import HTTPError

from coordinator.protocol.errors import (
    ApiError,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Unavailable,
)

_RESERVED: Final = frozenset({"code", "message", "request_id"})


def as_api_error(cause: BaseException | None, *, method: str) -> ApiError:
    """What the caller is told about `cause`. Anything that is nobody's decision is an InternalError."""
    match cause:
        case ApiError():
            return cause
        case HTTPError(status_code=404):
            return NotFound(what="address")
        case HTTPError(status_code=405):
            return MethodNotAllowed(method=method)
        case HTTPError(status_code=status) if 400 <= status < 500:
            return BadRequest(reason="a part of it cannot be read")
        case HTTPInputError() | msgspec.DecodeError():
            return BadRequest(reason="a part of it cannot be read")
        case TimeoutError() | asyncio.CancelledError():
            return Unavailable()
    return InternalError()


def error_body(error: ApiError, request_id: str) -> bytes:
    """The answer's body. Facts stand beside code and message, for programs."""
    return msgspec.json.encode({"error": error_object(error, request_id)})


def error_object(error: ApiError, request_id: str) -> dict[str, object]:
    """The object under "error", also used for each entry of a batch."""
    facts = {name: _plain(value) for name, value in error.facts.items() if name not in _RESERVED}
    return {"code": error.code, "message": error.message, "request_id": request_id, **facts}


def error_headers(error: ApiError) -> Mapping[str, str]:
    """Headers that HTTP wants beside some codes."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after_s" in error.facts:
        headers["Retry-After"] = str(error.facts["retry_after_s"])
    return headers


def _plain(value: object) -> object:
    """A fact as JSON takes it; hashes in hex, as everywhere in the API."""
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
        case None | bool() | int() | float() | str() | dict() | datetime():
            return value
    return str(value)
