"""Where a worker listens: the configured address, or a socket that was inherited, and its TLS."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from typing import Final, NamedTuple

from tornado.netutil import bind_sockets

from coordinator.config import CoordinatorConfig

BACKLOG: Final = 1024

log = logging.getLogger("coordinator.api")


class ListenError(Exception):
    """The configured address cannot be listened on; the message says why."""


class _Place(NamedTuple):
    """An address to listen on: an inherited descriptor, or a host and a port."""

    descriptor: int | None
    host: str
    port: int


def parse_listen(address: str) -> _Place:
    """Raises ListenError."""
    if match := re.fullmatch(r"fd:([0-9]{1,6})", address):
        return _Place(int(match[1]), "", 0)
    if match := re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", address):
        return _Place(None, match[1] or match[2], int(match[3]))
    raise ListenError(f"{address!r} is neither host:port nor fd:number")


def open_listener(address: str) -> list[socket.socket]:
    """Listening sockets for `address`. Raises ListenError."""
    place = parse_listen(address)
    try:
        if place.descriptor is None:
            return bind_sockets(place.port, place.host or None, backlog=BACKLOG)
        inherited = socket.socket(fileno=place.descriptor)
        inherited.setblocking(False)
        if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(f"{address} is not a listening socket")
        return [inherited]
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error


class Tls:
    """The TLS context for new connections; connections that stand keep theirs. Owned by the event loop."""

    def __init__(self, config: CoordinatorConfig) -> None:
        """Raises ListenError."""
        self._config = config
        self._seen = self._look()
        self.context = make_tls_context(config)  # None: plain HTTP

    def refresh(self) -> None:
        """Take up a certificate and key that were replaced. While they do not fit together the old ones stay in use."""
        found = self._look()
        if found == self._seen:
            return
        self._seen = found
        try:
            # A new one, since a context that has taken only one of the two files could serve nobody.
            self.context = make_tls_context(self._config)
        except ListenError as error:
            log.warning("tls.not_renewed", extra={"reason": str(error)})
        else:
            log.info("tls.renewed")

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._config.tls_cert_file, self._config.tls_key_file) if path is not None]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class SlimSocket(ssl.SSLSocket):
    """An SSLSocket whose fields need no dictionary, which is 270 bytes of every waiting connection."""

    __slots__ = (
        "_connected",
        "_context",
        "_session",
        "_sslobj",
        "do_handshake_on_connect",
        "server_hostname",
        "server_side",
        "suppress_ragged_eofs",
    )


def make_tls_context(config: CoordinatorConfig) -> ssl.SSLContext | None:
    """TLS 1.2 and 1.3 with the configured certificate; None for plain HTTP. Raises ListenError."""
    if config.tls_cert_file is None and config.tls_key_file is None:
        return None
    if config.tls_cert_file is None or config.tls_key_file is None:
        raise ListenError("tls_cert_file and tls_key_file belong together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # TLS 1.2; those of 1.3 are all fine
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1
    context.sslsocket_class = SlimSocket
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A password, though none is needed: for an encrypted key OpenSSL would ask the terminal, and wait.
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file, password="")
    except OSError as error:
        raise ListenError(f"the TLS certificate or key cannot be used: {error}") from error
    return context
