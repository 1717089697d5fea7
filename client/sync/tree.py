"""The three trees as values: what the planner reads and what it tells to do. No I/O.

*remote* is the last known state of the service, *local* the last observed state of the disk, *synced* the last state in
which both agreed, node by node: the merge base. A remote node is named by the service's id, a local one by a number of
this device (`LocalId`) that it keeps through renames. A synced node ties the two together. All three are observations;
what is to be done is derived from them (plan.py) and never stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType, Protocol

from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

KEPT: Final = "it was deleted in the service and is kept here because of files that are not synced"

RemoteId = NewType("RemoteId", int)
LocalId = NewType("LocalId", int)


@dataclass(frozen=True, slots=True)
class Content:
    """What two files must share to be equal: the content hash (32 bytes) and the executable bit."""

    digest: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class RemoteNode:
    """`content` is None for a folder. `skipped`: ignored or not selected here, so it is never touched, but its name is
    taken."""

    id: RemoteId
    parent_id: RemoteId | None  # None: the synced root
    name: str
    kind: Kind
    version: int = 0
    size: int = 0
    content: Content | None = None
    mtime_ns: int | None = None
    skipped: bool = False

    @property
    def key(self) -> str:
        return name_key(self.name)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells whether a file on disk may have changed since it was read. A hint that orders work, never a proof of
    equality: that is the hash."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class LocalNode:
    """`content` is None for a folder. `problem` says why the file cannot be synced now (the sentence's end): the
    planner leaves such a node alone, but for a folder that is only KEPT, which makes way."""

    id: LocalId
    parent_id: LocalId | None  # None: the synced root
    name: str
    kind: Kind
    stamp: Stamp
    content: Content | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        return name_key(self.name)

    @property
    def is_kept(self) -> bool:
        """Whether it is a folder that is here only for what is not synced in it."""
        return self.problem is not None and self.problem.startswith(KEPT)


@dataclass(frozen=True, slots=True)
class SyncedNode:
    """Both sides agreed: remote node `id` at `version` and local node `local_id` had this parent, name and content."""

    id: RemoteId
    local_id: LocalId
    parent_id: RemoteId | None
    name: str
    kind: Kind
    version: int = 0
    content: Content | None = None

    @property
    def key(self) -> str:
        return name_key(self.name)


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A version that another device has announced: file `remote_id` (0: a new one) named `name` in `parent_id`."""

    upload_id: str
    remote_id: RemoteId
    parent_id: RemoteId | None
    name: str
    size: int
    content: Content
    device_id: int | None


def pair_of(remote: RemoteNode, local_id: LocalId) -> SyncedNode:
    """Both sides agree on everything about this node."""
    return SyncedNode(remote.id, local_id, remote.parent_id, remote.name, remote.kind, remote.version, remote.content)


class Trees(Protocol):
    """Look-ups in the three trees. In memory for tests, over SQLite in service (store/lookups.py)."""

    remote_root: RemoteId
    local_root: LocalId

    def remote(self, node_id: RemoteId) -> RemoteNode | None: ...
    def remote_child(self, parent_id: RemoteId, key: str) -> RemoteNode | None:
        """The one child with this name key: the service holds at most one."""

    def remote_children(self, parent_id: RemoteId) -> Iterable[RemoteNode]: ...

    def local(self, node_id: LocalId) -> LocalNode | None: ...
    def local_named(self, parent_id: LocalId, key: str) -> Iterable[LocalNode]:
        """The children with this name key, by name: a case-sensitive disk may hold several."""

    def local_children(self, parent_id: LocalId) -> Iterable[LocalNode]: ...

    def synced(self, node_id: RemoteId) -> SyncedNode | None: ...
    def synced_local(self, node_id: LocalId) -> SyncedNode | None: ...

    def dirty_remote(self) -> Iterable[RemoteId]:
        """Ids whose remote and synced nodes may differ (present in either), in ascending order."""

    def dirty_local(self) -> Iterable[LocalId]:
        """Ids whose local and synced nodes may differ (present in either), in ascending order."""


# --- operations: what the planner tells to do -------------------------------------------------------------------
# Each names what it expects to find: whoever carries it out checks that again and does nothing where it is not so.


@dataclass(frozen=True, slots=True)
class MakeRemoteFolder:
    local: LocalNode
    parent_id: RemoteId


@dataclass(frozen=True, slots=True)
class Upload:
    """Store the local file; `base` None means that no file may be there."""

    local: LocalNode
    parent_id: RemoteId
    name: str
    base: RemoteNode | None


@dataclass(frozen=True, slots=True)
class MoveRemote:
    remote: RemoteNode
    parent_id: RemoteId
    name: str


@dataclass(frozen=True, slots=True)
class DeleteRemote:
    """A folder goes with everything below; the service refuses when something in it changed meanwhile."""

    remote: RemoteNode


@dataclass(frozen=True, slots=True)
class MakeLocalFolder:
    remote: RemoteNode
    parent_id: LocalId


@dataclass(frozen=True, slots=True)
class Download:
    """Bring the remote file to `name` in the local folder; `replaces` is the unchanged local file there now."""

    remote: RemoteNode
    parent_id: LocalId
    name: str
    replaces: LocalNode | None


@dataclass(frozen=True, slots=True)
class MoveLocal:
    """`replaces` nothing: the place is free when this is planned, and is checked again. `detach`: the synced node is
    forgotten first, durably, since the file becomes something new to the service (a conflicted copy)."""

    local: LocalNode
    parent_id: LocalId
    name: str
    detach: bool = False


@dataclass(frozen=True, slots=True)
class DeleteLocal:
    """Into the local trash when it is still as in `local`; a folder only when it is empty."""

    local: LocalNode


@dataclass(frozen=True, slots=True)
class Record:
    """Both sides agree on this without any work: write the synced node."""

    synced: SyncedNode


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the synced node; what is left of the two sides is then looked at as new."""

    synced: SyncedNode


Operation = (
    MakeRemoteFolder
    | Upload
    | MoveRemote
    | DeleteRemote
    | MakeLocalFolder
    | Download
    | MoveLocal
    | DeleteLocal
    | Record
    | Forget
)
