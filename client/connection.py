"""HTTP to one service: a pool of kept-alive connections, certificates always checked, failed calls made again.

Guarantees: `call` answers a 2xx (or a status in `accept`) or raises a ClientError; it never hangs, since connecting,
sending and every read have time limits and retries have a patience. Safe for any number of threads.
Does not: know what the calls mean (client.api).
"""

from __future__ import annotations

import random
import ssl
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from client.errors import BadAnswer, Refused, Unreachable, Untrusted, UsageProblem
from client.retry import Failure, RetryPolicy

USER_AGENT: Final = "holdfast/0.1"
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 512 * 1024 * 1024  # unpacked; the recipe of the largest file is 270 MB
READ_TIMEOUT_S: Final = 60.0  # the longest silence; a degraded write waits for the hedge time-out of the storage
_BUSY: Final = frozenset({429, 502, 503, 504})
_GZIP: Final = 16 + zlib.MAX_WBITS
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Answer:
    """`repeated`: an earlier attempt may have reached the service, so the call may have been carried out twice."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    repeated: bool

    def check(self, about: str | None = None) -> Answer:
        """This answer, or Refused raised where it is an error that the caller had accepted but cannot explain."""
        if self.status >= 400:
            refusal = _refusal(self.status, self.body)
            refusal.path = about
            raise refusal
        return self


def clean_url(url: str) -> str:
    """The service's base address without a trailing slash; `https://` where no scheme is given.

    Raises UsageProblem for what is no address, and for plain HTTP to another machine: the password and every file
    would cross the network readable by anybody.
    """
    text = url if "://" in url else "https://" + url
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username:
        raise UsageProblem(reason=f"{url!r} is not the address of a service; write https://HOST:PORT.")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise UsageProblem(reason=f"{url!r} is not encrypted; only https:// is taken, except on this computer itself.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def quote_query(query: Mapping[str, str | int | None]) -> str:
    """`?a=1&b=2` without the entries that are None; "" when none is left."""
    encoded = urlencode({name: value for name, value in query.items() if value is not None})
    return "?" + encoded if encoded else ""


class Connection:
    """The pool belongs to this object; `_reached`, set by any thread, tells that the service has answered."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_pem: str | None = None,
        retry: RetryPolicy | None = None,
        connections_max: int = 8,
    ) -> None:
        self.url = url
        self._retry = retry or RetryPolicy()
        self._reached = False
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        context = _tls_context(ca_pem, url) if url.startswith("https:") else None
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=connections_max,
            headers=headers,
            ssl_context=context,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        )

    def close(self) -> None:
        self._pool.clear()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | bytearray | memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        accept: Collection[int] = (),
    ) -> Answer:
        """One request, repeated while that makes sense. `path` begins with a slash and is quoted. A compressed answer,
        which the service sends only where `headers` ask for it, is unpacked.

        Raises Refused (the service said no), Unreachable, Untrusted or BadAnswer.
        """
        started, attempts, repeated = time.monotonic(), 0, False
        while True:
            attempts += 1
            retry_after_s = None
            refusal: Refused | None = None
            cause: Exception | None = None
            try:
                response = self._send(method, path, body, headers, read_timeout_s, stream=False)
            except HTTPError as error:
                failure, cause = self._classify(error), error
            else:
                content = self._unpacked(response)
                if 200 <= response.status < 300 or response.status in accept:
                    return Answer(response.status, response.headers, content, repeated)
                refusal, retry_after_s = _refusal(response.status, content), _retry_after_s(response.headers)
                if not _worth_repeating(refusal):
                    raise refusal
                failure = Failure.BUSY if refusal.status in _BUSY else Failure.INTERNAL
            delay = self._retry.next_delay(
                failure,
                attempts=attempts,
                elapsed_s=time.monotonic() - started,
                reached_before=self._reached,
                jitter=random.random(),  # noqa: S311  # spreads clients, guards nothing
                retry_after_s=retry_after_s,
            )
            if delay is None:
                raise refusal or Unreachable(url=self.url, reason=failure.value) from cause
            repeated = repeated or failure in (Failure.BROKEN, Failure.SILENT, Failure.INTERNAL)
            time.sleep(delay)

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """One GET, not repeated: (status, body in pieces of at most 1 MiB).

        A body that breaks off raises ConnectionError; the caller continues it with a range. Raises like `call`.
        """
        try:
            response = self._send("GET", path, None, headers, READ_TIMEOUT_S, stream=True)
        except HTTPError as error:
            raise ConnectionError(self._classify(error).value) from error
        try:
            if not 200 <= response.status < 300:
                refusal = _refusal(response.status, response.read())
                if _worth_repeating(refusal):
                    raise ConnectionError(refusal.message) from refusal
                raise refusal
            yield response.status, _pieces(response)
        finally:
            # A body that was not read to its end makes the connection useless for the next call.
            response.close()
            response.release_conn()

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | bytearray | memoryview | None,
        headers: Mapping[str, str] | None,
        read_timeout_s: float,
        *,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        response = self._pool.request(
            method,
            self.url + path,
            body=body,  # type: ignore[arg-type]  # urllib3 sends any buffer without copying it
            headers={**self._pool.headers, **(headers or {})},
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
            redirect=False,
            preload_content=not stream,
            decode_content=False,
        )
        self._reached = True
        return response

    def _unpacked(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The answer's body. Raises BadAnswer for what is not gzip as it claims, or unpacks to more than any answer."""
        packed = response.data
        if not packed or response.headers.get("Content-Encoding", "identity").lower() != "gzip":
            return packed
        unpacker = zlib.decompressobj(wbits=_GZIP)
        try:
            content = unpacker.decompress(packed, ANSWER_BYTES_MAX)
        except zlib.error as error:
            raise BadAnswer(url=self.url, reason="it is not compressed as it says") from error
        if not unpacker.eof:
            raise BadAnswer(url=self.url, reason="it is cut off, or larger than any answer")
        return content

    def _classify(self, error: HTTPError) -> Failure:
        """Raises where repeating cannot help."""
        if isinstance(error, NameResolutionError):
            raise Unreachable(url=self.url, reason="there is no machine of this name") from error
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            return Failure.REFUSED
        if isinstance(error, SSLError):
            if isinstance(cause := error.args[0] if error.args else None, ssl.SSLCertVerificationError):
                raise Untrusted(url=self.url, reason=cause.verify_message) from error
            return Failure.BROKEN
        if isinstance(error, ReadTimeoutError):
            return Failure.SILENT
        if isinstance(error, LocationParseError):
            raise UsageProblem(reason=f"{self.url!r} is not the address of a service.") from error
        if isinstance(error, ProtocolError):
            return Failure.BROKEN
        raise BadAnswer(url=self.url, reason=str(error)) from error


def _tls_context(ca_pem: str | None, url: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=ca_pem)
    except ssl.SSLError as error:
        raise Untrusted(url=url, reason="the CA file holds no usable certificate") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read(1 << 20):
            yield piece
    except HTTPError as error:
        raise ConnectionError(Failure.BROKEN.value) from error


def _refusal(status: int, body: bytes) -> Refused:
    """The error object of an answer; a proxy's page instead of one still makes a refusal."""
    try:
        error = msgspec.json.decode(body)["error"]
        return Refused(status, error if isinstance(error, dict) else {})
    except (msgspec.MsgspecError, KeyError, TypeError):
        return Refused(status, {})


def _worth_repeating(refusal: Refused) -> bool:
    if refusal.code in ("block_damaged", "cluster_full", "quota_exceeded"):
        return False
    return refusal.status in _BUSY or refusal.status == 500


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The header in its form of seconds; the service never uses the form of a date."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else None
