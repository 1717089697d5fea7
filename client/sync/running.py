"""A synced folder that runs: puts the engine together over the real disk, network and clock, and tells how it goes.

Does not: parse arguments or print (client.cli.sync), decide anything (engine/).
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import peewee

from client.api import Api
from client.errors import ExitCode, LocalTrouble, StateUnreadable, UsageProblem
from client.fs.base import FileSystem
from client.fs.base import Path as FsPath
from client.fs.real import RealFileSystem
from client.state import Account, record_bug
from client.sync.check import Checked, check
from client.sync.desktop import Desktop
from client.sync.engine.loop import IN_USE, Engine, Settings, State
from client.sync.engine.rules import RETRY_S, RulesUnreadable, read_rules
from client.sync.engine.unselect import last_rules
from client.sync.folders import (
    ConflictLine,
    FailureLine,
    Folder,
    NotLoggedInFor,
    ProblemLine,
    StatusFile,
    account_of,
    load,
    running,
    take_yes,
    write_status,
)
from client.sync.idle import IdleCheck
from client.sync.local import root
from client.sync.local.disk import Disk, Place, shown
from client.sync.local.ignore import IGNORE_FILE
from client.sync.local.selection import Selection
from client.sync.local.watch import Watcher
from client.sync.planner.conflicts import who
from client.sync.remote.feed import Feed
from client.sync.remote.side import RemoteSide
from client.sync.store.database import StoreFull
from client.sync.store.reader import Reader
from client.sync.store.store import Store, open_store
from client.sync.tidying import Tidying, chores
from client.sync.transfer.contents import Tools
from client.sync.transfer.jobs import Threads
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.transfers import Transfers
from client.sync.workers import ThreadWorkers
from coordinator.protocol.types import Kind
from node.base.clock import Clock, SystemClock

RESCAN_S: Final = 900.0
STATUS_S: Final = 0.5
FULL_RETRY_S: Final = 5.0
FREE_MIN: Final = 4 << 20  # bytes: with less, what sync remembers would soon not fit again
ENDING_MAX_S: Final = 300.0  # a long poll, or a large file, that was begun
GIVE_UP_S: Final = 5.0  # how long `--once` waits for a service that does not answer
LISTED_MAX: Final = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """`set_up_anew`: whatever the folder's marker says, both sides are compared, nothing is deleted."""

    once: bool = False
    allow_deletes: bool = False
    set_up_anew: bool = False
    up_limit: int | None = None
    down_limit: int | None = None


