"""One coordinator worker as a real process on a test's database, without storage nodes, and a small HTTP client for it.

For everything but file data. The worker inherits a listening socket of ours, as under the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
import zmq

from coordinator.appliance.tls import ensure_certificates
from coordinator.blocks.keys import RootKey
from coordinator.metadata import accounts, db
from coordinator.metadata.values import User
from coordinator.passwords import hash_password
from tests.kit.cluster import child_environment, wait_until

START_TIMEOUT_S = 30.0
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    data: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.data)

    @property
    def code(self) -> str:
        """The error's code; what every refusal must have."""
        error = self.document["error"]
        assert error["message"].endswith((".", ")")), error
        assert error["request_id"] == self.headers["X-Request-ID"]
        return str(error["code"])


class Worker:
    """A running worker. `stop` drains it; `close` makes sure that it is gone."""

    def __init__(
        self,
        folder: Path,
        conninfo: str,
        name: str,
        *,
        listener: socket.socket | None = None,
        tls: bool = False,
        **settings: object,
    ) -> None:
        self.name = name
        if tls:
            ensure_certificates(folder, names=["127.0.0.1"], now=datetime.now(UTC))
            settings["tls_cert_file"] = str(folder / "server.crt")
            settings["tls_key_file"] = str(folder / "server.key")
        self._socket = listener if listener is not None else open_listener()
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.log_file = folder / f"{name}.log"
        config = write_config(folder, conninfo, name, f"fd:{self._socket.fileno()}", settings)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "coordinator", "serve", "--config", str(config)],
                stdout=log,
                stderr=log,
                pass_fds=(self._socket.fileno(),),
                env=child_environment(PYTHONASYNCIODEBUG="1"),  # finds what is never awaited, and calls from threads
            )
        ca_file = str(folder / "ca.crt") if tls else None
        self._pool = urllib3.PoolManager(retries=False, maxsize=16, timeout=30.0, ca_certs=ca_file)
        self._ready()

    def _ready(self) -> None:
        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.log_file.read_text())
            return "worker.ready" in self.log_file.read_text()

        wait_until(is_ready, timeout_s=START_TIMEOUT_S, what=f"worker {self.name}")

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: object = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; `body` is sent as JSON, `data` as it is."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        answer = self._pool.request(method, self.url + path, body=data, headers=sent)
        return Answer(answer.status, answer.headers, answer.data)

    def log_in(self, email: str, password: str = PASSWORD, device: str = "laptop") -> str:
        body = {"email": email, "password": password, "device_name": device}
        answer = self.call("POST", "/api/v1/auth/login", body=body)
        assert answer.status == 200, answer.data
        return str(answer.document["token"])

    def pool_connections(self) -> int:
        """How many connections `call` has needed so far."""
        return self._pool.connection_from_url(self.url).num_connections

    def log_events(self) -> list[dict[str, Any]]:
        """The worker's log so far; everything in it must be JSON."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.call("GET", "/metrics").data.decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
            if match and all(f'{key}="{value}"' in match[1] for key, value in labels.items()):
                total += float(match[2])
        return total

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        self._pool.clear()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._socket.close()


def open_listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.set_inheritable(True)
    return listener


def add_user(folder: Path, conninfo: str, email: str, *, is_admin: bool = False) -> User:
    key = RootKey.read(folder / "root.key").make_account_key()
    with db.connected(conninfo):
        return accounts.add_user(email, hash_password(PASSWORD), key, is_admin=is_admin)


def write_config(folder: Path, conninfo: str, name: str, listen: str, settings: dict[str, object]) -> Path:
    """The worker's TOML with fresh keys; `settings` replace and add."""
    _, secret = zmq.curve_keypair()
    (folder / "node.key").write_bytes(secret)
    if not (folder / "root.key").exists():
        (folder / "root.key").write_text(secrets.token_hex(32))
    values: dict[str, object] = {
        "cluster_id": "ab12",
        "name": name,
        "site": "site1",
        "listen": listen,
        "public_url": "http://127.0.0.1",
        "database": conninfo,
        "root_key_file": str(folder / "root.key"),
        "node_secret_key_file": str(folder / "node.key"),
        **settings,
    }
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return file


@contextlib.contextmanager
def running_worker(folder: Path, conninfo: str, name: str = "worker1", **settings: Any) -> Iterator[Worker]:
    worker = Worker(folder, conninfo, name, **settings)
    try:
        yield worker
    finally:
        worker.close()
