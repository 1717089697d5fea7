"""From an operation of the plan to work that a lane can carry out: paths, what is there now, what it may build on.

Guarantees: what is prepared names everything by what the trees say at this moment; where they have moved on since the
operation was planned so that it makes no sense any more, there is no work. A file that becomes something new to the
service is out of its pair, durably, before it is moved.
Does not: carry anything out (apply.py, carry.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from client.fs.base import FileSystem
from client.sync.engine import apply
from client.sync.engine.apply import Outcome
from client.sync.engine.work import Lane, Work
from client.sync.local.disk import Disk, Place
from client.sync.local.ignore import is_built_in
from client.sync.planner.conflicts import Naming
from client.sync.planner.merge import Merge
from client.sync.remote.service import Service
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.tree import (
    DeleteLocal,
    DeleteRemote,
    Download,
    Forget,
    LocalId,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    MoveRemote,
    Operation,
    Record,
    RemoteId,
    Upload,
)
from coordinator.protocol.types import BATCH_BYTES_MAX, Kind


@dataclass
class Preparer:
    """Reads the trees, writes only `detach`. Belongs to the control thread."""

    store: Store
    fs: FileSystem
    service: Service
    remote: RemoteSide
    disk: Disk
    naming: Callable[[], Naming]

    def prepare(self, operation: Operation) -> Work | None:
        """None when the trees have moved on."""
        match operation:
            case MakeRemoteFolder():
                return self._make_remote_folder(operation)
            case MoveRemote():
                return self._move_remote(operation)
            case DeleteRemote():
                return self._delete_remote(operation)
            case MakeLocalFolder():
                return self._make_local_folder(operation)
            case MoveLocal():
                return self._move_local(operation)
            case DeleteLocal():
                return self._delete_local(operation)
            case Upload():
                return self._upload(operation)
            case Download():
                return self._download(operation)
            case Record() | Forget():
                raise AssertionError(operation)  # only written down

    # --- in the service -----------------------------------------------------------------------------------------

    def _make_remote_folder(self, operation: MakeRemoteFolder) -> Work | None:
        path = self.remote.child_path(operation.parent_id, operation.local.name)
        if path is None:
            return None
        return self._call(operation, partial(apply.make_remote_folder, self.service, path, operation.parent_id))

    def _move_remote(self, operation: MoveRemote) -> Work | None:
        node_id, parent_id, name = operation.remote.id, operation.parent_id, operation.name
        source, target = self.remote.path(node_id), self.remote.child_path(parent_id, name)
        if source is None or target is None:
            return None
        task = partial(apply.move_remote, self.service, node_id, source, target, parent_id)
        return self._call(operation, task, agreed=self._local_is_at(node_id, parent_id, name))

    def _delete_remote(self, operation: DeleteRemote) -> Work | None:
        node = operation.remote
        path = self.remote.path(node.id)
        if path is None:
            return None
        version, cursor = (None, self.remote.cursor) if node.kind is Kind.FOLDER else (node.version, None)
        return self._call(operation, partial(apply.delete_remote, self.service, node.id, path, version, cursor))

    def _upload(self, operation: Upload) -> Work | None:
        local = operation.local
        path, remote_path = self.store.local_path(local.id), self.remote.child_path(operation.parent_id, operation.name)
        if path is None or remote_path is None or local.content is None:
            return None
        pair = self.store.synced_local(local.id)
        previous = pair.content.digest if pair is not None and pair.content is not None else None
        task = ToUpload(local, path, remote_path, operation.parent_id, operation.base, previous)
        lane = Lane.UPLOADS if local.stamp.size <= BATCH_BYTES_MAX else Lane.LARGE_UPLOADS
        return self._work(operation, lane, task, size=local.stamp.size)

    # --- on the disk --------------------------------------------------------------------------------------------

    def _make_local_folder(self, operation: MakeLocalFolder) -> Work | None:
        above, name = self.store.local_path(operation.parent_id), operation.remote.name
        if above is None:
            return None
        task = partial(apply.make_local_folder, self.fs, (*above, name))
        return self._on_disk(operation, task, (operation.parent_id, name))

    def _move_local(self, operation: MoveLocal) -> Work | None:
        local, store = operation.local, self.store
        source, above = store.local_path(local.id), store.local_path(operation.parent_id)
        if source is None or above is None or local.parent_id is None:
            return None
        pair = store.synced_local(local.id)
        agreed = pair is not None and self._remote_is_at(pair.id, operation.parent_id, operation.name)
        if operation.detach:
            store.detach(local.id)
        task = partial(apply.move_local, self.fs, source, (*above, operation.name), local.stamp)
        places = ((local.parent_id, local.name), (operation.parent_id, operation.name))
        return self._on_disk(operation, task, *places, agreed=agreed and not operation.detach)

    def _delete_local(self, operation: DeleteLocal) -> Work | None:
        local = operation.local
        path = self.store.local_path(local.id)
        if path is None or local.parent_id is None:
            return None
        task = partial(apply.delete_local, self.fs, path, local.kind, local.stamp, is_built_in)
        return self._on_disk(operation, task, (local.parent_id, local.name))

    def _download(self, operation: Download) -> Work | None:
        node, replaces = operation.remote, operation.replaces
        above, remote_path = self.store.local_path(operation.parent_id), self.remote.path(node.id)
        if above is None or remote_path is None or node.content is None:
            return None
        path = (*above, operation.name)
        place = (operation.parent_id, operation.name)
        if replaces is not None and replaces.content is not None and replaces.content.digest == node.content.digest:
            task = partial(apply.set_executable, self.fs, path, node.content.executable, replaces.stamp)
            return self._on_disk(operation, task, place)
        sent_as = None if replaces is None else self.store.uploads.announced_as(node.id, node.version)
        lane = Lane.DOWNLOADS if node.size <= BATCH_BYTES_MAX else Lane.LARGE_DOWNLOADS
        download = ToDownload(node, remote_path, path, replaces, sent_as)
        return self._work(operation, lane, download, size=node.size, places=(place,))

    # --- both ---------------------------------------------------------------------------------------------------

    def _local_is_at(self, node_id: RemoteId, parent_id: RemoteId, name: str) -> bool:
        pair = self.store.synced(node_id)
        local = None if pair is None else self.store.local(pair.local_id)
        if local is None or local.name != name:
            return False
        return Merge(self.store, self.naming()).local_folder(parent_id) == local.parent_id

    def _remote_is_at(self, node_id: RemoteId, parent_id: LocalId, name: str) -> bool:
        node = self.store.remote(node_id)
        if node is None or node.name != name:
            return False
        return Merge(self.store, self.naming()).remote_folder(parent_id) == node.parent_id

    def _call(self, operation: Operation, task: Callable[[], Outcome], *, agreed: bool = False) -> Work:
        return self._work(operation, Lane.CALLS, task, agreed=agreed)

    def _on_disk(self, operation: Operation, task: Callable[[], Outcome], *places: Place, agreed: bool = False) -> Work:
        return self._work(operation, Lane.DISK, task, places=places, agreed=agreed)

    def _work(
        self,
        operation: Operation,
        lane: Lane,
        task: Callable[[], Outcome] | ToUpload | ToDownload,
        *,
        size: int = 0,
        places: tuple[Place, ...] = (),
        agreed: bool = False,
    ) -> Work:
        return Work(
            operation=operation,
            lane=lane,
            task=task,
            size=size,
            places=places,
            agreed=agreed,
            scans_begun=self.disk.scans_begun,
            asked_at=self.remote.tick,
        )
