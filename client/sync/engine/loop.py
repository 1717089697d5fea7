"""The control loop of one synced folder: absorbs what both sides tell, plans, hands operations to workers.

Guarantees: only this thread writes the store. A node that an operation is at work on is left out of the plan, and after
the service was changed until the feed has told that change, so that older news is never taken for a change of
somebody else. What fails is tried again, ever more slowly, and shown; nothing that failed is called in sync. Many
deletes at once wait for a yes. All time, randomness, disk, network and threads are passed in.
Does not: decide what is to be done (plan.py), carry it out (apply.py, carry.py).

Everything here survives a crash at any instant because nothing here is state: the trees are observations, and what is
in flight is derived from them again (apply.py says how for each operation).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from client.errors import sentence
from client.fs.base import FileSystem, Path
from client.sync.engine import apply
from client.sync.engine.apply import Gone, NotEmpty, Outcome, Placed, Stale, Stuck, Told, Unavailable
from client.sync.engine.unselect import take_up
from client.sync.local.disk import SOURCE as SCANNING
from client.sync.local.disk import Disk, Place, shown
from client.sync.local.ignore import IGNORE_FILE, is_built_in
from client.sync.local.scan import KEPT, DirtyFolder, LocalTree
from client.sync.local.selection import Selection
from client.sync.planner import conflicts
from client.sync.planner.conflicts import Naming
from client.sync.planner.merge import Merge
from client.sync.planner.plan import Busy, count_deletions, count_planned_deletions, held_by_names, operations, subjects
from client.sync.remote.feed import Feed
from client.sync.remote.service import Service
from client.sync.remote.side import RemoteSide
from client.sync.store.store import PendingUpload, Store
from client.sync.transfer.carry import Carrier, ToDownload, ToUpload
from client.sync.transfer.contents import Fetched, Sent
from client.sync.tree import (
    Content,
    DeleteLocal,
    DeleteRemote,
    Download,
    Forget,
    LocalId,
    LocalNode,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    MoveRemote,
    Operation,
    Record,
    RemoteId,
    RemoteNode,
    SyncedNode,
    Upload,
)
from client.sync.workers import Result, Workers
from coordinator.protocol.names import name_key
from coordinator.protocol.types import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX, Kind
from node.base.clock import Clock

EVENTS_AT_ONCE: Final = 200
QUEUED_MAX: Final = 1000
HELD: Final = "names"  # of the problems that this module tells
STALE_FIRST_S: Final = 0.05
STALE_MAX_S: Final = 10.0
STALE_MAX: Final = 6  # so often it may be looked at again before it is told as stuck
IN_USE_S: Final = 0.5
IN_USE_MAX_S: Final = 60.0
STUCK_FIRST_S: Final = 5.0
STUCK_MAX_S: Final = 300.0
PASS_FREE_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0
DELETES_WINDOW_S: Final = 60.0


class State(StrEnum):
    IN_SYNC = "in_sync"
    SYNCING = "syncing"
    BLOCKED = "blocked"
    OFFLINE = "offline"


class Lane(StrEnum):
    """Operations of one lane share its slots, so that none waits behind what takes longer than itself."""

    DISK = "disk"
    CALLS = "calls"
    UPLOADS = "uploads"
    DOWNLOADS = "downloads"
    LARGE_UPLOADS = "large uploads"
    LARGE_DOWNLOADS = "large downloads"


SLOTS: Final = {
    Lane.DISK: 2,
    Lane.CALLS: 4,
    Lane.UPLOADS: 3,
    Lane.DOWNLOADS: 4,
    Lane.LARGE_UPLOADS: 2,
    Lane.LARGE_DOWNLOADS: 2,
}
_TRANSFERS: Final = frozenset({Lane.UPLOADS, Lane.DOWNLOADS})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`who` names this person on this device in conflicted copies. More than `deletes_max` deletes that are more than
    `deletes_share` of all files wait for `allow_deletes`."""

    who: str
    allow_deletes: bool = False
    deletes_max: int = 50
    deletes_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """What the folder is doing. `reason` is a sentence when it is blocked or offline."""

    state: State
    reason: str | None
    queued: int
    conflicts: int


class Watcher(Protocol):
    """Tells where something may have changed."""

    def wait(self) -> list[DirtyFolder] | None:
        """Blocks until there is something; None: anything may have changed. Runs in a worker."""


