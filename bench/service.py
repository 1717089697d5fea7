"""A fresh appliance with one user, and everything that is measured on it: its processes, and clients of it.

Every benchmark runs in its own appliance in a new folder on the measured disk; leaving the `with` block stops it by its
own handle and removes the folder, also after an error. Clients are real processes, whose CPU is counted by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.load import Account, Job, Report, encode_job
from bench.processes import Kind, Meter, Usage, Window, read_pss
from tests.kit.cluster import Appliance, Session, child_environment

CLIENT_TIMEOUT_S: Final = 1800.0
_SETTLE_S: Final = 5.0
_QUOTA_BYTES: Final = 10**12
_EMAIL: Final = "bench@localhost"
_KINDS: Final = {
    "postgres": Kind.POSTGRES, "coordinator": Kind.COORDINATOR, "node": Kind.NODE, "supervisor": Kind.SUPERVISOR
}  # fmt: skip


class BenchFailed(Exception):
    """The service did not do what the benchmark needs; the message tells what it said."""


class Service:
    """A running appliance. Made by `running_service`."""

    def __init__(self, appliance: Appliance, folder: Path) -> None:
        self.appliance = appliance
        self.folder = folder
        self.home = folder / "home"
        self.email = _EMAIL
        self.password_file = folder / "password"
        self.meter = Meter(self.kinds())
        self.account = self._prepare_user()

    def kinds(self) -> dict[int, Kind]:
        """The appliance's own processes as they are now."""
        return {process.pid: _KINDS[process.role] for process in self.appliance.processes()}

    def pids(self, role: str) -> list[int]:
        """Process ids of one role."""
        return [process.pid for process in self.appliance.processes(role)]

    def session(self) -> Session:
        """Raw calls as the benchmark's user."""
        assert self.account.ca_file is not None
        return Session(self.account.url, self.account.ca_file, self.account.token)

    @property
    def root(self) -> Path:
        """The appliance's own folder."""
        return self.appliance.folder

    def make_folder(self, path: str) -> None:
        """Make a folder of the user's tree."""
        body = {"path": path, "parents": True}
        self._check(self.session().call("POST", "/api/v1/files/create_folder", document=body))

    def idle_memory(self) -> dict[Kind, int]:
        """Proportional bytes by kind, a few seconds after nothing has happened any more."""
        time.sleep(_SETTLE_S)
        found: dict[Kind, int] = defaultdict(int)
        for pid, kind in self.meter.members().items():
            found[kind] += read_pss(pid)
        return dict(found)

    def cli(self, *arguments: str, window: Window | None = None) -> float:
        """Run `holdfast ARGUMENTS` to its end; the seconds it took. Its CPU goes to `window`. Raises BenchFailed."""
        command = [sys.executable, "-P", "-m", "client.cli.main", *arguments]
        output = self.folder / "client.out"
        with output.open("wb") as out:
            began = time.monotonic()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=child_environment(HOLDFAST_HOME=str(self.home)),
            )  # fmt: skip
            self.meter.add_client(process.pid)
            try:
                code, cpu_s = _wait_for(process)
            finally:
                self.meter.drop_client(process.pid)
        seconds = time.monotonic() - began
        if window is not None:
            window.add_client_cpu(cpu_s)
        if code != 0:
            raise BenchFailed(f"holdfast {' '.join(arguments)} ended with {code}: {output.read_text()[-2000:]}")
        return seconds

    def measured_cli(self, *arguments: str) -> Usage:
        """Run a command in a window of its own."""
        with self.meter.window() as window:
            seconds = self.cli(*arguments, window=window)
        return window.usage(seconds)

    def measured_load(self, *jobs: Job) -> tuple[Usage, list[Report]]:
        """Run load generators (one process each) side by side in a window of their own."""
        with contextlib.ExitStack() as stack:
            generators = [stack.enter_context(self.generator(job)) for job in jobs]
            for generator in generators:
                generator.wait_until_ready()
            with self.meter.window() as window:
                for generator in generators:
                    generator.go()
                reports = [generator.report() for generator in generators]
                for report in reports:
                    window.add_client_cpu(report.cpu_s)
        return window.usage(max(report.seconds for report in reports)), reports

    @contextmanager
    def generator(self, job: Job) -> Iterator[LoadGenerator]:
        """A load generator in a process of its own, which ends with the block."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(),
        )  # fmt: skip
        self.meter.add_client(process.pid)
        try:
            yield LoadGenerator(process, job)
        finally:
            process.kill()
            process.communicate()
            self.meter.drop_client(process.pid)

    def _prepare_user(self) -> Account:
        """A user of its own, for the default quota would end some runs; logged in as a device, and in the CLI."""
        admin = self.appliance.login("bench")
        self.password_file.write_text("correct horse battery staple\n")
        body = {"email": _EMAIL, "password": self.password_file.read_text().strip(), "quota": _QUOTA_BYTES}
        self._check(admin.call("POST", "/api/v1/admin/users", document=body))
        told = self.appliance.description
        self.cli(
            *("login", told["url"], "--email", _EMAIL, "--password-file", str(self.password_file)),
            *("--ca-file", told["ca_file"]),
        )
        account = msgspec.json.decode((self.home / "accounts.json").read_bytes())[0]
        return Account(told["url"], account["token"], told["ca_file"])

    @staticmethod
    def _check(answer: Any) -> None:
        if answer.status >= 300:
            raise BenchFailed(f"the service answered {answer.status}: {answer.body[:500]!r}")


class LoadGenerator:
    """One process of `bench.load`: prepares itself, waits for `go`, and reports when it has done its job."""

    def __init__(self, process: subprocess.Popen[bytes], job: Job) -> None:
        self._process = process
        self._send(encode_job(job))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Until it has prepared its data and connections."""
        if self._line() != b"ready\n":
            raise BenchFailed("a load generator did not get ready; see its message above")

    def go(self) -> None:
        """Begin."""
        self._send(b"go\n")

    def report(self) -> Report:
        """Wait for its end."""
        try:
            return msgspec.json.decode(self._line(), type=Report)
        except msgspec.DecodeError as error:
            raise BenchFailed("a load generator broke off; see its message above") from error

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def running_service(folder: Path, *options: str) -> Iterator[Service]:
    """An appliance in a new folder below `folder`, ready and with a user; `options` as of `holdfast up`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    place.chmod(0o755)  # PostgreSQL's own account has to pass through
    try:
        with Appliance(place / "data", *options) as appliance:
            yield Service(appliance, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raises BenchFailed for a folder in memory: fsync costs nothing there."""
    folder.mkdir(parents=True, exist_ok=True)
    mounts = {
        mount: kind
        for _, mount, kind, *_ in (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        if folder.resolve().is_relative_to(mount)
    }
    if mounts and mounts[max(mounts, key=len)] in ("tmpfs", "ramfs"):
        raise BenchFailed(f"{folder} is in memory; give a folder on a real disk with --dir")


def _wait_for(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Exit code and CPU seconds, threads and ended children included. Kills it after CLIENT_TIMEOUT_S."""
    deadline = time.monotonic() + CLIENT_TIMEOUT_S
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_utime + used.ru_stime
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.002)


def combine(reports: Sequence[Report]) -> list[float]:
    """The latencies (seconds) of several load generators together."""
    return [latency for report in reports for latency in report.latencies_s]
