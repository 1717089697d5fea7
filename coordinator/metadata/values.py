"""What the metadata functions take and return: frozen values. No peewee model, row or connection leaves this package.

Sizes are bytes, times are aware UTC, hashes and digests raw bytes. Every path in a value is absolute in the caller's
tree (the mount path of the namespace included) and carries the spelling that is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, NewType

from coordinator.protocol.errors import ApiError
from coordinator.protocol.types import Kind, Role

UserId = NewType("UserId", int)
AccountId = NewType("AccountId", int)  # the user who owns a namespace: whose quota and whose key
DeviceId = NewType("DeviceId", int)
NamespaceId = NewType("NamespaceId", int)
FileId = NewType("FileId", int)
SiteId = NewType("SiteId", int)
NodeId = NewType("NodeId", int)
GroupId = NewType("GroupId", int)

QUOTA_BYTES_DEFAULT: Final = 10 * 10**9
ONLINE_WITHIN_S: Final = 120.0

# --- people -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """A namespace in one user's tree. `path` is "" for the home namespace, else like "/Team"; `keys` its name keys."""

    namespace_id: NamespaceId
    account_id: AccountId
    role: Role
    path: str
    keys: tuple[str, ...]
    root_id: FileId


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks: the device whose token was shown, its user, and every namespace that the user may read."""

    device_id: DeviceId
    user_id: UserId
    email: str
    name: str
    is_admin: bool
    last_seen_at: datetime | None
    mounts: tuple[Mount, ...]

    @property
    def namespace_ids(self) -> list[NamespaceId]:
        return [mount.namespace_id for mount in self.mounts]


@dataclass(frozen=True, slots=True)
class Target:
    """A path that access.resolve has decided on: `names` lead from the namespace's root; () is the root itself."""

    namespace_id: NamespaceId
    account_id: AccountId
    role: Role
    names: tuple[str, ...]
    mount_path: str
    root_id: FileId


@dataclass(frozen=True, slots=True)
class User:
    id: UserId
    email: str
    name: str
    is_admin: bool
    disabled: bool
    quota_bytes: int
    used_bytes: int
    pending_bytes: int
    created_at: datetime

    @property
    def account_id(self) -> AccountId:
        return AccountId(self.id)


@dataclass(frozen=True, slots=True)
class Login:
    """What is needed to check a password; nothing else reads `password_hash`."""

    user: User
    password_hash: str


@dataclass(frozen=True, slots=True)
class DeviceRow:
    id: DeviceId
    name: str
    created_at: datetime
    last_seen_at: datetime | None
    online: bool


@dataclass(frozen=True, slots=True)
class Usage:
    quota_bytes: int
    used_bytes: int
    pending_bytes: int


@dataclass(frozen=True, slots=True)
class Staged:
    """What somebody sent into an account and has not committed, and the account's quota."""

    bytes: int
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class NotificationRow:
    id: int
    created_at: datetime
    kind: str
    message: str
    path: str | None
    read: bool


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    at: datetime
    user_id: UserId | None
    device_id: DeviceId | None
    action: str
    facts: Mapping[str, object]


# --- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A namespace's place in its history after a write: what watchers are told."""

    namespace_id: NamespaceId
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder as it is now, or (from `pending` changes) as it will be. A folder has version 0, size 0."""

    namespace_id: NamespaceId
    id: FileId
    parent_id: FileId | None
    path: str
    name: str
    kind: Kind
    version: int
    size_bytes: int
    content_hash: bytes | None
    modified_at: datetime
    client_modified_at: datetime | None
    modified_by: str
    executable: bool
    pending: bool = False


@dataclass(frozen=True, slots=True)
class EntryPage:
    """`next_page` is None at the end."""

    entries: tuple[Entry, ...]
    next_page: str | None


@dataclass(frozen=True, slots=True)
class VersionInfo:
    version: int
    size_bytes: int
    content_hash: bytes
    modified_at: datetime
    client_modified_at: datetime | None
    modified_by: str
    executable: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """A row of the trash: the path is where the entry was; `deleted_by` an e-mail address."""

    namespace_id: NamespaceId
    id: FileId
    path: str
    kind: Kind
    size_bytes: int
    version: int
    deleted_at: datetime
    deleted_by: str


@dataclass(frozen=True, slots=True)
class TrashPage:
    entries: tuple[Deleted, ...]
    next_page: str | None


class Source(NamedTuple):
    """A version of a file, in whatever namespace, with the content that it must have."""

    file_id: FileId
    version: int
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class FileWrite:
    """One file to be written: `hashes` of its blocks in order; `base_version` 0 or None where no file may be yet.

    In a commit `hashes` is empty where the content is that of `announced`, an upload of the caller, or of the version
    `copied_from`. `file_id` and `parent_id` guard what stands at the target and the folder that it is in.
    """

    target: Target
    size_bytes: int
    hashes: tuple[bytes, ...]
    base_version: int | None = None
    client_modified_at: datetime | None = None
    executable: bool = False
    file_id: FileId | None = None
    parent_id: FileId | None = None
    announced: str | None = None
    copied_from: Source | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A change that has been made; tell the hub `head`."""

    entry: Entry
    head: Head


