"""Starting one child process so that it cannot outlive its supervisor, and finding it again if it does.

Guarantees: the child asks the kernel for a signal at its parent's death, runs in a session of its own (a Ctrl-C in the
terminal reaches only the supervisor, which decides the order), and has written its pid file before it becomes the
program, so that no instant exists in which a child runs and nobody could know. A pid file holds the pid and the
kernel's start time of the process; a reused pid is never mistaken for the child.
Does not: restart or log (supervisor.py); decide what runs (programs.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

_libc: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_DAC_READ_SEARCH: Final = 2
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

_ACCOUNTS_LOCK: Final = Path("/run/holdfast-accounts.lock")  # only root can make or hold it there
_ACCOUNT_TIMEOUT_S: Final = 20.0
_LOCK_TIMEOUT_S: Final = 2 * _ACCOUNT_TIMEOUT_S
_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True)
class Account:
    """Whom a program runs as when the supervisor is root.

    `search`: the account may pass through folders that are closed to it (CAP_DAC_READ_SEARCH), because the data or the
    program lies below one, such as /root. The alternative, to open those folders for everybody, is not ours to choose.
    """

    uid: int
    gid: int
    search: bool


@dataclass(frozen=True)
class Program:
    """One process that should run: what, as whom, and how it is asked to end."""

    name: str
    role: str
    site: str
    argv: Sequence[str]
    disks: Sequence[Path] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    kill_signal: signal.Signals = signal.SIGKILL  # when it did not end in time
    death_signal: signal.Signals = signal.SIGTERM  # sent by the kernel when the supervisor dies
    account: Account | None = None
    descriptors: Sequence[int] = ()  # inherited under the same numbers


def spawn(program: Program, *, pid_file: Path, output: int) -> subprocess.Popen[bytes]:
    """Start `program` with stdout and stderr on the descriptor `output`. Raises OSError.

    To be called from the supervisor's main thread: the kernel ties the death signal to the thread that forked. Other
    threads may be only such as never run Python code: they cannot hold a lock that the child waits for.
    """
    supervisor = os.getpid()

    def become_child() -> None:
        # Runs in the child between fork and exec. What fails here fails Popen with SubprocessError.
        _write_pid_file(pid_file)
        if program.account is not None:
            _drop_root(program.account)
        # After the change of user, which clears it.
        _prctl(_PR_SET_PDEATHSIG, program.death_signal)
        if os.getppid() != supervisor:
            os._exit(1)  # it died before the kernel knew about our wish

    return subprocess.Popen(
        program.argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_child_environment(),
        pass_fds=program.descriptors,
        start_new_session=True,
        preexec_fn=become_child,  # noqa: PLW1509 - unsafe beside threads of Python; the supervisor has none
    )


async def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait without polling until `process` has ended; gives its return code (negative: the signal). Cancellable."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


def describe_exit(code: int) -> str:
    """ "exit code 3" or "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


# --- leftovers of an earlier supervisor


@dataclass(frozen=True)
class Leftover:
    """A child that an earlier supervisor started and that is still alive."""

    name: str
    pid: int
    started: int  # clock ticks since boot, as the kernel counts


def find_leftovers(run_folder: Path) -> list[Leftover]:
    """The processes of all pid files that still are what the file says. Removes the files of those that are not."""
    found = []
    for path in sorted(run_folder.glob("*.pid")):
        pid, started = _read_pid_file(path)
        if pid and start_time(pid) == started:
            found.append(Leftover(path.stem, pid, started))
        else:
            path.unlink(missing_ok=True)
    return found


async def stop_leftovers(leftovers: Sequence[Leftover], *, ask_s: float, kill_s: float) -> list[Leftover]:
    """Wait `ask_s` for processes that the kernel has told already, then kill; gives those alive after `kill_s` more."""
    for leftover in leftovers:
        # PostgreSQL takes SIGINT as "end now, cleanly"; the others have got their SIGTERM from the kernel.
        send_signal(leftover, signal.SIGINT if leftover.name == "postgres" else signal.SIGTERM)
    alive = await _wait_until_gone(leftovers, ask_s)
    for leftover in alive:
        send_signal(leftover, signal.SIGQUIT if leftover.name == "postgres" else signal.SIGKILL)
    return await _wait_until_gone(alive, kill_s)


