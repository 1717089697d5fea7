"""The answers of a long poll, as bytes."""

from __future__ import annotations

import json

from coordinator.notify.hub import Why
from coordinator.notify.longpoll import BACKOFF_S, answer, draw_timeout, render


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
