"""A worker as a process: what it needs to start, what it survives, and how it ends when it cannot go on."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.cluster import child_environment, wait_until
from tests.kit.postgres import PostgresServer
from tests.kit.worker import add_user, open_listener, running_worker, write_config

pytest_plugins = ("tests.kit.postgres",)


def serve(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `code` runs before it in the same process."""
    program = f"{code}\nfrom coordinator.cli import coordinator\ncoordinator({list(arguments)!r})"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=child_environment())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"database": "host=/nonexistent dbname=x"}, "cannot take this request"),
        ({"listen": "nowhere"}, "neither host:port nor fd:number"),
        ({"listen": "192.0.2.1:80"}, "cannot listen on 192.0.2.1:80"),
        ({"tls_cert_file": "/nonexistent"}, "belong together"),
        ({"tls_cert_file": "/nonexistent", "tls_key_file": "/nonexistent"}, "TLS certificate or key"),
        ({"root_key_file": "/nonexistent"}, "root key file /nonexistent"),
        ({"surprise": 1}, '"surprise" is not known'),
    ],
)
def test_worker_that_cannot_start_says_why_in_a_sentence(
    conninfo: str, tmp_path: Path, settings: dict[str, object], told: str
) -> None:
    config = write_config(tmp_path, conninfo, "worker1", "127.0.0.1:0", settings)
    done = serve("serve", "--config", str(config))
    assert done.returncode == 1
    assert told in done.stderr and "Traceback" not in done.stderr


def test_worker_whose_background_work_dies_ends_with_an_error(conninfo: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, conninfo, "worker1", "127.0.0.1:0", {})
    code = """
import coordinator.daemon
async def broken(): raise RuntimeError("out of luck")
coordinator.daemon.watch_loop = broken
"""
    done = serve("serve", "--config", str(config), code=code)
    assert done.returncode == 1
    assert "worker.part_ended" in done.stderr and "out of luck" in done.stderr


def test_migrate_makes_an_empty_database_usable(postgres: PostgresServer, tmp_path: Path) -> None:
    postgres._execute("CREATE DATABASE fresh")
    conninfo = postgres.conninfo("fresh")
    config = write_config(tmp_path, conninfo, "worker1", "127.0.0.1:0", {})
    assert "applied" in serve("migrate", "--config", str(config)).stdout
    assert "nothing to do" in serve("migrate", "--config", str(config)).stdout
    with running_worker(tmp_path, conninfo) as worker:
        assert worker.call("GET", "/readyz").document["checks"]["database"] == "ok"


def test_worker_survives_the_loss_of_its_database(tmp_path: Path) -> None:
    server = PostgresServer()
    try:
        with server.database() as conninfo, running_worker(tmp_path, conninfo) as worker:
            add_user(tmp_path, conninfo, "anna@example.org")
            token = worker.log_in("anna@example.org")
            server.kill()
            answer = worker.call("GET", "/api/v1/auth/whoami", token=token)
            assert (answer.status, answer.code) == (503, "unavailable")
            assert worker.call("GET", "/readyz").document["checks"]["database"] == "does not answer"
            assert worker.call("GET", "/healthz").status == 200
            server.start()
            wait_until(lambda: worker.call("GET", "/api/v1/auth/whoami", token=token).status == 200, what="the service")
            wait_until(lambda: worker.metric("holdfast_notice_connection_up") == 1, what="the notice connection")
            assert worker.stop() == 0
            assert not [event for event in worker.log_events() if "exception" in event]
    finally:
        server.close()


def test_own_metrics_address_answers_for_this_worker(conninfo: str, tmp_path: Path) -> None:
    with open_listener() as free:
        port = free.getsockname()[1]
    with running_worker(tmp_path, conninfo, "worker7", metrics_listen=f"127.0.0.1:{port}") as worker:
        worker.port, worker.url = port, f"http://127.0.0.1:{port}"
        assert worker.metric("holdfast_database_threads", worker="worker7") == 4
        assert worker.call("GET", "/healthz").status == 200
        assert worker.call("GET", "/api/v1/auth/whoami").code == "not_found"


def test_body_that_stalls_loses_its_connection(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo, idle_connection_s=1.0) as worker:
        add_user(tmp_path, conninfo, "anna@example.org")
        token = worker.log_in("anna@example.org")
        head = f"POST /api/v1/files/move HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as line:
            line.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert line.recv(1000) == b""
        assert time.monotonic() - began < 15
        with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as line:  # not even a head
            line.sendall(b"GET / HT")
            assert line.recv(1000) == b""
        wait_until(lambda: worker.metric("holdfast_requests_total", status="499") == 1, what="the count")