@dataclass(slots=True)
class _Work:
    """An operation in a lane. `places` are where on disk it is at work; `agreed`: both sides are in the same place once
    it is done."""

    operation: Operation
    lane: Lane
    size: int = 0
    places: tuple[Place, ...] = ()
    agreed: bool = False
    scans_begun: int = 0
    asked_at: int = 0
    job: Callable[[], Outcome] | None = None
    upload: ToUpload | None = None
    download: ToDownload | None = None

    @property
    def digest(self) -> bytes | None:
        """The content that is to be fetched."""
        content = None if self.download is None else self.download.remote.content
        return None if content is None else content.digest


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is on its way to the service and may be there already: its name's key in the folder `parent_id`. `content`
    None is a folder's, `remote_id` None a new file's."""

    parent_id: RemoteId
    key: str
    content: Content | None = None
    remote_id: RemoteId | None = None


@dataclass(slots=True)
class _Hold:
    """Nodes that are left alone until a moment, a fetch and a scan have passed."""

    nodes: Busy
    not_before: float = 0.0
    fetch: int = 0
    scan: int = 0


@dataclass
class Engine:
    """`_busy_*` are the nodes that operations are at work on or that are held. `_pass` is the plan being carried out;
    `_changed` tells that the trees have changed since it began."""

    store: Store
    reader: LocalTree
    fs: FileSystem
    service: Service
    carrier: Carrier
    workers: Workers
    clock: Clock
    random: random.Random
    settings: Settings
    feed: Feed
    disk: Disk
    remote: RemoteSide
    watcher: Watcher | None = None
    load_rules: Callable[[], Selection] | None = None
    on_conflict: Callable[[str, str], None] = lambda path, copy: None
    _busy_remote: set[RemoteId] = field(default_factory=set)
    _busy_local: set[LocalId] = field(default_factory=set)
    _lanes: dict[Lane, deque[_Work]] = field(default_factory=lambda: {lane: deque() for lane in Lane})
    _running: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    _active: int = 0  # operations queued or running
    _fetching: set[bytes] = field(default_factory=set)  # contents that downloads are at work on
    _holds: list[_Hold] = field(default_factory=list)
    _attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    _failing_since: float | None = None
    _stuck: dict[tuple[str, int], tuple[Stuck, str]] = field(default_factory=dict)
    _pass: Iterator[Operation] | None = None
    _pass_found: bool = False
    _pass_took_s: float = 0.0
    _not_before: float = 0.0  # of the next pass
    _changed: bool = True
    _settled: bool = False
    _doubtful: set[LocalId] = field(default_factory=set)
    _held: dict[str, str] | None = None  # what was told of names that are taken
    _sent: dict[LocalId, _Sent] = field(default_factory=dict)  # until the outcome is known
    _deletes_held: str | None = None
    _deletes_allowed: bool = False
    _gone_checked: tuple[int, int] = (0, 0)  # what `_gone_seen` said when deletes were decided on last
    _deleted: deque[tuple[float, int]] = field(default_factory=deque)
    _watching: bool = False
    _rules_loading: bool = False
    _rules_wanted: bool = False
    _rules_digest: bytes | None = None
    _planned_with: Selection | None = None  # the rules that both sides were last looked at with

    def __post_init__(self) -> None:
        self.feed.on_change = self._note_change
        self.feed.on_announced = self._prefetch
        self.disk.on_change = self._note_change
        self.store.begin_session()
        self._doubtful = set(self.store.unsettled())
        self._deletes_allowed = self.settings.allow_deletes
        self._rules_digest = self._current_rules()

    # --- what others ask ----------------------------------------------------------------------------------------

    def step(self, deadline: float | None) -> None:
        """Do what is due, then wait until something happens or the deadline (monotonic); not when both sides have just
        come to agree, which somebody may wait for."""
        self._watch()
        settled_before = self._settled
        timers = [self.feed.step(), self.disk.step(), self._operate(), deadline]
        if self._settled and not settled_before:
            return
        until = min((timer for timer in timers if timer is not None), default=None)
        if self.workers.next_event(until):
            now = self.clock.monotonic()
            for _ in range(EVENTS_AT_ONCE):
                if not self.workers.next_event(now):
                    break

    def is_settled(self) -> bool:
        """Both sides agree, as far as anybody can know now."""
        return self._settled and not self._stuck and self.feed.trouble is None

    def is_waiting(self) -> bool:
        """Nothing goes on without a change outside: a person's yes, free space, the service coming back."""
        if self.feed.root_trouble is not None:
            return True
        if self.feed.trouble is not None or self.disk.trouble is not None:
            return True
        return (self._deletes_held is not None or bool(self._stuck)) and self._is_quiet()

    def failing_since(self) -> float | None:
        """Since when (monotonic) the service has refused operations without one being carried out, although it answers
        otherwise; None while something is under way."""
        return self._failing_since if self._active == 0 else None

    def needs_a_person(self) -> bool:
        """Waiting alone will not change anything."""
        return self.feed.root_trouble is not None or self.feed.trouble is None

    def status(self) -> Status:
        state, reason = self.state()
        queued = 0 if state is State.IN_SYNC else max(1, self.store.dirty_count() + self.disk.unread)
        return Status(state, reason, queued, len(self.conflicts()))

    def conflicts(self) -> list[tuple[str, str]]:
        """(path, copy) of the conflicted copies that are still there."""
        return [
            (row.path, row.copy_path)
            for row in self.store.conflicts()
            if self.store.local_at(tuple(row.copy_path.split("/"))) is not None
        ]

    def state(self) -> tuple[State, str | None]:
        if self.feed.root_trouble is not None:
            return State.BLOCKED, self.feed.root_trouble
        if self.disk.trouble is not None:
            return State.BLOCKED, self.disk.trouble
        if self.feed.trouble is not None:
            return State.OFFLINE, sentence(self.feed.trouble)
        if self._deletes_held is not None:
            return State.BLOCKED, self._deletes_held
        if self._stuck and self._is_quiet():
            return State.BLOCKED, next(iter(self._stuck.values()))[0].reason
        return (State.IN_SYNC, None) if self.is_settled() else (State.SYNCING, None)

    def _is_quiet(self) -> bool:
        """Whether nothing is under way that is not held."""
        return self._active == 0 and self._pass is None and not self._changed and self.disk.is_idle

    def _note_change(self) -> None:
        self._changed = True
        self._settled = False

    # --- the watcher and the rules ------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.watcher is not None and not self._watching:
            self._watching = True
            self.workers.submit(self.watcher.wait, self._watched)

    def _watched(self, result: Result[list[DirtyFolder] | None]) -> None:
        self._watching = False
        folders = result.get()
        if folders is None:
            self.disk.want_all()
        else:
            self.disk.want(folders)
        self._note_change()

    def _current_rules(self) -> bytes | None:
        node = self.store.local_at((IGNORE_FILE,))
        return None if node is None or node.content is None else node.content.digest

    def _check_rules(self) -> None:
        """When the ignore file is another one than was loaded: load it, then look at both sides with it."""
        digest = self._current_rules()
        if self.load_rules is None or self._rules_loading:
            return
        if digest == self._rules_digest and not self._rules_wanted:
            return
        self._rules_loading, self._rules_wanted = True, False
        self.workers.submit(self.load_rules, partial(self._rules_loaded, digest))

    def reload_rules(self) -> None:
        """What is left out was chosen anew."""
        self._rules_wanted = True
        self._note_change()

    def _rules_loaded(self, digest: bytes | None, result: Result[Selection]) -> None:
        self._rules_loading = False
        self._rules_digest = digest
        selection = result.get()
        self.disk.selection = selection
        take_up(self.store, self.fs, self.remote, selection)
        self.disk.want_all()
        self._note_change()

    # --- planning -----------------------------------------------------------------------------------------------

    def _operate(self) -> float | None:
        """Release what waited long enough, plan, start what there are slots for; when to be called again."""
        if not self._active:
            self.remote.forget_told()
        timer = self._release()
        if not self._may_plan():
            return timer
        if self._doubtful:
            self._resolve_sent()
        if self._pass is None and self._changed and self.clock.monotonic() < self._not_before:
            timer = self._not_before if timer is None else min(timer, self._not_before)
        else:
            self._pull()
        self._start()
        self._settled = (
            self._pass is None
            and not (self._pass_found or self._changed or self._active or self._holds or self._sent)
            and self.feed.is_idle
            and self.disk.is_idle
            and self._deletes_held is None
        )
        if self._settled:
            self._tell_held()
            self._failing_since = None
            self._attempts.clear()
            self._deletes_allowed = False
        return timer

    def _may_plan(self) -> bool:
        if not (self.feed.is_ready and self.disk.is_ready) or self.feed.root_trouble is not None:
            return False
        self._check_rules()
        if self._rules_loading or (self.disk.is_scanning_all and self.disk.selection is not self._planned_with):
            return False
        self._planned_with = self.disk.selection
        return self.feed.trouble is None

    def _pull(self) -> None:
        """Take operations from the plan while there is room."""
        began = self.clock.monotonic()
        if self._pass is None:
            if not self._changed:
                return
            self._changed = self._pass_found = False
            self._pass_took_s = 0.0
            self._check_deletes()
            busy = Busy(self._busy_remote, self._busy_local)
            self._pass = operations(self.store, self._naming(), busy)
        elif self._gone_seen() != self._gone_checked:
            self._check_deletes()  # this pass, which may be long, plans what has gone since it began as well
        planned: list[Operation] = []
        with self.store.transaction():
            while self._active + len(planned) < QUEUED_MAX:
                operation = next(self._pass, None)
                if operation is None:
                    self._pass = None
                    break
                if isinstance(operation, Record | Forget):
                    self._pass_found = True
                    self._agree(operation)
                elif not self._is_held_back(operation) and not self._meets_own(operation):
                    self._pass_found = True
                    nodes = subjects(operation)
                    self._busy_remote |= nodes.remote
                    self._busy_local |= nodes.local
                    planned.append(operation)
        now = self.clock.monotonic()
        self._pass_took_s += now - began
        if self._pass is None:
            # A pass looks at all that differs: with very much of that, one for every finished operation is too many.
            self._not_before = now + min(PAUSE_MAX_S, 2 * self._pass_took_s - 2 * PASS_FREE_S)
            self._changed |= self._pass_found  # what was done may allow more
        for operation in planned:
            self._queue(operation)

    def _agree(self, operation: Record | Forget) -> None:
        if isinstance(operation, Record):
            self.store.put_synced(operation.synced)
        else:
            self.store.drop_synced(operation.synced.id)

    def _naming(self) -> Naming:
        return Naming(self.settings.who, datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%d"))

    def _tell_held(self) -> None:
        """What waits for a name that the service uses for something left out here: a person is to know."""
        store = self.store
        held = {
            shown(path): f"the service has {remote.name} in its place, which is not synced to this computer"
            for local, remote in held_by_names(store, self._naming())
            if (path := store.local_path(local.id)) is not None
        }
        if held != self._held:
            with store.transaction():
                store.drop_problems(HELD)
                for told, reason in held.items():
                    store.set_problem(told, reason, HELD)
            self._held = held

    # --- many deletes at once -----------------------------------------------------------------------------------

    def _check_deletes(self) -> None:
        """Decide anew whether deletes must wait for a yes."""
        self._gone_checked = self._gone_seen()
        self._deletes_held = None
        if self._deletes_allowed:
            return
        now = self.clock.monotonic()
        while self._deleted and self._deleted[0][0] < now - DELETES_WINDOW_S:
            self._deleted.popleft()
        done = sum(count for _, count in self._deleted)
        if not self.store.is_dirty():
            return
        wanted = count_planned_deletions(self.store, self._naming()).total
        if wanted == 0 or wanted + done <= self.settings.deletes_max:
            return
        total = self.store.counts().synced + done
        if wanted + done > self.settings.deletes_share * total:
            self._deletes_held = (
                f"This would delete {wanted} of {total} files. If that is meant, run this again with --allow-deletes;"
                " if not, put the files back."
            )

    def _gone_seen(self) -> tuple[int, int]:
        """Changes whenever something turned out to be gone on one of the sides."""
        return self.disk.gone_seen, self.remote.gone_seen

    def _is_held_back(self, operation: Operation) -> bool:
        if isinstance(operation, DeleteRemote) and self.disk.is_scanning_all and not self._deletes_allowed:
            return True  # the scan tells bit by bit what has gone, so how much that is shows at its end
        return self._deletes_held is not None and isinstance(operation, DeleteLocal | DeleteRemote)

    def _count_deleted(self, operation: Operation) -> None:
        """A person who deletes one thing after the other may still delete everything by mistake."""
        if (count := count_deletions(self.store, [operation]).total) > 0:
            self._deleted.append((self.clock.monotonic(), count))

    # --- from an operation to a job -----------------------------------------------------------------------------

    def _queue(self, operation: Operation) -> None:
        work = self._prepare(operation)
        if work is None:
            self._free(subjects(operation))
            self._changed = True
            return
        work.scans_begun, work.asked_at = self.disk.scans_begun, self.remote.tick
        self.disk.busy.update(work.places)
        self._lanes[work.lane].append(work)
        self._active += 1
        match operation:
            case Upload(local, parent_id, name, base):
                base_id = None if base is None else base.id
                self._sent[local.id] = _Sent(parent_id, name_key(name), local.content, base_id)
            case MakeRemoteFolder(local, parent_id):
                self._sent[local.id] = _Sent(parent_id, local.key)

    def _meets_own(self, operation: Operation) -> bool:
        """Whether what is new in the service there may be what this computer has just sent: the outcome tells."""
        match operation:
            case Download(node, _, _, None) | MakeLocalFolder(node):
                place = (node.parent_id, node.key)
            case MoveLocal(local):
                place = (Merge(self.store, self._naming()).remote_folder(local.parent_id), local.key)
            case _:
                return False
        return any(sent.remote_id is None and place == (sent.parent_id, sent.key) for sent in self._sent.values())

    def _prepare(self, operation: Operation) -> _Work | None:
        """Look up what the operation needs; None when the trees have moved on meanwhile."""
        store, remote = self.store, self.remote
        match operation:
            case MakeRemoteFolder(local, parent_id):
                path = remote.child_path(parent_id, local.name)
                if path is None:
                    return None
                job: Callable[[], Outcome] = partial(apply.make_remote_folder, self.service, path, parent_id)
                return _Work(operation, Lane.CALLS, job=job)
            case MoveRemote(node, parent_id, name):
                source, target = remote.path(node.id), remote.child_path(parent_id, name)
                if source is None or target is None:
                    return None
                job = partial(apply.move_remote, self.service, node.id, source, target, parent_id)
                return _Work(operation, Lane.CALLS, job=job, agreed=self._local_is_at(node.id, parent_id, name))
            case DeleteRemote(node):
                path = remote.path(node.id)
                if path is None:
                    return None
                version, cursor = (None, remote.cursor) if node.kind is Kind.FOLDER else (node.version, None)
                job = partial(apply.delete_remote, self.service, node.id, path, version, cursor)
                return _Work(operation, Lane.CALLS, job=job)
            case MakeLocalFolder(node, parent_id):
                place = store.local_path(parent_id)
                if place is None:
                    return None
                job = partial(apply.make_local_folder, self.fs, (*place, node.name))
                return _Work(operation, Lane.DISK, job=job, places=((parent_id, node.name),))
            case MoveLocal():
                return self._prepare_move(operation)
            case DeleteLocal(local):
                place = store.local_path(local.id)
                if place is None or local.parent_id is None:
                    return None
                job = partial(apply.delete_local, self.fs, place, local.kind, local.stamp, is_built_in)
                return _Work(operation, Lane.DISK, job=job, places=((local.parent_id, local.name),))
            case Upload():
                return self._prepare_upload(operation)
            case Download():
                return self._prepare_download(operation)
        raise AssertionError(operation)

    def _prepare_move(self, operation: MoveLocal) -> _Work | None:
        local, store = operation.local, self.store
        source, above = store.local_path(local.id), store.local_path(operation.parent_id)
        if source is None or above is None or local.parent_id is None:
            return None
        pair = store.synced_local(local.id)
        agreed = pair is not None and self._remote_is_at(pair.id, operation.parent_id, operation.name)
        if operation.detach:
            store.detach(local.id)
        target = (*above, operation.name)
        job = partial(apply.move_local, self.fs, source, target, local.stamp)
        places = ((local.parent_id, local.name), (operation.parent_id, operation.name))
        return _Work(operation, Lane.DISK, job=job, places=places, agreed=agreed and not operation.detach)

    def _prepare_upload(self, operation: Upload) -> _Work | None:
        local = operation.local
        path, remote_path = self.store.local_path(local.id), self.remote.child_path(operation.parent_id, operation.name)
        if path is None or remote_path is None or local.content is None:
            return None
        pair = self.store.synced_local(local.id)
        previous = pair.content.digest if pair is not None and pair.content is not None else None
        with self.store.transaction():
            self.store.note_sending(local.id, operation.base.id if operation.base else None, local.content)
        size = local.stamp.size
        lane = Lane.UPLOADS if size <= BATCH_BYTES_MAX else Lane.LARGE_UPLOADS
        upload = ToUpload(local, path, remote_path, operation.parent_id, operation.base, previous)
        return _Work(operation, lane, size, upload=upload)

    def _prepare_download(self, operation: Download) -> _Work | None:
        node, replaces = operation.remote, operation.replaces
        above, remote_path = self.store.local_path(operation.parent_id), self.remote.path(node.id)
        if above is None or remote_path is None or node.content is None:
            return None
        path = (*above, operation.name)
        places = ((operation.parent_id, operation.name),)
        if replaces is not None and replaces.content is not None and replaces.content.digest == node.content.digest:
            job = partial(apply.set_executable, self.fs, path, node.content.executable, replaces.stamp)
            return _Work(operation, Lane.DISK, job=job, places=places)
        lane = Lane.DOWNLOADS if node.size <= BATCH_BYTES_MAX else Lane.LARGE_DOWNLOADS
        sent_as = None if replaces is None else self.store.sent_as(node.id, node.version)
        download = ToDownload(node, remote_path, path, replaces, sent_as)
        return _Work(operation, lane, node.size, places, download=download)

    def _local_is_at(self, node_id: RemoteId, parent_id: RemoteId, name: str) -> bool:
        pair = self.store.synced(node_id)
        local = None if pair is None else self.store.local(pair.local_id)
        if local is None or local.name != name:
            return False
        return Merge(self.store, self._naming()).local_folder(parent_id) == local.parent_id

    def _remote_is_at(self, node_id: RemoteId, parent_id: LocalId, name: str) -> bool:
        node = self.store.remote(node_id)
        if node is None or node.name != name:
            return False
        return Merge(self.store, self._naming()).remote_folder(parent_id) == node.parent_id

    # --- jobs ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for lane, waiting in self._lanes.items():
            while waiting and self._running[lane] < SLOTS[lane]:
                batch = self._take(waiting, together=lane in _TRANSFERS)
                if not batch:
                    break
                self._running[lane] += 1
                self.workers.submit(self._job(lane, batch), partial(self._done, lane, batch))

    def _take(self, waiting: deque[_Work], *, together: bool) -> list[_Work]:
        """The next ones, as many as may go together. Of one content only one is fetched at a time, since all of them
        share its part file."""
        batch: list[_Work] = []
        own: set[bytes] = set()
        passed: list[_Work] = []
        size = 0
        while waiting:
            work = waiting[0]
            if batch and (not together or len(batch) == BATCH_BLOCKS_MAX or size + work.size > BATCH_BYTES_MAX):
                break
            waiting.popleft()
            digest = work.digest
            if digest is not None and digest in self._fetching and digest not in own:
                passed.append(work)
                continue
            if digest is not None:
                own.add(digest)
                self._fetching.add(digest)
            batch.append(work)
            size += work.size
        waiting.extendleft(reversed(passed))
        return batch

    def _job(self, lane: Lane, batch: list[_Work]) -> Callable[[], list[Outcome]]:
        if lane in (Lane.UPLOADS, Lane.LARGE_UPLOADS):
            return partial(self.carrier.upload, [work.upload for work in batch if work.upload is not None])
        if lane in (Lane.DOWNLOADS, Lane.LARGE_DOWNLOADS):
            return partial(self.carrier.download, [work.download for work in batch if work.download is not None])
        jobs = [work.job for work in batch if work.job is not None]
        return lambda: [job() for job in jobs]

    def _done(self, lane: Lane, batch: list[_Work], result: Result[list[Outcome]]) -> None:
        self._running[lane] -= 1
        self._active -= len(batch)
        self._fetching.difference_update(work.digest for work in batch if work.digest is not None)
        outcomes = result.get()
        assert len(outcomes) == len(batch)
        with self.store.transaction():
            for work, outcome in zip(batch, outcomes, strict=True):
                self._finish(work, outcome)
        self._note_change()

    def _finish(self, work: _Work, outcome: Outcome) -> None:
        operation = work.operation
        nodes = subjects(operation)
        self.disk.busy.difference_update(work.places)
        key = _key(nodes)
        asked = isinstance(operation, MakeRemoteFolder | Upload | MoveRemote | DeleteRemote)
        if asked and isinstance(outcome, Told | Gone) and work.asked_at < self.remote.listed_anew_at:
            # The service was put back to an older state since: what it did before that may be undone.
            outcome = Stale(remote=True)
        match outcome:
            case Told() | Placed() | Gone() | NotEmpty():
                self._attempts.pop(key, None)
                self._failing_since = None
                changed = _Absorb(self, work).absorb(outcome)
                self._free(nodes)
                if changed is not None:
                    self._hold(_Hold(changed, fetch=self.feed.ticket))
                    self.feed.want()
            case Stale(local, remote, in_use):
                self._look_again(work, nodes, key, local=local, remote=remote, in_use=in_use)
            case Stuck(reason):
                path = self._shown_path(operation)
                self._stuck[key] = (outcome, path)
                delay = self._delay(key, STUCK_FIRST_S, STUCK_MAX_S)
                self._hold_more(nodes, not_before=self.clock.monotonic() + delay)
                self.store.add_failure(self.clock.now(), path, reason)
            case Unavailable(error):
                self.feed.fail(error)
                if self._failing_since is None:
                    self._failing_since = self.clock.monotonic()
                # It may have been done all the same: what the feed is telling just now may be older than that.
                not_before = self.clock.monotonic() + self._delay(key, STALE_FIRST_S, STALE_MAX_S)
                self._holds.append(_Hold(nodes, not_before, fetch=self.feed.ticket))
                if isinstance(operation, Upload):
                    self._doubtful.add(operation.local.id)
        if isinstance(operation, Upload | MakeRemoteFolder) and operation.local.id not in self._doubtful:
            self._sent.pop(operation.local.id, None)
        if work.places:
            self._after_local(work, isinstance(outcome, Placed | Gone))

    def _look_again(
        self, work: _Work, nodes: Busy, key: tuple[str, int], *, local: bool, remote: bool, in_use: bool
    ) -> None:
        attempts = self._attempts.get(key, 0)
        delay = self._delay(key, STALE_FIRST_S, IN_USE_MAX_S if in_use else STALE_MAX_S) if attempts or in_use else 0.0
        if not attempts:
            self._attempts[key] = 1
        if local and work.places and attempts:
            self._clear_way(work)
        if attempts >= STALE_MAX:
            path = self._shown_path(work.operation)
            self._stuck[key] = (Stuck(_unchanging(path, local=local, in_use=in_use), "in_the_way"), path)
        hold = _Hold(nodes, self.clock.monotonic() + max(delay, IN_USE_S if in_use else 0.0))
        if remote:
            hold.fetch = self.feed.ticket
            self.feed.want()
            if attempts:
                self.feed.look_up_root()
        if local:
            hold.scan = self.disk.scans_begun + 1
            self.disk.want(self._folders_of(work))
        if isinstance(work.operation, Upload):
            self.store.forget_sending(work.operation.local.id)
        self._holds.append(hold)

    def _clear_way(self, work: _Work) -> None:
        """The service has the name: what can never be synced, such as a symbolic link, takes a conflicted copy's."""
        parent_id, name = work.places[-1]
        above = self.store.local_path(parent_id)
        if above is not None:
            path = (*above, name)
            job = partial(apply.clear_way, self.fs, path, self._naming())
            self.workers.submit(job, partial(self._way_cleared, path))

    def _way_cleared(self, path: Path, result: Result[Path | None]) -> None:
        if (copy := result.get()) is not None:
            self.on_conflict(shown(path), shown(copy))
            with self.store.transaction():
                self.store.add_conflict(shown(path), shown(copy), self.clock.now())

    def _folders_of(self, work: _Work) -> list[DirtyFolder]:
        folders = {parent for parent, _ in work.places}
        if work.upload is not None and work.upload.local.parent_id is not None:
            folders.add(work.upload.local.parent_id)
        paths = [self.store.local_path(folder) for folder in folders]
        return [DirtyFolder(path) if path is not None else DirtyFolder((), recursive=True) for path in paths]

    def _after_local(self, work: _Work, done: bool) -> None:
        """A scan passes over places where an operation is at work: one that came by looks there again."""
        if done:
            local = getattr(work.operation, "local", None)
            self.disk.touched((local.id,) if local is not None else (), work.places)
        if self.disk.is_scanning or self.disk.scans_begun != work.scans_begun:
            for folder in self._folders_of(work):
                self.disk.want_soon(folder, 0.1)

    # --- waiting ------------------------------------------------------------------------------------------------

    def _delay(self, key: tuple[str, int], first_s: float, max_s: float) -> float:
        attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
        return min(max_s, first_s * 2.0 ** min(attempts - 1, 16)) * (0.5 + self.random.random() / 2)

    def _hold_more(self, nodes: Busy, *, not_before: float) -> None:
        """Nodes of an operation that failed are busy already and stay so."""
        self._holds.append(_Hold(nodes, not_before))

    def _hold(self, hold: _Hold) -> None:
        self._busy_remote |= hold.nodes.remote
        self._busy_local |= hold.nodes.local
        self._holds.append(hold)

    def _free(self, nodes: Busy) -> None:
        self._busy_remote -= nodes.remote
        self._busy_local -= nodes.local

    def _release(self) -> float | None:
        """Give back what was held long enough; when the next is due."""
        if not self._holds:
            return None
        now = self.clock.monotonic()
        rest: list[_Hold] = []
        for hold in self._holds:
            scanned = hold.scan <= self.disk.scans_done
            if hold.not_before <= now and hold.fetch <= self.feed.passed and scanned:
                self._free(hold.nodes)
                self._stuck.pop(_key(hold.nodes), None)
                self._note_change()
            else:
                rest.append(hold)
        self._holds = rest
        return min((hold.not_before for hold in rest if hold.not_before > now), default=None)

    # --- uploads whose answer was lost --------------------------------------------------------------------------

    def _resolve_sent(self) -> None:
        """The feed has told by now whether the service stored them."""
        with self.store.transaction():
            for local_id in sorted(self._doubtful - self._busy_local):
                self._doubtful.discard(local_id)
                noted, sent = self.store.sent(local_id), self._sent.pop(local_id, None)
                if noted is not None and sent is None:  # from before the start: the place is where the file is now
                    sent = self._sent_from_here(local_id, *noted)
                if sent is not None:
                    self._resolve_one(local_id, sent)
                self.store.forget_sending(local_id)

    def _sent_from_here(self, local_id: LocalId, remote_id: RemoteId | None, content: Content) -> _Sent | None:
        local = self.store.local(local_id)
        parent_id = None if local is None else Merge(self.store, self._naming()).remote_folder(local.parent_id)
        return None if local is None or parent_id is None else _Sent(parent_id, local.key, content, remote_id)

    def _resolve_one(self, local_id: LocalId, sent: _Sent) -> None:
        """The pair is written whatever became of the local file meanwhile: moved, edited or deleted, it was this."""
        store, pair = self.store, self.store.synced_local(local_id)
        if sent.remote_id is not None:
            node = store.remote(sent.remote_id)
            if pair is not None and pair.id == sent.remote_id and node is not None and node.content == sent.content:
                store.put_synced(replace(pair, version=node.version, content=node.content))
            return
        node = None if pair is not None else store.remote_child(sent.parent_id, sent.key)
        if node is not None and node.content == sent.content and store.synced(node.id) is None and not node.skipped:
            store.put_synced(pair_of(node, local_id))

    # --- announced versions -------------------------------------------------------------------------------------

    def _prefetch(self, rows: tuple[PendingUpload, ...]) -> None:
        for row in rows:
            path = None if row.parent_id is None else self.remote.child_path(row.parent_id, row.name)
            if path is not None:
                self.workers.submit(partial(self.carrier.prefetch, row, path), lambda result: None)

    def _shown_path(self, operation: Operation) -> str:
        match operation:
            case Record(synced) | Forget(synced):
                path: Path | None = self.store.local_path(synced.local_id)
            case Upload(local) | MoveLocal(local) | DeleteLocal(local) | MakeRemoteFolder(local):
                path = self.store.local_path(local.id)
            case Download(node) | MoveRemote(node) | DeleteRemote(node) | MakeLocalFolder(node):
                path = self.store.remote_path(node.id)
        return shown(path or ())


@dataclass
class _Absorb:
    """Writes down what an operation changed. Every write is about what the operation found and left, not about what the
    trees say by now: a scan or the feed may have told newer things meanwhile, and those stay."""

    engine: Engine
    work: _Work

    def absorb(self, outcome: Outcome) -> Busy | None:
        """Returns the nodes to be left alone until the feed has told the change; None when the service was not
        changed."""
        store = self.engine.store
        match self.work.operation, outcome:
            case MakeRemoteFolder(local, parent_id), Told(metadata):
                node = self.engine.remote.node_of(metadata, parent_id)
                self.engine.remote.put_answer(node, self.work.asked_at)
                store.put_synced(pair_of(node, local.id))
                return Busy(frozenset({node.id}), frozenset({local.id}))
            case Upload(local, parent_id), Told(metadata):
                node = self.engine.remote.node_of(metadata, parent_id)
                self.engine.remote.put_answer(node, self.work.asked_at)
                self._put_content(node, local.id)
                self._learn(local.id, outcome)
                store.forget_sending(local.id)
                return Busy(frozenset({node.id}), frozenset({local.id}))
            case MoveRemote(before, parent_id, _), Told(metadata):
                node = self.engine.remote.node_of(metadata, parent_id)
                self.engine.remote.put_answer(node, self.work.asked_at)
                if self.work.agreed and (pair := store.synced(before.id)) is not None:
                    store.put_synced(replace(pair, parent_id=node.parent_id, name=node.name))
                local_ids = frozenset({pair.local_id} if (pair := store.synced(before.id)) else ())
                return Busy(frozenset({node.id}), local_ids)
            case DeleteRemote(node), Gone():
                self.engine._count_deleted(self.work.operation)
                self.engine.remote.drop_answer(node.id, self.work.asked_at)
                return Busy(remote=frozenset({node.id}))
            case MakeLocalFolder(node, parent_id), Placed(stamp):
                if self._is_lost(parent_id):
                    return None
                local_id = store.new_local_id()
                store.put_local(LocalNode(local_id, parent_id, node.name, Kind.FOLDER, stamp))
                store.put_synced(pair_of(node, local_id))
            case Download(node, parent_id, name, replaces), Placed(stamp):
                if self._is_lost(parent_id):
                    return None
                local_id = replaces.id if replaces is not None else store.new_local_id()
                store.put_local(LocalNode(local_id, parent_id, name, Kind.FILE, stamp, node.content))
                self._put_content(node, local_id)
                self._learn(local_id, outcome)
            case MoveLocal(), Placed(stamp):
                self._moved(self.work.operation, stamp)
            case DeleteLocal(local), Gone():
                self.engine._count_deleted(self.work.operation)
                if store.local(local.id) is not None:
                    store.drop_local(local.id)
                # Should it come back in the service from now on, its absence here is nobody's wish.
                if (pair := store.synced_local(local.id)) is not None:
                    store.drop_synced(pair.id)
            case DeleteLocal(local), NotEmpty(name):
                self._keep(local, name)
            case operation, _:
                raise AssertionError((operation, outcome))
        return None

    def _learn(self, local_id: LocalId, outcome: Outcome) -> None:
        """Keep what the transfer found out about the content: it saves bytes the next time."""
        learned = outcome.learned if isinstance(outcome, Sent | Fetched) else None
        if learned is None:
            return
        self.engine.store.put_blocks(local_id, learned.digest, learned.blocks)
        if learned.signatures is not None:
            self.engine.store.put_signature(local_id, learned.digest, learned.signatures)

    def _is_lost(self, folder_id: LocalId) -> bool:
        """Whether a scan has found the folder gone since the operation began: what was put into it is where the folder
        is now, and a look at everything finds it there. Without its folder a node would be in no place at all, and a
        pair without a node would look like a delete."""
        if self.engine.store.local(folder_id) is not None:
            return False
        self.engine.disk.want_all()
        return True

    def _put_content(self, node: RemoteNode, local_id: LocalId) -> None:
        """Both sides have this content now; an earlier agreement about the place stays."""
        store = self.engine.store
        pair = store.synced(node.id)
        if pair is not None and pair.local_id == local_id:
            store.put_synced(replace(pair, version=node.version, content=node.content))
        else:
            store.put_synced(pair_of(node, local_id))

    def _moved(self, operation: MoveLocal, stamp: object) -> None:
        store, engine = self.engine.store, self.engine
        local = store.local(operation.local.id)
        assert isinstance(stamp, type(operation.local.stamp))
        if local is None or self._is_lost(operation.parent_id):
            return
        before = operation.local.stamp
        same = (stamp.size, stamp.mtime_ns, stamp.inode) == (before.size, before.mtime_ns, before.inode)
        old_path = store.local_path(local.id)
        if local.stamp == before and same:
            local = replace(local, stamp=stamp)  # a rename changes only the time of the last status change
        store.put_local(replace(local, parent_id=operation.parent_id, name=operation.name))
        if self.work.agreed and (pair := store.synced_local(local.id)) is not None:
            node = store.remote(pair.id)
            if node is not None:
                store.put_synced(replace(pair, parent_id=node.parent_id, name=operation.name))
        if conflicts.is_conflict_name(operation.name) and old_path is not None:
            path, copy = shown(old_path), shown(store.local_path(local.id) or ())
            store.add_conflict(path, copy, engine.clock.now())
            engine.on_conflict(path, copy)

    def _keep(self, local: LocalNode, name: str) -> None:
        store = self.engine.store
        path = store.local_path(local.id)
        known = store.local(local.id)
        if (pair := store.synced_local(local.id)) is not None:
            store.drop_synced(pair.id)
        reason = f"{KEPT}, such as {name}"
        if any(child.problem is None for child in store.local_children(local.id)):
            return  # a scan has just found something to sync in it: it is new, and not kept for what is not synced
        if known is not None and path is not None:
            store.put_local(replace(known, problem=reason))
            store.set_problem(shown(path), reason, SCANNING)  # each scan tells it again
            self.engine.disk.want([DirtyFolder(path, recursive=True)])  # it may be something new that is to be synced


def pair_of(node: RemoteNode, local_id: LocalId) -> SyncedNode:
    """Both sides agree on everything about this node."""
    return SyncedNode(node.id, local_id, node.parent_id, node.name, node.kind, node.version, node.content)


def _unchanging(path: str, *, local: bool, in_use: bool) -> str:
    if in_use:
        return f"{path} is being written by a program; it is brought up to date when that has ended."
    if local:
        return f"{path} cannot be brought up to date: something that is not synced is in its way on this computer."
    return f"{path} cannot be brought up to date now: the service says that it changed, and does not tell how."


def _key(nodes: Busy) -> tuple[str, int]:
    if nodes.local:
        return ("local", min(nodes.local))
    return ("remote", min(nodes.remote))
