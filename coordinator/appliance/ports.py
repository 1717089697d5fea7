"""Free ports and the public listening socket. The only part of the appliance that touches the network."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

_FIRST_PORT: Final = 10_000
_BACKLOG: Final = 1024  # connections that wait while a worker is started again


class PortTaken(Exception):
    """The public address cannot be listened on; the message is a sentence."""


def open_public_socket(bind: str, port: int) -> socket.socket:
    """Listen on the public address. Raises PortTaken."""
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        # Not reuse_port: a second appliance on the same port shall be told.
        listener = socket.create_server((bind, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise PortTaken(
            f"The address {bind}, port {port}, cannot be used: {error.strerror or error}. "
            "Free it, or choose another with --port (only possible at the first start)."
        ) from error
    listener.setblocking(False)
    return listener


def free_ports(count: int, avoid: Collection[int] = ()) -> list[int]:
    """`count` loopback ports that nobody listens on, from below the range that outgoing connections take theirs from.

    A port of that range could be taken by any connection during the moment in which a killed node is down. The ports
    are claimed: no other appliance of this machine gets or keeps them while this process lives.
    """
    candidates = list(range(_FIRST_PORT, _outgoing_ports_begin()))
    random.shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if port not in avoid and _claim(port):
            found.append(port)
    return found


def taken_ports(ports: Iterable[int]) -> list[int]:
    """Those loopback ports among `ports` that cannot be had now; the others are claimed."""
    return [port for port in ports if not _claim(port)]


# Between choosing a port and a child's listening on it lies a second in which another appliance could choose it too.
# A name in the abstract socket namespace belongs to one process, and is free again when that has ended, however.
_claims: Final[dict[int, socket.socket]] = {}


def _claim(port: int) -> bool:
    """Make the port ours among the appliances of this machine; False when another has it or somebody listens on it."""
    if port not in _claims:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0holdfast-port-{port}")
        except OSError:
            claim.close()
            return False
        _claims[port] = claim
    if is_taken(port):
        _claims.pop(port).close()
        return False
    return True


def is_taken(port: int) -> bool:
    """Whether a loopback port cannot be listened on now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


async def answers_ok(port: int, path: str, *, timeout_s: float) -> bool:
    """Whether a GET of `path` at this loopback port is answered 200 within `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError):
        return False
    return status.split()[1:2] == [b"200"]


def _outgoing_ports_begin() -> int:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    return max(int(text.split()[0]), _FIRST_PORT + 1000)
