"""One file or folder in all three trees, and what both sides together say about it. Pure: look-ups only, no decision.

Each attribute merges for itself: the content, the folder that holds the node, its name. Where only one side changed an
attribute that side decides, where both did the service does. A name that this device gave for a moment (conflicts.py)
says nothing. A change of the spelling that Unicode normalisation takes away again is no change of the local name.

Guarantees: a synced node changes only when both sides agree, so the merge is the same after every step towards it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from client.sync.planner import conflicts
from client.sync.planner.conflicts import Naming
from client.sync.tree import LocalId, LocalNode, RemoteId, RemoteNode, SyncedNode, Trees
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Node:
    """A pair (`synced`, with what is left of its two sides), or a node that only one side has."""

    synced: SyncedNode | None
    remote: RemoteNode | None
    local: LocalNode | None

    @property
    def key(self) -> Key:
        if self.synced is not None:
            return ("remote", self.synced.id)
        if self.remote is not None:
            return ("remote", self.remote.id)
        return ("local", self.local.id if self.local is not None else 0)


@dataclass(frozen=True, slots=True)
class Place:
    """In the service's terms; `parent_id` None when the local folder has no counterpart there yet."""

    parent_id: RemoteId | None
    name: str


class Merge:
    """What the trees say, looked up when it is asked."""

    def __init__(self, trees: Trees, naming: Naming) -> None:
        self.trees = trees
        self.naming = naming

    # --- who belongs together -----------------------------------------------------------------------------------

    def of_remote(self, node_id: RemoteId) -> Node:
        synced = self.trees.synced(node_id)
        return Node(synced, self.trees.remote(node_id), self.trees.local(synced.local_id) if synced else None)

    def of_local(self, node_id: LocalId) -> Node:
        synced = self.trees.synced_local(node_id)
        return Node(synced, self.trees.remote(synced.id) if synced else None, self.trees.local(node_id))

    def local_folder(self, node_id: RemoteId) -> LocalId | None:
        """The folder on disk that belongs to one of the service."""
        if node_id == self.trees.remote_root:
            return self.trees.local_root
        synced = self.trees.synced(node_id)
        return synced.local_id if synced is not None and self.trees.local(synced.local_id) is not None else None

    def remote_folder(self, node_id: LocalId | None) -> RemoteId | None:
        """The folder of the service that belongs to one on disk."""
        parent_id = self._synced_folder(node_id)
        if parent_id is None or parent_id == self.trees.remote_root:
            return parent_id
        remote = self.trees.remote(parent_id)
        return parent_id if remote is not None and not remote.skipped else None

    def _synced_folder(self, node_id: LocalId | None) -> RemoteId | None:
        if node_id is None or node_id == self.trees.local_root:
            return self.trees.remote_root
        synced = self.trees.synced_local(node_id)
        return None if synced is None else synced.id

    # --- what changed -------------------------------------------------------------------------------------------

    def place(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> Place:
        """Where both sides together want the node to be."""
        if remote.parent_id != synced.parent_id:
            return Place(remote.parent_id, self.name(synced, remote, local))
        return Place(self.remote_folder(local.parent_id), self.name(synced, remote, local))

    def name(self, synced: SyncedNode, remote: RemoteNode, local: LocalNode) -> str:
        if self._renamed_remotely(synced, remote):
            return remote.name
        return local.name if self._renamed_locally(synced, local) else synced.name

    def stored_remotely(self, synced: SyncedNode, remote: RemoteNode) -> bool:
        """Whether somebody has stored the file anew, be it with the same content: he wants it to be there."""
        return remote.content != synced.content or (remote.kind is Kind.FILE and remote.version != synced.version)

    def moved_remotely(self, synced: SyncedNode, remote: RemoteNode) -> bool:
        return remote.parent_id != synced.parent_id or self._renamed_remotely(synced, remote)

    def moved_locally(self, synced: SyncedNode, local: LocalNode) -> bool:
        return self._synced_folder(local.parent_id) != synced.parent_id or self._renamed_locally(synced, local)

    def _renamed_remotely(self, synced: SyncedNode, remote: RemoteNode) -> bool:
        return remote.name != synced.name and not self.is_for_a_moment(remote.name, synced)

    def _renamed_locally(self, synced: SyncedNode, local: LocalNode) -> bool:
        return _composed(local.name) != _composed(synced.name) and not self.is_for_a_moment(local.name, synced)

    def is_for_a_moment(self, name: str, synced: SyncedNode) -> bool:
        """Whether this device gave the name, and knows a better one. Where the last agreed name is itself one that was
        meant for a moment, two devices would take turns in giving their own for each other's."""
        return conflicts.is_own_temporary(name, self.naming, synced.id) and not conflicts.is_temporary(synced.name)

    def left_selection(self, synced: SyncedNode, remote: RemoteNode) -> bool:
        """Whether a skipped node was moved, itself or with a folder around it, to where it is skipped: for this
        computer it has gone. Where it is skipped by new rules, it has not."""
        while not self.moved_remotely(synced, remote):
            above = self.of_remote(remote.parent_id) if remote.parent_id is not None else None
            if above is None or above.synced is None or above.remote is None or not above.remote.skipped:
                return False
            synced, remote = above.synced, above.remote
        return True

    # --- one side is gone ---------------------------------------------------------------------------------------
    # An edit or a move beats a delete. Whoever moves a folder moves what is in it, so that is kept as well.

    def kept_remotely(self, synced: SyncedNode, remote: RemoteNode) -> bool:
        """Whether a node that is gone from the disk was changed on the service, itself or with a folder around it that
        is gone as well."""
        if self.stored_remotely(synced, remote):
            return True
        while not self.moved_remotely(synced, remote):
            above = self.of_remote(remote.parent_id) if remote.parent_id is not None else None
            if above is None or above.synced is None or above.remote is None or above.local is not None:
                return False
            synced, remote = above.synced, above.remote
        return True

    def kept_locally(self, synced: SyncedNode, local: LocalNode) -> bool:
        """Whether a node that is gone from the service was changed on disk, itself or with a folder around it that is
        gone as well."""
        if local.content != synced.content:
            return True
        while not self.moved_locally(synced, local):
            above = self.of_local(local.parent_id) if local.parent_id is not None else None
            if above is None or above.synced is None or above.remote is not None or above.local is None:
                return False
            synced, local = above.synced, above.local
        return True

    # --- names --------------------------------------------------------------------------------------------------
    # Of the two folders, one on the service and one on disk, either may be None: then it does not matter.

    def is_taken(self, name: str, remote_id: RemoteId | None, local_id: LocalId | None) -> bool:
        key = name_key(name)
        if remote_id is not None and self.trees.remote_child(remote_id, key) is not None:
            return True
        return local_id is not None and any(True for _ in self.trees.local_named(local_id, key))

    def free_name(self, name: str, kind: Kind, remote_id: RemoteId | None, local_id: LocalId | None) -> str:
        """A conflicted copy's name that is free in both folders."""
        is_folder = kind is Kind.FOLDER
        names = (conflicts.make(name, self.naming, number, is_folder=is_folder) for number in count(1))
        return next(name for name in names if not self.is_taken(name, remote_id, local_id))

    def free_moment_name(self, synced: SyncedNode, remote_id: RemoteId | None, local_id: LocalId | None) -> str:
        """What a pair's node can be called while its name is given to another one."""
        name, is_folder = synced.name, synced.kind is Kind.FOLDER
        names = (conflicts.temporary(name, synced.id, self.naming, number, is_folder=is_folder) for number in count(1))
        return next(name for name in names if not self.is_taken(name, remote_id, local_id))

    def free_own_name(self, synced: SyncedNode, remote_id: RemoteId | None, local_id: LocalId | None) -> str:
        """The name that a pair had before such a moment, or what comes nearest."""
        if not self.is_taken(synced.name, remote_id, local_id):
            return synced.name
        return self.free_name(synced.name, synced.kind, remote_id, local_id)

    # --- upwards ------------------------------------------------------------------------------------------------

    def remote_path(self, node_id: RemoteId) -> Iterator[RemoteNode]:
        """The folder and all above it, without the root."""
        at: RemoteId | None = node_id
        while at is not None and at != self.trees.remote_root and (node := self.trees.remote(at)) is not None:
            yield node
            at = node.parent_id

    def local_path(self, node_id: LocalId) -> Iterator[LocalNode]:
        at: LocalId | None = node_id
        while at is not None and at != self.trees.local_root and (node := self.trees.local(at)) is not None:
            yield node
            at = node.parent_id


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
