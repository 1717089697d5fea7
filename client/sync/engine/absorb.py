"""Writes down in the trees what an operation changed.

Guarantees: every write is about what the operation found and left, not about what the trees say by now: a scan or the
feed may have told newer things meanwhile, and those stay. A synced node is written only for what both sides have.
Does not: look at what was not carried out (failures.py). Runs in the control thread, inside a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from client.sync.engine.apply import Gone, NotEmpty, Placed, Told
from client.sync.engine.work import Work
from client.sync.local.disk import SOURCE as SCANNING
from client.sync.local.disk import Disk, shown
from client.sync.local.findings import DirtyFolder
from client.sync.planner import conflicts
from client.sync.planner.plan import Busy
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.transfer.contents import Fetched, Sent
from client.sync.tree import (
    KEPT,
    DeleteLocal,
    DeleteRemote,
    Download,
    LocalId,
    LocalNode,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    MoveRemote,
    RemoteId,
    RemoteNode,
    Stamp,
    Upload,
    pair_of,
)
from coordinator.protocol.types import Kind, Metadata
from node.base.clock import Clock


@dataclass
class Absorber:
    """`on_conflict` is told (path, copy) when a conflicted copy was made."""

    store: Store
    remote: RemoteSide
    disk: Disk
    clock: Clock
    on_conflict: Callable[[str, str], None]

    def absorb(self, work: Work, outcome: Told | Placed | Gone | NotEmpty) -> Busy | None:
        """Returns the nodes to be left alone until the feed has told the change; None when the service was not
        changed."""
        match work.operation, outcome:
            case MakeRemoteFolder(local, parent_id), Told(metadata):
                node = self._answered(metadata, parent_id, work)
                self.store.put_synced(pair_of(node, local.id))
                return _pair(node.id, local.id)
            case Upload(local, parent_id), Told(metadata):
                node = self._answered(metadata, parent_id, work)
                self._put_content(node, local.id)
                self._learn(local.id, outcome)
                return _pair(node.id, local.id)
            case MoveRemote(before, parent_id, _), Told(metadata):
                node = self._answered(metadata, parent_id, work)
                pair = self.store.synced(before.id)
                if work.agreed and pair is not None:
                    self.store.put_synced(replace(pair, parent_id=node.parent_id, name=node.name))
                return _pair(node.id, None if pair is None else pair.local_id)
            case DeleteRemote(node), Gone():
                self.remote.drop_answer(node.id, work.asked_at)
                return _pair(node.id, None)
            case MakeLocalFolder(node, parent_id), Placed(stamp):
                self._folder_placed(node, parent_id, stamp)
            case Download() as operation, Placed(stamp):
                self._file_placed(operation, stamp, outcome)
            case MoveLocal() as operation, Placed(stamp):
                self._moved(operation, stamp, agreed=work.agreed)
            case DeleteLocal(local), Gone():
                self._gone(local)
            case DeleteLocal(local), NotEmpty(name):
                self._keep(local, name)
            case unexpected:
                raise AssertionError(unexpected)
        return None

    # --- in the service -----------------------------------------------------------------------------------------

    def _answered(self, metadata: Metadata, parent_id: RemoteId, work: Work) -> RemoteNode:
        node = self.remote.node_of(metadata, parent_id)
        self.remote.put_answer(node, work.asked_at)
        return node

    # --- on the disk --------------------------------------------------------------------------------------------

    def _folder_placed(self, node: RemoteNode, parent_id: LocalId, stamp: Stamp) -> None:
        if self._is_lost(parent_id):
            return
        local_id = self.store.new_local_id()
        self.store.put_local(LocalNode(local_id, parent_id, node.name, Kind.FOLDER, stamp))
        self.store.put_synced(pair_of(node, local_id))

    def _file_placed(self, operation: Download, stamp: Stamp, outcome: Placed) -> None:
        if self._is_lost(operation.parent_id):
            return
        node, replaces = operation.remote, operation.replaces
        local_id = replaces.id if replaces is not None else self.store.new_local_id()
        local = LocalNode(local_id, operation.parent_id, operation.name, Kind.FILE, stamp, node.content)
        self.store.put_local(local)
        self._put_content(node, local_id)
        self._learn(local_id, outcome)

    def _moved(self, operation: MoveLocal, stamp: Stamp, *, agreed: bool) -> None:
        store = self.store
        local = store.local(operation.local.id)
        if local is None or self._is_lost(operation.parent_id):
            return
        before = operation.local.stamp
        same = (stamp.size, stamp.mtime_ns, stamp.inode) == (before.size, before.mtime_ns, before.inode)
        old_path = store.local_path(local.id)
        if local.stamp == before and same:
            local = replace(local, stamp=stamp)  # a rename changes only the time of the last status change
        store.put_local(replace(local, parent_id=operation.parent_id, name=operation.name))
        if agreed and (pair := store.synced_local(local.id)) is not None:
            node = store.remote(pair.id)
            if node is not None:
                store.put_synced(replace(pair, parent_id=node.parent_id, name=operation.name))
        if conflicts.is_conflict_name(operation.name) and old_path is not None:
            path, copy = shown(old_path), shown(store.local_path(local.id) or ())
            store.told.add_conflict(path, copy, self.clock.now())
            self.on_conflict(path, copy)

    def _gone(self, local: LocalNode) -> None:
        if self.store.local(local.id) is not None:
            self.store.drop_local(local.id)
        # Should it come back in the service from now on, its absence here is nobody's wish.
        if (pair := self.store.synced_local(local.id)) is not None:
            self.store.drop_synced(pair.id)

    def _keep(self, local: LocalNode, name: str) -> None:
        """The folder holds something that is not synced: it stays, and is nobody's wish in the service any more."""
        store = self.store
        path = store.local_path(local.id)
        known = store.local(local.id)
        if (pair := store.synced_local(local.id)) is not None:
            store.drop_synced(pair.id)
        reason = f"{KEPT}, such as {name}"
        if any(child.problem is None for child in store.local_children(local.id)):
            return  # a scan has just found something to sync in it: it is new, and not kept for what is not synced
        if known is not None and path is not None:
            store.put_local(replace(known, problem=reason))
            store.told.set_problem(shown(path), reason, SCANNING)  # each scan tells it again
            self.disk.want([DirtyFolder(path, recursive=True)])  # it may be something new that is to be synced

    def _is_lost(self, folder_id: LocalId) -> bool:
        """Whether a scan has found the folder gone since the operation began: what was put into it is where the folder
        is now, and a look at everything finds it there. Without its folder a node would be in no place at all, and a
        pair without a node would look like a delete."""
        if self.store.local(folder_id) is not None:
            return False
        self.disk.want_all()
        return True

    # --- both sides ---------------------------------------------------------------------------------------------

    def _put_content(self, node: RemoteNode, local_id: LocalId) -> None:
        """Both sides have this content now; an earlier agreement about the place stays."""
        pair = self.store.synced(node.id)
        if pair is not None and pair.local_id == local_id:
            self.store.put_synced(replace(pair, version=node.version, content=node.content))
        else:
            self.store.put_synced(pair_of(node, local_id))

    def _learn(self, local_id: LocalId, outcome: Told | Placed) -> None:
        """Keep what the transfer found out about the content: it saves bytes the next time."""
        learned = outcome.learned if isinstance(outcome, Sent | Fetched) else None
        if learned is None:
            return
        self.store.blocks.put(local_id, learned.digest, learned.blocks)
        if learned.signatures is not None:
            self.store.blocks.put_signature(local_id, learned.digest, learned.signatures)


def _pair(remote_id: RemoteId, local_id: LocalId | None) -> Busy:
    return Busy(frozenset({remote_id}), frozenset(() if local_id is None else {local_id}))
