"""Many idle long polls from one process: opens them, waits for all answers, tells when the last one came.

`IdleClient` starts `python -m bench.idle` and speaks to it: one JSON job on stdin, `waiting` when every request has
been sent, and the time of the last answer, on the clock that all processes of a machine share, when all are in.
"""

from __future__ import annotations

import select
import selectors
import socket
import ssl
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

import msgspec

from bench.load import Account, Client
from tests.kit.cluster import child_environment

_POLL_S: Final = 480  # the longest that the service offers
_SOCKET_TIMEOUT_S: Final = 60.0
_ARRIVE_S: Final = 1.0
_PACE: Final = 20
_WAKE_TIMEOUT_S: Final = 120.0


class Idle(msgspec.Struct, frozen=True):
    """`count` long polls past `cursor`."""

    account: Account
    cursor: str
    count: int


class IdleClient:
    """One process with many long polls; it ends with the `with` block."""

    def __init__(self, job: Idle) -> None:
        self._job = job

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.idle"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(),
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(self._job) + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def now() -> float:
        """Seconds on the machine's one monotonic clock."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def wait_until_waiting(self, timeout_s: float) -> None:
        """Until all long polls have reached the service."""
        if self._line(timeout_s) != b"waiting":
            raise RuntimeError("the long polls were not opened; see the message above")

    def woken_at(self) -> float:
        """When the last one was answered, as `now` counts."""
        return float(self._line(_WAKE_TIMEOUT_S))

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise RuntimeError(f"a process with long polls said nothing for {timeout_s:g} s")
        return self._process.stdout.readline().strip()


def main() -> None:
    """Open all, tell, wait for all, tell."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Idle)
    request = (
        f"GET /api/v1/changes/longpoll?cursor={quote(job.cursor, safe='')}&timeout={_POLL_S} HTTP/1.1\r\n"
        f"Host: bench\r\nAuthorization: Bearer {job.account.token}\r\n\r\n"
    ).encode()
    context = None if job.account.ca_file is None else ssl.create_default_context(cafile=job.account.ca_file)
    waiting = selectors.DefaultSelector()
    pace = Client(job.account)
    for index in range(job.count):
        connection = _open(job.account.url, context)
        connection.sendall(request)
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ)
        if index % _PACE == 0:
            pace.open()  # answered only after what was sent before: nobody opens thousands in one instant
    pace.open()
    pace.close()
    time.sleep(_ARRIVE_S)
    _tell("waiting")
    last = 0.0
    left = job.count
    while left:
        for key, _ in waiting.select(_WAKE_TIMEOUT_S):
            if _answered(key.fileobj):
                waiting.unregister(key.fileobj)
                left -= 1
                last = IdleClient.now()
    _tell(str(last))
    sys.stdin.buffer.readline()  # keep the connections until the starter ends us


def _open(url: str, context: ssl.SSLContext | None) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    plain = socket.create_connection((parts.hostname, parts.port or 443), timeout=_SOCKET_TIMEOUT_S)
    return plain if context is None else context.wrap_socket(plain, server_hostname=parts.hostname)


def _answered(connection: object) -> bool:
    """Whether an answer has come; with TLS the bytes may have been a session ticket."""
    assert isinstance(connection, socket.socket)
    try:
        answer = connection.recv(4096)
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"a long poll was answered with {answer[:300]!r}")
    return True


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
