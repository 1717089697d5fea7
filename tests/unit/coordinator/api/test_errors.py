"""Failures as answers."""

from __future__ import annotations

import json
import string

import pytest
from tornado.web import HTTPError

from coordinator.api.errors import as_api_error, error_body, error_headers
from coordinator.protocol.errors import (
    ERRORS,
    InternalError,
    NotFound,
    NotLoggedIn,
    TooManyRequests,
    VersionConflict,
)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (NotFound(what="file"), "not_found"),
        (HTTPError(404), "not_found"),
        (HTTPError(405), "method_not_allowed"),
        (HTTPError(400), "bad_request"),
        (TimeoutError(), "unavailable"),
        (ZeroDivisionError(), "internal_error"),
        (HTTPError(500), "internal_error"),
        (None, "internal_error"),
    ],
)
def test_every_failure_has_a_code(cause: Exception | None, code: str) -> None:
    assert as_api_error(cause, method="GET").code == code


def test_facts_stand_beside_code_and_message_but_cannot_replace_them() -> None:
    error = VersionConflict(current_version=7, code="forged", digest=b"\x01\xff")
    assert json.loads(error_body(error, "req"))["error"] == {
        "code": "version_conflict",
        "message": VersionConflict.template,
        "request_id": "req",
        "current_version": 7,
        "digest": "01ff",
    }


def test_headers_that_http_wants() -> None:
    assert error_headers(NotLoggedIn()) == {"WWW-Authenticate": "Bearer"}
    assert error_headers(TooManyRequests(retry_after_s=12)) == {"Retry-After": "12"}
    assert error_headers(InternalError()) == {}


def test_internal_errors_tell_nothing_of_their_cause() -> None:
    secret = RuntimeError("password=hunter2")
    assert b"hunter2" not in error_body(as_api_error(secret, method="GET"), "r")


def test_every_error_has_a_status_and_a_sentence() -> None:
    for code, kind in ERRORS.items():
        names = [name for _, name, _, _ in string.Formatter().parse(kind.template) if name]
        error = kind(**dict.fromkeys(names, "x"))
        assert error.code == code and 400 <= error.status < 600
        assert error.message.endswith("."), code
