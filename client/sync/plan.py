"""What is to be done so that the three trees become equal. Pure: look-ups in the trees, no I/O, no clock.

A plan holds what can be done now; whatever has to wait for something else is left out. So the caller carries the plan
out, in any order and each operation only if it still finds what the operation names, notes what it then sees in the
trees, and plans again until nothing is left. An operation changes the side that it names. A synced node is written
only when both sides agree in everything (content, folder, name): after most operations that can be done at once, and
where it is not, the next plan says Record. So a crash between the work and its note costs nothing.

Guarantees: the same trees give the same plan; a node takes part in one operation of a plan at most; nothing that is
skipped or has a problem is touched; an edit or a move beats a delete; equal contents never conflict; and with nothing
new from outside the rounds end with equal trees.
Does not: decide whether so many deletes are meant (the caller gives a breaker, or asks `count_planned_deletions`).

Nodes wait for each other: for a folder to be made, for a name to become free, for a folder to become empty. A circle of
such waits (two files that swap names) is broken by giving one of them another name for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import count, islice, zip_longest
from operator import attrgetter
from typing import Final

from client.sync import conflicts
from client.sync.conflicts import Naming
from client.sync.merge import Merge, Node, Place
from client.sync.tree import (
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
    Trees,
    Upload,
)
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind


@dataclass(frozen=True)
class Busy:
    """Nodes that an operation is at work on. The sets are only read, so the caller's own may be given."""

    remote: Set[RemoteId] = frozenset()
    local: Set[LocalId] = frozenset()


@dataclass(frozen=True)
class DeletionCount:
    """Files that would go: from the service, from the disk."""

    remote: int = 0
    local: int = 0

    @property
    def total(self) -> int:
        return self.remote + self.local


@dataclass(frozen=True)
class Breaker:
    """Says when so many deletes are hardly meant: more than `count_max` files and more than `share_max` of the
    `files_synced`."""

    files_synced: int
    count_max: int = 50
    share_max: float = 0.5

    def trips(self, count: DeletionCount) -> bool:
        return count.total > self.count_max and count.total > self.share_max * self.files_synced


NOTHING: Final = Busy()


def plan(
    trees: Trees, naming: Naming, busy: Busy = NOTHING, *, limit: int | None = None, breaker: Breaker | None = None
) -> list[Operation]:
    """The next operations, at most `limit`: the same ones for the same trees. None at all when the breaker trips.

    Remote and local changes take turns in ascending order of their ids, so neither side waits for the other, and since
    what is at work is left out, each call goes on where the one before it ended. Nodes that still wait for others are
    looked at again by every call; for very many `operations` does that once.
    """
    if breaker is not None and breaker.trips(count_planned_deletions(trees, naming)):
        return []
    remote, local = set(busy.remote), set(busy.local)
    planned: list[Operation] = []
    for operation in islice(operations(trees, naming, Busy(remote, local)), limit):
        planned.append(operation)
        taken = subjects(operation)
        remote |= taken.remote
        local |= taken.local
    return planned


def operations(trees: Trees, naming: Naming, busy: Busy = NOTHING) -> Iterator[Operation]:
    """One pass over all that differs, decided node by node as it is asked for.

    The trees may change meanwhile. Before the next operation is asked for, the caller must have marked the `subjects`
    of the last one as busy or have carried it out.
    """
    planner = _Planner(Merge(trees, naming), busy)
    for node in _dirty(planner.merge):
        operation = planner.next_for(node)
        if operation is not None and not _is_busy(busy, subjects(operation)):
            yield operation


