"""A synced folder that runs: puts the engine together over the real disk, network and clock, and tells how it goes.

Does not: parse arguments or print (client.cli.sync), decide anything (engine.py).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.api import Api
from client.errors import ExitCode, LocalTrouble
from client.fs.base import FileSystem
from client.fs.real import RealFileSystem
from client.state import Account
from client.sync.conflicts import who
from client.sync.disk import Disk, Place
from client.sync.engine import Engine, Settings, State
from client.sync.feed import Feed
from client.sync.folders import (
    ConflictLine,
    FailureLine,
    Folder,
    ProblemLine,
    StatusFile,
    running,
    write_status,
)
from client.sync.ignore import IGNORE_FILE
from client.sync.plain import PlainCarrier
from client.sync.remote import RemoteSide
from client.sync.selection import Selection
from client.sync.store import Reader, Store, open_store
from client.sync.workers import ThreadWorkers
from node.base.clock import SystemClock

RULES_BYTES_MAX: Final = 1 << 20
RESCAN_S: Final = 900.0
STATUS_S: Final = 0.5
GIVE_UP_S: Final = 5.0  # how long `--once` waits for a service that does not answer
LISTED_MAX: Final = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    once: bool = False
    allow_deletes: bool = False
    up_limit: int | None = None
    down_limit: int | None = None


class Running:
    """One client of one folder. `stop` may be called from a signal handler; everything else from one thread."""

    def __init__(
        self,
        folder: Folder,
        account: Account,
        api: Api,
        options: Options,
        *,
        on_conflict: Callable[[str, str], None],
        on_status: Callable[[StatusFile], None],
    ) -> None:
        self.folder, self.account, self.api, self.options = folder, account, api, options
        self._on_conflict, self._on_status = on_conflict, on_status
        self._clock = SystemClock()
        self._workers = ThreadWorkers(self._clock)
        self._stopping = False
        self._status_at = 0.0
        self._status: StatusFile | None = None
        self._trouble_since: float | None = None

    def stop(self) -> None:
        self._stopping = True
        self._workers.wake()

    def run(self) -> StatusFile:
        """Until it is stopped, or with `once` until both sides agree or nothing more can be done."""
        with ExitStack() as stack:
            stack.enter_context(running(self.folder))
            try:
                fs = RealFileSystem(Path(self.folder.path), self._clock)
            except OSError as error:
                raise LocalTrouble(path=self.folder.path, reason=error.strerror) from error
            stack.callback(fs.close)
            store, _ = open_store(self.folder.state / "state.db")
            stack.callback(store.close)
            self._prepare_root(fs)
            engine = self._make_engine(fs, store)
            self._loop(engine)
            if engine.is_settled():
                store.make_durable()
            return self._tell(engine, at_once=True)

    def _prepare_root(self, fs: FileSystem) -> None:
        fs.lock()
        fs.recover()
        if fs.read_marker() is None:
            fs.write_marker(self.folder.id.encode())

    def _make_engine(self, fs: FileSystem, store: Store) -> Engine:
        source = random.Random()  # noqa: S311  # spreads retries, guards nothing
        excluded = [tuple(path.strip("/").split("/")) for path in self.folder.excluded]

        def load_rules() -> Selection:
            return Selection(_read_rules(fs), excluded)

        selection = load_rules()
        reader = Reader(store)
        remote = RemoteSide(store, selection, self.account.device_id)
        busy: set[Place] = set()
        feed = Feed(
            remote=remote,
            service=self.api,
            workers=self._workers,
            clock=self._clock,
            random=source,
            path=self.folder.remote,
            follow=not self.options.once,
            on_change=_nothing,
        )
        disk = Disk(
            fs=fs,
            store=store,
            tree=reader,
            workers=self._workers,
            clock=self._clock,
            random=source,
            selection=selection,
            busy=busy,
            on_change=_nothing,
            pause=time.sleep,
            rescan_s=None if self.options.once else RESCAN_S,
        )
        return Engine(
            store=store,
            reader=reader,
            fs=fs,
            service=self.api,
            carrier=PlainCarrier(fs, self.api),
            workers=self._workers,
            clock=self._clock,
            random=source,
            settings=Settings(
                who=who(self.account.name or self.account.email.partition("@")[0], self.account.device_name),
                allow_deletes=self.options.allow_deletes,
            ),
            feed=feed,
            disk=disk,
            remote=remote,
            load_rules=load_rules,
            on_conflict=self._on_conflict,
        )

    def _loop(self, engine: Engine) -> None:
        while not self._stopping:
            engine.step(self._clock.monotonic() + STATUS_S)
            self._tell(engine)
            if self.options.once and (engine.is_settled() or self._gives_up(engine)):
                return

    def _gives_up(self, engine: Engine) -> bool:
        """A service or disk that does not answer may be back in a moment."""
        if not engine.is_waiting():
            self._trouble_since = None
            return False
        now = self._clock.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        return engine.needs_a_person() or now - self._trouble_since >= GIVE_UP_S

    # --- what is told -------------------------------------------------------------------------------------------

    def _tell(self, engine: Engine, *, at_once: bool = False) -> StatusFile:
        """Write the status when the state changed, else now and then."""
        now = self._clock.monotonic()
        state, _ = engine.state()
        if self._status is not None and not at_once and state == self._status.state and now < self._status_at:
            return self._status
        self._status_at = now + STATUS_S
        told = engine.status()
        conflicted = engine.conflicts()
        status = StatusFile(
            state=told.state.value,
            reason=told.reason,
            queued=told.queued,
            conflicts=len(conflicted),
            conflicted=[ConflictLine(*row) for row in conflicted[-LISTED_MAX:]],
            problems=[ProblemLine(*row) for row in engine.store.problems(LISTED_MAX)],
            errors=[FailureLine(row.at, row.path, row.message) for row in engine.store.failures()],
            cursor=engine.remote.cursor,
            pid=os.getpid(),
        )
        if status != self._status:
            self._status = status
            write_status(self.folder, status)
            self._on_status(status)
        return status


def exit_code(status: StatusFile) -> ExitCode:
    return ExitCode.DONE if status.state == State.IN_SYNC else ExitCode.UNAVAILABLE


def _read_rules(fs: FileSystem) -> str:
    try:
        with fs.open((IGNORE_FILE,)) as file:
            buffer = bytearray(min(file.stat().size, RULES_BYTES_MAX))
            size = file.read_at(0, memoryview(buffer))
    except OSError:
        return ""
    return buffer[:size].decode("utf-8", "replace")


def _nothing() -> None:
    pass
