"""What is to be done about one node, or what it has to wait for. Pure: look-ups in the trees only.

`Decider.decide` reads like the decision table: which of the three trees have the node, and what each side did to it. A
decision never looks at what other decisions say; where another node is in the way it says so, and plan.py follows.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from functools import partial

from client.sync.planner import conflicts
from client.sync.planner.merge import Merge, Node, Place
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
    pair_of,
)
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind


@dataclass(frozen=True)
class Busy:
    """Nodes that an operation is at work on. The sets are only read, so the caller's own may be given."""

    remote: Set[RemoteId] = frozenset()
    local: Set[LocalId] = frozenset()

    def has(self, node: Node) -> bool:
        return (
            (node.synced is not None and node.synced.id in self.remote)
            or (node.remote is not None and node.remote.id in self.remote)
            or (node.local is not None and node.local.id in self.local)
        )


class Cost(IntEnum):
    """What a way out of a circle of waits costs the person."""

    NAME_FOR_A_MOMENT = 0
    MOVE_UNDONE = 1
    NAME = 2
    DELETE_UNDONE = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done until something happened to `on`. `way_out` is what to do when that in turn waits for this;
    of several ways out of a circle the one that costs least is taken."""

    on: Node
    way_out: Callable[[], Decision] | None = None
    cost: Cost = Cost.NAME_FOR_A_MOMENT


Decision = Operation | Wait | None


class _Fate(Enum):
    """What becomes of a node in a local folder that is gone from the service."""

    DECIDED_FIRST = auto()  # it is gone from the service as well
    LEAVES = auto()  # the service has it elsewhere
    STAYS = auto()
    UNKNOWN = auto()  # it cannot be synced now
    KEPT = auto()  # it stays for what is not synced in it, and so does the folder: the disk will tell


class Decider:
    """Decides for one node at a time, from the trees as they then are."""

    def __init__(self, merge: Merge, busy: Busy) -> None:
        self.merge = merge
        self.trees = merge.trees
        self._busy = busy

    def decide(self, node: Node) -> Decision:
        if self._busy.has(node):
            return None
        match node:
            case Node(SyncedNode() as synced, RemoteNode(skipped=True) as remote, LocalNode(problem=None) as local) if (
                self.merge.left_selection(synced, remote)
            ):
                return self._gone_remotely(synced, local)
            case Node(SyncedNode() as synced, RemoteNode(skipped=True), _):
                return Forget(synced)
            case Node(None, None, LocalNode(is_kept=True) as local):
                return self._kept_here(local)
            case Node(_, RemoteNode(skipped=True), _) | Node(_, _, LocalNode(problem=str())) | Node(None, None, None):
                return None
            case Node(None, None, LocalNode() as local):
                return self._new_locally(local)
            case Node(None, RemoteNode() as remote, None):
                return self._new_remotely(remote)
            case Node(SyncedNode() as synced, None, None):
                return Forget(synced)
            case Node(SyncedNode() as synced, None, LocalNode() as local):
                return self._gone_remotely(synced, local)
            case Node(SyncedNode() as synced, RemoteNode() as remote, None):
                return self._gone_locally(synced, remote)
            case Node(SyncedNode() as synced, RemoteNode() as remote, LocalNode() as local):
                return self._on_both_sides(synced, remote, local)
        raise AssertionError(node)

    # --- on one side only ---------------------------------------------------------------------------------------

    def _new_remotely(self, remote: RemoteNode) -> Decision:
        assert remote.parent_id is not None
        parent_id = self.merge.local_folder(remote.parent_id)
        if parent_id is None:
            return Wait(self.merge.of_remote(remote.parent_id))
        if (wait := self._wait_for_local_name(parent_id, remote.name)) is not None:
            return wait
        if remote.kind is Kind.FOLDER:
            return MakeLocalFolder(remote, parent_id)
        return Download(remote, parent_id, remote.name, replaces=None)

    def _new_locally(self, local: LocalNode) -> Decision:
        parent_id = self.merge.remote_folder(local.parent_id)
        if parent_id is None:
            return self._wait_for_local_folder(local)
        taken = self.trees.remote_child(parent_id, local.key)
        if taken is not None:
            return self._meet(local, taken)
        if local.kind is Kind.FOLDER:
            return MakeRemoteFolder(local, parent_id)
        return Upload(local, parent_id, local.name, base=None)

    def _kept_here(self, local: LocalNode) -> Decision:
        """A folder that was deleted in the service stays unknown there. What has its name by now is met all the same: a
        folder takes it in, a file gets the name."""
        parent_id = self.merge.remote_folder(local.parent_id)
        taken = None if parent_id is None else self.trees.remote_child(parent_id, local.key)
        return None if taken is None or taken.skipped else self._meet(local, taken)

    def _meet(self, local: LocalNode, remote: RemoteNode) -> Decision:
        """A local node without a pair finds its name taken on the service."""
        assert local.parent_id is not None
        other = self.merge.of_remote(remote.id)
        if other.synced is not None or remote.skipped or local.kind is not remote.kind:
            return self._give_way(local, local.name, other)
        if local.content != remote.content:
            if self._has_copy(local.content, remote):
                return Download(remote, local.parent_id, local.name, replaces=local)
            return self._give_way(local, local.name, other)
        if local.name == remote.name:
            return Record(pair_of(remote, local.id))
        return self._move_local(local, Place(remote.parent_id, remote.name))  # one name, spelled in two ways

    def _gone_remotely(self, synced: SyncedNode, local: LocalNode) -> Decision:
        kept = self.merge.kept_locally(synced, local)
        if local.kind is Kind.FOLDER:
            return self._delete_folder_locally(synced, local, kept=kept)
        return self._forget(synced, None, local) if kept else DeleteLocal(local)

    def _delete_folder_locally(self, synced: SyncedNode, local: LocalNode, *, kept: bool) -> Decision:
        """A folder goes when nothing is left in it. Its children are decided first, since only while it is a pair they
        can tell whether they were moved."""
        children: dict[_Fate, Node] = {}
        for found in self.trees.local_children(local.id):
            child = self.merge.of_local(found.id)
            children.setdefault(_fate(child), child)
            if _Fate.DECIDED_FIRST in children:
                return Wait(child)
        if kept or _Fate.STAYS in children:
            return self._forget(synced, None, local)
        if _Fate.LEAVES in children:
            keep = partial(self._forget, synced, None, local)
            return Wait(children[_Fate.LEAVES], keep, Cost.DELETE_UNDONE)
        return Wait(children[_Fate.UNKNOWN]) if _Fate.UNKNOWN in children else DeleteLocal(local)

    def _gone_locally(self, synced: SyncedNode, remote: RemoteNode) -> Decision:
        if self.merge.kept_remotely(synced, remote):
            return self._fetch_again(synced, remote)
        assert remote.parent_id is not None
        above = self.merge.of_remote(remote.parent_id)
        if above.synced is not None and above.local is None:
            return Wait(above)  # it goes with the folder that holds it, or that has to be decided first
        return self._delete_remotely(synced, remote)

    def _fetch_again(self, synced: SyncedNode, remote: RemoteNode) -> Decision:
        """A folder that is to come back brings what was in it: its children are forgotten first, as they can tell that
        only while it is a pair."""
        for found in self.trees.remote_children(remote.id):
            child = self.merge.of_remote(found.id)
            if child.synced is not None and child.local is None:
                return Wait(child)
        return self._forget(synced, remote, None)

    def _delete_remotely(self, synced: SyncedNode, remote: RemoteNode) -> Decision:
        """A folder goes as a whole, when everything in it has gone from the disk as it was. What was moved out of it on
        disk leaves first; when there is something new in it, it comes back and the rest is decided one by one."""
        leaving: Node | None = None
        below = list(self.trees.remote_children(remote.id))
        while below:
            node = self.merge.of_remote(below.pop().id)
            if self._busy.has(node):
                return None
            match node:
                case Node(SyncedNode() as pair, RemoteNode(skipped=False) as found, None):
                    if self.merge.stored_remotely(pair, found) or self.merge.moved_remotely(pair, found):
                        return self._forget(synced, remote, None)
                    below.extend(self.trees.remote_children(found.id))
                case Node(SyncedNode() as pair, RemoteNode(skipped=False) as found, LocalNode()):
                    if found.parent_id != pair.parent_id:
                        return self._forget(synced, remote, None)
                    leaving = leaving or node
                case _:
                    return self._forget(synced, remote, None)
        if leaving is not None:
            return Wait(leaving, partial(self._forget, synced, remote, None), Cost.DELETE_UNDONE)
        return DeleteRemote(remote)

    def _forget(self, synced: SyncedNode, remote: RemoteNode | None, local: LocalNode | None) -> Operation:
        """One side is gone and the other is kept: it becomes new. What had another name for a moment gets its own back
        first, as nothing will know it afterwards."""
        if remote is not None and self.merge.is_for_a_moment(remote.name, synced):
            assert remote.parent_id is not None
            return MoveRemote(remote, remote.parent_id, self.merge.free_own_name(synced, remote.parent_id, None))
        if local is not None and self.merge.is_for_a_moment(local.name, synced):
            assert local.parent_id is not None
            return MoveLocal(local, local.parent_id, self.merge.free_own_name(synced, None, local.parent_id))
        return Forget(synced)

    # --- on both sides ------------------------------------------------------------------------------------------

    def _on_both_sides(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> Decision:
        if not synced.kind is remote.kind is local.kind:
            return Forget(synced)
        move = self._move(synced, remote, local)
        if move is not None and not isinstance(move, Wait):
            return move
        change = self._change(synced, remote, local)
        if change is not None or move is not None:
            return change or move
        agreed = pair_of(remote, local.id)
        return Record(agreed) if agreed != synced else None

    def _change(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> Decision:
        if remote.content == local.content:
            return None
        assert remote.parent_id is not None
        assert local.parent_id is not None
        if local.content == synced.content:
            return Download(remote, local.parent_id, local.name, replaces=local)
        if remote.content == synced.content:
            return Upload(local, remote.parent_id, remote.name, base=remote)
        if self._has_copy(local.content, remote):
            return Download(remote, local.parent_id, local.name, replaces=local)
        return self._set_aside(local, self.merge.name(synced, remote, local), detach=True)

    def _has_copy(self, content: Content | None, remote: RemoteNode) -> bool:
        """Whether the service holds this content as a conflicted copy of the file already, and nobody changes that: so
        another device with the same edit made one."""
        assert remote.parent_id is not None
        for sibling in self.trees.remote_children(remote.parent_id):
            made = conflicts.parse(sibling.name) if sibling.content == content else None
            if made is not None and made.original == remote.name and not sibling.skipped:
                node = self.merge.of_remote(sibling.id)
                if node.synced is None or (node.local is not None and node.local.content == content):
                    return True
        return False

    def _move(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> Decision:
        place = self.merge.place(synced, remote, local)
        if place.parent_id is None:
            return self._wait_for_local_folder(local)
        if (remote.parent_id, remote.name) != (place.parent_id, place.name):
            return self._move_remote(synced, remote, local, place)
        if (self.merge.remote_folder(local.parent_id), local.name) != (place.parent_id, place.name):
            return self._move_local(local, place)
        return None

    def _move_remote(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode, place: Place) -> Decision:
        assert place.parent_id is not None
        back = Place(remote.parent_id, remote.name)
        if (obstacle := self._remote_circle(remote, place.parent_id)) is not None:
            if _was_put_there_remotely(obstacle):
                return self._move_local(local, back)  # the other move came first
            return Wait(obstacle, partial(self._move_local, local, back), Cost.MOVE_UNDONE)
        taken = self.trees.remote_child(place.parent_id, name_key(place.name))
        if taken is None or taken.id == remote.id:
            return MoveRemote(remote, place.parent_id, place.name)
        other = self.merge.of_remote(taken.id)
        if self.merge.moved_remotely(synced, remote) and not self._will_leave(other) and not taken.skipped:
            # The service has no room for what both sides together wish.
            free = self.merge.free_name(place.name, local.kind, place.parent_id, local.parent_id)
            return MoveRemote(remote, place.parent_id, free)
        return self._give_way(local, place.name, other)

    def _move_local(self, local: LocalNode, place: Place) -> Decision:
        assert place.parent_id is not None
        parent_id = self.merge.local_folder(place.parent_id)
        if parent_id is None:
            return Wait(self.merge.of_remote(place.parent_id))
        if (obstacle := self._local_circle(local, parent_id)) is not None:
            return Wait(obstacle)
        return self._wait_for_local_name(parent_id, place.name, local) or MoveLocal(local, parent_id, place.name)

    # --- names that are taken -----------------------------------------------------------------------------------

    def _give_way(self, local: LocalNode, name: str, other: Node) -> Decision:
        """`name`, which the local node should have on the service, belongs to `other`: that keeps it."""
        remote = other.remote
        assert remote is not None
        assert remote.parent_id is not None
        if remote.skipped:
            return Wait(other)
        if not self._will_leave(other):
            return self._set_aside(local, name)
        assert other.synced is not None
        return Wait(other, partial(self._step_aside_remotely, other.synced, remote))

    def _step_aside_remotely(self, synced: SyncedNode, remote: RemoteNode) -> MoveRemote:
        assert remote.parent_id is not None
        return MoveRemote(remote, remote.parent_id, self.merge.free_moment_name(synced, remote.parent_id, None))

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
        free = self.merge.free_name(name, local.kind, self.merge.remote_folder(local.parent_id), local.parent_id)
        return MoveLocal(local, local.parent_id, free, detach)

    def _wait_for_local_name(self, parent_id: LocalId, name: str, local: LocalNode | None = None) -> Wait | None:
        """What has the name on disk, other than `local` itself. Only with its pair is it known where that belongs:
        without one it has to take another name for good."""
        for taken in self.trees.local_named(parent_id, name_key(name)):
            if local is None or taken.id != local.id:
                node = self.merge.of_local(taken.id)
                if node.synced is None:
                    return Wait(node, partial(self._set_aside, taken, taken.name), Cost.NAME)
                return Wait(node, partial(self._step_aside_locally, node.synced, taken))
        return None

    def _step_aside_locally(self, synced: SyncedNode, local: LocalNode) -> MoveLocal:
        assert local.parent_id is not None
        return MoveLocal(local, local.parent_id, self.merge.free_moment_name(synced, None, local.parent_id))

    # --- folders that are in the way ----------------------------------------------------------------------------

    def _wait_for_local_folder(self, local: LocalNode) -> Wait:
        assert local.parent_id is not None
        return Wait(self.merge.of_local(local.parent_id))

    def _remote_circle(self, remote: RemoteNode, parent_id: RemoteId) -> Node | None:
        """When the new parent lies below the folder itself: what has to get out of it before, the deepest first."""
        path = list(self.merge.remote_path(parent_id)) if remote.kind is Kind.FOLDER else []
        if all(above.id != remote.id for above in path):
            return None
        nodes = (self.merge.of_remote(above.id) for above in path)
        return next((node for node in nodes if self._is_misplaced(node)), None)

    def _local_circle(self, local: LocalNode, parent_id: LocalId) -> Node | None:
        path = list(self.merge.local_path(parent_id)) if local.kind is Kind.FOLDER else []
        if all(above.id != local.id for above in path):
            return None
        nodes = (self.merge.of_local(above.id) for above in path)
        return next((node for node in nodes if self._is_misplaced(node)), None)

    def _is_misplaced(self, node: Node) -> bool:
        """Whether the two sides have the node in different folders."""
        if node.remote is None or node.local is None:
            return True
        return self.merge.remote_folder(node.local.parent_id) != node.remote.parent_id


def _fate(child: Node) -> _Fate:
    if child.local is not None and child.local.problem is not None:
        return _Fate.KEPT if child.synced is None and child.local.is_kept else _Fate.UNKNOWN
    if child.synced is None:
        return _Fate.STAYS
    if child.remote is None or child.remote.skipped:
        return _Fate.DECIDED_FIRST
    return _Fate.LEAVES if _was_put_there_remotely(child) else _Fate.STAYS


def _was_put_there_remotely(node: Node) -> bool:
    return node.synced is not None and node.remote is not None and node.remote.parent_id != node.synced.parent_id