class Running:
    """One client of one folder. `stop` may be called from a signal handler; everything else from one thread.
    `new_login`: it has ended because its person has logged in anew, and is to be run with that."""

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
        self.new_login: Account | None = None
        self._clock = SystemClock()
        self._workers = ThreadWorkers(self._clock)
        self._stopping = False
        self._status_at = 0.0
        self._look_at = 0.0
        self._status: StatusFile | None = None
        self._trouble_since: float | None = None
        self._speed = _Speed(self._clock)
        self._desktop = Desktop(self._clock)
        self._watcher: Watcher | None = None
        self._rescued: list[FsPath] = []
        self._rules_are_old = False

    def stop(self) -> None:
        self._stopping = True
        self._workers.wake()

    def run(self) -> StatusFile:
        """Until it is stopped, or with `once` until both sides agree or nothing more can be done. Raises LocalTrouble
        where the folder or what is known of it cannot be used: nothing is lost by that, and another run goes on."""
        with running(self.folder):
            take_yes(self.folder)  # one that was given to an earlier client, and came too late
            # What the last client left there is not how the folder is now.
            self._show(StatusFile(state=State.SYNCING, queued=1, pid=os.getpid()))
            while True:
                try:
                    return self._run()
                except StoreFull:
                    if not self._waits_for_space():
                        return self._show_full(ended=True)
                except (sqlite3.OperationalError, peewee.OperationalError) as error:
                    raise LocalTrouble(path=self.folder.state, reason=str(error)) from error

    def _waits_for_space(self) -> bool:
        """False when it is to end instead."""
        self._workers = ThreadWorkers(self._clock)  # what the old ones have still to tell is nobody's business any more
        while not (self._stopping or self.options.once):
            self._workers.next_event(self._clock.monotonic() + FULL_RETRY_S)
            with suppress(OSError):
                if shutil.disk_usage(self.folder.state).free >= FREE_MIN:
                    return True
        return False

    def _run(self) -> StatusFile:
        """Until the folder's state cannot be written any more. Raises StoreFull."""
        self._speed, self._rules_are_old = _Speed(self._clock), False
        with ExitStack() as stack, self._telling_full():
            try:
                fs = stack.enter_context(closing(RealFileSystem(Path(self.folder.path), self._clock)))
                store, _ = open_store(self.folder.state / "state.db")
                stack.callback(store.close)
                stack.callback(self._end_jobs)
                self._claim_root(fs, store)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StoreFull from error
                raise LocalTrouble(path=self.folder.path, reason=error.strerror or str(error)) from error
            except (root.RootMissing, root.RootForeign) as error:
                return self._show(StatusFile(state=State.BLOCKED, reason=error.message, pid=os.getpid(), ended=True))
            if (selection := self._first_selection(fs, store)) is None:
                assert self._status is not None
                return self._show(msgspec.structs.replace(self._status, ended=True))
            engine = self._make_engine(fs, store, selection, stack)
            stack.callback(self._transfers.close)
            tidying = Tidying(engine, chores(fs, self._clock), self._workers, self._clock)
            idle = IdleCheck(engine, partial(self._compare, fs), self._workers, self._clock)
            self._loop(engine, idle, tidying)
            status = self._tell(engine, at_once=True)
            store.end_session()
            return self._show(msgspec.structs.replace(status, ended=True))

    @contextmanager
    def _telling_full(self) -> Iterator[None]:
        """At once: what is at work may take its time to end."""
        try:
            yield
        except StoreFull:
            self._show_full()
            raise

    def _show_full(self, *, ended: bool = False) -> StatusFile:
        reason = f"This computer's disk is full: there is no room for what sync remembers ({self.folder.state})."
        return self._show(StatusFile(state=State.BLOCKED, reason=reason, pid=os.getpid(), ended=ended))

    def _end_jobs(self) -> None:
        """When this is not the end of the process, what is still at work must not meet what comes after it, such as
        descriptors that were closed and are those of other files by then."""
        until = self._clock.monotonic() + ENDING_MAX_S
        while not (self._stopping or self.options.once) and not self._workers.end(STATUS_S):
            if self._clock.monotonic() >= until:
                raise LocalTrouble(
                    path=self.folder.path, reason="something that was begun there does not come to an end"
                )

    # --- the folder itself --------------------------------------------------------------------------------------

    def _claim_root(self, fs: FileSystem, store: Store) -> None:
        """Make sure that the folder is the one that the database is about, and set it up when it is new.

        The database's generation is raised first: a crash before the marker's is no sign of a restored backup.
        """
        remote_root = store.remote_root or self._find_remote_root()
        self._marker = root.Marker(
            folder_id=self.folder.id,
            service=self.folder.service_id,
            user_id=self.folder.user_id,
            remote_root=remote_root,
        )
        there = self._known_root(fs, store)
        try:
            fs.lock()
        except BlockingIOError:
            raise UsageProblem(reason=f"{self.folder.path} is being synced already by another process.") from None
        self._rescued = fs.recover()
        generation = int(store.fact("generation") or 0)
        fits = there is not None and root.fits(there.generation, generation) and not _is_replaced(fs, store)
        if store.remote_root and not fits:
            store.drop_all_synced()
        generation = max(generation, there.generation if there is not None else 0) + 1
        with store.transaction(durable=True):
            store.set_fact("generation", str(generation))
        self._marker = msgspec.structs.replace(self._marker, generation=generation)
        root.write(fs, self._marker)

    def _known_root(self, fs: FileSystem, store: Store) -> root.Marker | None:
        """The marker of the folder that the database is about; None where both are set up anew: for a new folder, when
        the person says so, and when only the marker is gone from the very folder that was synced. Raises RootMissing,
        RootForeign."""
        if self.options.set_up_anew:
            fs.stat(())
            return None
        there = root.read(fs)
        if there is not None:
            return root.check(fs, self._marker)
        if store.remote_root and _is_replaced(fs, store):
            raise root.RootMissing
        return None

    def _find_remote_root(self) -> int:
        found = self.api.find(self.folder.remote)
        if found is None or found.kind is not Kind.FOLDER:
            raise UsageProblem(reason=f"There is no folder {self.folder.remote} in the service.")
        return found.id

    def _check_root(self, fs: FileSystem) -> str | None:
        """Why what is at the folder's path is not the synced folder now. Runs in workers."""
        try:
            root.check(fs, self._marker)
        except (root.RootMissing, root.RootForeign) as error:
            return error.message
        except OSError as error:
            return f"{self.folder.path} cannot be read now: {error.strerror}."
        return None

    def _first_selection(self, fs: FileSystem, store: Store) -> Selection | None:
        """By the ignore file's rules or, where it cannot be read, by those that held last. Where none ever did, waits
        until it can be read, since what it leaves out would be sent; None when this is to end before."""
        while not self._stopping:
            try:
                return read_selection(self.folder, fs)
            except RulesUnreadable as error:
                if (rules := last_rules(store)) is not None:
                    self._rules_are_old = True
                    return _selection(self.folder, rules)
                reason = (
                    f"{IGNORE_FILE} cannot be used: {error.facts['reason']}. Nothing is synced until it can, since what"
                    " it leaves out would be sent."
                )
            self._show(StatusFile(state=State.BLOCKED, reason=reason, pid=os.getpid()))
            if self.options.once:
                return None
            self._workers.next_event(self._clock.monotonic() + RETRY_S)
        return None

    def _make_engine(self, fs: FileSystem, store: Store, selection: Selection, stack: ExitStack) -> Engine:
        source = random.Random()  # noqa: S311  # spreads retries, guards nothing

        def load_rules() -> Selection:
            selection = read_selection(self.folder, fs)
            if self._watcher is not None:
                self._watcher.refresh(selection.is_ignored)
            return selection

        if not self.options.once:
            self._watcher = stack.enter_context(closing(Watcher(Path(self.folder.path), selection.is_ignored)))
            self._watcher.start()
        reader = Reader(store)
        self._transfers = Transfers(
            Tools(
                fs=fs,
                service=self.api,
                known=reader,
                parallel=Threads(),
                up=RateLimit(self.options.up_limit, self._clock, time.sleep),
                down=RateLimit(self.options.down_limit, self._clock, time.sleep),
                pause=time.sleep,
                new_key=_new_key,
            ),
            self._clock,
        )
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
            check_root=partial(self._check_root, fs),
            rescan_s=None if self.options.once else RESCAN_S,
        )
        engine = Engine(
            store=store,
            fs=fs,
            service=self.api,
            carrier=self._transfers,
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
            watcher=self._watcher,
            load_rules=load_rules,
            on_conflict=self._note_conflict,
            on_mistake=_record_mistake,
        )
        if self._rules_are_old:
            engine.reload_rules()  # which tells that, and tries again
        return engine

    def _loop(self, engine: Engine, idle: IdleCheck, tidying: Tidying) -> None:
        while not self._stopping:
            tidying.step()
            engine.step(self._clock.monotonic() + STATUS_S)
            self._tell(engine)
            self._look_outside(engine)
            idle.step()
            if self.new_login is not None:
                return
            if self.options.once and (engine.is_settled() or self._gives_up(engine)):
                return

    def _compare(self, fs: FileSystem) -> Checked:
        entries = self.api.list_folder(self.folder.remote, recursive=True)
        return check(self.folder.state / "state.db", fs, entries, read_selection(self.folder, fs))

    def _look_outside(self, engine: Engine) -> None:
        """What other commands leave for a running client: another choice of what is left out (`holdfast sync select`),
        a yes to many deletes, and while the service does not answer it, a new login."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + STATUS_S
        chosen = load(self.folder)
        if chosen is not None and chosen.excluded != self.folder.excluded:
            self.folder = chosen
            engine.reload_rules()
        if take_yes(self.folder):
            engine.allow_deletes()
        if engine.state()[0] is State.OFFLINE:
            with suppress(NotLoggedInFor, StateUnreadable):
                account = account_of(self.folder)
                self.new_login = account if account != self.account else None

    def _gives_up(self, engine: Engine) -> bool:
        """A service or disk that does not answer may be back in a moment."""
        now = self._clock.monotonic()
        failing_since = engine.failing_since()
        if failing_since is not None and now - failing_since >= GIVE_UP_S:
            return True
        if not engine.is_waiting():
            self._trouble_since = None
            return False
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
        traffic = self._transfers.tools.traffic
        up, down = self._speed.measure(traffic.up, traffic.down)
        status = StatusFile(
            state=told.state.value,
            reason=told.reason,
            queued=told.queued,
            conflicts=len(conflicted),
            conflicted=[ConflictLine(*row) for row in conflicted[-LISTED_MAX:]],
            problems=self._problems(engine),
            errors=[FailureLine(row.at, row.path, row.message) for row in engine.store.told.failures()],
            cursor=engine.remote.cursor,
            up_bytes_s=up,
            down_bytes_s=down,
            moved_bytes=traffic.up + traffic.down,
            pid=os.getpid(),
        )
        return self._show(status)

    def _note_conflict(self, path: str, copy: str) -> None:
        self._desktop.tell("Both versions are kept", f"{path} was changed here and elsewhere. Yours is now {copy}.")
        self._on_conflict(path, copy)

    def _show(self, status: StatusFile) -> StatusFile:
        if status != self._status:
            if status.state == State.BLOCKED and (self._status is None or self._status.state != State.BLOCKED):
                self._desktop.tell(f"{self.folder.path} is not in sync", status.reason or "")
            self._status = status
            with suppress(OSError):  # a full disk: it is shown all the same
                write_status(self.folder, status)
            self._on_status(status)
        return status

    def _problems(self, engine: Engine) -> list[ProblemLine]:
        about_all = [self._watcher.limitation] if self._watcher is not None and self._watcher.limitation else []
        rescued = [
            ProblemLine(shown(path), "it was edited just when the last client ended, and was put here")
            for path in self._rescued
        ]
        in_use = [ProblemLine(shown(path), IN_USE) for path in engine.disk.in_use[:LISTED_MAX]]
        listed = [ProblemLine(*row) for row in engine.store.told.problems(LISTED_MAX)]
        return [*(ProblemLine("", reason) for reason in about_all), *rescued, *in_use, *listed]


class _Speed:
    """Bytes a second over the last time between two looks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._moved = (0, 0)
        self._told = (0, 0)

    def measure(self, up: int, down: int) -> tuple[int, int]:
        now = self._clock.monotonic()
        if now - self._at >= STATUS_S:
            before_up, before_down = self._moved
            self._told = (int((up - before_up) / (now - self._at)), int((down - before_down) / (now - self._at)))
            self._moved, self._at = (up, down), now
        return self._told


