"""Request and response bodies of the HTTP API, `/api/v1`. Sizes are bytes, hashes lower-case hex, times RFC 3339 UTC.

Decoding is strict about types and forgiving about unknown response fields, so that an older client reads a newer
service. Request bodies refuse unknown fields: a misspelt option must not be ignored.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SIZE_BYTES_MAX: Final = 1 << 44  # 16 TiB, four million blocks
COMMIT_ENTRIES_MAX: Final = 1000
HASHES_MAX: Final = 10_000
BATCH_BLOCKS_MAX: Final = 128
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
BLOCK_WAIT_S_MAX: Final = 30
PAGE_ENTRIES_MAX: Final = 2000
VERSION_MAX: Final = (1 << 31) - 1

Size = Annotated[int, Meta(ge=0, le=SIZE_BYTES_MAX)]
VersionNumber = Annotated[int, Meta(ge=0, le=VERSION_MAX)]
HashHex = Annotated[str, Meta(max_length=64, pattern="^[0-9a-f]{64}$")]
FileNumber = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
UploadKey = Annotated[str, Meta(max_length=32, pattern="^[0-9a-f]{32}$")]
Path = Annotated[str, Meta(min_length=1, max_length=16 * 1024)]
NO_NUL: Final = "^[^\\x00]*$"  # no text of PostgreSQL holds one
Email = Annotated[str, Meta(min_length=1, max_length=320, pattern=NO_NUL)]
Time = Annotated[datetime, Meta(tz=True)]  # without its zone a time says nothing


class Kind(StrEnum):
    FILE = "file"
    FOLDER = "folder"


class Role(StrEnum):
    """What a member may do in a namespace, weakest first."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request. What has its default is not sent: shorter, and an older service knows nothing of newer fields."""


class Answer(msgspec.Struct, kw_only=True):
    """A response."""


# --- auth and devices -------------------------------------------------------------------------------------------


class LoginBody(Body):
    """POST /auth/login -> LoginAnswer. POST /auth/logout signs this device out (204)."""

    email: Email
    password: Annotated[str, Meta(min_length=1, max_length=1024)]
    device_name: Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_NUL)]


class LoginAnswer(Answer):
    """`service_id` names the installation, whatever its address; user ids are unique within it."""

    token: str
    service_id: str
    device_id: int
    user_id: int
    email: str
    name: str


class Account(Answer):
    """GET /auth/whoami"""

    user_id: int
    device_id: int
    email: str
    name: str
    is_admin: bool
    quota: int
    used: int
    pending: int


class Device(Answer):
    """GET /devices -> {"devices": [Device…]}; DELETE /devices/{id} revokes its token (204)."""

    id: int
    name: str
    created_at: datetime
    last_seen_at: datetime | None
    online: bool
    current: bool


class DeviceList(Answer):
    devices: list[Device]


# --- files ------------------------------------------------------------------------------------------------------


class Metadata(Answer):
    """A file or folder. A folder has version 0, size 0 and no content hash.

    `id` is the file's identity: it stays through moves and renames and is unique over all namespaces; a namespace's
    root folder has one too. `state` is "pending" for what was announced and still arrives. `parent_id` is the folder
    that it is in; None for a namespace's root, and for what is announced into a folder that is not there yet.
    """

    id: int
    path: str
    kind: Kind
    version: int
    size: int
    content_hash: str | None
    modified_at: datetime
    client_modified_at: datetime | None
    modified_by: str
    state: Literal["complete", "pending"]
    executable: bool = False
    parent_id: int | None = None


class FolderPage(Answer):
    """GET /files/list_folder?path=&limit=&page= [&recursive=true] -> entries in name-key order, parents first.

    `next_page` goes into `page` of the next call; absent at the end.
    """

    entries: list[Metadata]
    next_page: str | None = None


class VersionRow(Answer):
    version: int
    size: int
    content_hash: str
    modified_at: datetime
    client_modified_at: datetime | None
    modified_by: str
    executable: bool = False


class VersionList(Answer):
    """GET /files/list_revisions?path=&limit= , newest first."""

    versions: list[VersionRow]


class BlockList(Answer):
    """GET /files/blocks?path=[&version=N]: a version's recipe. GET /files/blocks?upload=ID: that of an announced one,
    whose `version` is the number that it will have; its blocks may not have arrived yet."""

    version: int
    size: int
    content_hash: str
    blocks: list[str]


class TrashRow(Answer):
    """A deleted file or folder; `path` is where it was. Restored by POST /files/restore with its path."""

    id: int
    path: str
    kind: Kind
    size: int
    version: int
    deleted_at: datetime
    deleted_by: str


class TrashList(Answer):
    """GET /files/trash?limit=&page="""

    entries: list[TrashRow]
    next_page: str | None = None


class CreateFolderBody(Body):
    """POST /files/create_folder -> Metadata; `parents` also makes what is missing above and accepts an existing one.

    `parent_id` guards the folder that it is made in (see MoveBody); what is missing above is not made then.
    """

    path: Path
    parents: bool = False
    parent_id: FileNumber | None = None


