"""A service that misbehaves on request: plain HTTP on the loopback address, passed on to a real appliance over TLS.

A test adds rules: a call that matches one is answered by the rule, loses its answer, or waits until the test has done
something. Everything else passes through untouched. `calls` lists what was asked, in order.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Protocol, Self

import urllib3

_PIECE_BYTES = 256 * 1024
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "host", "date", "server"}
_ANSWER_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Call:
    """One request: `target` is its path with the query."""

    method: str
    target: str


@dataclass(frozen=True)
class Given:
    """An answer that a rule gives, or the service gave."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class NoAnswer(Exception):
    """Raised by a rule: the connection ends without an answer."""


class Forward(Protocol):
    """Asks the service, for something else where a `target` is given."""

    def __call__(self, target: str | None = None) -> Given: ...


# A rule for a call: gives the answer, asking the service or not.
Rule = Callable[[Call, Forward], Given]


@dataclass
class _Listed:
    method: str
    pattern: re.Pattern[str]
    rule: Rule
    times: int | None


class HttpProxy:
    """`with HttpProxy(appliance.url, ca_file) as proxy:` and log in at `proxy.url`.

    Each connection has a thread; `_lock` guards the rules and the list of calls. Rules run in the connection's thread.
    """

    def __init__(self, target_url: str, ca_file: str) -> None:
        self.target_url = target_url
        self.pool = urllib3.PoolManager(ca_certs=ca_file, retries=False, maxsize=32, timeout=_ANSWER_TIMEOUT_S)
        self._lock = threading.Lock()
        self._rules: list[_Listed] = []
        self._calls: list[Call] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="http-proxy", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.pool.clear()

    # --- rules: `method` is exact, `pattern` is searched in the target; the newest matching rule counts

    def add(self, method: str, pattern: str, rule: Rule, *, times: int | None = None) -> None:
        """`times`: how often, None for ever."""
        with self._lock:
            self._rules.insert(0, _Listed(method, re.compile(pattern), rule, times))

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def answer(self, method: str, pattern: str, status: int, code: str, *, times: int | None = None) -> None:
        """Refuse without asking the service."""
        error = {"code": code, "message": "The test says so.", "request_id": "test"}
        body = json.dumps({"error": error}).encode()
        headers = {"Content-Type": "application/json", "Retry-After": "0"}
        self.add(method, pattern, lambda call, forward: Given(status, body, headers), times=times)

    def lose_answer(self, method: str, pattern: str, *, times: int = 1) -> None:
        """The service does what is asked, and nobody hears of it."""

        def lose(call: Call, forward: Forward) -> Given:
            forward()
            raise NoAnswer

        self.add(method, pattern, lose, times=times)

    def before(self, method: str, pattern: str, action: Callable[[], object], *, times: int | None = 1) -> None:
        """Do something before the call is passed on."""

        def act(call: Call, forward: Forward) -> Given:
            action()
            return forward()

        self.add(method, pattern, act, times=times)

    def after(self, method: str, pattern: str, action: Callable[[], object], *, times: int | None = 1) -> None:
        """Do something when the service has answered, before the caller hears of it."""

        def act(call: Call, forward: Forward) -> Given:
            answer = forward()
            action()
            return answer

        self.add(method, pattern, act, times=times)

    @property
    def calls(self) -> list[Call]:
        """What was asked so far."""
        with self._lock:
            return list(self._calls)

    def count(self, method: str, pattern: str) -> int:
        """How many of those match."""
        return sum(call.method == method and bool(re.search(pattern, call.target)) for call in self.calls)

    @contextlib.contextmanager
    def counted(self, method: str, pattern: str) -> Iterator[Callable[[], int]]:
        """How many calls match inside the block."""
        before = self.count(method, pattern)
        yield lambda: self.count(method, pattern) - before

    def _find(self, call: Call) -> Rule | None:
        with self._lock:
            self._calls.append(call)
            for listed in self._rules:
                if listed.method == call.method and listed.pattern.search(call.target) and listed.times != 0:
                    if listed.times is not None:
                        listed.times -= 1
                    return listed.rule
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: HttpProxy

    def _serve(self) -> None:
        call = Call(self.command, self.path)
        body = self._read_body()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        rule = self.proxy._find(call)

        def forward(target: str | None = None) -> Given:
            url = self.proxy.target_url + (target or call.target)
            answer = self.proxy.pool.request(call.method, url, body=body, headers=headers, preload_content=False)
            data = answer.read(decode_content=False)
            answer.release_conn()
            return Given(answer.status, data, dict(answer.headers))

        try:
            given = forward() if rule is None else rule(call, forward)
        except (NoAnswer, urllib3.exceptions.HTTPError):
            self.close_connection = True
            return
        with contextlib.suppress(OSError):  # the client has gone meanwhile
            self._answer(given)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, given: Given) -> None:
        self.send_response_only(given.status)
        for name, value in given.headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        length = given.headers.get("Content-Length") if self.command == "HEAD" else str(len(given.body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(given.body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