def subjects(operation: Operation) -> Busy:
    """The nodes that are busy while the operation is carried out."""
    match operation:
        case Record(synced) | Forget(synced):
            return Busy(frozenset({synced.id}), frozenset({synced.local_id}))
        case Upload(local, _, _, base):
            return Busy(frozenset({base.id} if base else ()), frozenset({local.id}))
        case Download(remote, _, _, replaces):
            return Busy(frozenset({remote.id}), frozenset({replaces.id} if replaces else ()))
        case MoveRemote(remote) | DeleteRemote(remote) | MakeLocalFolder(remote):
            return Busy(remote=frozenset({remote.id}))
        case MoveLocal(local) | DeleteLocal(local) | MakeRemoteFolder(local):
            return Busy(local=frozenset({local.id}))


# --- how much would be deleted ----------------------------------------------------------------------------------


def count_planned_deletions(trees: Trees, naming: Naming | None = None) -> DeletionCount:
    """How many files all coming plans together would delete, if nothing else happens meanwhile."""
    merge = Merge(trees, naming or Naming("", ""))
    # The look-up that most nodes already fail comes first: at the first sync a million of them are new.
    remote = (merge.of_local(node_id) for node_id in trees.dirty_local() if trees.local(node_id) is None)
    local = (merge.of_remote(node_id) for node_id in trees.dirty_remote() if trees.remote(node_id) is None)
    return DeletionCount(
        remote=sum(_loses_remote_file(merge, node) for node in remote),
        local=sum(_loses_local_file(merge, node) for node in local),
    )


def count_deletions(trees: Trees, planned: Iterable[Operation]) -> DeletionCount:
    """How many files these operations delete, those below a folder included."""
    remote = local = 0
    for operation in planned:
        match operation:
            case DeleteRemote(node):
                remote += sum(found.kind is Kind.FILE for found in _with_all_below(trees, node))
            case DeleteLocal(node):
                local += node.kind is Kind.FILE
    return DeletionCount(remote, local)


def _loses_remote_file(merge: Merge, node: Node) -> bool:
    match node:
        case Node(SyncedNode() as synced, RemoteNode(kind=Kind.FILE, skipped=False) as remote, None):
            return not merge.kept_remotely(synced, remote)
    return False


def _loses_local_file(merge: Merge, node: Node) -> bool:
    match node:
        case Node(SyncedNode() as synced, None, LocalNode(kind=Kind.FILE, problem=None) as local):
            return not merge.kept_locally(synced, local)
    return False


def _with_all_below(trees: Trees, node: RemoteNode) -> Iterator[RemoteNode]:
    yield node
    for child in trees.remote_children(node.id):
        yield from _with_all_below(trees, child)


# --- the decisions ----------------------------------------------------------------------------------------------


class _Cost(IntEnum):
    """What a way out of a circle of waits costs the person."""

    NAME_FOR_A_MOMENT = 0
    MOVE_UNDONE = 1
    NAME = 2
    DELETE_UNDONE = 3


@dataclass(frozen=True, slots=True)
class _Wait:
    """Nothing can be done until something happened to `on`. `way_out` is what to do when that in turn waits for this;
    of several ways out of a circle the one that costs least is taken."""

    on: Node
    way_out: Callable[[], _Decision] | None = None
    cost: _Cost = _Cost.NAME_FOR_A_MOMENT


_Decision = Operation | _Wait | None


