"""From a data folder to a running appliance.

Every step can be cut short at any instant and is completed by the next run on the same folder: the layout is durable
before anything is made from it, each thing made is either whole or absent, and what an earlier supervisor left running
is stopped first. The steps that do not need one another run side by side:

    keys ─┬─> nodes' disks formatted (first start only) ─> nodes ─┐
          └───────────────┐                                       ├─> workers ─> ready
    initdb ─> PostgreSQL ─┴─> database ───────────────────────────┘

Does not: stop what it started (run.py, through the supervisor).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from coordinator.appliance.layout import (
    Layout,
    LayoutError,
    NodeLayout,
    Options,
    Paths,
    decode_layout,
    encode_layout,
    list_differences,
    plan_layout,
    with_other_ports,
    with_workers,
)
from coordinator.appliance.ports import PortTaken, answers_ok, free_ports, open_public_socket, taken_ports
from coordinator.appliance.postgres import Postgres, PostgresError, find_postgres
from coordinator.appliance.processes import find_leftovers, stop_leftovers
from coordinator.appliance.programs import (
    disk_folders,
    format_program,
    node_config,
    node_program,
    read_public_key,
    setup_program,
    worker_config,
    worker_program,
)
from coordinator.appliance.supervisor import Child, ProgramFailed, Supervisor
from node.base.durable import sync_directory, write_file_durably

_SETUP_TIMEOUT_S: Final = 120.0
_POSTGRES_TIMEOUT_S: Final = 300.0  # recovery after a crash replays what was written since the last checkpoint
_READY_TIMEOUT_S: Final = 60.0
_LATE_TIMEOUT_S: Final = 10.0
_ASK_EVERY_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 5.0
_ORPHANS_TIMEOUT_S: Final = 15.0
_LEFTOVERS_ASK_S: Final = 5.0
_LEFTOVERS_KILL_S: Final = 15.0
_DEATHS_MAX: Final = 5  # before it is called ready; afterwards it is started again for ever

_log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The appliance cannot start; the message is a sentence, `details` are lines of a log that may help."""

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


