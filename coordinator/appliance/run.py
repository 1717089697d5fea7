"""`holdfast up` while it lives: the lock on its folder, the signals, appliance.json, the stop in order.

Meanwhile it keeps the logs small, renews the certificate and has processes started again that answer nothing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

import msgspec

from coordinator.appliance.layout import ADMIN_EMAIL, Layout, Options, Paths
from coordinator.appliance.liveness import Liveness
from coordinator.appliance.logfiles import rotate_large_logs
from coordinator.appliance.programs import public_url, setup_program
from coordinator.appliance.start import Start, StartFailed
from coordinator.appliance.supervisor import ProgramFailed, Supervisor

HUNG_AFTER_S: Final = 30.0

_ROTATE_EVERY_S: Final = 60.0
_RENEW_EVERY_S: Final = 24 * 3600.0
_RENEWAL_TIMEOUT_S: Final = 120.0
_STOP_ORDER: Final = ("coordinator", "node", "postgres")  # nobody loses what it still needs

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Administrator(msgspec.Struct, frozen=True):
    """The account that the first start made."""

    email: str
    password_file: str


class Process(msgspec.Struct, frozen=True):
    """One running process; `site` is None for what serves all sites."""

    role: str
    name: str
    site: str | None
    pid: int
    disks: tuple[str, ...] = ()


class Description(msgspec.Struct, frozen=True):
    """DIR/appliance.json: where the service is and what runs, for scripts and tests."""

    url: str
    ca_file: str
    admin: Administrator
    processes: tuple[Process, ...]


def lock_folder(paths: Paths) -> int:
    """Become the only supervisor of this folder for as long as the descriptor is open. Raises StartFailed."""
    try:
        # Others may pass through, as PostgreSQL's account has to, but not look.
        paths.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            raise StartFailed(f'Another "holdfast up" already runs on {paths.root}.') from error
        raise StartFailed(f"The folder {paths.root} cannot be used: {error.strerror}.") from error
    return descriptor


class Appliance:
    """One run. Made and used in the asyncio loop, to which everything belongs; `run` is called once."""

    def __init__(
        self,
        paths: Paths,
        options: Options,
        *,
        restart: bool,
        say: Callable[[str], None],
        hung_after_s: float = HUNG_AFTER_S,
    ) -> None:
        """A process that answers nothing for `hung_after_s` is killed and started again (0: never)."""
        self._paths = paths
        self._say = say
        self._hung_after_s = hung_after_s
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._supervisor = Supervisor(run=paths.run, logs=paths.logs, restart=restart, changed=self._note_change)
        self._start = Start(paths, options, self._supervisor, say)
        self._layout: Layout | None = None  # None until everything is ready

    async def run(self, on_ready: Callable[[Description], None]) -> None:
        """Start, call `on_ready`, run until a signal asks to stop, stop all. Raises StartFailed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup holdfast up` ignores SIGHUP from its start on, and stays when its terminal goes.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._ask_to_stop)
        try:
            self._layout = await self._until_stop(self._start.run())
            if self._layout is not None:
                self._note_change()
                on_ready(self._describe(self._layout))
                _log.info("appliance.ready")
                await self._until_stop(self._look_after(self._layout))
        finally:
            await self._stop()

    def _ask_to_stop(self) -> None:
        if self._stop_asked.is_set():
            self._say("Ending everything at once.")
            self._hurry.set()
        else:
            self._say("Stopping: running requests are finished first. Press Ctrl-C again to end at once.")
            self._stop_asked.set()

    async def _until_stop(self, work: Coroutine[None, None, _T]) -> _T | None:
        """The result of `work`, or None when somebody asked to stop before. Raises also what breaks the supervisor."""
        task = asyncio.create_task(work)
        asked = asyncio.create_task(self._stop_asked.wait())
        broken = self._supervisor.broken
        try:
            await asyncio.wait((task, asked, broken), return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                broken.result()
            return task.result() if task.done() else None
        finally:
            asked.cancel()
            task.cancel()
            await asyncio.gather(task, asked, return_exceptions=True)

    async def _stop(self) -> None:
        self._layout = None
        self._paths.appliance.unlink(missing_ok=True)
        for role in _STOP_ORDER:
            await self._supervisor.stop(role, hurry=self._hurry)
        _log.info("appliance.stopped")

    async def _look_after(self, layout: Layout) -> None:
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self._keep_logs_small())
            duties.create_task(self._keep_certificate_valid())
            if self._supervisor.restarts and self._hung_after_s:
                liveness = Liveness(layout, self._paths, self._supervisor, hung_after_s=self._hung_after_s)
                duties.create_task(liveness.run())

    async def _keep_certificate_valid(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            try:
                # The workers notice a new certificate by themselves.
                await self._supervisor.run_once(setup_program("keys", self._paths), timeout_s=_RENEWAL_TIMEOUT_S)
            except ProgramFailed as failed:
                _log.error("appliance.not_renewed", extra={"reason": str(failed), "tail": failed.tail})

    async def _keep_logs_small(self) -> None:
        while True:
            rotate_large_logs(self._paths.logs)
            await asyncio.sleep(_ROTATE_EVERY_S)

    # --- appliance.json

    def _note_change(self) -> None:
        """A process came or went: let appliance.json say so, once there is one."""
        if self._layout is None:
            return
        document = msgspec.json.format(msgspec.json.encode(self._describe(self._layout)), indent=2)
        # Whole or not at all for who reads it; after a power cut it means nothing, so it is not synced.
        temporary = self._paths.appliance.with_name(".appliance.json.tmp")
        temporary.write_bytes(document + b"\n")
        temporary.replace(self._paths.appliance)

    def _describe(self, layout: Layout) -> Description:
        processes = [
            Process(program.role, program.name, program.site or None, child.pid, tuple(map(str, program.disks)))
            for child in self._supervisor.children
            if child.pid is not None
            for program in (child.program,)
        ]
        return Description(
            url=public_url(layout),
            ca_file=str(self._paths.ca),
            admin=Administrator(ADMIN_EMAIL, str(self._paths.admin_password)),
            processes=(Process("supervisor", "supervisor", None, os.getpid()), *processes),
        )
