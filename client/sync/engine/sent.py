"""What is on its way to the service, and what became of it where the answer was lost.

Guarantees: what this computer has sent is never taken for somebody else's when the feed tells it before the answer
does, nor after a crash: what an upload is about to store is noted before it begins (Uploads.begin).
Does not: ask the service: the feed has told by the time it is resolved (the nodes are held until then).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from client.sync.engine.apply import Outcome, Stale, Told, Unavailable
from client.sync.planner.conflicts import Naming
from client.sync.planner.merge import Merge
from client.sync.planner.plan import Busy
from client.sync.store.store import Store
from client.sync.tree import (
    Content,
    Download,
    LocalId,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    Operation,
    RemoteId,
    Upload,
    pair_of,
)
from coordinator.protocol.names import name_key


@dataclass(frozen=True, slots=True)
class _Sent:
    """Its name's key in the folder `parent_id`. `content` None is a folder's, `remote_id` None a new file's."""

    parent_id: RemoteId
    key: str
    content: Content | None = None
    remote_id: RemoteId | None = None


class SentUploads:
    """`_sent` are those whose outcome is not known, `_doubtful` those of them whose answer was lost, and those that the
    last client left behind."""

    def __init__(self, store: Store, naming: Callable[[], Naming]) -> None:
        self._store = store
        self._naming = naming
        self._sent: dict[LocalId, _Sent] = {}
        self._doubtful = set(store.uploads.unsettled())

    @property
    def is_empty(self) -> bool:
        return not self._sent

    def begin(self, operation: Operation) -> None:
        match operation:
            case Upload(local, parent_id, name, base):
                assert local.content is not None
                base_id = None if base is None else base.id
                with self._store.transaction():
                    self._store.uploads.begin(local.id, base_id, local.content)
                self._sent[local.id] = _Sent(parent_id, name_key(name), local.content, base_id)
            case MakeRemoteFolder(local, parent_id):
                self._sent[local.id] = _Sent(parent_id, local.key)

    def end(self, operation: Operation, outcome: Outcome) -> None:
        match operation, outcome:
            case Upload(local), Unavailable():
                self._doubtful.add(local.id)
            case Upload(local), Told() | Stale():
                self._store.uploads.settle(local.id)
                self._sent.pop(local.id, None)
            case ((Upload(local) | MakeRemoteFolder(local)), _):
                self._sent.pop(local.id, None)

    def meets(self, operation: Operation) -> bool:
        """Whether what is new in the service there may be what this computer has just sent: the outcome tells."""
        match operation:
            case Download(node, _, _, None) | MakeLocalFolder(node):
                place = (node.parent_id, node.key)
            case MoveLocal(local):
                place = (Merge(self._store, self._naming()).remote_folder(local.parent_id), local.key)
            case _:
                return False
        return any(sent.remote_id is None and place == (sent.parent_id, sent.key) for sent in self._sent.values())

    def resolve(self, busy: Busy) -> None:
        """The feed has told by now whether the service stored what is in doubt and not `busy`."""
        if not self._doubtful:
            return
        with self._store.transaction():
            for local_id in sorted(self._doubtful - busy.local):
                self._doubtful.discard(local_id)
                noted, sent = self._store.uploads.begun(local_id), self._sent.pop(local_id, None)
                if noted is not None and sent is None:  # from before the start: the place is where the file is now
                    sent = self._sent_from_here(local_id, *noted)
                if sent is not None:
                    self._resolve_one(local_id, sent)
                self._store.uploads.settle(local_id)

    def _sent_from_here(self, local_id: LocalId, remote_id: RemoteId | None, content: Content) -> _Sent | None:
        local = self._store.local(local_id)
        parent_id = None if local is None else Merge(self._store, self._naming()).remote_folder(local.parent_id)
        return None if local is None or parent_id is None else _Sent(parent_id, local.key, content, remote_id)

    def _resolve_one(self, local_id: LocalId, sent: _Sent) -> None:
        """The pair is written whatever became of the local file meanwhile: moved, edited or deleted, it was this."""
        store, pair = self._store, self._store.synced_local(local_id)
        if sent.remote_id is not None:
            node = store.remote(sent.remote_id)
            if pair is not None and pair.id == sent.remote_id and node is not None and node.content == sent.content:
                store.put_synced(replace(pair, version=node.version, content=node.content))
            return
        node = None if pair is not None else store.remote_child(sent.parent_id, sent.key)
        if node is not None and node.content == sent.content and store.synced(node.id) is None and not node.skipped:
            store.put_synced(pair_of(node, local_id))