@dataclass(frozen=True, slots=True)
class Removed:
    """`count` entries became unreachable (a folder counts with everything below it)."""

    count: int
    head: Head


@dataclass(frozen=True, slots=True)
class MassDelete:
    """Very many files that one device deleted in one go; `undone_at` None: they were not brought back."""

    id: int
    namespace_id: NamespaceId
    email: str
    device: str
    began_at: datetime
    last_at: datetime
    files: int
    undone_at: datetime | None


@dataclass(frozen=True, slots=True)
class CommitResults:
    """`results` in the order of the writes: the entry as it is now, or why it was refused. `heads` that moved."""

    results: tuple[Entry | ApiError, ...]
    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class AnnounceResults:
    """`results` in the order of the writes: the upload, or why it was refused. `heads` that moved."""

    results: tuple[Upload | ApiError, ...]
    heads: tuple[Head, ...]


class ChangeOp(StrEnum):
    PUT = "put"
    FOLDER = "folder"
    MOVE = "move"
    DELETE = "delete"
    PENDING = "pending"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One journal entry (`seq` 0 in the first listing of a tree). `file_id` 0: announced, not there yet.

    `entry` is the snapshot at the time of the change; None for a delete and for "withdrawn". `by_device` is the device
    that made the change, so that a client can skip its own; None where the service itself did it.
    """

    seq: int
    namespace_id: NamespaceId
    op: ChangeOp
    file_id: FileId
    parent_id: FileId | None
    name: str
    path: str
    entry: Entry | None
    upload_id: str | None
    by_device: DeviceId | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    changes: tuple[ChangeRow, ...]
    cursor: str
    has_more: bool
    reset: bool


# --- uploads ----------------------------------------------------------------------------------------------------


class UploadState(StrEnum):
    PENDING = "pending"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Upload:
    """An announced version. Streamed ones (`streamed`) advance `offset`; the others commit by hashes.

    `size_bytes` is None while a deferred length is not told. `active_epoch` is the claim that may append now (None:
    nobody), `claim_epoch` the newest claim; the older one ends itself when it sees a newer.
    """

    id: str
    target: Target
    user_id: UserId
    streamed: bool
    size_bytes: int | None
    base_version: int | None
    client_modified_at: datetime | None
    executable: bool
    client_metadata: str
    offset: int
    state: UploadState
    claim_epoch: int
    active_epoch: int | None
    expires_at: datetime
    file_id: FileId | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Announced:
    """An announced content as a commit names it: its hashes, one after the other; the version that it has become."""

    namespace_id: NamespaceId
    state: UploadState
    size_bytes: int
    hashes: bytes
    file_id: FileId | None
    version: int | None


@dataclass(frozen=True, slots=True)
class PendingRecipe:
    """What was announced: `version` is the number that it is to have (or has by now)."""

    version: int
    size_bytes: int
    content_hash: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """What a delta is carried out with: the announced hashes and the base's blocks, both by index."""

    upload: Upload
    size_bytes: int
    hashes: Mapping[int, bytes]
    base_size_bytes: int
    base: Mapping[int, BlockRow]


@dataclass(frozen=True, slots=True)
class KeptDelta:
    """How a version was sent: (block index, its operations as protocol.delta encodes them), by index."""

    base_id: FileId
    base_version: int
    blocks: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to append once the previous holder has released (`previous_active`) or was forced out."""

    upload: Upload
    epoch: int
    previous_active: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a streamed upload and the block that holds it: a full block, the last one, or a segment."""

    start: int
    length: int
    block_id: bytes


