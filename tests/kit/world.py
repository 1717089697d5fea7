"""A simulated world: several sync clients with their real engines, people at each disk and on the web, and fate.

`run(workload, schedule)` plays one history and judges its end; the same arguments give the same trace. What must hold
in the end, when all faults are over and everybody is done:

- every disk shows what the service does (but for what is left out there, or reported as a problem);
- every client's three trees say what disk and service are;
- nobody's writing is lost: what was written and never replaced or deleted by anybody who saw it is on the disks, and
  everything that was ever written is still on some disk, in the service's history or in a local trash;
- no file holds what nobody ever wrote; no conflicted copy repeats another file of its family.

Does not: choose what happens (tests/kit/workload.py) or carry it out (tests/kit/people.py).
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path as RealPath
from typing import Any, Final

from client.fs.base import OWN_FOLDER, FileKind, Path
from client.fs.fake import FakeDisk, FakeFileSystem, Inode
from client.sync.engine.loop import Engine, Settings, State
from client.sync.engine.rules import RulesUnreadable, read_rules
from client.sync.engine.unselect import last_rules
from client.sync.local.disk import Disk
from client.sync.local.findings import DirtyFolder
from client.sync.local.selection import Selection
from client.sync.planner.conflicts import parse
from client.sync.remote.feed import Feed
from client.sync.remote.side import RemoteSide
from client.sync.store.reader import Reader
from client.sync.store.store import Store
from client.sync.transfer.contents import Tools
from client.sync.transfer.jobs import OneByOne
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.transfers import Transfers
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode
from client.sync.workers import Result
from client.sync.workers import run as run_job
from coordinator.protocol import types
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind
from tests.kit.people import Entry, Ledger, Person, WebPerson
from tests.kit.scheduler import Event, Machine, Scheduler, Signal, SimClock
from tests.kit.sim_service import Backup, SimConnection, SimService, Weather, sim_api
from tests.kit.workload import FATE, WEB, Step, Workload

SETTLE_S: Final = 3 * 3600.0  # of virtual time, after the last fault: more than any back-off or rescan needs
QUIET_S: Final = 130.0  # nothing may happen any more in this time: longer than two long polls
RESCAN_S: Final = 1800.0
SLOW_DISK_S: Final = 0.03
PATIENCE_S: Final = 4.0
STEPS_MAX: Final = 100_000
DELETES_MANY: Final = 50
GRACE_S: Final = 30.0
SNAPSHOTS_KEPT: Final = 12


class Broken(AssertionError):
    """The world's end is not as it must be; the message says what, line by line."""


# --- a person's disk --------------------------------------------------------------------------------------------


class PersonDisk:
    """tests.kit.people.Disk on a FakeDisk. Part of what programs write is not synced, as programs do: `loose` is the
    probability for each change; `unsynced` are the files of which a power cut may take something."""

    def __init__(self, disk: FakeDisk, tape: random.Random, loose: float) -> None:
        self._disk = disk
        self._tape = tape
        self._loose = loose
        self.unsynced: list[Inode] = []
        self.power_cuts = 0

    def look(self) -> Mapping[Path, Entry]:
        return dict(walk(self._disk))

    def look_at(self, path: Path) -> Entry | None:
        try:
            return _entry(self._disk.find(path))
        except OSError:
            return None

    def open_to_write(self, path: Path, *, create: bool) -> _Handle:
        disk = self._disk
        folder = disk.folder(path[:-1])
        inode = folder.children.get(path[-1])
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            inode = disk.add(folder, path[-1], FileKind.FILE)
            self._done(path, inode, folder)
        if inode.kind is not FileKind.FILE:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        inode.writers += 1
        return _Handle(self, disk, inode, path)

    def rename(self, source: Path, target: Path) -> None:
        source_folder, target_folder = self._disk.folder(source[:-1]), self._disk.folder(target[:-1])
        self._disk.rename(source_folder, source[-1], target_folder, target[-1])
        self._disk.tell(source)
        self._done(target, source_folder, target_folder)

    def unlink(self, path: Path) -> None:
        folder = self._disk.folder(path[:-1])
        if self._disk.child(folder, path[-1]).kind is FileKind.FOLDER:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._disk.unlink(folder, path[-1])
        self._done(path, folder)

    def make_folder(self, path: Path) -> None:
        folder = self._disk.folder(path[:-1])
        self._disk.add(folder, path[-1], FileKind.FOLDER)
        self._done(path, folder)

    def remove_folder(self, path: Path) -> None:
        folder = self._disk.folder(path[:-1])
        if self._disk.child(folder, path[-1]).kind is not FileKind.FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._disk.unlink(folder, path[-1])
        self._done(path, folder)

    def make_symlink(self, path: Path, target: str) -> None:
        folder = self._disk.folder(path[:-1])
        self._disk.add(folder, path[-1], FileKind.SYMLINK)
        self._done(path, folder)

    def set_executable(self, path: Path, executable: bool) -> None:
        inode = self._disk.find(path)
        self._disk.mark(inode, executable=executable)
        self._done(path, inode)

    def set_mtime(self, path: Path, mtime_ns: int) -> None:
        inode = self._disk.find(path)
        self._disk.mark(inode, mtime_ns=mtime_ns)
        self._done(path, inode)

    def _done(self, path: Path, *touched: Inode) -> None:
        if self._tape.random() < self._loose:
            self.unsynced += [inode for inode in touched if inode.kind is FileKind.FILE]
        else:
            for inode in touched:
                self._disk.sync(inode)
        self._disk.tell(path)


