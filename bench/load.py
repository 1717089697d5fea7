"""A load generator: a process that makes HTTP requests of one kind over kept-alive connections and times each.

Protocol with whoever starts it (bench.service): one JSON job on stdin; `ready` on stdout when data and connections are
there; `go` on stdin; one JSON report on stdout. Only what happens after `go` is timed and counted. Plain http.client,
no retries: an answer that is not a success ends the process with its message.
"""

from __future__ import annotations

import http.client
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

_TIMEOUT_S: Final = 300.0
_PIECE_BYTES: Final = 1 << 20


class Account(msgspec.Struct, frozen=True):
    """Where and as whom; `ca_file` None: plain HTTP."""

    url: str
    token: str
    ca_file: str | None = None


class PutFiles(msgspec.Struct, frozen=True, tag=True):
    """Upload generated files, one request each, `at_once` connections; `number` makes their contents new."""

    account: Account
    folder: str
    count: int
    size_bytes: int
    at_once: int
    number: int
    spread: float = 0.0


class GetFiles(msgspec.Struct, frozen=True, tag=True):
    """Download these paths one after the other on each of `at_once` connections."""

    account: Account
    paths: list[str]
    at_once: int


class GetRanges(msgspec.Struct, frozen=True, tag=True):
    """Fetch ranges [start, length] of one file."""

    account: Account
    path: str
    ranges: list[tuple[int, int]]


class Stream(msgspec.Struct, frozen=True, tag=True):
    """Upload `count` files of `size_bytes`, one request each, all of them at the same time."""

    account: Account
    folder: str
    count: int
    size_bytes: int
    number: int


class Calls(msgspec.Struct, frozen=True, tag=True):
    """Make these API calls one after the other: [method, path with query, JSON body or None]."""

    account: Account
    calls: list[tuple[str, str, str | None]]


Job = PutFiles | GetFiles | GetRanges | Stream | Calls


class Report(msgspec.Struct, frozen=True):
    """`seconds` from `go` to the last answer, this process's CPU meanwhile, and each request's latency."""

    seconds: float
    cpu_s: float
    latencies_s: list[float]


def encode_job(job: Job) -> bytes:
    """A job as a line."""
    return msgspec.json.encode(job) + b"\n"


class Client:
    """One kept-alive connection."""

    def __init__(self, account: Account) -> None:
        parts = urlsplit(account.url)
        assert parts.hostname is not None
        self._headers = {"Authorization": f"Bearer {account.token}"}
        self._connection: http.client.HTTPConnection
        if account.ca_file is None:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
        else:
            context = ssl.create_default_context(cafile=account.ca_file)
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=_TIMEOUT_S, context=context
            )

    def open(self) -> None:
        """Connect, and make one call so that everything is warm."""
        self.call("GET", "/api/v1/auth/whoami")

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """One request; the body of a 2xx answer. Anything else ends the process."""
        self._connection.request(method, path, body=body, headers={**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        data = answer.read()
        if not 200 <= answer.status < 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def put_path(folder: str, name: str) -> str:
    """The address of a simple upload."""
    return f"/api/v1/files/upload?uploadType=simple&path={quote(f'{folder}/{name}', safe='')}"


def get_path(path: str) -> str:
    """The address of a download."""
    return f"/api/v1/files/download?path={quote(path, safe='')}"


Step = Callable[[Client], object]


def main() -> None:
    """Read the job, prepare, wait, work, report."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    at_once, steps = _prepare(job)
    clients = [Client(job.account) for _ in range(at_once)]
    for client in clients:
        client.open()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.readline()
    cpu_s, began = time.process_time(), time.monotonic()
    latencies = _work(clients, steps)
    report = Report(time.monotonic() - began, time.process_time() - cpu_s, latencies)
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.flush()


def _work(clients: Sequence[Client], steps: Sequence[Step]) -> list[float]:
    """Every step once, by whichever client is free; the latencies in the order of the steps."""
    latencies = [0.0] * len(steps)
    lock = threading.Lock()
    waiting = iter(enumerate(steps))

    def drain(client: Client) -> None:
        while True:
            with lock:
                index, step = next(waiting, (-1, None))
            if step is None:
                return
            began = time.perf_counter()
            step(client)
            latencies[index] = time.perf_counter() - began

    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(drain, client) for client in clients]:
            done.result()
    return latencies


def _prepare(job: Job) -> tuple[int, list[Step]]:
    """How many connections, and the steps."""
    match job:
        case PutFiles():
            return job.at_once, _put_steps(job)
        case GetFiles():
            return job.at_once, [_get_step(path) for path in job.paths]
        case GetRanges():
            return 1, [_range_step(job.path, start, length) for start, length in job.ranges]
        case Stream():
            return job.count, [_stream_step(job, index) for index in range(job.count)]
        case Calls():
            return 1, [_call_step(*call) for call in job.calls]


def _put_steps(job: PutFiles) -> list[Step]:
    from bench.corpus import make_small  # noqa: PLC0415 - numpy costs 25 MB, which other jobs do without

    files = make_small(job.count, job.size_bytes, job.number, spread=job.spread)
    return [_put_step(job.folder, f"{index:05d}", file.data) for index, file in enumerate(files)]


def _put_step(folder: str, name: str, data: bytes) -> Step:
    path = put_path(folder, name)
    return lambda client: client.call("POST", path, data)


def _get_step(path: str) -> Step:
    return lambda client: client.call("GET", get_path(path))


def _range_step(path: str, start: int, length: int) -> Step:
    headers = {"Range": f"bytes={start}-{start + length - 1}"}
    return lambda client: client.call("GET", get_path(path), headers=headers)


def _call_step(method: str, path: str, body: str | None) -> Step:
    data = None if body is None else body.encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    return lambda client: client.call(method, path, data, headers)


def _stream_step(job: Stream, index: int) -> Step:
    path = put_path(job.folder, f"{index:05d}")
    headers = {"Content-Length": str(job.size_bytes)}
    return lambda client: client.call("POST", path, _unique_pieces(job, index), headers)


def _unique_pieces(job: Stream, index: int) -> Iterator[bytes]:
    """Bytes that do not compress; each piece carries its own stamp, so that no block comes twice."""
    piece = bytearray(Random(job.number << 16 | index).randbytes(_PIECE_BYTES))
    for start in range(0, job.size_bytes, _PIECE_BYTES):
        piece[:16] = index.to_bytes(8, "big") + start.to_bytes(8, "big")
        yield bytes(piece[: min(_PIECE_BYTES, job.size_bytes - start)])


if __name__ == "__main__":
    main()