def exit_code(status: StatusFile) -> ExitCode:
    return ExitCode.DONE if status.state == State.IN_SYNC else ExitCode.UNAVAILABLE


def _is_replaced(fs: FileSystem, store: Store) -> bool:
    """Whether the root is another folder than the one that was looked at last: put back from a backup, whose marker may
    be as new as the database although its files are not, or copied to another disk."""
    known = store.local(store.local_root)
    return known is not None and known.stamp.inode not in (0, fs.stat(()).inode)  # 0: it was never looked at


@contextmanager
def open_root(folder: Folder) -> Iterator[FileSystem]:
    """To look at, beside a client that may be running. Raises OSError."""
    with closing(RealFileSystem(Path(folder.path), SystemClock())) as fs:
        yield fs


def read_selection(folder: Folder, fs: FileSystem) -> Selection:
    """Raises RulesUnreadable."""
    return _selection(folder, read_rules(fs))


def _selection(folder: Folder, rules: str) -> Selection:
    return Selection(rules, [tuple(path.strip("/").split("/")) for path in folder.excluded])


def _record_mistake(error: Exception) -> None:
    with suppress(OSError):  # the status tells it as well
        record_bug(error)


def _new_key() -> str:
    return uuid.uuid4().hex


def _nothing() -> None:
    pass