class Start:
    """One start. Belongs to the asyncio loop; `run` is called once. `say` shows a sentence to the person."""

    def __init__(self, paths: Paths, options: Options, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._paths = paths
        self._options = options
        self._supervisor = supervisor
        self._say = say
        # Set by the first steps, in this order.
        self._layout: Layout
        self._listener: socket.socket
        self._first: bool
        self._postgres: Postgres

    async def run(self) -> Layout:
        """Bring everything up; gives the layout that runs. Raises StartFailed. Whoever cancels stops the supervisor."""
        try:
            await self._start_all()
        except Exception as error:
            cause = _first_cause(error)
            if isinstance(cause, ProgramFailed):
                raise StartFailed(str(cause), list(cause.tail)) from error
            if isinstance(cause, LayoutError | PortTaken | PostgresError):
                raise StartFailed(str(cause)) from error
            if isinstance(cause, OSError):
                raise StartFailed(f"The appliance cannot start: {cause}.") from error
            raise
        return self._layout

    async def _start_all(self) -> None:
        paths = self._paths
        for folder in (paths.config, paths.keys, paths.tls, paths.logs, paths.run):
            folder.mkdir(mode=0o700, exist_ok=True)
        paths.appliance.unlink(missing_ok=True)  # of a supervisor that was killed
        await self._end_leftovers()
        self._settle_layout()
        self._postgres = find_postgres(paths)
        async with asyncio.TaskGroup() as steps:
            server = steps.create_task(self._start_postgres())
            await self._supervisor.run_once(setup_program("keys", paths), timeout_s=_SETUP_TIMEOUT_S)
            self._write_configs()
            nodes = steps.create_task(self._start_nodes())
            await server
            database = setup_program("database", paths, "--conninfo", self._postgres.conninfo)
            await self._supervisor.run_once(database, timeout_s=_SETUP_TIMEOUT_S)
            # Before anything is acknowledged the layout has to say that the disks are made.
            await nodes
            for worker in self._layout.workers:
                self._supervisor.keep(worker_program(worker, paths, self._listener.fileno()))
        await self._wait_until_ready()

    async def _end_leftovers(self) -> None:
        leftovers = find_leftovers(self._paths.run)
        if not leftovers:
            return
        _log.warning("appliance.leftovers", extra={"found": [leftover.name for leftover in leftovers]})
        self._say("An earlier run was cut short; ending what it left running.")
        alive = await stop_leftovers(leftovers, ask_s=_LEFTOVERS_ASK_S, kill_s=_LEFTOVERS_KILL_S)
        if alive:
            names = ", ".join(f"{leftover.name} (process {leftover.pid})" for leftover in alive)
            raise StartFailed(f"Processes of an earlier run do not end: {names}.")
        find_leftovers(self._paths.run)  # forgets their pid files

    def _settle_layout(self) -> None:
        """Read the layout or make it; open the public socket; write the layout when anything in it is new."""
        if self._paths.layout.exists():
            old = decode_layout(self._paths.layout.read_bytes())
            for sentence in list_differences(old, self._options):
                self._say(sentence)
            layout = self._refresh(old)
        else:
            old = None
            layout = plan_layout(self._options, new_id=lambda: secrets.token_hex(16), free_ports=free_ports)
        self._listener = open_public_socket(layout.bind, layout.port)
        self._layout = layout
        self._first = not layout.formatted
        if layout != old:
            self._write_layout()

    def _refresh(self, layout: Layout) -> Layout:
        """The layout with as many workers as wanted, and no port that somebody else has taken meanwhile."""

        def other_ports(count: int) -> list[int]:
            return free_ports(count, avoid={layout.port, *layout.ports()})

        if self._options.workers is not None:
            layout = with_workers(layout, self._options.workers, other_ports)
        return with_other_ports(layout, taken_ports(layout.ports()), other_ports)

    def _write_layout(self) -> None:
        write_file_durably(self._paths.layout, encode_layout(self._layout), mode=0o600)

    async def _start_postgres(self) -> None:
        postgres = self._postgres
        postgres.prepare_folders()
        if not postgres.exists:
            await self._supervisor.run_once(postgres.initdb_program(), timeout_s=_SETUP_TIMEOUT_S)
            postgres.finish_initdb()
        child = self._supervisor.keep(
            postgres.server_program(), before_start=lambda: postgres.wait_until_unused(_ORPHANS_TIMEOUT_S)
        )

        async def is_ready() -> bool:
            return child.pid is not None and postgres.is_ready(child.pid)

        await self._wait_for_child(child, is_ready, timeout_s=_POSTGRES_TIMEOUT_S)

    def _write_configs(self) -> None:
        paths, layout = self._paths, self._layout
        coordinator_key = read_public_key(paths.coordinator_key)
        texts = {node.name: node_config(layout, node, paths, coordinator_key) for node in layout.nodes}
        for worker in layout.workers:
            texts[worker.name] = worker_config(
                layout, worker, paths, conninfo=self._postgres.conninfo, descriptor=self._listener.fileno()
            )
        for name, text in texts.items():
            write_file_durably(paths.config_file(name), text.encode(), mode=0o600)

    async def _start_nodes(self) -> None:
        async with asyncio.TaskGroup() as steps:
            for node in self._layout.nodes:
                steps.create_task(self._start_node(node))
        if not self._layout.formatted:
            self._layout = msgspec.structs.replace(self._layout, formatted=True)
            self._write_layout()

    async def _start_node(self, node: NodeLayout) -> None:
        # Once every disk has its identity nothing here makes a disk folder again: one that is gone is a lost disk.
        if not self._layout.formatted:
            for folder in disk_folders(node, self._paths):
                _make_folder(folder)
            await self._supervisor.run_once(format_program(node, self._paths), timeout_s=_SETUP_TIMEOUT_S)
        self._supervisor.keep(node_program(node, self._paths))

    # --- ready

    async def _wait_until_ready(self) -> None:
        """At the first start all has to be well. Later the service also runs without a node, or for reading only."""
        ports = {node.name: (node.metrics_port, "/metrics") for node in self._layout.nodes}
        ports |= {worker.name: (worker.metrics_port, "/readyz?writes=true") for worker in self._layout.workers}
        wait = self._wait_for_answer if self._first else self._wait_or_go_on
        async with asyncio.TaskGroup() as waits:
            for child in self._supervisor.children:
                if child.program.name in ports:
                    waits.create_task(wait(child, *ports[child.program.name]))

    async def _wait_or_go_on(self, child: Child, port: int, path: str) -> None:
        try:
            await self._wait_for_answer(child, port, path, _LATE_TIMEOUT_S)
        except ProgramFailed as failed:
            if child.program.role != "node":
                await self._wait_for_answer(child, port, "/healthz")  # on a busy machine it is only slow to begin
            _log.error("appliance.not_whole", extra={"child": child.program.name, "reason": str(failed)})
            self._say(f"{failed} The service starts all the same, as far as it can.")

    async def _wait_for_answer(self, child: Child, port: int, path: str, timeout_s: float = _READY_TIMEOUT_S) -> None:
        async def is_ready() -> bool:
            return await answers_ok(port, path, timeout_s=_ANSWER_TIMEOUT_S)

        await self._wait_for_child(child, is_ready, timeout_s=timeout_s)

    async def _wait_for_child(self, child: Child, is_ready: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        """Ask until `child` is ready. Raises ProgramFailed when it keeps dying or time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not await is_ready():
            if child.deaths >= (_DEATHS_MAX if self._supervisor.restarts else 1):
                raise self._supervisor.failure(child.program, "does not stay up")
            if loop.time() >= deadline:
                raise self._supervisor.failure(child.program, f"is not ready after {timeout_s:.0f} s")
            await asyncio.sleep(_ASK_EVERY_S)


def _first_cause(error: Exception) -> Exception:
    """Of steps that failed side by side, what one of them raised."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _make_folder(folder: Path) -> None:
    """Make a folder and, durably, what leads to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (folder.parent, folder.parent.parent, folder.parent.parent.parent):
        sync_directory(part)
