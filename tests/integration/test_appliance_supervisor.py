"""The supervisor with small real processes: restarts, stops, and what happens when it is killed itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from coordinator.appliance.processes import Program, find_leftovers, start_time, stop_leftovers
from coordinator.appliance.supervisor import ProgramFailed, Supervisor
from tests.kit.cluster import child_environment, is_alive, wait_until

SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time, pathlib, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path(sys.argv[1]).write_text('deaf')\n"
    "time.sleep(600)\n"
)


def program(name: str, code: str, *arguments: str, stop_timeout_s: float = 5.0) -> Program:
    return Program(name, "test", "", [sys.executable, "-c", code, *arguments], stop_timeout_s=stop_timeout_s)


def supervise(folder: Path, work: Callable[[Supervisor], Awaitable[None]], *, restart: bool = True) -> None:
    """Run `work` with a supervisor, and stop everything after it."""

    async def run() -> None:
        for name in ("run", "logs"):
            (folder / name).mkdir(exist_ok=True)
        supervisor = Supervisor(run=folder / "run", logs=folder / "logs", restart=restart, changed=lambda: None)
        try:
            await asyncio.wait_for(work(supervisor), 60)
        finally:
            await supervisor.stop("test", hurry=asyncio.Event())
            assert [child.pid for child in supervisor.children if child.pid] == []

    asyncio.run(run())


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - processes and files set no event
            await asyncio.sleep(0.01)


def test_a_killed_program_is_started_again(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        child = supervisor.keep(program("sleeper", SLEEPER))
        await until(lambda: child.pid is not None)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid not in (None, first))
        assert child.deaths == 1
        assert (tmp_path / "run" / "sleeper.pid").read_text().split()[0] == str(child.pid)

    supervise(tmp_path, work)


def test_without_restarts_it_stays_dead(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        child = supervisor.keep(program("brief", "pass"))
        await until(lambda: child.deaths == 1)
        await asyncio.sleep(0)
        assert child.pid is None
        assert not (tmp_path / "run" / "brief.pid").exists()

    supervise(tmp_path, work, restart=False)


def test_a_program_that_cannot_be_executed_is_tried_again(tmp_path: Path) -> None:
    tool = tmp_path / "tool"

    async def work(supervisor: Supervisor) -> None:
        child = supervisor.keep(Program("tool", "test", "", [str(tool)]))
        await until(lambda: child.deaths == 2)
        tool.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{SLEEPER}'\n")
        tool.chmod(0o755)
        await until(lambda: child.pid is not None)

    supervise(tmp_path, work)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        child = supervisor.keep(program("stubborn", STUBBORN, str(tmp_path / "deaf"), stop_timeout_s=0.2))
        await until((tmp_path / "deaf").exists)
        await supervisor.stop("test", hurry=asyncio.Event())
        assert child.pid is None
        assert child.deaths == 0

    supervise(tmp_path, work)


def test_a_hurry_does_not_wait_for_the_polite_way(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        child = supervisor.keep(program("stubborn", STUBBORN, str(tmp_path / "deaf"), stop_timeout_s=50))
        await until((tmp_path / "deaf").exists)
        hurry = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, hurry.set)
        async with asyncio.timeout(10):
            await supervisor.stop("test", hurry=hurry)
        assert child.pid is None

    supervise(tmp_path, work)


def test_a_setup_step_that_fails_says_why(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        with pytest.raises(ProgramFailed, match=r"step failed \(exit code 3\)") as failed:
            await supervisor.run_once(program("step", "print('the reason'); raise SystemExit(3)"), timeout_s=10)
        assert failed.value.tail[-1] == "the reason"

    supervise(tmp_path, work)


def test_a_setup_step_that_hangs_is_ended(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        with pytest.raises(ProgramFailed, match="longer than"):
            await supervisor.run_once(program("step", SLEEPER), timeout_s=0.3)
        assert find_leftovers(tmp_path / "run") == []

    supervise(tmp_path, work)


# --- the supervisor itself is killed

_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from coordinator.appliance.processes import Program
from coordinator.appliance.supervisor import Supervisor

async def main():
    folder = Path(sys.argv[1])
    supervisor = Supervisor(run=folder / "run", logs=folder / "logs", restart=True, changed=lambda: None)
    supervisor.keep(Program("child", "test", "", [sys.executable, "-c", sys.argv[2], str(folder / "deaf")]))
    await asyncio.sleep(600)

asyncio.run(main())
"""


def killed_supervisor(folder: Path, code: str) -> int:
    """Run a supervisor with one child, kill it once the child runs; the child's pid."""
    for name in ("run", "logs"):
        (folder / name).mkdir()
    process = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, str(folder), code], env=child_environment())
    try:
        pid_file = folder / "run" / "child.pid"
        wait_until((folder / "deaf").exists if code == STUBBORN else pid_file.exists, what="the child's start")
        return int(pid_file.read_text().split()[0])
    finally:
        process.kill()
        process.wait(10)


def test_the_child_of_a_killed_supervisor_ends(tmp_path: Path) -> None:
    pid = killed_supervisor(tmp_path, SLEEPER)
    wait_until(lambda: not is_alive(pid), what="the child's end", timeout_s=10)
    assert find_leftovers(tmp_path / "run") == []


def test_a_child_that_outlives_a_killed_supervisor_is_found_and_ended(tmp_path: Path) -> None:
    pid = killed_supervisor(tmp_path, STUBBORN)
    leftovers = find_leftovers(tmp_path / "run")
    assert [(leftover.name, leftover.pid) for leftover in leftovers] == [("child", pid)]
    assert asyncio.run(stop_leftovers(leftovers, ask_s=0.2, kill_s=10)) == []
    assert not is_alive(pid)
    assert find_leftovers(tmp_path / "run") == []


def test_another_process_of_the_same_number_is_never_touched(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        started = start_time(bystander.pid)
        assert started is not None
        pid_file = tmp_path / "worker1.pid"
        pid_file.write_text(f"{bystander.pid} {started - 1}\n")
        assert find_leftovers(tmp_path) == []
        assert not pid_file.exists()
        assert is_alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait(10)


@pytest.mark.parametrize("text", ["", "123", "one two", "0 0\n"])
def test_a_pid_file_cut_short_by_a_power_cut_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "worker1.pid").write_text(text)
    assert find_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
