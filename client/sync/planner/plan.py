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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from operator import attrgetter
from typing import Final

from client.sync.planner.conflicts import Naming
from client.sync.planner.decision import Busy, Decider, Decision, Wait
from client.sync.planner.merge import Key, Merge, Node
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
    RemoteNode,
    SyncedNode,
    Trees,
    Upload,
)
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

__all__ = [
    "NOTHING",
    "Breaker",
    "Busy",
    "DeletionCount",
    "count_deletions",
    "count_planned_deletions",
    "held",
    "operations",
    "plan",
    "subjects",
]


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
    decider = Decider(Merge(trees, naming), busy)
    followed: set[Key] = set()
    given: set[tuple[LocalId, str]] = set()
    for node in _dirty(decider.merge):
        decision = decider.decide(node)
        if isinstance(decision, Wait):
            # A circle that can be broken has a wait with a way out in it, and is looked for from there.
            decision = _break_circle(decider, node, decision, followed) if decision.way_out is not None else None
        if decision is None or _is_busy(busy, subjects(decision)):
            continue
        if isinstance(decision, MoveLocal):
            # Two copies made at once must not get one name in two spellings, which a disk would take.
            name = (decision.parent_id, name_key(decision.name))
            if name in given:
                continue
            given.add(name)
        yield decision


def held(trees: Trees, naming: Naming) -> Iterator[tuple[Node, Node]]:
    """What differs and waits, each with what it waits for in the end: something that is not synced here, or cannot be
    now. Nothing goes on by itself there, so a person is to be told."""
    decider = Decider(Merge(trees, naming), NOTHING)
    told: set[Key] = set()
    for node in _dirty(decider.merge):
        if node.key in told:
            continue
        told.add(node.key)
        end, passed = node, {node.key}
        while isinstance(decision := decider.decide(end), Wait) and decision.on.key not in passed:
            end = decision.on
            passed.add(end.key)
        if end is not node and decision is None:
            yield node, end


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
    local = (merge.of_remote(node_id) for node_id in trees.dirty_remote() if _is_out_of_sight(trees.remote(node_id)))
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


def _is_out_of_sight(remote: RemoteNode | None) -> bool:
    return remote is None or remote.skipped


def _loses_remote_file(merge: Merge, node: Node) -> bool:
    match node:
        case Node(SyncedNode() as synced, RemoteNode(kind=Kind.FILE, skipped=False) as remote, None):
            return not merge.kept_remotely(synced, remote)
    return False


def _loses_local_file(merge: Merge, node: Node) -> bool:
    match node:
        case Node(SyncedNode() as synced, None, LocalNode(kind=Kind.FILE, problem=None) as local):
            return not merge.kept_locally(synced, local)
        case Node(SyncedNode() as synced, RemoteNode(skipped=True) as remote, LocalNode(kind=Kind.FILE) as local):
            gone = local.problem is None and merge.left_selection(synced, remote)
            return gone and not merge.kept_locally(synced, local)
    return False


def _with_all_below(trees: Trees, node: RemoteNode) -> Iterator[RemoteNode]:
    yield node
    for child in trees.remote_children(node.id):
        yield from _with_all_below(trees, child)


# --- one pass ---------------------------------------------------------------------------------------------------


def _break_circle(decider: Decider, node: Node, decision: Decision, followed: set[Key]) -> Operation | None:
    """Follows the waits that begin with this node's. Where they lead back to one on the way, a way out is taken. Those
    that were followed before in this pass are not followed twice."""
    waits: dict[Key, Wait] = {}
    while isinstance(decision, Wait):
        if node.key in waits:
            keys = list(waits)
            circle = sorted(keys[keys.index(node.key) :])
            return _first_way_out(sorted((waits[key] for key in circle), key=attrgetter("cost")))
        if node.key in followed:
            return None
        followed.add(node.key)
        waits[node.key] = decision
        node = decision.on
        decision = decider.decide(node)
    return None


def _first_way_out(waits: Iterable[Wait]) -> Operation | None:
    for wait in waits:
        decision = wait.way_out() if wait.way_out is not None else None
        if isinstance(decision, Wait):
            decision = decision.way_out() if decision.way_out is not None else None
        if decision is not None and not isinstance(decision, Wait):
            return decision
    return None


def _dirty(merge: Merge) -> Iterator[Node]:
    """All that differs, the service's and the disk's nodes in turn."""
    for remote_id, local_id in zip_longest(merge.trees.dirty_remote(), merge.trees.dirty_local()):
        if remote_id is not None and remote_id != merge.trees.remote_root:
            yield merge.of_remote(remote_id)
        if local_id is not None and local_id != merge.trees.local_root:
            yield merge.of_local(local_id)


def _is_busy(busy: Busy, wanted: Busy) -> bool:
    return not (wanted.remote.isdisjoint(busy.remote) and wanted.local.isdisjoint(busy.local))
