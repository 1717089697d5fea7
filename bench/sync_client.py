"""A computer that syncs, for benchmarks: its own HOLDFAST_HOME and folder, and `holdfast sync` as a real process.

`Arrivals` tells when a name appears in a folder, from the kernel's own events, so that waiting for it takes no CPU from
what is measured.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from bench.processes import read_rss, reset_peak, status_bytes
from bench.service import BenchFailed, Service
from tests.kit.cluster import child_environment, wait_until

_COMMAND_TIMEOUT_S: Final = 3600.0
_STOP_TIMEOUT_S: Final = 60.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class SyncClient:
    """`url`: where the service is reached when not directly. The whole tree of the benchmark's user is synced."""

    def __init__(self, service: Service, name: str, *, url: str | None = None) -> None:
        self._service = service
        self.name = name
        self.base = service.folder / name
        self.home, self.root = self.base / "home", self.base / "files"
        self.root.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._output = self.base / "output"
        told = service.appliance.description
        self.run(
            *("login", url or told["url"], "--email", service.email, "--password-file", str(service.password_file)),
            *("--ca-file", told["ca_file"], "--device-name", name),
        )

    def run(self, *arguments: str) -> bytes:
        """Run a command to its end; its stdout. Raises BenchFailed."""
        result = subprocess.run(
            self._command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, env=self._environment(),
            timeout=_COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        if result.returncode:
            said = result.stderr.decode("utf-8", "replace")
            raise BenchFailed(f"holdfast {' '.join(arguments)} ended with {result.returncode}: {said[-2000:]}")
        return result.stdout

    def once(self) -> float:
        """`sync --once`; the seconds it took, the interpreter's start included."""
        began = time.monotonic()
        self.run("sync", str(self.root), "--once")
        return time.monotonic() - began

    @contextmanager
    def running(self) -> Iterator[Self]:
        """The continuous client runs inside the block, and is in sync at its begin."""
        self.start()
        try:
            self.wait_in_sync()
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Start the continuous client."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command("sync", str(self.root)), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=self._environment(),
            )  # fmt: skip

    def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_in_sync(self, timeout_s: float = _COMMAND_TIMEOUT_S, *, every_s: float = 0.5) -> None:
        """Until `sync-status` says so of the client that runs, not of the one before."""

        def in_sync() -> bool:
            self._check_running()
            folders = json.loads(self.run("sync-status", "--json"))["folders"]
            mine = [row for row in folders if row["pid"] == self.pid]
            return bool(mine) and all(row["state"] == "in_sync" and not row["queued"] for row in mine)

        wait_until(in_sync, timeout_s=timeout_s, what=f"{self.name} in sync", every_s=every_s)

    @property
    def pid(self) -> int:
        """The continuous client's."""
        assert self._process is not None
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU seconds of the continuous client so far, ended children included."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return sum(map(int, fields[11:15])) / _TICKS_PER_S

    def rss(self) -> int:
        """Its resident bytes now."""
        return read_rss(self.pid)

    def peak_rss(self) -> int:
        """Its highest resident bytes since it started, or since `forget_peak`."""
        return status_bytes(self.pid, "VmHWM")

    def forget_peak(self) -> None:
        """Begin the peak anew."""
        reset_peak(self.pid)

    def _check_running(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            said = self._output.read_text("utf-8", "replace")
            raise BenchFailed(f"the client {self.name} ended with {self._process.returncode}: {said[-2000:]}")

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "client.cli.main", *arguments]

    def _environment(self) -> dict[str, str]:
        return child_environment(HOLDFAST_HOME=str(self.home))


class Arrivals:
    """Names that appear in one folder, by a rename or at the end of a write. `with Arrivals(folder) as arrivals:`."""

    _CLOSE_WRITE: Final = 0x8
    _MOVED_TO: Final = 0x80
    _HEADER: Final = struct.Struct("iIII")

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.inotify_init1(os.O_CLOEXEC)
        events = self._CLOSE_WRITE | self._MOVED_TO
        if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(folder), events) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
        self._events: IO[bytes] = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._events.close()

    def wait_for(self, name: str, timeout_s: float = 600.0) -> float:
        """When it appeared, on time.monotonic()'s clock; earlier names are forgotten. Raises BenchFailed."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._events], [], [], left)[0]:
                raise BenchFailed(f"{name} did not arrive within {timeout_s:g} s")
            now = time.monotonic()
            if name in self._read():
                return now

    def forget(self) -> None:
        """Forget what has appeared so far."""
        while select.select([self._events], [], [], 0)[0]:
            self._read()

    def _read(self) -> list[str]:
        data, names = self._events.read(65536), []
        while data:
            _, _, _, length = self._HEADER.unpack_from(data)
            end = self._HEADER.size + length
            names.append(os.fsdecode(data[self._HEADER.size : end].rstrip(b"\0")))
            data = data[end:]
        return names