class MoveBody(Body):
    """POST /files/move -> Metadata. `base_version` guards the source's version where given.

    Paths may mean something else by the time a request is carried out, ids never do. So `id` says which file or folder
    `from_path` must lead to, `parent_id` which folder the target must be in; otherwise the answer is version_conflict,
    whose fact `guard` names what did not hold. A move by `id` that has been made already succeeds again.
    """

    from_path: Path
    to_path: Path
    base_version: VersionNumber | None = None
    replace: bool = False
    id: FileNumber | None = None
    parent_id: FileNumber | None = None


class CopyBody(Body):
    """POST /files/copy -> Metadata. No bytes travel."""

    from_path: Path
    to_path: Path
    base_version: VersionNumber | None = None
    replace: bool = False


class DeleteBody(Body):
    """POST /files/delete -> {"deleted": n}; files and folders go to the trash.

    Guards (see MoveBody): `id` is what the path must lead to; `unchanged_since` is a cursor of the change feed, after
    which nothing at or below the path may have changed (what is only announced does not count).
    """

    path: Path
    base_version: VersionNumber | None = None
    id: FileNumber | None = None
    unchanged_since: Annotated[str, Meta(min_length=1, max_length=64 * 1024)] | None = None


class Deleted(Answer):
    deleted: int


class MassDelete(Answer):
    """Very many files that one device deleted in one go. `undone_at` None: they were not brought back."""

    id: int
    deleted_by: str
    device: str
    began_at: datetime
    last_at: datetime
    files: int
    undone_at: datetime | None


class MassDeleteList(Answer):
    """GET /files/mass_deletes: newest first"""

    mass_deletes: list[MassDelete]


class UndeleteBody(Body):
    """POST /files/undelete: bring back what one mass delete has put into the trash, some of it in each call."""

    id: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]


class Undeleted(Answer):
    """`restored` is how many files and folders (each with what is in it) this call has brought back, `has_more` whether
    another call is needed."""

    restored: int
    has_more: bool


class RestoreBody(Body):
    """POST /files/restore -> Metadata of the new current version; without `version` the newest one (an undelete)."""

    path: Path
    version: VersionNumber | None = None


class UploadBody(Body):
    """POST /files/upload?uploadType=resumable -> 201, Location; the location speaks tus 1.0.0."""

    path: Path
    size: Size | None
    base_version: VersionNumber | None = None
    mtime: Time | None = None
    executable: bool = False


# --- blocks and commits -----------------------------------------------------------------------------------------


class MissingBody(Body):
    """POST /blocks/missing -> MissingAnswer: which of these the caller must send to write at `path`."""

    path: Path
    hashes: Annotated[list[HashHex], Meta(max_length=HASHES_MAX)]


class MissingAnswer(Answer):
    missing: list[str]


class CopySource(Body):
    """A version of a file that the caller may read, wherever it is; also of one in the trash.

    `content_hash` is the content that it must have: after a service was restored from a backup, a number may mean
    another version.
    """

    id: FileNumber
    version: VersionNumber
    content_hash: HashHex


class CommitEntry(Body):
    """One file to be written: `base_version` 0 (or None) where no file may be there yet, else the version it replaces.

    `blocks` are the hashes in order; their number must fit `size`. In a commit one of two may stand instead:
    `upload_id`, the content that was announced under it by the same user, or `copy_of`, that of a version. Guards (see
    MoveBody): `id` is the file that `base_version` is of; `parent_id` the folder that the path must lead into, and no
    folder is made then.
    """

    path: Path
    size: Size
    blocks: list[HashHex] = []
    base_version: VersionNumber | None = None
    mtime: Time | None = None
    executable: bool = False
    id: FileNumber | None = None
    parent_id: FileNumber | None = None
    upload_id: UploadKey | None = None
    copy_of: CopySource | None = None


class AnnounceBody(Body):
    """POST /files/announce -> AnnounceAnswer. Tells other devices what is coming and which blocks must be sent.

    Announcing the same path and content again continues the earlier announcement. `as_ranges`: tell what is missing by
    the positions of the blocks, which is short, instead of by their hashes.
    """

    entries: Annotated[list[CommitEntry], Meta(min_length=1, max_length=COMMIT_ENTRIES_MAX)]
    as_ranges: bool = False


class ErrorBody(Answer):
    """The object under "error"; further members are the error's facts."""

    code: str
    message: str
    request_id: str = ""


class AnnounceResult(Answer):
    """`missing` are the hashes of the blocks to be sent or, where ranges were asked for, `missing_ranges` their
    positions in the entry's `blocks`: [start, stop), ascending; a block that occurs twice is told where it is first."""

    upload_id: str | None = None
    missing: list[str] = []
    missing_ranges: list[tuple[int, int]] = []
    error: dict[str, object] | None = None


