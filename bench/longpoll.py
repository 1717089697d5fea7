"""What does an idle connection cost on the server, and how fast are all of them woken?

2,000 long polls (--count 10000 for the large case) wait on one coordinator worker of their own beside the appliance's,
first without TLS, as behind a proxy that ends it, then with. Resident memory of that worker is read before and after;
then one commit through another worker wakes them all. Expected: the 12.5 KB of a bare Tornado handler are beaten where
the handler is let go while it waits; TLS adds its own 15 to 40 KB of OpenSSL's buffers.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.idle import Idle, IdleClient
from bench.load import Account
from bench.processes import read_rss
from bench.result import Options, Outcome, Target
from bench.roofline import floor
from bench.service import BenchFailed, Service, running_service
from tests.kit.cluster import child_environment, wait_until

PER_CONNECTION: Final = Target(high=15)
ALL_AWAKE: Final = Target(high=3)
PER_PROCESS_MAX: Final = 5000  # a process may open 20,000 files, and one client process would be the bottleneck
WARM_UP: Final = 100
_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 30.0
_OPEN_TIMEOUT_S: Final = 300.0


def run(options: Options) -> Outcome:
    """Plain and with TLS, each on a fresh worker."""
    count = options.number(2000)
    outcome, _ = floor(options.folder)
    with running_service(options.folder) as service:
        for tls in (False, True):
            name = "tls" if tls else "plain"
            with _worker(service, name, tls=tls) as (pid, account):
                resident_kb, awake_s = _measure(service, pid, account, count, name)
            outcome.add(f"{name}_resident", "KB/connection", [resident_kb], PER_CONNECTION)
            outcome.add(f"{name}_woken", "s", [awake_s], ALL_AWAKE if count >= 10_000 else None)
    outcome.notes.append(f"{count} connections")
    return outcome


def _measure(service: Service, pid: int, account: Account, count: int, name: str) -> tuple[float, float]:
    """KB of the worker for each connection, and seconds from the commit's begin until the last one knew."""
    session = service.session()
    cursor = session.call("GET", "/api/v1/changes").document["cursor"]
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(IdleClient(Idle(account, cursor, WARM_UP)))
        warm.wait_until_waiting(_OPEN_TIMEOUT_S)
        before = read_rss(pid)
        clients = []
        for size in _shares(count):
            clients.append(stack.enter_context(IdleClient(Idle(account, cursor, size))))
            clients[-1].wait_until_waiting(_OPEN_TIMEOUT_S)
        resident_kb = (read_rss(pid) - before) / count / 1000
        began = IdleClient.now()
        if session.put(f"/wake {name}", b"wake up").status >= 300:
            raise BenchFailed("the commit that was to wake everybody was refused")
        ended = max(client.woken_at() for client in clients)
    return resident_kb, ended - began


def _shares(count: int) -> list[int]:
    full, rest = divmod(count, PER_PROCESS_MAX)
    return [PER_PROCESS_MAX] * full + ([rest] if rest else [])


@contextmanager
def _worker(service: Service, name: str, *, tls: bool) -> Iterator[tuple[int, Account]]:
    """One more coordinator worker with its own listener; its process id, and how to reach it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tomllib.loads((service.root / "config" / "worker1.toml").read_text())
    config |= {"name": f"bench-{name}", "listen": f"127.0.0.1:{port}"}
    config.pop("metrics_listen", None)
    if not tls:
        del config["tls_cert_file"], config["tls_key_file"]
    path = service.folder / f"bench-{name}.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
    log = service.folder / f"bench-{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "coordinator", "serve", "--config", str(path)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=child_environment(),
        )  # fmt: skip
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        wait_until(lambda: _listens(process, port, log), timeout_s=_START_TIMEOUT_S, what="the worker's listener")
        yield process.pid, Account(url, service.account.token, service.account.ca_file if tls else None)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if process.poll() is not None:
        raise BenchFailed(f"the worker ended with {process.returncode}: {log.read_text()[-1000:]}")
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
