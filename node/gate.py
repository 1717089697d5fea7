"""Who may connect: the ZeroMQ authentication (ZAP, RFC 27) of one process, served from the server's own loop."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

import zmq
from zmq.utils import z85

_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"

_log = logging.getLogger(__name__)


class Gate:
    """Lets peers with one of the given CURVE keys in and nobody else. Make it before the first socket binds."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed_keys: Collection[str]) -> None:
        """`allowed_keys` are public keys in Z85."""
        self._allowed = frozenset(z85.decode(key) for key in allowed_keys)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)
        self.refused = 0

    def answer_all(self) -> None:
        """Decide on every connection that waits for it."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            separator = frames.index(b"")
            self.socket.send_multipart(frames[: separator + 1] + self._decide(frames[separator + 1 :]))

    def close(self) -> None:
        self.socket.close()

    def _decide(self, request: list[bytes]) -> list[bytes]:
        version, request_id, _domain, address, _identity, mechanism, *credentials = request
        good = version == _VERSION and mechanism == b"CURVE" and len(credentials) == 1
        if good and credentials[0] in self._allowed:
            return [_VERSION, request_id, b"200", b"OK", z85.encode(credentials[0]), b""]
        self.refused += 1
        _log.warning("peer.refused", extra={"address": address.decode("ascii", "replace")})
        return [_VERSION, request_id, b"400", b"not in the allow-list", b"", b""]
