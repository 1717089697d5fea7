"""`holdfast` commands as real processes that need no new interpreter: a server that has imported the client forks them.

Starting Python and importing the client takes half a second of CPU, ten times what a short command does itself; a test
that runs thirty of them would spend its time there. A command that was forked is a process like any other: it has its
own memory, standard streams and exit code, and can be killed at any instant.

`start(…)` gives a `Command`. The server starts with the first one and ends with the test's process, as do its commands.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tests.kit.cluster import ROOT, CliResult, child_environment

_PRELOADED = ("client", "coordinator.protocol")
_ready = threading.Lock()
_server: _Server | None = None


class Command:
    """A running `holdfast` command. `wait` may be called any number of times, from one thread."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.arguments = list(arguments)
        self._output = Path(tempfile.mkdtemp(prefix="holdfast-", dir=folder))
        self._code: int | None = None
        self.peak_bytes = 0  # the most memory that it had, known when it has ended
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(_get_server().address))
        request = {"arguments": self.arguments, "environment": dict(environment), "output": str(self._output)}
        self._line.sendall(json.dumps(request).encode() + b"\n")
        self._answers: BinaryIO = self._line.makefile("rb")
        self.pid = int(self._answers.readline())

    def wait(self, timeout_s: float) -> int:
        """The exit code; minus the signal's number when one ended it. Fails the test when it runs on."""
        if self._code is None:
            if not select.select([self._line], [], [], timeout_s)[0]:
                raise AssertionError(f"{self} did not end within {timeout_s:g} s: {self.stderr}")
            self._code, self.peak_bytes = map(int, self._answers.readline().split())
            self._answers.close()
            self._line.close()
        return self._code

    @property
    def is_running(self) -> bool:
        return self._code is None and not select.select([self._line], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        """Signal it; one that is gone already is no mistake of the test."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait(30.0)

    @property
    def stdout(self) -> bytes:
        """What it has said so far."""
        return (self._output / "out").read_bytes()

    @property
    def stderr(self) -> str:
        return (self._output / "err").read_text("utf-8", "replace")

    @property
    def result(self) -> CliResult:
        """Everything, when it has ended."""
        assert self._code is not None
        return CliResult(self._code, self.stdout, self.stderr)

    def __repr__(self) -> str:
        return f"holdfast {' '.join(self.arguments)} (process {self.pid})"


def start(arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Command:
    """Run `holdfast ARGUMENTS`; what it says goes to files below `folder`."""
    return Command(arguments, environment, folder)


def _get_server() -> _Server:
    global _server  # noqa: PLW0603 - one for the whole process, made when it is first wanted
    with _ready:
        if _server is None:
            _server = _Server()
        return _server


class _Server:
    def __init__(self) -> None:
        self.address = Path(tempfile.mkdtemp(prefix="hf-")) / "fork"
        # It ends when this pipe does, however this process dies.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.kit.fork_server", str(self.address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=child_environment(),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the fork server did not start"


# --- the server's own process: no threads, so that forking is safe ---------------------------------------------------


def main() -> None:
    """Serve until stdin ends. Returns in a forked child as well, with SystemExit as its command's end."""
    for package in _PRELOADED:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
            if not module.name.endswith("__main__"):
                # What cannot be imported (a part that is missing here) is the command's to tell, when it is run.
                with contextlib.suppress(Exception):
                    importlib.import_module(module.name)
    address = Path(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the end of a monitor
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _monitor(line)
            line.close()
    address.unlink()
    address.parent.rmdir()


def _monitor(line: socket.socket) -> None:
    """A process of its own: runs one command, tells its pid, then its exit code and the most memory that it had. Kills
    it when nobody listens."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(line.makefile("rb").readline())
    pid = os.fork()
    if pid == 0:
        line.close()
        _run(request["arguments"], request["environment"], Path(request["output"]))
    line.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([line.fileno(), ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    with contextlib.suppress(OSError):
        line.sendall(f"{os.waitstatus_to_exitcode(status)} {used.ru_maxrss * 1024}\n".encode())
    os._exit(0)


def _run(arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """Become `holdfast`: ends with SystemExit, so that the interpreter winds up as it always does."""
    from client.cli.main import run  # noqa: PLC0415 - the test's process never needs it

    for name, target in (("/dev/null", 0), (output / "out", 1), (output / "err", 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    sys.argv = ["holdfast", *arguments]
    try:
        code = run(arguments)
    except BaseException:
        traceback.print_exc()
        raise
    sys.exit(code)


if __name__ == "__main__":
    main()