class _Handle:
    def __init__(self, person: PersonDisk, disk: FakeDisk, inode: Inode, path: Path) -> None:
        self._person = person
        self._disk = disk
        self._inode = inode
        self._path = path
        self._power_cuts = person.power_cuts

    def write_at(self, offset: int, data: bytes) -> None:
        self._check()
        self._disk.write(self._inode, offset, data)
        self._person._done(self._path, self._inode)

    def truncate(self, size: int) -> None:
        self._check()
        self._disk.truncate(self._inode, size)
        self._person._done(self._path, self._inode)

    def content(self) -> bytes:
        self._check()
        return bytes(self._inode.data)

    def close(self) -> None:
        self._inode.writers = max(0, self._inode.writers - 1)

    def _check(self) -> None:
        """A power cut ends the person's programs, too."""
        if self._power_cuts != self._person.power_cuts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def walk(disk: FakeDisk, below: Path = ()) -> Iterator[tuple[Path, Entry]]:
    """Everything on the disk but the client's own folder; parents first."""
    for name, inode in sorted(disk.folder(below).children.items()):
        path = (*below, name)
        if path == (OWN_FOLDER,):
            continue
        yield path, _entry(inode)
        if inode.kind is FileKind.FOLDER:
            yield from walk(disk, path)


def _entry(inode: Inode) -> Entry:
    return Entry(inode.kind, bytes(inode.data) if inode.kind is FileKind.FILE else None, inode.executable)


def kept_aside(disk: FakeDisk) -> list[bytes]:
    """What the client's trash holds, and what it was just moving."""
    return disk.user.trashed()


def _keys(path: Path) -> Path:
    return tuple(map(name_key, path))


@lru_cache(maxsize=1000)
def digest_of(content: bytes) -> str:
    cut = (content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES))
    return content_hash(map(hash_block, cut)).hex()


# --- a client ---------------------------------------------------------------------------------------------------


class SimWorkers:
    """client.sync.workers.Workers as tasks of one machine."""

    def __init__(self, scheduler: Scheduler, machine: Machine, name: str) -> None:
        self._scheduler = scheduler
        self._machine = machine
        self._name = name
        self._signal = Signal(scheduler)
        self._events: list[Callable[[], None]] = []
        self._number = 0
        self.running = 0

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self._number += 1
        self.running += 1

        def work() -> None:
            result = run_job(job)
            self._scheduler.pause("job done", None)
            self.running -= 1
            self._events.append(lambda: done(result))
            self._signal.notify()

        self._scheduler.spawn(self._machine, f"{self._name}/{self._number}", work)

    def next_event(self, deadline: float | None) -> bool:
        self._scheduler.pause("next event", None)
        while not self._events:
            left = None if deadline is None else deadline - self._scheduler.now
            if left is not None and left <= 0:
                return False
            self._signal.wait(left)
        self._events.pop(0)()
        return True

    def wake(self) -> None:
        self._events.append(lambda: None)
        self._signal.notify()


class SimStore(Store):
    """The real store on a RAM disk; every transaction's begin and end is a switch point. With `snapshots` it keeps what
    a power cut, or an old backup, would bring back: the states since the last durable one."""

    def __init__(
        self,
        path: RealPath,
        pause: Callable[[str, object], None],
        snapshots: list[bytes] | None,
        archive: list[bytes] | None,
    ) -> None:
        self._pause = pause
        self._snapshots = snapshots
        self._archive = archive
        super().__init__(path)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        if self.database.in_transaction:
            with super().transaction(durable=durable):
                yield
            return
        self._pause("begins transaction", durable)
        with super().transaction(durable=durable):
            yield
        if self._snapshots is not None and durable:
            self._snapshots.clear()
        for kept in (self._snapshots, self._archive):
            if kept is not None:
                if len(kept) >= SNAPSHOTS_KEPT:
                    del kept[1:3]
                kept.append(self.database._sql.serialize())
        self._pause("committed", durable)