@dataclass(frozen=True, slots=True)
class PartRow:
    """A stored part with the block row that it names, in order of `start`."""

    start: int
    length: int
    block: BlockRow


@dataclass(frozen=True, slots=True)
class Appended:
    """The offset that is durable now. `superseded`: a newer request waits, stop soon and release."""

    offset: int
    superseded: bool
    expires_at: datetime


# --- blocks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockRow:
    """What the database knows of one sealed block. `hash` is SHA-256 of the plaintext, `sealed_digest` XXH3-128 of the
    sealed bytes, `wrapped_key` its key wrapped by the account's (40 bytes); k = 1 means m + 1 whole copies."""

    block_id: bytes
    hash: bytes
    group_id: GroupId
    group_epoch: int
    k: int
    m: int
    codec: int
    plain_size: int
    sealed_size: int
    sealed_digest: bytes
    account_id: AccountId
    wrapped_key: bytes


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block that was just made durable; `missing` are the shard indexes that no node has acknowledged."""

    row: BlockRow
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A version and the rows of its blocks `first_block`, `first_block + 1`, … as asked for."""

    entry: Entry
    version: VersionInfo
    first_block: int
    blocks: tuple[BlockRow, ...]


@dataclass(frozen=True, slots=True)
class MissingShard:
    """One shard that is to be rebuilt. `margin`: how many more of the block's shards may be lost before its data is."""

    block: BlockRow
    index: int
    margin: int
    since: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class DoomedBlock:
    """A block without a row any more: its shards are to be trashed where its group had them."""

    block_id: bytes
    group_id: GroupId
    group_epoch: int
    k: int
    m: int
    sealed_size: int
    doomed_at: datetime
    attempts: int


# --- the cluster ------------------------------------------------------------------------------------------------


class NodeState(StrEnum):
    """`out`: its slots move elsewhere. `draining`: as out, but it still serves."""

    UP = "up"
    SUSPECT = "suspect"
    OUT = "out"
    DRAINING = "draining"
    REMOVED = "removed"


class GroupState(StrEnum):
    OPEN = "open"
    CLOSED = "closed"  # takes no new blocks


@dataclass(frozen=True, slots=True)
class SiteRow:
    id: SiteId
    name: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """`address` like tcp://host:port, `public_key` its CURVE key (Z85)."""

    id: NodeId
    name: str
    site_id: SiteId
    address: str
    public_key: str
    state: NodeState
    state_since: datetime


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """`state` as the node last said (ok, read_only, failed, foreign, or unknown before its first word)."""

    id: str
    node_id: NodeId
    path: str
    state: str
    reason: str
    size_bytes: int
    used_bytes: int
    reported_at: datetime | None


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What a node says of one disk."""

    disk_id: str
    path: str
    state: str
    reason: str
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Group:
    """A placement group: slot i is `slots[i]` = (node, disk id); k+m slots, each on another node of the site."""

    id: GroupId
    site_id: SiteId
    k: int
    m: int
    epoch: int
    state: GroupState
    slots: tuple[tuple[NodeId, str], ...]


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Everything that placement and reading need; cached by every worker until `version` rises."""

    version: int
    cluster_id: str
    sites: Mapping[SiteId, SiteRow]
    nodes: Mapping[NodeId, NodeInfo]
    disks: Mapping[str, DiskInfo]
    groups: Mapping[GroupId, Group]


@dataclass(frozen=True, slots=True)
class DiskLayout:
    id: str
    path: str


@dataclass(frozen=True, slots=True)
class NodeLayout:
    name: str
    site: str
    address: str
    public_key: str
    disks: tuple[DiskLayout, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What an installation consists of; `k` + `m` is the code of every placement group that is made from it."""

    cluster_id: str
    k: int
    m: int
    nodes: tuple[NodeLayout, ...]


# --- jobs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job, cluster-wide; every write of the job names `epoch` and is refused under a newer one."""

    job: str
    holder: str
    epoch: int


@dataclass(frozen=True, slots=True)
class JobRow:
    name: str
    holder: str
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found and did, by plain words for people and metrics."""

    found: Mapping[str, int] = field(default_factory=dict)
    done: Mapping[str, int] = field(default_factory=dict)
