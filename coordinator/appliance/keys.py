"""One short process that makes the appliance's keys: root key, CURVE keys, certificates.

`python -m coordinator.appliance.keys --data DIR`. Each file is written whole, durably and with mode 0600, and only when
it is not there: run again after any interruption it completes what is missing and changes nothing else. It is a
process of its own so that the supervisor, which lives on, never loads the libraries for it.
"""

from __future__ import annotations

import argparse
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
import zmq

from coordinator.appliance.layout import Layout, Paths, decode_layout, public_key_file
from coordinator.appliance.tls import ensure_certificates
from node.base.durable import write_file_durably

_ROOT_KEY_BYTES: Final = 32
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_IP: Final = (socket.AF_INET, socket.AF_INET6)


def ensure_keys(paths: Paths, layout: Layout, *, now: datetime) -> None:
    """Complete the keys and certificates of an appliance. Raises OSError, and BadCertificate for unusable files."""
    _ensure_secret(paths.root_key, secrets.token_hex(_ROOT_KEY_BYTES))
    for key_file in (paths.coordinator_key, *(paths.node_key(node.name) for node in layout.nodes)):
        _ensure_curve_key(key_file)
    ensure_certificates(paths.tls, names=list_names(layout.bind), now=now)


def list_names(bind: str) -> list[str]:
    """Every name and address under which clients may come to a service that listens on `bind`."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    if bind not in _EVERYWHERE:
        return list(dict.fromkeys([*names, bind]))
    for addresses in psutil.net_if_addrs().values():
        # A link-local IPv6 address means something only together with an interface ("fe80::1%eth0").
        names += [address.address for address in addresses if address.family in _IP and "%" not in address.address]
    return list(dict.fromkeys(names))


def _ensure_secret(path: Path, value: str) -> None:
    if not path.exists():
        write_file_durably(path, value.encode() + b"\n", mode=0o600)


def _ensure_curve_key(path: Path) -> None:
    if not path.exists():
        _, secret = zmq.curve_keypair()
        write_file_durably(path, secret + b"\n", mode=0o600)
    public = zmq.curve_public(path.read_bytes().strip())
    beside = public_key_file(path)
    if not beside.exists() or beside.read_bytes().strip() != public:
        write_file_durably(beside, public + b"\n")


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="coordinator.appliance.keys")
    parser.add_argument("--data", type=Path, required=True)
    paths = Paths(parser.parse_args().data)
    ensure_keys(paths, decode_layout(paths.layout.read_bytes()), now=datetime.now(UTC))


if __name__ == "__main__":
    main()