class SimWatcher:
    """client.sync.engine.loop.Watcher; what is told before anybody waits is kept."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._signal = Signal(scheduler)
        self._told: list[DirtyFolder | None] = []

    def tell(self, folder: DirtyFolder | None) -> None:
        """None: anything may have changed."""
        self._told.append(folder)
        self._signal.notify()

    def wait(self) -> list[DirtyFolder] | None:
        while not self._told:
            self._signal.wait()
        self._scheduler.pause("events")
        told, self._told = self._told, []
        return None if None in told else [folder for folder in told if folder is not None]


_template: list[bytes] = []


def empty_database() -> bytes:
    """The bytes of a new store: copying them is several times faster than making the tables."""
    if not _template:
        with tempfile.TemporaryDirectory() as folder:
            path = RealPath(folder) / "store.db"
            Store(path).close()
            _template.append(path.read_bytes())
    return _template[0]


@dataclass(frozen=True)
class Climate:
    """How rough the world is, drawn from the schedule's tape."""

    weather: dict[str, Any]  # fields of Weather
    loose: float
    page_max: int
    deletes_max: int
    slow_disk: float  # probability that a call of the file system, or of a person's program, takes up to SLOW_DISK_S
    step_entries: int  # so many entries of a scan are stored at once
    selects_all: bool  # in the end nobody leaves anything out any more
    in_folder: bool  # a folder of the service is synced, not all that is there

    @classmethod
    def draw(cls, tape: random.Random, *, faults: bool) -> Climate:
        rough = tape.choice((0.0, 0.0, 0.02, 0.1)) if faults else 0.0
        names = ("lost_request", "late_request", "lost_answer", "twice", "busy")
        weather = {name: rough * tape.choice((0, 1)) for name in names}
        weather["slow"] = tape.choice((0.0, 0.1, 0.5))
        return cls(
            weather,
            loose=tape.choice((0.0, 0.5, 1.0)),
            page_max=tape.choice((2000, 2000, 3, 1)),
            deletes_max=tape.choice((DELETES_MANY, DELETES_MANY, 1)),
            slow_disk=tape.choice((0.0, 0.1, 0.5, 1.0)),
            step_entries=tape.choice((2000, 5, 1)),
            selects_all=tape.random() < 0.5,
            in_folder=tape.random() < 0.3,
        )


# --- judging ----------------------------------------------------------------------------------------------------

Shown = Mapping[Path, tuple[str, str | None, bool]]  # kind, content hash, executable


def _shown(kind: Kind, content: Content | None) -> tuple[str, str | None, bool]:
    return (str(kind), None, False) if content is None else (str(kind), content.digest.hex(), content.executable)


def shown_on(disk: FakeDisk) -> Shown:
    """The disk as the service would tell it; links are none of it."""
    return {
        path: (entry.kind.value, None if entry.content is None else digest_of(entry.content), entry.executable)
        for path, entry in walk(disk)
        if entry.kind in (FileKind.FILE, FileKind.FOLDER)
    }


def shown_by(service: SimService, root: str) -> Shown:
    """What is below the folder `root`, which all clients sync."""
    found: dict[Path, tuple[str, str | None, bool]] = {}
    above = "/" if root == "/" else f"{root}/"
    for path, node in service.tree().items():
        if path.startswith(above):
            names = tuple(path.removeprefix(above).split("/"))
            found[names] = (
                ("folder", None, False) if node.is_folder else ("file", node.current.content, node.current.executable)
            )
    return found


def differences(trees: Mapping[str, Shown], left_out: Callable[[Path], bool]) -> list[str]:
    """A line for every path on which the trees differ."""
    lines = []
    for path in sorted({path for tree in trees.values() for path in tree}):
        if left_out(path):
            continue
        there = {name: tree.get(path) for name, tree in trees.items()}
        if len(set(there.values())) > 1:
            told = "; ".join(f"{name}: {_told(entry)}" for name, entry in there.items())
            lines.append(f"{'/'.join(path)!r} differs ({told})")
    return lines


def _told(entry: tuple[str, str | None, bool] | None) -> str:
    if entry is None:
        return "nothing"
    kind, digest, executable = entry
    return kind if digest is None else f"{digest[:8]}{' executable' if executable else ''}"


# --- the world --------------------------------------------------------------------------------------------------


