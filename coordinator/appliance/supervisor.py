"""Runs the appliance's processes: starts them, starts again what dies, stops them in order.

Guarantees: a program that is kept is started again after it ended, after a pause that doubles with every quick death;
nothing is left running when `stop` has returned. Does not: know what the programs are for or in which order they start
(start.py), nor whether they answer (liveness.py).

One asyncio loop, no threads but ZeroMQ's (processes.spawn needs that). All fields belong to the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from coordinator.appliance.logfiles import open_log, read_tail
from coordinator.appliance.processes import Program, describe_exit, spawn, wait_for_exit

_PAUSE_FIRST_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0
_HEALTHY_AFTER_S: Final = 30.0
_KILLED_WITHIN_S: Final = 10.0

_log = logging.getLogger(__name__)


class ProgramFailed(Exception):
    """A program that has to succeed did not; the message is a sentence, `tail` the end of its log."""

    def __init__(self, message: str, tail: Sequence[str]) -> None:
        super().__init__(message)
        self.tail = tail


def next_pause_s(previous_s: float, lived_s: float) -> float:
    """How long to wait before starting a program again that lived `lived_s`; `previous_s` is the last pause (or 0)."""
    if lived_s >= _HEALTHY_AFTER_S or previous_s == 0:
        return _PAUSE_FIRST_S
    return min(2 * previous_s, _PAUSE_MAX_S)


class Child:
    """A program that is kept running. `pid` is None while it is down; `deaths` counts since the supervisor started."""

    def __init__(self, program: Program, before_start: Callable[[], Awaitable[None]] | None) -> None:
        self.program = program
        self.before_start = before_start
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        """The running process."""
        return self.process.pid if self.process is not None else None


class Supervisor:
    """Owner of every process of the appliance. `changed` is called after each start or death of a kept program."""

    def __init__(self, *, run: Path, logs: Path, restart: bool, changed: Callable[[], None]) -> None:
        self._run = run
        self._logs = logs
        self.restarts = restart
        self._changed = changed
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # ends only when a keeper breaks

    @property
    def children(self) -> Sequence[Child]:
        """Every kept program, running or not, in the order of their first start."""
        return list(self._children.values())

    async def run_once(self, program: Program, *, timeout_s: float) -> None:
        """Run a program to its end. Raises ProgramFailed when it fails or takes longer than `timeout_s`."""
        try:
            process = self._spawn(program)
        except (OSError, subprocess.SubprocessError) as error:
            raise self.failure(program, f"could not be started: {error}") from error
        try:
            # Not wait_for(): Python 3.11's loses a cancellation that comes together with the end.
            async with asyncio.timeout(timeout_s):
                code = await wait_for_exit(process)
        except TimeoutError as error:
            raise self.failure(program, f"took longer than {timeout_s:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
                await wait_for_exit(process)
            self._forget_pid(program)
        if code != 0:
            raise self.failure(program, f"failed ({describe_exit(code)})")

    def keep(self, program: Program, before_start: Callable[[], Awaitable[None]] | None = None) -> Child:
        """Start a program and start it again whenever it ends. `before_start` is awaited before every start."""
        child = self._children[program.name] = Child(program, before_start)
        keeper = self._keepers[program.name] = asyncio.create_task(self._keep(child), name=f"keep {program.name}")
        keeper.add_done_callback(self._note_end)
        return child

    async def stop(self, role: str, *, hurry: asyncio.Event) -> None:
        """Ask every process of this role to end and wait; kill what takes too long, or all as soon as `hurry`.

        From the first call on nothing is started again, whatever its role.
        """
        self._stopping = True
        children = [child for child in self._children.values() if child.program.role == role]
        await asyncio.gather(*(self._stop_child(child, hurry) for child in children))

    def kill(self, child: Child) -> None:
        """End a process that does not answer, as its program is killed; it is started again like one that died."""
        if child.process is not None and not self._stopping:
            child.process.send_signal(child.program.kill_signal)

    def failure(self, program: Program, what: str) -> ProgramFailed:
        """What to tell a person about a program: `what` follows its name."""
        log = self._log_file(program)
        return ProgramFailed(f"{program.name} {what.rstrip('.')}. Its log is {log}.", read_tail(log, 5))

    # --- one kept program

    async def _keep(self, child: Child) -> None:
        pause_s = 0.0
        while True:
            lived_s, how = await self._live(child)
            if self._stopping:
                return
            child.deaths += 1
            _log.warning("child.died", extra={"child": child.program.name, "how": how, "lived_s": round(lived_s, 1)})
            self._changed()
            if not self.restarts:
                return
            pause_s = next_pause_s(pause_s, lived_s)
            await asyncio.sleep(pause_s)

    async def _live(self, child: Child) -> tuple[float, str]:
        """One life of a program: how long it took, and how it ended."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if child.before_start is not None:
                await child.before_start()
            child.process = self._spawn(child.program)
        except (OSError, subprocess.SubprocessError) as error:
            return 0.0, f"could not be started: {error}"
        try:
            _log.info("child.started", extra={"child": child.program.name, "pid": child.pid})
            self._changed()
            code = await wait_for_exit(child.process)
        finally:
            child.process = None
            self._forget_pid(child.program)
        return loop.time() - started, describe_exit(code)

    async def _stop_child(self, child: Child, hurry: asyncio.Event) -> None:
        keeper = self._keepers[child.program.name]
        process = child.process
        if process is None:
            keeper.cancel()  # between two lives
            return
        program = child.program
        steps = [(program.kill_signal, _KILLED_WITHIN_S), (signal.SIGKILL, _KILLED_WITHIN_S)]
        if not hurry.is_set():
            steps.insert(0, (program.stop_signal, program.stop_timeout_s))
        for number, (step, timeout_s) in enumerate(steps):
            _log.info("child.stop", extra={"child": program.name, "signal": step.name})
            process.send_signal(step)  # does nothing once the process has been waited for
            await _wait_for_any(keeper, timeout_s, hurry if number == 0 else None)
            if keeper.done():
                return
        _log.error("child.not_stopped", extra={"child": program.name, "pid": process.pid})

    def _note_end(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None and not self.broken.done():
            self.broken.set_exception(error)

    # --- files

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        output = open_log(self._log_file(program))
        try:
            return spawn(program, pid_file=self._pid_file(program), output=output)
        finally:
            os.close(output)

    def _log_file(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def _pid_file(self, program: Program) -> Path:
        return self._run / f"{program.name}.pid"

    def _forget_pid(self, program: Program) -> None:
        self._pid_file(program).unlink(missing_ok=True)


async def _wait_for_any(keeper: asyncio.Task[None], timeout_s: float, hurry: asyncio.Event | None) -> None:
    """Wait until the keeper has ended, `hurry` is set, or time is up."""
    hurried = asyncio.create_task(hurry.wait()) if hurry is not None and not hurry.is_set() else None
    waits: set[asyncio.Task[None] | asyncio.Task[bool]] = {keeper} if hurried is None else {keeper, hurried}
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if hurried is not None:
            hurried.cancel()
