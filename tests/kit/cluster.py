"""A real appliance for tests: `holdfast up` in a folder of its own, with handles to kill, stop and ask every process.

Nothing here sleeps for luck: `wait_until` asks for a condition until it holds or a deadline passes. When a test fails
inside the `with` block, the ends of all logs are printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import pytest
import urllib3

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None], *, timeout_s: float = 30.0, what: str = "the condition", every_s: float = 0.05
) -> T:
    """Ask until `condition` gives something true, and give that. Fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(every_s)
    return value


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def child_environment(**more: str) -> dict[str, str]:
    """The environment in which the product's modules are found, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


@dataclass(frozen=True)
class Process:
    """One line of appliance.json."""

    role: str
    name: str
    site: str | None
    pid: int
    disks: tuple[Path, ...]

    def kill(self) -> None:
        """kill -9; one that is gone already is no mistake of the test."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Signal it; one that is gone already is no mistake of the test."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Appliance:
    """`with Appliance(tmp_path / "data") as appliance: …`; extra command-line options as in `holdfast up`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = ["--port", "0", *options]
        self.console = folder.with_name(folder.name + ".console")
        self._process: subprocess.Popen[bytes] | None = None

    # --- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.print_logs()
        if self._process is not None and self._process.poll() is None:
            code = self.stop()
            if kind is None:
                assert code == 0, f"holdfast up ended with {code}: {self.console.read_text()}"

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start `holdfast up` without waiting until it is ready."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        command = [sys.executable, "-P", "-m", "coordinator.appliance", "--data", str(self.folder), *self.options]
        self.console.parent.mkdir(parents=True, exist_ok=True)
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=child_environment()
            )
        return self._process

    def start(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Start and wait until it is ready; the seconds that took."""
        began = time.monotonic()
        process = self.spawn()

        def is_ready() -> bool:
            if process.poll() is not None:
                self.print_logs()
                raise AssertionError(f"holdfast up ended with {process.returncode}:\n{self.console.read_text()}")
            with contextlib.suppress(OSError, ValueError):
                return self.supervisor.pid == process.pid
            return False

        try:
            wait_until(is_ready, timeout_s=timeout_s, what="the appliance's readiness", every_s=0.02)
        except AssertionError:
            self.print_logs()
            raise
        return time.monotonic() - began

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask with SIGTERM, wait for the end; the exit code. Kills it, and fails, when it takes longer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._wait(timeout_s)

    def kill(self) -> None:
        """kill -9 of the supervisor. Its children die with it, some a moment later."""
        assert self._process is not None
        self._process.kill()
        self._wait(10.0)

    def _wait(self, timeout_s: float) -> int:
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.print_logs()
            raise AssertionError(f"the supervisor did not end within {timeout_s:g} s") from None

    # --- processes

    @property
    def description(self) -> dict[str, Any]:
        """appliance.json as it is now."""
        found: dict[str, Any] = json.loads((self.folder / "appliance.json").read_bytes())
        return found

    def processes(self, role: str | None = None) -> list[Process]:
        """What runs now, all or of one role."""
        rows = [
            Process(row["role"], row["name"], row["site"], row["pid"], tuple(map(Path, row["disks"])))
            for row in self.description["processes"]
        ]
        return [row for row in rows if role in (None, row.role)]

    def process(self, name: str) -> Process:
        """The process of this name, which has to run."""
        return next(row for row in self.processes() if row.name == name)

    @property
    def supervisor(self) -> Process:
        """`holdfast up` itself."""
        return self.process("supervisor")

    def kill_child(self, name: str) -> Process:
        """kill -9; gives what it was."""
        process = self.process(name)
        process.signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(process.pid), what=f"the death of {name}", timeout_s=10)
        return process

    def wait_until_back(self, killed: Process, timeout_s: float = 30.0) -> Process:
        """Wait until a process that died has been started again; gives the new one."""

        def again() -> Process | None:
            return next((row for row in self.processes() if row.name == killed.name and row.pid != killed.pid), None)

        return wait_until(again, timeout_s=timeout_s, what=f"the restart of {killed.name}")

    def wait_until_gone(self, killed: Process, timeout_s: float = 30.0) -> None:
        """Wait until the supervisor has noticed a death (with --no-restart the process stays away)."""
        wait_until(
            lambda: all(row.pid != killed.pid for row in self.processes()),
            timeout_s=timeout_s,
            what=f"the supervisor noticing the death of {killed.name}",
        )

    # --- using it

    @property
    def url(self) -> str:
        return str(self.description["url"])

    @property
    def password(self) -> str:
        """The administrator's first password."""
        return Path(self.description["admin"]["password_file"]).read_text().strip()

    def login(self, device_name: str = "test", *, timeout_s: float = 30.0) -> Session:
        """A raw HTTP session of the administrator. Right after a kill the service may say that it cannot yet; the
        session itself never tries anything again, so that a test sees every error."""
        admin = self.description["admin"]
        session = Session(self.url, self.description["ca_file"])
        document = {"email": admin["email"], "password": self.password, "device_name": device_name}

        def try_login() -> Answer | None:
            try:
                answer = session.call("POST", "/api/v1/auth/login", document=document)
            except urllib3.exceptions.HTTPError:
                return None
            return None if answer.status == 503 else answer

        answer = wait_until(try_login, timeout_s=timeout_s, what="a login")
        assert answer.status == 200, answer
        session.token = answer.document["token"]
        return session

    def cli(self, *arguments: str, home: Path, stdin: bytes = b"", timeout_s: float = 120.0) -> CliResult:
        """Run `holdfast ARGUMENTS` as the device whose state lies in `home`."""
        result = subprocess.run(
            [sys.executable, "-P", "-m", "client", *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=child_environment(HOLDFAST_HOME=str(home)),
            check=False,
        )
        return CliResult(result.returncode, result.stdout, result.stderr.decode("utf-8", "replace"))

    def cli_login(self, home: Path) -> None:
        """`holdfast login` as the administrator."""
        told = self.description
        admin = told["admin"]
        result = self.cli(
            *("login", told["url"], "--email", admin["email"], "--password-file", admin["password_file"]),
            *("--ca-file", told["ca_file"]),
            home=home,
        )
        assert result.code == 0, result

    # --- when something went wrong

    def print_logs(self, lines: int = 15) -> None:
        """The console and the end of every log, to what pytest captures."""
        print(f"--- console of {self.folder}")
        if self.console.exists():
            print(self.console.read_text())
        for path in sorted((self.folder / "logs").glob("*.log")):
            print(f"--- {path}")
            print("\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


@dataclass(frozen=True)
class CliResult:
    """What a command of the `holdfast` command line gave."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON of the body."""
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """The API's error code."""
        return str(self.document["error"]["code"])


class Session:
    """Raw calls with one token. A broken connection raises urllib3's HTTPError; nothing is tried again."""

    def __init__(self, url: str, ca_file: str, token: str | None = None) -> None:
        self.url = url
        self.token = token
        self._pool = urllib3.PoolManager(ca_certs=ca_file, retries=False, maxsize=16)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, object] | None = None,
        document: object = None,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        """One request and its whole answer."""
        url = self.url + quote(path) + (f"?{urlencode(query)}" if query else "")
        sent = dict(headers or {})
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if document is not None:
            body = json.dumps(document).encode()
            sent["Content-Type"] = "application/json"
        answer = self._pool.request(method, url, body=body, headers=sent, timeout=timeout_s)
        return Answer(answer.status, answer.headers, answer.data)

    def put(self, path: str, data: bytes, *, base_version: int | None = None, timeout_s: float = 60.0) -> Answer:
        """Upload a file in one request."""
        query: dict[str, object] = {"uploadType": "simple", "path": path}
        if base_version is not None:
            query["base_version"] = base_version
        return self.call("POST", "/api/v1/files/upload", query=query, body=data, timeout_s=timeout_s)

    def get(self, path: str, *, timeout_s: float = 60.0, headers: dict[str, str] | None = None) -> Answer:
        """Download a file."""
        query: dict[str, object] = {"path": path}
        return self.call("GET", "/api/v1/files/download", query=query, headers=headers, timeout_s=timeout_s)


def lend(appliance: Appliance, request: pytest.FixtureRequest) -> Iterator[Appliance]:
    """The body of a fixture that several tests share: prints the logs in the end when one of them failed."""
    failed_before = request.session.testsfailed
    yield appliance
    if request.session.testsfailed > failed_before:
        appliance.print_logs()


@contextlib.contextmanager
def short_folder(prefix: str = "hf-") -> Iterator[Path]:
    """A temporary folder with a short path (pytest's own are too long for a unix socket), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("HOLDFAST_TEST_TMP")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_up(folder: Path, *options: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run `holdfast up` to its end, for starts that must fail."""
    command = [sys.executable, "-P", "-m", "coordinator.appliance", "--data", str(folder), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=child_environment(), check=False
    )


def names_of(processes: Sequence[Process]) -> set[str]:
    """Their names."""
    return {process.name for process in processes}