class _Planner:
    """Decides for one node at a time, from the trees as they then are. `_followed` holds the nodes whose waits were
    looked through for circles in this pass."""

    def __init__(self, merge: Merge, busy: Busy) -> None:
        self.merge = merge
        self.trees = merge.trees
        self._busy = busy
        self._followed: set[tuple[str, int]] = set()

    def next_for(self, node: Node) -> Operation | None:
        decision = self._decide(node)
        if isinstance(decision, _Wait):
            return self._break_circle(node) if decision.way_out is not None else None
        return decision

    def _break_circle(self, node: Node) -> Operation | None:
        """Follows the waits that begin at `node`. Where they lead back to one on the way, a way out is taken."""
        waits: dict[tuple[str, int], _Wait] = {}
        while isinstance(decision := self._decide(node), _Wait):
            if node.key in waits:
                keys = list(waits)
                circle = [waits[key] for key in sorted(keys[keys.index(node.key) :])]
                return _first_way_out(sorted(circle, key=attrgetter("cost")))
            if node.key in self._followed:
                return None
            self._followed.add(node.key)
            waits[node.key] = decision
            node = decision.on
        return None

    def _decide(self, node: Node) -> _Decision:
        if self._is_busy(node) or (node.local is not None and node.local.problem is not None):
            return None
        match node:
            case Node(None, None, None):
                return None
            case Node(None, None, LocalNode() as local):
                return self._new_locally(local)
            case Node(None, RemoteNode() as remote, None):
                return None if remote.skipped else self._new_remotely(remote)
            case Node(SyncedNode() as synced, None, None):
                return Forget(synced)
            case Node(SyncedNode() as synced, RemoteNode(skipped=True), _):
                return Forget(synced)
            case Node(SyncedNode() as synced, None, LocalNode() as local):
                return self._gone_remotely(synced, local)
            case Node(SyncedNode() as synced, RemoteNode() as remote, None):
                return self._gone_locally(synced, remote)
            case Node(SyncedNode() as synced, RemoteNode() as remote, LocalNode() as local):
                return self._on_both_sides(synced, remote, local)
        raise AssertionError(node)

    def _is_busy(self, node: Node) -> bool:
        return (
            (node.synced is not None and node.synced.id in self._busy.remote)
            or (node.remote is not None and node.remote.id in self._busy.remote)
            or (node.local is not None and node.local.id in self._busy.local)
        )

    # --- on one side only ---------------------------------------------------------------------------------------

    def _new_remotely(self, remote: RemoteNode) -> _Decision:
        assert remote.parent_id is not None
        parent_id = self.merge.local_folder(remote.parent_id)
        if parent_id is None:
            return _Wait(self.merge.of_remote(remote.parent_id))
        if (wait := self._wait_for_local_name(parent_id, remote.name)) is not None:
            return wait
        if remote.kind is Kind.FOLDER:
            return MakeLocalFolder(remote, parent_id)
        return Download(remote, parent_id, remote.name, replaces=None)

    def _new_locally(self, local: LocalNode) -> _Decision:
        parent_id = self.merge.remote_folder(local.parent_id)
        if parent_id is None:
            return self._wait_for_local_folder(local)
        taken = self.trees.remote_child(parent_id, local.key)
        if taken is not None:
            return self._meet(local, taken)
        if local.kind is Kind.FOLDER:
            return MakeRemoteFolder(local, parent_id)
        return Upload(local, parent_id, local.name, base=None)

    def _meet(self, local: LocalNode, remote: RemoteNode) -> _Decision:
        """A local node without a pair finds its name taken on the service."""
        other = self.merge.of_remote(remote.id)
        equal = local.kind is remote.kind and local.content == remote.content
        if other.synced is not None or remote.skipped or not equal:
            return self._give_way(local, local.name, other)
        if local.name == remote.name:
            return Record(_pair(remote, local))
        return self._move_local(local, Place(remote.parent_id, remote.name))  # one name, spelled in two ways

    def _gone_remotely(self, synced: SyncedNode, local: LocalNode) -> _Decision:
        kept = self.merge.kept_locally(synced, local)
        if local.kind is Kind.FILE:
            return self._forget(synced, None, local) if kept else DeleteLocal(local)
        leaving: Node | None = None
        unclear = False
        for found in self.trees.local_children(local.id):
            child = self.merge.of_local(found.id)
            if found.problem is not None:
                unclear = True
            elif child.synced is None or child.remote is None:
                if child.synced is not None:
                    return _Wait(child)  # it goes, or is kept and then keeps this folder
                kept = True
            elif child.remote.skipped or child.remote.parent_id == child.synced.parent_id:
                kept = True
            else:
                leaving = leaving or child
        if kept:
            return self._forget(synced, None, local)
        if leaving is not None:
            return _Wait(leaving, partial(self._forget, synced, None, local), _Cost.DELETE_UNDONE)
        return None if unclear else DeleteLocal(local)

    def _gone_locally(self, synced: SyncedNode, remote: RemoteNode) -> _Decision:
        if self.merge.kept_remotely(synced, remote):
            return self._fetch_again(synced, remote)
        assert remote.parent_id is not None
        above = self.merge.of_remote(remote.parent_id)
        if above.synced is not None and above.local is None:
            return _Wait(above)  # it goes with the folder that holds it, or that has to be decided first
        return self._delete_remotely(synced, remote)

    def _fetch_again(self, synced: SyncedNode, remote: RemoteNode) -> _Decision:
        """A folder that is to come back brings what was in it: its children are forgotten first, as they can tell that
        only while it is a pair."""
        for found in self.trees.remote_children(remote.id):
            child = self.merge.of_remote(found.id)
            if child.synced is not None and child.local is None:
                return _Wait(child)
        return self._forget(synced, remote, None)

    def _delete_remotely(self, synced: SyncedNode, remote: RemoteNode) -> _Decision:
        """A folder goes as a whole, when everything in it has gone from the disk as it was. What was moved out of it on
        disk leaves first; when there is something new in it, it comes back and the rest is decided one by one."""
        leaving: Node | None = None
        below = list(self.trees.remote_children(remote.id))
        while below:
            node = self.merge.of_remote(below.pop().id)
            if self._is_busy(node):
                return None
            match node:
                case Node(SyncedNode() as pair, RemoteNode(skipped=False) as found, None):
                    if found.content != pair.content or self.merge.moved_remotely(pair, found):
                        return self._forget(synced, remote, None)
                    below.extend(self.trees.remote_children(found.id))
                case Node(SyncedNode() as pair, RemoteNode(skipped=False) as found, LocalNode()):
                    if found.parent_id != pair.parent_id:
                        return self._forget(synced, remote, None)
                    leaving = leaving or node
                case _:
                    return self._forget(synced, remote, None)
        if leaving is not None:
            return _Wait(leaving, partial(self._forget, synced, remote, None), _Cost.DELETE_UNDONE)
        return DeleteRemote(remote)

    def _forget(self, synced: SyncedNode, remote: RemoteNode | None, local: LocalNode | None) -> Operation:
        """One side is gone and the other is kept: it becomes new. What had another name for a moment gets its own back
        first, as nothing will know it afterwards."""
        if remote is not None and conflicts.is_own_temporary(remote.name, self.merge.naming):
            assert remote.parent_id is not None
            return MoveRemote(remote, remote.parent_id, self._own_name(synced, None, remote.parent_id))
        if local is not None and conflicts.is_own_temporary(local.name, self.merge.naming):
            assert local.parent_id is not None
            return MoveLocal(local, local.parent_id, self._own_name(synced, local.parent_id, None))
        return Forget(synced)

    def _own_name(self, synced: SyncedNode, local_id: LocalId | None, remote_id: RemoteId | None) -> str:
        if not self._is_taken(synced.name, local_id, remote_id):
            return synced.name
        return self._free_name(synced.name, synced.kind, local_id, remote_id)

    # --- on both sides ------------------------------------------------------------------------------------------

    def _on_both_sides(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> _Decision:
        if not synced.kind is remote.kind is local.kind:
            return Forget(synced)
        move = self._move(synced, remote, local)
        if move is not None and not isinstance(move, _Wait):
            return move
        change = self._change(synced, remote, local)
        if change is not None or move is not None:
            return change or move
        agreed = _pair(remote, local)
        return Record(agreed) if agreed != synced else None

    def _change(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> _Decision:
        if remote.content == local.content:
            return None
        assert remote.parent_id is not None
        assert local.parent_id is not None
        if local.content == synced.content:
            return Download(remote, local.parent_id, local.name, replaces=local)
        if remote.content == synced.content:
            return Upload(local, remote.parent_id, remote.name, base=remote)
        return self._set_aside(local, self.merge.name(synced, remote, local), detach=True)

    def _move(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> _Decision:
        place = self.merge.place(synced, remote, local)
        if place.parent_id is None:
            return self._wait_for_local_folder(local)
        if (remote.parent_id, remote.name) != (place.parent_id, place.name):
            return self._move_remote(synced, remote, local, place)
        if (self.merge.remote_folder(local.parent_id), local.name) != (place.parent_id, place.name):
            return self._move_local(local, place)
        return None

    def _move_remote(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode, place: Place) -> _Decision:
        assert place.parent_id is not None
        back = Place(remote.parent_id, remote.name)
        if (obstacle := self._remote_circle(remote, place.parent_id)) is not None:
            if _was_put_there_remotely(obstacle):
                return self._move_local(local, back)  # the other move came first
            return _Wait(obstacle, partial(self._move_local, local, back), _Cost.MOVE_UNDONE)
        taken = self.trees.remote_child(place.parent_id, name_key(place.name))
        if taken is None or taken.id == remote.id:
            return MoveRemote(remote, place.parent_id, place.name)
        other = self.merge.of_remote(taken.id)
        if self.merge.moved_remotely(synced, remote) and not self._will_leave(other) and not taken.skipped:
            # The service has no room for what both sides together wish.
            free = self._free_name(place.name, local.kind, local.parent_id, place.parent_id)
            return MoveRemote(remote, place.parent_id, free)
        return self._give_way(local, place.name, other)

    def _move_local(self, local: LocalNode, place: Place) -> _Decision:
        assert place.parent_id is not None
        parent_id = self.merge.local_folder(place.parent_id)
        if parent_id is None:
            return _Wait(self.merge.of_remote(place.parent_id))
        if (obstacle := self._local_circle(local, parent_id)) is not None:
            return _Wait(obstacle)
        return self._wait_for_local_name(parent_id, place.name, local) or MoveLocal(local, parent_id, place.name)

    # --- names that are taken -----------------------------------------------------------------------------------

    def _give_way(self, local: LocalNode, name: str, other: Node) -> _Decision:
        """`name`, which the local node should have on the service, belongs to `other`: that keeps it."""
        remote = other.remote
        assert remote is not None
        assert remote.parent_id is not None
        if remote.skipped:
            return _Wait(other)
        if not self._will_leave(other):
            return self._set_aside(local, name)
        return _Wait(other, partial(self._step_aside_remotely, remote))

    def _step_aside_remotely(self, remote: RemoteNode) -> MoveRemote:
        assert remote.parent_id is not None
        for number in count(1):
            name = conflicts.temporary(remote.id, self.merge.naming, number)
            if not self._is_taken(name, None, remote.parent_id):
                break
        return MoveRemote(remote, remote.parent_id, name)

    def _will_leave(self, other: Node) -> bool:
        """Whether the node's place on the service is still to be decided."""
        if other.synced is None or other.remote is None:
            return False
        if other.local is None:
            return True
        place = self.merge.place(other.synced, other.remote, other.local)
        return place != Place(other.remote.parent_id, other.remote.name)

    def _set_aside(self, local: LocalNode, name: str, *, detach: bool = False) -> MoveLocal:
        """The local node becomes a conflicted copy."""
        assert local.parent_id is not None
        free = self._free_name(name, local.kind, local.parent_id, self.merge.remote_folder(local.parent_id))
        return MoveLocal(local, local.parent_id, free, detach)

    def _free_name(self, name: str, kind: Kind, local_id: LocalId | None, remote_id: RemoteId | None) -> str:
        """A conflicted copy's name that is free in both folders."""
        for number in count(1):
            free = conflicts.make(name, self.merge.naming, number, is_folder=kind is Kind.FOLDER)
            if not self._is_taken(free, local_id, remote_id):
                break
        return free

    def _is_taken(self, name: str, local_id: LocalId | None, remote_id: RemoteId | None) -> bool:
        key = name_key(name)
        if local_id is not None and any(True for _ in self.trees.local_named(local_id, key)):
            return True
        return remote_id is not None and self.trees.remote_child(remote_id, key) is not None

    def _wait_for_local_name(self, parent_id: LocalId, name: str, local: LocalNode | None = None) -> _Wait | None:
        """What has the name on disk, other than `local` itself. Only with its pair is it known where that belongs:
        without one it has to take another name for good."""
        for taken in self.trees.local_named(parent_id, name_key(name)):
            if local is None or taken.id != local.id:
                node = self.merge.of_local(taken.id)
                if node.synced is None:
                    return _Wait(node, partial(self._set_aside, taken, taken.name), _Cost.NAME)
                return _Wait(node, partial(self._step_aside_locally, node.synced, taken))
        return None

    def _step_aside_locally(self, synced: SyncedNode, local: LocalNode) -> MoveLocal:
        assert local.parent_id is not None
        for number in count(1):
            name = conflicts.temporary(synced.id, self.merge.naming, number)
            if not self._is_taken(name, local.parent_id, None):
                break
        return MoveLocal(local, local.parent_id, name)

    # --- folders that are in the way ----------------------------------------------------------------------------

    def _wait_for_local_folder(self, local: LocalNode) -> _Wait:
        assert local.parent_id is not None
        return _Wait(self.merge.of_local(local.parent_id))

    def _remote_circle(self, remote: RemoteNode, parent_id: RemoteId) -> Node | None:
        """When the new parent lies below the folder itself: what has to get out of it before, the deepest first."""
        path = list(self.merge.remote_path(parent_id)) if remote.kind is Kind.FOLDER else []
        if all(above.id != remote.id for above in path):
            return None
        return next(node for node in (self.merge.of_remote(above.id) for above in path) if self._is_misplaced(node))

    def _local_circle(self, local: LocalNode, parent_id: LocalId) -> Node | None:
        path = list(self.merge.local_path(parent_id)) if local.kind is Kind.FOLDER else []
        if all(above.id != local.id for above in path):
            return None
        return next(node for node in (self.merge.of_local(above.id) for above in path) if self._is_misplaced(node))

    def _is_misplaced(self, node: Node) -> bool:
        """Whether the two sides have the node in different folders."""
        if node.remote is None or node.local is None:
            return True
        return self.merge.remote_folder(node.local.parent_id) != node.remote.parent_id


def _first_way_out(waits: Iterable[_Wait]) -> Operation | None:
    for wait in waits:
        decision = wait.way_out() if wait.way_out is not None else None
        if isinstance(decision, _Wait):
            decision = decision.way_out() if decision.way_out is not None else None
        if decision is not None and not isinstance(decision, _Wait):
            return decision
    return None


def _was_put_there_remotely(node: Node) -> bool:
    return node.synced is not None and node.remote is not None and node.remote.parent_id != node.synced.parent_id


def _pair(remote: RemoteNode, local: LocalNode) -> SyncedNode:
    return SyncedNode(remote.id, local.id, remote.parent_id, remote.name, remote.kind, remote.version, remote.content)


def _dirty(merge: Merge) -> Iterator[Node]:
    """All that differs, the service's and the disk's nodes in turn."""
    for remote_id, local_id in zip_longest(merge.trees.dirty_remote(), merge.trees.dirty_local()):
        if remote_id is not None and remote_id != merge.trees.remote_root:
            yield merge.of_remote(remote_id)
        if local_id is not None and local_id != merge.trees.local_root:
            yield merge.of_local(local_id)


def _is_busy(busy: Busy, wanted: Busy) -> bool:
    return not (wanted.remote.isdisjoint(busy.remote) and wanted.local.isdisjoint(busy.local))