def send_signal(leftover: Leftover, number: signal.Signals) -> None:
    """Signal exactly this process; one that has ended, or whose pid is another's by now, gets nothing."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(leftover.pid)
        try:
            # Checked after the descriptor pins the process: from here on the pid cannot change hands unnoticed.
            if start_time(leftover.pid) == leftover.started:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


async def _wait_until_gone(leftovers: Sequence[Leftover], timeout_s: float) -> list[Leftover]:
    # Not our children any more, so there is nothing to wait on but their disappearance; at start-up only.
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        alive = [leftover for leftover in leftovers if start_time(leftover.pid) == leftover.started]
        if not alive or asyncio.get_running_loop().time() >= deadline:
            return alive
        await asyncio.sleep(0.02)


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is no such process (or only its zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _read_pid_file(path: Path) -> tuple[int, int]:
    try:
        pid, started = path.read_text().split()
        return int(pid), int(started)
    except (OSError, ValueError):
        return 0, 0  # cut short by a power cut, after which no child of that time is alive


def _write_pid_file(path: Path) -> None:
    pid = os.getpid()
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f"{pid} {start_time(pid)}\n")
    temporary.replace(path)


# --- what the child does to itself


def _child_environment() -> dict[str, str]:
    environment = dict(os.environ)
    # glibc gives every thread an arena of its own, which multiplies what a small process keeps but does not use; and it
    # would give blocks of 4 MiB back to the kernel after each use, whose page faults cost 0.7 CPU-s/GB of uploads.
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(64 << 20))
    return environment


def _drop_root(account: Account) -> None:
    if account.search:
        # Capabilities outlive the change of user, and access(2), with which PostgreSQL looks for its parts, heeds them.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if account.search:
        _keep_only_search()


def _keep_only_search() -> None:
    mask = 1 << _CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable; each for capabilities 0-31, then the same for 32-63.
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if _libc.capset(header, data) != 0:
        _raise_errno("capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0)


def _prctl(option: int, *arguments: int) -> None:
    if _libc.prctl(option, *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4])) != 0:
        _raise_errno("prctl")


def _raise_errno(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


# --- the account for programs that refuse to run as root


def ensure_account(name: str, *, lock_file: Path = _ACCOUNTS_LOCK) -> tuple[int, int]:
    """(uid, gid) of the system account `name`, which is made when it is not there. Raises OSError. For root.

    One at a time on this machine: `useradd` looks for the name before it takes its own lock, so of two that run side by
    side the second *replaces* the account of the first, with another uid, and both say that all went well.
    """
    found = _find_account(name)
    if found is None:
        with _locked(lock_file):
            found = _find_account(name) or _make_account(name)
    return found


def _find_account(name: str) -> tuple[int, int] | None:
    """(uid, gid) of an account that can be looked up both ways, as programs do that run as it."""
    try:
        entry = pwd.getpwnam(name)
        return (entry.pw_uid, entry.pw_gid) if pwd.getpwuid(entry.pw_uid).pw_name == name else None
    except KeyError:
        return None


def _make_account(name: str) -> tuple[int, int]:
    command = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
    deadline = time.monotonic() + _ACCOUNT_TIMEOUT_S
    made, complaint = False, "it is not found"
    while time.monotonic() < deadline:
        if not made:
            try:
                result = subprocess.run(
                    command, capture_output=True, text=True, timeout=_ACCOUNT_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired:
                break
            # It fails when somebody else edits the accounts at this moment.
            made, complaint = result.returncode == 0, result.stderr.strip() or complaint
        # Name services may remember for a moment that there was no such account.
        if found := _find_account(name):
            return found
        time.sleep(_LOOK_EVERY_S)
    raise OSError(f"The system account {name} could not be made: {complaint}")


@contextlib.contextmanager
def _locked(lock_file: Path) -> Iterator[None]:
    """Hold the lock; other processes of this machine wait for it. Raises OSError when it is held for too long."""
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise OSError(
                        f"Somebody holds the lock {lock_file} for more than {_LOCK_TIMEOUT_S:.0f} s"
                    ) from error
            time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)


def may_let_search() -> bool:
    """Whether this process can give an account the right to `search`; in a container it often cannot."""
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(held.split()[1], 16) & 1 << _CAP_DAC_READ_SEARCH)


def can_pass(path: Path, uid: int, gid: int) -> bool:
    """Whether this account may enter every folder above `path`."""
    for folder in path.resolve().parents:
        status = folder.stat()
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            return False
    return True


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this installation, whatever lies in the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]
