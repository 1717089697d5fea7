"""Keeps the local tree up to date: scans, reads of new contents, and what the watcher says.

Guarantees: one scan at a time, its findings absorbed folder by folder; a finding about a node that one of our own
operations changed since the scan began is not used, its folder is looked at again instead. A file that keeps changing
is read again a little later, and never taken for read.
Does not: know what the disk looks like (scan.py), decide what changes mean (plan.py). Belongs to the control thread;
scans and reads run in workers, which see the tree through a Reader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from client.fs.base import FileSystem, Path
from client.sync.local.findings import Changes, DirtyFolder, LocalTree, ReadTask
from client.sync.local.reading import ContentRead, Unreadable, Unsettled, read_content
from client.sync.local.scan import Scanner
from client.sync.local.selection import Selection
from client.sync.remote.feed import Backoff
from client.sync.store.store import Store
from client.sync.tree import LocalId, LocalNode
from client.sync.workers import Result, Workers
from node.base.clock import Clock

SOURCE: Final = "disk"  # of the problems that a scan tells
READING: Final = "reading"  # and of those that reading tells
STEP_ENTRIES: Final = 2000  # about what a scan step looks at before it is absorbed
STEP_S: Final = 0.05
READS_AT_ONCE: Final = 2
READ_BATCH_FILES: Final = 64
READ_BATCH_BYTES: Final = 16 << 20
UNREAD_MAX: Final = 10_000  # a scan that finds more new files than are read waits, so that memory stays bounded
LARGE_BYTES: Final = 64 << 20
UNSETTLED_FIRST_S: Final = 0.03
UNSETTLED_MAX_S: Final = 2.0
IN_USE_LOOKS: Final = 8  # after so many, about eight seconds, a program is called to be at work on it
IN_USE_MAX_S: Final = 30.0  # hashing a large file again and again, while it is written, costs more than it gives

Place = tuple[LocalId, str]
ReadResult = ContentRead | Unsettled | Unreadable


@dataclass(slots=True)
class _Changing:
    """A file that changed while it was read: how often in a row, and when to look again (None: that is under way)."""

    looks: int
    due: float | None


@dataclass
class Disk:
    """`busy` holds the places where an operation is at work; the engine owns it. `_scan` is the scan under way, which
    only one worker at a time steps. `_touched` tells when (`_tick`) an operation changed a node or a place: what a scan
    or a read that began before says about them is outdated."""

    fs: FileSystem
    store: Store
    tree: LocalTree
    workers: Workers
    clock: Clock
    random: random.Random
    selection: Selection
    busy: set[Place]
    on_change: Callable[[], None]
    pause: Callable[[float], None]
    check_root: Callable[[], str | None] = lambda: None
    rescan_s: float | None = None
    step_entries: int = STEP_ENTRIES
    trouble: str | None = None
    scans_done: int = 0  # the number of the last one that came to its end, counted as in `scans_begun`
    scans_begun: int = 0
    gone_seen: int = 0  # how often a scan found something missing
    _full_wanted: bool = True
    _dirty: dict[Path, bool] = field(default_factory=dict)
    _later: list[tuple[float, DirtyFolder]] = field(default_factory=list)
    _scan: Iterator[Changes] | None = None
    _scan_is_full: bool = False
    _stepping: bool = False
    _full_done: int = 0
    _tick: int = 0
    _scan_tick: int = 0
    _touched: dict[LocalId | Place, int] = field(default_factory=dict)
    _to_read: dict[LocalId, ReadTask] = field(default_factory=dict)
    _reading: int = 0
    _reading_large: bool = False
    _changing: dict[LocalId, _Changing] = field(default_factory=dict)
    _next_full: float | None = None
    _not_before: float = 0.0
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.random)

    # --- what others ask ----------------------------------------------------------------------------------------

    def want_all(self) -> None:
        """Look at everything, beginning after now."""
        self._full_wanted = True

    def want(self, folders: Iterable[DirtyFolder]) -> None:
        for folder in folders:
            self._dirty[folder.path] = self._dirty.get(folder.path, False) or folder.recursive

    def want_soon(self, folder: DirtyFolder, delay_s: float) -> None:
        self._later.append((self.clock.monotonic() + delay_s, folder))

    def touched(self, ids: Iterable[LocalId], places: Iterable[Place]) -> None:
        """An operation has changed these nodes: what a scan or read under way has seen of them may be older."""
        if self._scan is None and not self._reading:
            self._touched.clear()
        self._tick += 1
        for node_id in ids:
            self._touched[node_id] = self._tick
            self._to_read.pop(node_id, None)
        for place in places:
            self._touched[place] = self._tick

    def end_keeping(self, folder_id: LocalId | None) -> None:
        """There is something to sync in this folder again, so in those above it as well."""
        while folder_id is not None and (folder := self.store.local(folder_id)) and folder.is_kept:
            self.store.put_local(replace(folder, problem=None))
            self.store.told.set_problem(shown(self.store.local_path(folder_id) or ()), None, SOURCE)
            folder_id = folder.parent_id

    @property
    def is_ready(self) -> bool:
        """Whether everything was looked at once and all known contents are read."""
        return self._full_done > 0 and self.trouble is None

    @property
    def is_scanning_all(self) -> bool:
        return self._full_wanted or (self._scan is not None and self._scan_is_full)

    @property
    def is_scanning(self) -> bool:
        return self._scan is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing that is known of is still to be looked at."""
        return self.is_quiet and all(one.due is None for one in self._changing.values())

    @property
    def is_quiet(self) -> bool:
        """The same, but for files in use."""
        at_work = self._full_wanted or self._dirty or self._later or self._scan or self._to_read or self._reading
        settling = any(one.due is not None and one.looks < IN_USE_LOOKS for one in self._changing.values())
        return self.is_ready and not at_work and not settling

    @property
    def in_use(self) -> list[Path]:
        """Files that programs keep writing to."""
        paths = (self.store.local_path(node_id) for node_id, one in self._changing.items() if one.looks >= IN_USE_LOOKS)
        return [path for path in paths if path is not None]

    @property
    def unread(self) -> int:
        return len(self._to_read) + self._reading

    # --- the course of things -----------------------------------------------------------------------------------

    def step(self) -> float | None:
        """Start what is due; when to call again at the latest, if nothing happens before."""
        now = self.clock.monotonic()
        for due, folder in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove((due, folder))
            self.want([folder])
        for node_id, one in list(self._changing.items()):
            node = self.store.local(node_id)
            if node is None:
                del self._changing[node_id]
            elif one.due is not None and one.due <= now:
                one.due = None
                self._look_again(node.parent_id)  # where that is now: it may have been moved while the file was read
        if self._next_full is not None and now >= self._next_full:
            self._next_full = None
            self._full_wanted = True
        self._start_reads()
        if now >= self._not_before:
            self._step_scan()
            timers = [due for due, _ in self._later]
            timers += [one.due for one in self._changing.values() if one.due is not None]
        else:
            timers = [self._not_before]
        if self._next_full is not None:
            timers.append(self._next_full)
        return min(timers, default=None)

    # --- scans --------------------------------------------------------------------------------------------------

    def _step_scan(self) -> None:
        if self._stepping or len(self._to_read) >= UNREAD_MAX:
            return
        if self._scan is None:
            if not self._full_wanted and not self._dirty:
                return
            self._begin_scan()
        self._stepping = True
        scan = self._scan
        assert scan is not None
        step = partial(_advance, scan, self.clock, self.check_root, self.step_entries)
        self.workers.submit(step, self._advanced)

    def _begin_scan(self) -> None:
        scanner = Scanner(self.fs, self.tree, self.selection, self.store.new_local_id, self.busy)
        self.scans_begun += 1
        self._scan_tick = self._tick
        self._scan_is_full = self._full_wanted
        if self._full_wanted:
            self._full_wanted = False
            self._scan = scanner.scan()
        else:
            self._scan = scanner.scan_folders([DirtyFolder(path, deep) for path, deep in self._dirty.items()])
        self._dirty.clear()

    def _advanced(self, result: Result[tuple[list[Changes], bool]]) -> None:
        self._stepping = False
        try:
            steps, finished = result.get()
        except (OSError, RootLost) as error:
            # Nothing was seen, so nothing is known to be gone.
            self._scan = None
            self._full_wanted = True
            told = error.strerror if isinstance(error, OSError) else None
            self.trouble = f"The folder cannot be read now: {told}." if told else str(error)
            self._not_before = self.clock.monotonic() + self._backoff.failed()
            self.on_change()
            return
        if steps:
            with self.store.transaction():
                for changes in steps:
                    self._absorb(changes)
        if finished:
            self._scan = None
            self.scans_done = (
                self.scans_begun
            )  # also of those that failed before: this one has seen all that they would
            self.trouble = None
            self._backoff.succeeded()
            if self._scan_is_full:
                self._full_done += 1
                if self.rescan_s is not None:
                    self._next_full = self.clock.monotonic() + self.rescan_s
        if steps or finished:
            self.on_change()

    def _absorb(self, changes: Changes) -> None:
        store = self.store
        for node in changes.upserts:
            if self._is_outdated(node):
                self._look_again(node.parent_id)
            elif node.parent_id is not None and store.local(node.parent_id) is None:
                continue  # its folder was outdated and will be found again, with all that is in it
            elif self._is_below(node.parent_id, node.id):
                # Its folder was moved into it since this scan met the two: one of both places is outdated.
                self.want([DirtyFolder((), recursive=True)])
            else:
                store.put_local(node)
                if not node.is_kept:
                    self.end_keeping(node.parent_id)
        for node_id in changes.ignored:
            store.ignore_local(node_id)
        for node_id in changes.gone:
            known = store.local(node_id)
            if known is None:
                continue
            if self._is_outdated(known):
                self._look_again(known.parent_id)
            else:
                if known.problem is not None:
                    store.told.set_problem(shown(store.local_path(node_id) or ()), None, READING)
                store.drop_local(node_id)
                self.gone_seen += 1
        self._absorb_problems(changes)
        for task in changes.to_read:
            changing = self._changing.get(task.id)
            if store.local(task.id) is not None and (changing is None or changing.due is None):
                self._to_read[task.id] = task

    def _is_below(self, folder_id: LocalId | None, above_id: LocalId) -> bool:
        """Whether the stored folder is that one, or lies in it."""
        while folder_id is not None and folder_id != above_id:
            folder = self.store.local(folder_id)
            folder_id = None if folder is None else folder.parent_id
        return folder_id is not None

    def _is_outdated(self, node: LocalNode) -> bool:
        if self._touched.get(node.id, 0) > self._scan_tick:
            return True
        if node.parent_id is None:
            return False
        place = (node.parent_id, node.name)
        return place in self.busy or self._touched.get(place, 0) > self._scan_tick

    def _look_again(self, folder_id: LocalId | None) -> None:
        path = None if folder_id is None else self.store.local_path(folder_id)
        self.want([DirtyFolder(path if path is not None else (), recursive=path is None)])

    def _absorb_problems(self, changes: Changes) -> None:
        for path in changes.listed:
            self.store.told.drop_problems_in(shown(path), SOURCE)
        for problem in changes.problems:
            reason = f"{problem.reason}; here it is synced" if problem.warning else problem.reason
            self.store.told.set_problem(shown(problem.path), reason, SOURCE)

    # --- reads --------------------------------------------------------------------------------------------------

    def _start_reads(self) -> None:
        while self._to_read and self._reading < READS_AT_ONCE:
            batch = self._take_batch()
            if not batch:
                return
            self._reading += 1
            large = batch[0].size > LARGE_BYTES
            self._reading_large |= large
            self.workers.submit(partial(self._read, batch), partial(self._have_read, large, self._tick))

    def _take_batch(self) -> list[ReadTask]:
        """Small files together; one large file at a time, so that small ones never wait for two of them."""
        batch: list[ReadTask] = []
        size = 0
        for task in self._to_read.values():
            if task.size > LARGE_BYTES:
                if not batch and not self._reading_large:
                    batch.append(task)
                    break
                continue
            batch.append(task)
            size += task.size
            if len(batch) >= READ_BATCH_FILES or size >= READ_BATCH_BYTES:
                break
        for task in batch:
            del self._to_read[task.id]
        return batch

    def _read(self, batch: list[ReadTask]) -> list[ReadResult]:
        return [read_content(self.fs, task, now=self.clock.now, pause=self.pause) for task in batch]

    def _have_read(self, large: bool, began: int, result: Result[list[ReadResult]]) -> None:
        self._reading -= 1
        if large:
            self._reading_large = False
        with self.store.transaction():
            for outcome in result.get():
                self._absorb_read(outcome, began)
        self.on_change()

    def _absorb_read(self, outcome: ReadResult, began: int) -> None:
        node = self.store.local(outcome.id)
        if node is None:
            return
        if self._touched.get(node.id, 0) > began:
            self._look_again(node.parent_id)
            return
        match outcome:
            case ContentRead(_, path, stamp, content, blocks):
                self._changing.pop(node.id, None)
                self.store.put_local(replace(node, stamp=stamp, content=content, problem=None))
                self.end_keeping(node.parent_id)  # when it was found, the folder may not have been kept yet
                self.store.blocks.put(node.id, content.digest, blocks)
                self.store.told.set_problem(shown(path), None, READING)
            case Unsettled():
                looks = 1 + (self._changing[node.id].looks if node.id in self._changing else 0)
                longest = UNSETTLED_MAX_S if looks < IN_USE_LOOKS else IN_USE_MAX_S
                delay = min(longest, UNSETTLED_FIRST_S * 2.0 ** min(looks, 16))
                self._changing[node.id] = _Changing(looks, self.clock.monotonic() + delay)
            case Unreadable(_, path, stamp, problem):
                self.store.put_local(replace(node, stamp=stamp or node.stamp, problem=problem))
                self.store.told.set_problem(shown(path), problem, READING)


class RootLost(Exception):
    """What is at the root's path is not the synced folder: a sentence says so."""


def _advance(
    scan: Iterator[Changes], clock: Clock, check_root: Callable[[], str | None], entries_max: int
) -> tuple[list[Changes], bool]:
    """Some steps of the scan, and whether it is at its end. Runs in a worker.

    The root is looked at after the steps, so that what they did not find was looked for in the right folder.
    """
    steps, finished = _collect(scan, clock, entries_max)
    if steps and (trouble := check_root()) is not None:
        raise RootLost(trouble)
    return steps, finished


def _collect(scan: Iterator[Changes], clock: Clock, entries_max: int) -> tuple[list[Changes], bool]:
    deadline = clock.monotonic() + STEP_S
    steps: list[Changes] = []
    entries = 0
    for changes in scan:
        if changes.upserts or changes.ignored or changes.gone or changes.listed or changes.problems or changes.to_read:
            steps.append(changes)
        entries += len(changes.upserts) + 1
        if entries >= entries_max or clock.monotonic() >= deadline:
            return steps, False
    return steps, True


def shown(path: Path) -> str:
    """A path as a person reads it, whatever bytes are in its names."""
    return "/".join(path).encode("utf-8", "backslashreplace").decode("utf-8")