class Client:
    """One computer: what outlives its crashes (disk, database, clock), and the client that runs on it now."""

    def __init__(self, world: World, index: int) -> None:
        self.index = index
        self.name = f"client{index}"
        self.world = world
        self.clock = SimClock(world.scheduler, skew_s=world.fate_tape.choice((0.0, 0.0, 2.5, -86400.0, 4e6)))
        self.disk_clock = SimClock(world.scheduler, self.clock.skew_s, switches=False)
        self.disk = FakeDisk(self.disk_clock, device=index + 1)
        self.weather = Weather(**world.climate.weather)
        self.disk_errors = 0.0
        self.deaf = False
        self.allows_deletes = False
        self.excluded: set[Path] = set()  # what the person leaves out on this computer
        self.database = world.folder / f"{self.name}.db"
        self.database.write_bytes(empty_database())
        self.snapshots: list[bytes] | None = [] if world.needs("power_cut") else None
        self.archive: list[bytes] = []
        self.person_disk = PersonDisk(self.disk, world.fate_tape, world.climate.loose)
        self.person = Person(f"p{index}", self.person_disk, world.ledger, world.take_time)
        self.machine: Machine | None = None
        self.engine: Engine | None = None
        self.starts = 0
        self.touches = 0  # steps of its file system so far
        self.touched = Signal(world.scheduler)
        self._store: SimStore | None = None
        self._reader: Reader | None = None
        self._connection: SimConnection | None = None
        self._watcher: SimWatcher | None = None
        self._workers: SimWorkers | None = None

    @property
    def is_up(self) -> bool:
        return self.machine is not None

    # --- its end and its beginning ------------------------------------------------------------------------------

    def start(self) -> None:
        assert self.machine is None
        self.starts += 1
        self.machine = self.world.scheduler.machine(self.name)
        self.world.scheduler.spawn(self.machine, self.name, self._live)

    def _live(self) -> None:
        """The client's process, from its start to its crash. One that cannot begin is started again and again."""
        while True:
            try:
                engine = self._build()
                break
            except (OSError, RulesUnreadable):
                self._close()
                self.disk.crash(None)
                self.world.scheduler.sleep(1.0)
        self.engine = engine
        while True:
            engine.step(None)

    def _close(self) -> None:
        self.engine = self._watcher = None
        for part in (self._reader, self._store, self._connection):
            if part is not None:
                part.close()
        self._reader = self._store = self._connection = None

    def _build(self) -> Engine:
        """As `holdfast sync` puts the parts together."""
        world, scheduler, clock = self.world, self.world.scheduler, self.clock
        assert self.machine is not None
        tape = random.Random(f"{self.name} {world.schedule} {self.starts}")
        workers = self._workers = SimWorkers(scheduler, self.machine, self.name)
        fs = FakeFileSystem(self.disk, on_call=self._touch_disk, on_step=self._touch_disk)
        fs.lock()
        if fs.read_marker() is None:
            fs.write_marker(b"{}")
        self._rescued = fs.recover()
        self._connection = SimConnection(
            world.service,
            self.index + 1,
            scheduler=scheduler,
            network=world.outside,
            tape=world.net_tape,
            weather=self.weather,
        )
        api = sim_api(self._connection)
        archive = self.archive if world.needs("old_database") else None
        store = self._store = SimStore(self.database, scheduler.pause, self.snapshots, archive)
        reader = self._reader = Reader(store)
        selection, is_old = self._first_selection(fs, store)
        remote = RemoteSide(store, selection, self.index + 1)
        watcher = self._watcher = SimWatcher(scheduler)
        self.disk.on_event = self._tell_watcher
        feed = Feed(remote, api, workers, clock, tape, world.root, True, lambda: None)
        disk = Disk(
            *(fs, store, reader, workers, clock, tape, selection, set(), lambda: None, scheduler.sleep),
            rescan_s=RESCAN_S,
            step_entries=world.climate.step_entries,
        )
        engine = Engine(
            store=store,
            fs=fs,
            service=api,
            carrier=Transfers(
                Tools(
                    fs=fs,
                    service=api,
                    known=reader,
                    parallel=OneByOne(),
                    up=RateLimit(None, clock, scheduler.sleep),
                    down=RateLimit(None, clock, scheduler.sleep),
                    pause=scheduler.sleep,
                    new_key=lambda: f"{tape.getrandbits(64):x}",
                ),
                clock,
            ),
            workers=workers,
            clock=clock,
            random=tape,
            settings=Settings(
                who=f"P{self.index}", allow_deletes=self.allows_deletes, deletes_max=world.climate.deletes_max
            ),
            feed=feed,
            disk=disk,
            remote=remote,
            watcher=watcher,
            load_rules=lambda: Selection(read_rules(fs), self.excluded),
        )
        if is_old:
            engine.reload_rules()
        return engine

    def _first_selection(self, fs: FakeFileSystem, store: SimStore) -> tuple[Selection, bool]:
        """And whether its rules are those that were read last, since those of now cannot be."""
        try:
            return Selection(read_rules(fs), self.excluded), False
        except RulesUnreadable:
            if (rules := last_rules(store)) is None:
                raise
            return Selection(rules, self.excluded), True

    def _touch_disk(self, name: str) -> None:
        """Before each call and each step of one."""
        self.touches += 1
        if self.touched.has_waiting:
            self.touched.notify()
        self.world.take_time(name)
        if self.disk_errors and self.world.fate_tape.random() < self.disk_errors:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _tell_watcher(self, path: Path, recursive: bool) -> None:
        if not self.deaf and self._watcher is not None:
            self._watcher.tell(DirtyFolder(path, recursive))

    def hear(self) -> None:
        """The watcher works again, and says that it has missed something."""
        if self.deaf:
            self.deaf = False
            if self._watcher is not None:
                self._watcher.tell(None)

    def select(self, excluded: set[Path]) -> None:
        """The person chooses anew what is left out here."""
        self.excluded = excluded
        if self.engine is not None:
            self.engine.reload_rules()
            assert self._workers is not None
            self._workers.wake()

    # --- what it says of itself ---------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """In sync, but for what it says it cannot do."""
        if self.engine is None:
            return False
        state = self.engine.status().state
        return state is State.IN_SYNC or (state is State.BLOCKED and bool(self._in_the_way()))

    def asks(self) -> bool:
        """Whether it waits for a yes to many deletes."""
        return self.engine is not None and self.engine.asks_for_yes()

    def has_unread(self) -> bool:
        assert self._store is not None
        return any("cannot be read" in reason for _, reason in self._store.told.problems())

    def _in_the_way(self) -> list[Path]:
        """Where something that is not synced stands in the way of what is."""
        assert self.engine is not None
        return [tuple(one.path.split("/")) for one in self.engine.troubles if one.stuck.code == "in_the_way"]

    def state(self) -> str:
        if self.engine is None:
            return "is down"
        status = self.engine.status()
        return f"is {status.state}, {status.queued} queued ({status.reason})"

    def problems(self) -> list[Path]:
        """Paths of what this client says it cannot sync."""
        assert self._store is not None
        return [*(tuple(path.split("/")) for path, _ in self._store.told.problems()), *self._in_the_way()]

    def pairs(self) -> list[tuple[Path, Path]]:
        """Where the two sides of the same node are, when that is not the same place: on the disk, in the service."""
        store = self._store
        assert store is not None
        found = []
        for local_id in store.dirty_local():
            pair = store.synced_local(local_id)
            local, remote = store.local_path(local_id), None if pair is None else store.remote_path(pair.id)
            if local is not None and remote is not None and local != remote:
                found.append((local, remote))
        return found

    def left_out(self) -> Callable[[Path], bool]:
        """What its rules and its person leave out, what it calls a problem, and all below."""
        assert self.engine is not None
        selection = self.engine.disk.selection
        folders = {
            path
            for shown in (shown_on(self.disk), shown_by(self.world.service, self.world.root))
            for path, (kind, _, _) in shown.items()
            if kind == "folder"
        }
        keys = {_keys(path) for path in self.problems()}
        pairs = [(_keys(local), _keys(remote)) for local, remote in self.pairs()]
        while more := {
            other for pair in pairs for one, other in (pair, pair[::-1]) if one in keys and other not in keys
        }:
            keys |= more  # what waits for a problem to go away

        def is_left_out(path: Path) -> bool:
            above = _keys(path)
            if any(above[:depth] in keys for depth in range(1, len(above) + 1)):
                return True
            return selection.is_ignored(path, path in folders)

        return is_left_out

    def remote_tree(self) -> Shown:
        store = self._store
        assert store is not None

        def below(node_id: RemoteId, path: Path) -> Iterator[tuple[Path, RemoteNode]]:
            for node in store.remote_children(node_id):
                yield (*path, node.name), node
                yield from below(node.id, (*path, node.name))

        return {path: _shown(node.kind, node.content) for path, node in below(store.remote_root, ())}

    def local_tree(self) -> Shown:
        store = self._store
        assert store is not None

        def below(node_id: LocalId, path: Path) -> Iterator[tuple[Path, LocalNode]]:
            for node in store.local_children(node_id):
                yield (*path, node.name), node
                yield from below(node.id, (*path, node.name))

        return {path: _shown(node.kind, node.content) for path, node in below(store.local_root, ())}

    def disagreements(self) -> list[str]:
        """Nodes that the database itself calls different, though the client says that it is in sync."""
        store = self._store
        assert store is not None
        left_out = self.left_out()
        wrong = []
        for remote_id in store.dirty_remote():
            node, path = store.remote(remote_id), store.remote_path(remote_id)
            pair = store.synced(remote_id)
            other = None if pair is None else store.local(pair.local_id)
            if other is not None and (other.problem is not None or left_out(store.local_path(other.id) or ())):
                continue
            if node is None or not (node.skipped or (path is not None and left_out(path))):
                wrong.append(f"{self.name}: synced tree: remote node {remote_id} is not settled ({node})")
        for local_id in store.dirty_local():
            local, path = store.local(local_id), store.local_path(local_id)
            pair = store.synced_local(local_id)
            gone_from = None if local is not None or pair is None else store.remote_path(pair.id)
            if gone_from is not None and left_out(gone_from):
                continue
            if local is None or not (local.problem is not None or (path is not None and left_out(path))):
                wrong.append(f"{self.name}: synced tree: local node {local_id} is not settled ({local})")
        return wrong

    # --- its end ------------------------------------------------------------------------------------------------

    def kill(self, *, power: bool = False) -> None:
        """The process ends where it stands; with `power` the whole computer does."""
        if self.machine is None:
            return
        self.disk.on_event = None
        self.disk.crash(None)  # first of all: what dies must not reach the disk any more
        self.world.scheduler.crash(self.machine)
        self.machine = None
        self._close()
        if power:
            self._lose_power()

    def _lose_power(self) -> None:
        tape = self.world.fate_tape
        before = {entry.content for _, entry in walk(self.disk) if entry.content is not None}
        loose = [(inode, bytes(inode.data)) for inode in self.person_disk.unsynced]
        self.disk.crash(tape)
        self.person_disk.power_cuts += 1
        for inode, content in loose:
            # What a cut tears shows in its times. (A real disk may tear a file within its size and leave the new time;
            # nobody can tell that from the outside without reading everything.)
            if inode.data != content:
                inode.mtime_ns = inode.ctime_ns = self.disk.tick()
        self.person_disk.unsynced.clear()
        after = {entry.content for _, entry in walk(self.disk) if entry.content is not None} | set(
            kept_aside(self.disk)
        )
        self.world.ledger.let_go |= before - after
        self.world.ledger.seen |= {bytes(inode.data) for inode, _ in loose}
        if self.snapshots and tape.random() < 0.7:
            self._put_database(tape.choice(self.snapshots))

    def _put_database(self, data: bytes | None) -> None:
        for suffix in ("-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        self.database.write_bytes(empty_database() if data is None else data)

    def lose_database(self) -> None:
        self.kill()
        self._put_database(None)

    def age_database(self, tape: random.Random) -> None:
        """As after a backup of this computer's settings was put back, but not of the files."""
        self.kill()
        if self.archive:
            self._put_database(tape.choice(self.archive))


@dataclass
class Outcome:
    """What a history left: the trace, how much happened, and (empty: all well) what is wrong."""

    trace: list[Event]
    wrong: list[str] = field(default_factory=list)
    settled_at: float = 0.0
    steps: int = 0


class World:
    """One history. `schedule` is the seed of everything that is not the workload."""

    def __init__(self, workload: Workload, schedule: int) -> None:
        self.workload = workload
        self.schedule = schedule
        self.scheduler = Scheduler(random.Random(f"schedule {schedule}"), steps_max=STEPS_MAX)
        self.fate_tape = random.Random(f"fate {schedule}")
        self.time_tape = random.Random(f"time {schedule}")
        self.net_tape = random.Random(f"network {schedule}")
        self.climate = Climate.draw(random.Random(f"climate {schedule}"), faults=bool(workload.of(FATE)))
        self.folder = RealPath(tempfile.mkdtemp(prefix="holdfast-sim-", dir=_ram()))
        self.ledger = Ledger()
        clock = SimClock(self.scheduler, switches=False)
        self.service = SimService(lambda: datetime.fromtimestamp(clock.now(), UTC))
        self.service.page_max = self.climate.page_max
        self.root = "/work" if self.climate.in_folder else "/"
        if self.climate.in_folder:
            self.service.create_folder(types.CreateFolderBody(path=self.root), None)
        self.outside = self.scheduler.machine("outside")  # people, fate and the network, which never crash
        self.clients = [Client(self, index) for index in range(workload.clients)]
        self._acting = 0
        self._backups: list[Backup] = []

    def take_time(self, what: str, about: object = None) -> None:
        """A switch point that may last."""
        self.scheduler.pause(what, about)
        if self.climate.slow_disk and self.time_tape.random() < self.climate.slow_disk:
            self.scheduler.sleep(self.time_tape.random() * SLOW_DISK_S)

    def needs(self, kind: str) -> bool:
        return any(step.kind == kind for step in self.workload.steps)

    def close(self) -> None:
        for client in self.clients:
            client.kill()
        self.scheduler.crash(self.outside)
        shutil.rmtree(self.folder)

    # --- the course of a history --------------------------------------------------------------------------------

    def play(self) -> Outcome:
        for client in self.clients:
            client.start()
        actors: list[tuple[str, Callable[[Step], None]]] = [
            (str(client.index), client.person.do) for client in self.clients
        ]
        api = sim_api(SimConnection(self.service, 99))
        web = WebPerson(self.service, api, self.ledger, self.scheduler.pause, self.root)
        actors += [(WEB, web.do), (FATE, self._befall)]
        for actor, do in actors:
            if steps := self.workload.of(actor):
                self._acting += 1
                self.scheduler.spawn(self.outside, actor, self._act(steps, do))
        self.scheduler.run(lambda: self._acting == 0, at_most_s=SETTLE_S)
        assert self._acting == 0, "somebody has not come to an end"
        self._calm_down()
        settled = self._settle()
        if settled:
            # Requests that nobody waits for any more may still arrive, rules that just came be looked at, and what
            # could not be read is tried again by the next full scan only.
            unreadable = any(client.has_unread() for client in self.clients)
            self.scheduler.run(lambda: False, at_most_s=RESCAN_S + GRACE_S if unreadable else GRACE_S)
            settled = self._settle()
        outcome = Outcome(self.scheduler.trace, settled_at=self.scheduler.now, steps=self.scheduler.steps)
        if settled:
            outcome.wrong += self._stays_quiet()
        else:
            outcome.wrong.append(f"not settled after {SETTLE_S / 3600:g} hours: {self._states()}")
        outcome.wrong += self.judge()
        return outcome

    def _settle(self) -> bool:
        """Run until everybody is done. A person says yes to every question."""
        while True:
            settled = self.scheduler.run(
                lambda: self._is_settled() or any(client.asks() for client in self.clients), at_most_s=SETTLE_S
            )
            asking = [client for client in self.clients if client.asks()]
            if not settled or not asking:
                return settled
            for client in asking:
                client.allows_deletes = True
                client.kill()
                client.start()

    def _act(self, steps: list[Step], do: Callable[[Step], None]) -> Callable[[], None]:
        def act() -> None:
            for step in steps:
                if step.wait_s > 0:
                    self.scheduler.sleep(step.wait_s)
                elif step.wait_s < 0:
                    self._wait_for_touches(step)
                do(step)
            self._acting -= 1

        return act

    def _wait_for_touches(self, step: Step) -> None:
        """Until the client has gone so many steps, or for as long as people wait."""
        at = int(step.actor) if step.actor.isdigit() else step.seed % len(self.clients)
        client = self.clients[at]
        until, deadline = client.touches - step.wait_s, self.scheduler.now + PATIENCE_S
        while client.touches < until and self.scheduler.now < deadline:
            client.touched.wait(deadline - self.scheduler.now)

    def _calm_down(self) -> None:
        """All faults are over."""
        self.service.quota = 10**12
        for client in self.clients:
            client.weather.clear()
            client.disk_errors = 0.0
            client.disk.capacity = 1 << 40
            client.hear()
            if self.climate.selects_all:
                client.select(set())
            if not client.is_up:
                client.start()

    def _is_settled(self) -> bool:
        return all(client.is_done() for client in self.clients) and not self._unequal()

    def _stays_quiet(self) -> list[str]:
        """Once settled, nothing changes any more."""
        before, at = self._trees(), self.service.seq
        self.scheduler.run(lambda: False, at_most_s=QUIET_S)
        after = self._trees()
        wrong = [
            f"settled, and then changed without anybody's doing: {line}"
            for name in before
            for line in differences({f"{name} before": before[name], "after": after[name]}, lambda path: False)
        ]
        told = [f"{change.op} {change.path}" for change in self.service.journal[at:]]
        return wrong or [f"settled, and then changed without anybody's doing: the service is told {told}"] * bool(told)

    def _trees(self) -> dict[str, Shown]:
        return {"service": shown_by(self.service, self.root)} | {one.name: shown_on(one.disk) for one in self.clients}

    def _states(self) -> str:
        return ", ".join(f"{client.name} {client.state()}" for client in self.clients)

    # --- fate ---------------------------------------------------------------------------------------------------

    def _befall(self, step: Step) -> None:
        tape = random.Random(step.seed)
        client = tape.choice(self.clients)
        self.scheduler.pause("fate", (step.kind, client.name))
        if self.needs("restore_service"):
            self._backups.append(self.service.back_up())
        getattr(self, f"_fate_{step.kind}")(tape, client)

    def _restart(self, tape: random.Random, client: Client) -> None:
        if tape.random() < 0.7:
            self.scheduler.sleep(tape.choice((0.0, 0.1, 5.0)))
        if not client.is_up:
            client.start()

    def _for_a_while(self, tape: random.Random) -> None:
        self.scheduler.sleep(tape.choice((0.05, 0.5, 5.0, 120.0)))

    def _fate_kill(self, tape: random.Random, client: Client) -> None:
        client.kill()
        self._restart(tape, client)

    def _fate_power_cut(self, tape: random.Random, client: Client) -> None:
        client.kill(power=True)
        self._restart(tape, client)

    def _fate_lose_database(self, tape: random.Random, client: Client) -> None:
        client.lose_database()
        self._restart(tape, client)

    def _fate_old_database(self, tape: random.Random, client: Client) -> None:
        client.age_database(tape)
        self._restart(tape, client)

    def _fate_cut_network(self, tape: random.Random, client: Client) -> None:
        client.weather.down = True
        self._for_a_while(tape)
        client.weather.down = False

    def _fate_busy_service(self, tape: random.Random, client: Client) -> None:
        before, client.weather.busy = client.weather.busy, 0.6
        self._for_a_while(tape)
        client.weather.busy = before

    def _fate_reset_cursors(self, tape: random.Random, client: Client) -> None:
        self.service.raise_epoch()

    def _fate_restore_service(self, tape: random.Random, client: Client) -> None:
        if not self._backups:
            return
        # What no computer has fetched yet is lost with the service's database, and nobody can bring it back.
        on_disks = {entry.content for one in self.clients for _, entry in walk(one.disk)}
        stored = {content for content in self.ledger.written if digest_of(content) in self.service.stored_contents()}
        self.service.restore_backup(tape.choice(self._backups))
        self.ledger.let_go |= stored - on_disks

    def _fate_lose_events(self, tape: random.Random, client: Client) -> None:
        client.deaf = True
        self._for_a_while(tape)
        client.hear()

    def _fate_select(self, tape: random.Random, client: Client) -> None:
        """The person leaves something out on this computer, or wants something back."""
        there = sorted({*shown_on(client.disk), *shown_by(self.service, self.root)})
        if client.excluded and tape.random() < 0.5:
            client.select(client.excluded - {tape.choice(sorted(client.excluded))})
        elif there:
            client.select(client.excluded | {tape.choice(there)})

    def _fate_jump_clock(self, tape: random.Random, client: Client) -> None:
        jump = tape.choice((-3600.0, 3600.0, -90000.0, 1e6))
        client.clock.jump(jump)
        client.disk_clock.jump(jump)

    def _fate_fail_disk(self, tape: random.Random, client: Client) -> None:
        client.disk_errors = tape.choice((0.05, 0.5))
        self._for_a_while(tape)
        client.disk_errors = 0.0

    def _fate_fill_disk(self, tape: random.Random, client: Client) -> None:
        client.disk.capacity = client.disk.used + tape.choice((1, 60, 200))
        self._for_a_while(tape)
        client.disk.capacity = 1 << 40

    def _fate_fill_quota(self, tape: random.Random, client: Client) -> None:
        self.service.quota = self.service.used() + tape.choice((0, 50))
        self._for_a_while(tape)
        self.service.quota = 10**12

    def _fate_end_uploads(self, tape: random.Random, client: Client) -> None:
        for upload_id in list(self.service.uploads):
            self.service.end_upload(upload_id)

    # --- the end ------------------------------------------------------------------------------------------------

    def _unequal(self) -> list[str]:
        """Each disk against the service."""
        service = shown_by(self.service, self.root)
        return [
            line
            for client in self.clients
            for line in differences({"service": service, client.name: shown_on(client.disk)}, client.left_out())
        ]

    def judge(self) -> list[str]:
        return [*self._unequal(), *self._lost(), *self._invented(), *self._repeated_copies(), *self._wrong_trees()]

    def _wrong_trees(self) -> list[str]:
        """The three trees of each client against the service and its disk."""
        wrong = []
        for client in self.clients:
            left_out = client.left_out()
            trees = {"its remote tree": client.remote_tree(), "the service": shown_by(self.service, self.root)}
            wrong += [f"{client.name}: remote tree: {line}" for line in differences(trees, left_out)]
            trees = {"its local tree": client.local_tree(), "its disk": shown_on(client.disk)}
            wrong += [f"{client.name}: local tree: {line}" for line in differences(trees, left_out)]
            wrong += client.disagreements()
        return wrong

    def _lost(self) -> list[str]:
        on_disks = {entry.content for client in self.clients for _, entry in walk(client.disk)}
        live = {node.current.content for node in self.service.tree().values() if not node.is_folder}
        stored = self.service.stored_contents()
        aside = {content for client in self.clients for content in kept_aside(client.disk)}
        # What left a disk because its person left it out there is lost with a service that is put back to before it
        # was stored; a restore may come at any time after that, so only the local trash can help.
        if self.needs("restore_service") and self.needs("select"):
            on_disks |= aside
        wrong = []
        for content, who in self.ledger.written.items():
            digest = digest_of(content)
            if content in on_disks or digest in live:
                continue
            where = "in the service's history" if digest in stored else "in a local trash" if content in aside else ""
            if content not in self.ledger.let_go:
                wrong.append(f"{content[:40]!r} of {who} was let go by nobody, and is only {where or 'lost: nowhere'}")
        return wrong

    def _invented(self) -> list[str]:
        return [
            f"{'/'.join(path)!r} on {client.name} holds what nobody wrote: {entry.content[:60]!r}"
            for client in self.clients
            for path, entry in walk(client.disk)
            if entry.content is not None and entry.content not in self.ledger.seen
        ]

    def _repeated_copies(self) -> list[str]:
        """A conflicted copy that equals the file that it is a copy of, or another copy of it. Where the service was put
        back to an older state, each client keeps what it had: the same, under a name of its own."""
        if self.needs("restore_service"):
            return []
        wrong = []
        copied = set(map(digest_of, self.ledger.copied))
        families: dict[tuple[Path, str, str | None, bool], Path] = {}
        for path, (kind, digest, executable) in sorted(shown_by(self.service, self.root).items()):
            copy = parse(path[-1])
            if kind != "file" or digest in copied:
                continue
            original = path[-1]
            while (inner := parse(original)) is not None:
                original = inner.original
            family = (path[:-1], name_key(original), digest, executable)
            if family in families and copy is not None:
                wrong.append(f"{'/'.join(path)!r} is a copy of the same as {'/'.join(families[family])!r}")
            families.setdefault(family, path)
        return wrong


def play(workload: Workload, schedule: int) -> Outcome:
    """One history from its beginning to its judgement. What an engine raises is told like any other wrong."""
    world = World(workload, schedule)
    try:
        return world.play()
    except Exception as error:  # noqa: BLE001  # told with its place
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}: {error}"
        lines = "".join(traceback.format_exception(error)[-5:])
        return Outcome(world.scheduler.trace, [told, lines], world.scheduler.now, world.scheduler.steps)
    finally:
        world.close()


def _ram() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None