class AnnounceAnswer(Answer):
    """One result for each entry, in order."""

    results: list[AnnounceResult]


class CommitBody(Body):
    """POST /files/commit -> CommitAnswer. Every entry succeeds or fails by itself.

    `request_key` makes a repeat safe: the same key with the same entries answers as the first time. An entry whose
    current content already equals what it would write succeeds without a new version.
    """

    entries: Annotated[list[CommitEntry], Meta(min_length=1, max_length=COMMIT_ENTRIES_MAX)]
    request_key: Annotated[str, Meta(max_length=64, pattern=NO_NUL)] | None = None


class CommitResult(Answer):
    """`metadata` when committed, else `error` (code, message, and facts such as current_version or missing)."""

    metadata: Metadata | None = None
    error: dict[str, object] | None = None


class CommitAnswer(Answer):
    results: list[CommitResult]


class BatchAnswer(Answer):
    """POST /blocks/batch?path=… (body: for each block 32 bytes SHA-256, 4 bytes size big endian, the bytes)."""

    stored: int


class FetchFile(Body):
    """One version of a file."""

    id: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    version: Annotated[int, Meta(ge=1, le=VERSION_MAX)]


class FetchBody(Body):
    """POST /files/fetch -> the contents of small files (of one block at most) in one body (protocol/fetched.py)."""

    files: Annotated[list[FetchFile], Meta(min_length=1, max_length=BATCH_BLOCKS_MAX)]


# --- changes ----------------------------------------------------------------------------------------------------


class Change(Answer):
    """One journal entry, in the namespace's order; a parent is always told before its children.

    `op` is "put" (a file's version is complete), "folder", "move", "delete" (a folder's whole subtree) or, while a
    version arrives, "pending" and "withdrawn". `metadata` is absent for a delete and "withdrawn". `device_id` is the
    device that made the change, where one did.
    """

    seq: int
    namespace_id: int
    op: Literal["put", "folder", "move", "delete", "pending", "withdrawn"]
    id: int
    parent_id: int | None
    name: str
    path: str | None = None
    metadata: Metadata | None = None
    upload_id: str | None = None
    device_id: int | None = None


class ChangesAnswer(Answer):
    """GET /changes[?cursor=…&limit=]: without a cursor the whole tree as "put" and "folder" entries, paged.

    `reset` tells that the cursor is of an older epoch: forget it, read from the start, merge, delete nothing.
    """

    changes: list[Change]
    cursor: str
    has_more: bool
    reset: bool = False


class LongpollAnswer(Answer):
    """GET /changes/longpoll?cursor=…&timeout=30; `backoff` seconds are to be waited before the next call."""

    changes: bool
    backoff: float


# --- notifications ----------------------------------------------------------------------------------------------


class Notification(Answer):
    id: int
    created_at: datetime
    kind: str
    message: str
    path: str | None
    read: bool


class NotificationList(Answer):
    """GET /notifications?after=&limit= , oldest first after `after`; POST /notifications/read {"up_to": id} -> 204"""

    notifications: list[Notification]
    unread: int


class ReadBody(Body):
    up_to: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


# --- administration ---------------------------------------------------------------------------------------------


class AddUserBody(Body):
    """POST /admin/users -> User; GET /admin/users -> UserList; POST /admin/users/disable {"email"} -> User"""

    # The end is spelt out: "$" also stands before a last line break.
    email: Annotated[str, Meta(min_length=3, max_length=320, pattern="^[^@\\s\\x00]+@[^@\\s\\x00]+(?![\\s\\S])")]
    password: Annotated[str, Meta(min_length=8, max_length=1024)]
    name: Annotated[str, Meta(max_length=100, pattern=NO_NUL)] | None = None
    quota: Size | None = None
    is_admin: bool = False


class DisableUserBody(Body):
    email: Email


class User(Answer):
    id: int
    email: str
    name: str
    is_admin: bool
    disabled: bool
    quota: int
    used: int
    created_at: datetime


class UserList(Answer):
    users: list[User]


class DiskRow(Answer):
    id: str
    path: str
    state: str
    size: int
    used: int


class NodeRow(Answer):
    name: str
    state: str
    disks: list[DiskRow]


class SiteRow(Answer):
    name: str
    nodes: list[NodeRow]


class BlockMargins(Answer):
    """`by_margin`: how many blocks may lose how many more shards before their data is gone."""

    total: int
    by_margin: dict[str, int]


class RepairRow(Answer):
    queued: int


class MirrorRow(Answer):
    lag_s: float


class JobRow(Answer):
    name: str
    holder: str
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str


class AdminStatus(Answer):
    """GET /admin/status"""

    sites: list[SiteRow]
    blocks: BlockMargins
    repair: RepairRow
    mirror: MirrorRow
    jobs: list[JobRow]


class JobReport(Answer):
    """POST /admin/jobs/{name}: runs scrub, verify, collect, repair or retain now and answers when it has finished."""

    job: str
    found: dict[str, int]
    done: dict[str, int]
    took_s: float
