"""The service as the sync client sees it, in memory, without sockets and threads: for simulated worlds.

`SimService` holds one person's tree and answers requests as the coordinator does: ids, versions, guards, announced
uploads, the journal with its cursors and epochs. `SimConnection` stands in for client.connection.Connection, so that
the real client.api.Api speaks to it; it is also where the network goes wrong: calls that never arrive, arrive late or
twice, whose answers are lost, 503s. A contract suite (tests/integration/test_sim_service_contract.py) runs the same
calls against the real service and this one.

Does not: know other people, sharing, streamed uploads, the web's pages. Blocks are never collected.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from client.api import Api
from client.connection import Answer
from client.errors import Refused, Unreachable
from coordinator.protocol import errors, types
from coordinator.protocol.delta import BadDelta, BlockDelta, Copy, Delta, Literal, decode_delta, encode_delta
from coordinator.protocol.fetched import join_fetched
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, count_blocks
from coordinator.protocol.names import name_key, split_path
from tests.kit.scheduler import Crashed, Machine, Scheduler, Signal

T = TypeVar("T")

URL: Final = "https://sim.example.org"
EMAIL: Final = "ann@example.org"
ROOT_ID: Final = 1
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(slots=True)
class Version:
    number: int
    size: int
    blocks: tuple[str, ...]
    content: str
    mtime: datetime | None
    executable: bool
    at: datetime
    request_key: str | None = None


@dataclass(slots=True, eq=False)
class Node:
    """A file (`versions`) or a folder (None). `deleted` numbers the deletions, so that the newest can be told."""

    id: int
    parent_id: int | None
    name: str
    versions: list[Version] | None
    at: datetime
    deleted: int | None = None

    @property
    def key(self) -> str:
        return name_key(self.name)

    @property
    def is_folder(self) -> bool:
        return self.versions is None

    @property
    def current(self) -> Version:
        assert self.versions
        return self.versions[-1]


@dataclass(slots=True, eq=False)
class Upload:
    id: str
    entry: types.CommitEntry
    keys: tuple[str, ...]
    content: str
    reserved: int
    state: str = "pending"
    deltas: dict[int, BlockDelta] = field(default_factory=dict)
    base: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Backup:
    """The database at one moment."""

    nodes: dict[int, Node]
    uploads: dict[str, Upload]
    journal: list[types.Change]
    live: dict[int, dict[str, int]]
    next_id: int


class SimService:
    """One person's tree. Every method is one transaction; nothing here waits.

    `page_max` bounds the pages of the change feed whatever the client asks for; `quota` is in bytes.
    """

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        self._now = now or (lambda: datetime(2026, 11, 22, tzinfo=UTC))
        self.nodes: dict[int, Node] = {ROOT_ID: Node(ROOT_ID, None, "", None, self._now())}
        self.blocks: dict[str, bytes] = {}
        self.uploads: dict[str, Upload] = {}
        self.journal: list[types.Change] = []
        self.epoch = 1
        self.quota = 10**12
        self.page_max = types.PAGE_ENTRIES_MAX
        self.on_change: list[Callable[[], None]] = []
        self._live: dict[int, dict[str, int]] = {}  # by folder and name key
        self._next_id = ROOT_ID + 1
        self._deletions = 0
        self._upload_number = 0

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        return len(self.journal)

    def children(self, folder_id: int) -> list[Node]:
        """Live ones, by name key."""
        return [self.nodes[child_id] for _, child_id in sorted(self._live.get(folder_id, {}).items())]

    def below(self, node: Node) -> Iterator[Node]:
        """The live subtree, `node` first."""
        yield node
        if node.is_folder:
            for child in self.children(node.id):
                yield from self.below(child)

    def tree(self) -> dict[str, Node]:
        """Everything live by its path."""
        return {self.path_of(node): node for node in self.below(self.nodes[ROOT_ID]) if node.id != ROOT_ID}

    def path_of(self, node: Node) -> str:
        names: list[str] = []
        at: Node | None = node
        while at is not None and at.parent_id is not None:
            names.append(at.name)
            at = self.nodes[at.parent_id]
        return "/" + "/".join(reversed(names))

    def is_live(self, node: Node) -> bool:
        at: Node | None = node
        while at is not None:
            if at.deleted is not None:
                return False
            at = None if at.parent_id is None else self.nodes[at.parent_id]
        return True

    def content(self, version: Version) -> bytes:
        return b"".join(self.blocks[one] for one in version.blocks)

    def stored_contents(self) -> set[str]:
        """The content hashes of all versions that the service holds, also of deleted files."""
        return {version.content for node in self.nodes.values() for version in node.versions or ()}

    def used(self) -> int:
        return sum(node.current.size for node in self.below(self.nodes[ROOT_ID]) if not node.is_folder)

    def reserved(self) -> int:
        return sum(upload.reserved for upload in self.uploads.values() if upload.state == "pending")

    def _walk(self, names: Collection[str]) -> tuple[int, Node]:
        """How many of `names` lead somewhere, and to what."""
        node, depth = self.nodes[ROOT_ID], 0
        for name in names:
            child_id = self._live.get(node.id, {}).get(name_key(name)) if node.is_folder else None
            if child_id is None:
                break
            node, depth = self.nodes[child_id], depth + 1
        return depth, node

    def _find(self, path: str) -> Node:
        names = split_path(path)
        depth, node = self._walk(names)
        if depth < len(names):
            raise errors.NotFound(what="file or folder") if node.is_folder else errors.NotAFolder()
        return node

    def _find_or_trashed(self, path: str) -> Node:
        node = self.nodes[ROOT_ID]
        for name in split_path(path):
            if not node.is_folder:
                raise errors.NotAFolder
            key = name_key(name)
            found = [one for one in self.nodes.values() if one.parent_id == node.id and one.key == key]
            if not found:
                raise errors.NotFound(what="file or folder")
            node = max(found, key=lambda one: (one.deleted is None, one.deleted or 0))
        return node

    def metadata(self, node: Node) -> types.Metadata:
        last = None if node.is_folder else node.current
        return types.Metadata(
            id=node.id,
            path=self.path_of(node),
            kind=types.Kind.FOLDER if last is None else types.Kind.FILE,
            version=last.number if last else 0,
            size=last.size if last else 0,
            content_hash=last.content if last else None,
            modified_at=last.at if last else node.at,
            client_modified_at=last.mtime if last else None,
            modified_by=EMAIL,
            state="complete",
            executable=last.executable if last else False,
            parent_id=node.parent_id,
        )

    # --- changing -----------------------------------------------------------------------------------------------

    def create_folder(self, body: types.CreateFolderBody, device: int | None) -> types.Metadata:
        names = split_path(body.path)
        depth, node = self._walk(names)
        if body.parent_id is not None:
            self._check_parent(names, body.parent_id)
        if depth == len(names):
            if body.parents and node.is_folder:
                return self.metadata(node)
            raise errors.NameTaken
        if not node.is_folder:
            raise errors.NotAFolder
        if depth < len(names) - 1 and not body.parents:
            raise errors.NotFound(what="folder above it")
        return self.metadata(self._make_folders(names, device))

    def move(self, body: types.MoveBody, device: int | None) -> types.Metadata:
        source_names, names = split_path(body.from_path), split_path(body.to_path)
        if not source_names:
            raise errors.NotAllowed
        if not names:
            raise errors.NameTaken
        if body.id is not None and (done := self._moved_already(body, names)) is not None:
            return self.metadata(done)
        node = self._guarded(body.from_path, body.id)
        if body.base_version is not None and body.base_version != (0 if node.is_folder else node.current.number):
            raise errors.VersionConflict(current_version=0 if node.is_folder else node.current.number)
        depth, parent = self._walk(names[:-1])
        if body.parent_id is not None:
            self._check_parent(names, body.parent_id)
        if not parent.is_folder:
            raise errors.NotAFolder
        if depth < len(names) - 1:
            raise errors.NotFound(what="target folder")
        if node.is_folder and self._is_within(parent, node):
            raise errors.MoveIntoItself
        if (node.parent_id, node.name) == (parent.id, names[-1]):
            return self.metadata(node)
        there_id = self._live.get(parent.id, {}).get(name_key(names[-1]))
        if there_id is not None and there_id != node.id:
            there = self.nodes[there_id]
            if not body.replace or there.is_folder or node.is_folder:
                raise errors.NameTaken
            self._trash(there, device)
        assert node.parent_id is not None
        del self._live[node.parent_id][node.key]
        node.parent_id, node.name = parent.id, names[-1]
        self._appear(node)
        self._tell("move", node, device)
        return self.metadata(node)

    def delete(self, body: types.DeleteBody, device: int | None) -> types.Deleted:
        if not split_path(body.path):
            raise errors.NotAllowed
        node = self._guarded(body.path, body.id)
        if body.base_version is not None and body.base_version != (0 if node.is_folder else node.current.number):
            raise errors.VersionConflict(current_version=0 if node.is_folder else node.current.number)
        if body.unchanged_since is not None:
            self._check_unchanged(node, body.unchanged_since)
        count = sum(1 for _ in self.below(node))
        self._trash(node, device)
        return types.Deleted(deleted=count)

    def announce(self, entry: types.CommitEntry, device: int | None) -> Upload:
        content = _content_of(entry)
        names = split_path(entry.path)
        keys = tuple(map(name_key, names))
        there = self._check_write(entry, names)
        current = there.current if there is not None else None
        if (entry.base_version or 0) != (current.number if current else 0):
            raise errors.VersionConflict(current_version=current.number if current else None)
        for upload in self.uploads.values():
            if upload.state == "pending" and (upload.keys, upload.content) == (keys, content):
                upload.entry = entry
                return upload
        reserve = max(0, entry.size - (current.size if current else 0))
        if reserve and self.used() + self.reserved() + reserve > self.quota:
            raise errors.QuotaExceeded(used=self.used() + self.reserved(), quota=self.quota)
        self._upload_number += 1
        upload = Upload(f"{self._upload_number:032x}", entry, keys, content, reserve)
        self.uploads[upload.id] = upload
        depth, parent = self._walk(names[:-1])
        self._tell_upload("pending", upload, there, parent if depth == len(names) - 1 else None, device)
        return upload

    def missing(self, hashes: Collection[str]) -> list[str]:
        return [one for one in dict.fromkeys(hashes) if one not in self.blocks]

    def commit(self, entry: types.CommitEntry, request_key: str | None, device: int | None) -> types.Metadata:
        upload = None
        if entry.upload_id is not None:
            upload = self._upload(entry.upload_id)
            entry = msgspec.structs.replace(entry, blocks=upload.entry.blocks)
        elif entry.copy_of is not None:
            source = self._version(entry.copy_of.id, entry.copy_of.version)
            if source is None or source.content != entry.copy_of.content_hash:
                raise errors.NotFound(what="version")
            if source.size != entry.size:
                raise errors.SizeMismatch(received=source.size, expected=entry.size)
            entry = msgspec.structs.replace(entry, blocks=list(source.blocks))
        content = _content_of(entry)
        names = split_path(entry.path)
        keys = tuple(map(name_key, names))
        there = self._check_write(entry, names)
        if upload is None:
            waiting = (one for one in self.uploads.values() if one.state == "pending")
            upload = next((one for one in waiting if (one.keys, one.content) == (keys, content)), None)
        if there is not None:
            now = there.current
            if (now.content, now.size, now.executable) == (content, entry.size, entry.executable):
                if upload is not None and upload.state == "pending":
                    upload.state = "complete"
                    self._tell_upload("withdrawn", upload, there, self.nodes[there.parent_id or 0], device)
                return self.metadata(there)
        depth, parent = self._walk(names[:-1])
        trashed = self._trashed_file(parent, keys[-1]) if there is None and depth == len(names) - 1 else None
        known = there or trashed
        if request_key is not None and known is not None:
            for version in reversed(known.versions or []):
                if version.number <= (entry.base_version or 0):
                    break
                if (version.request_key, version.content) == (request_key, content):
                    told = self.metadata(known)
                    told.version, told.size, told.content_hash = version.number, version.size, version.content
                    return told
        if (entry.base_version or 0) != (there.current.number if there else 0):
            raise errors.VersionConflict(current_version=there.current.number if there else None)
        if missing := self.missing(entry.blocks):
            raise errors.BlocksMissing(missing=missing)
        if sum(len(self.blocks[one]) for one in entry.blocks) != entry.size:
            raise errors.SizeMismatch(received=sum(len(self.blocks[one]) for one in entry.blocks), expected=entry.size)
        delta = entry.size - (there.current.size if there else 0)
        reserved = self.reserved() - (upload.reserved if upload is not None and upload.state == "pending" else 0)
        if delta > 0 and self.used() + reserved + delta > self.quota:
            raise errors.QuotaExceeded(used=self.used() + reserved, quota=self.quota)
        if depth < len(names) - 1:
            parent = self._make_folders(names[:-1], device)
        node = known
        if node is None:
            node = Node(self._take_id(), parent.id, names[-1], [], self._now())
            self.nodes[node.id] = node
        elif node is trashed:
            node.deleted, node.name = None, names[-1]
        self._appear(node)
        assert node.versions is not None
        number = node.versions[-1].number + 1 if node.versions else 1
        node.versions.append(
            Version(
                number,
                entry.size,
                tuple(entry.blocks),
                content,
                entry.mtime,
                entry.executable,
                self._now(),
                request_key,
            )
        )
        was_pending = upload is not None and upload.state == "pending"
        if upload is not None:
            upload.state = "complete"
        self._tell("put", node, device, upload.id if upload is not None and was_pending else None)
        return self.metadata(node)

    def _version(self, file_id: int, number: int) -> Version | None:
        node = self.nodes.get(file_id)
        versions = (node.versions if node is not None else None) or []
        return next((version for version in versions if version.number == number), None)

    def end_upload(self, upload_id: str) -> None:
        """As when its time is over."""
        upload = self.uploads[upload_id]
        if upload.state == "pending":
            upload.state = "expired"
            self._tell_upload("withdrawn", upload, None, None, None)

    def restore(self, body: types.RestoreBody, device: int | None) -> types.Metadata:
        """Only of files whose folders are there."""
        node = self._find_or_trashed(body.path)
        if node.is_folder:
            raise errors.IsAFolder
        if node.deleted is None and body.version is None:
            raise errors.NotFound(what="deleted file or folder")
        if node.deleted is not None:
            assert node.parent_id is not None
            node.deleted = None
            self._appear(node)
        if body.version is not None and body.version != node.current.number:
            old = next((one for one in node.versions or () if one.number == body.version), None)
            if old is None:
                raise errors.NotFound(what="version")
            assert node.versions is not None
            now = Version(
                node.current.number + 1, old.size, old.blocks, old.content, old.mtime, old.executable, self._now()
            )
            node.versions.append(now)
        self._tell("put", node, device)
        return self.metadata(node)

    def put_block(self, digest: str, plain: bytes) -> None:
        if hashlib.sha256(plain).hexdigest() != digest:
            raise errors.HashMismatch
        assert 0 < len(plain) <= BLOCK_BYTES
        self.blocks[digest] = plain
        self._changed()

    def put_delta(self, upload_id: str, delta: Delta) -> None:
        upload = self._upload(upload_id)
        base = self.nodes.get(delta.base_id)
        version = next(
            (one for one in (base.versions if base else None) or () if one.number == delta.base_version), None
        )
        if version is None:
            raise errors.NotFound(what="version")
        old = self.content(version)
        wrong = []
        for block in delta.blocks:
            plain = b"".join(
                bytes(op.plain or b"") if isinstance(op, Literal) else old[op.offset : op.offset + op.length]
                for op in block.ops
            )
            digest = upload.entry.blocks[block.index]
            if hashlib.sha256(plain).hexdigest() != digest:
                wrong.append(block.index)
                continue
            self.blocks[digest] = plain
            upload.deltas[block.index] = BlockDelta(
                block.index, tuple(op if isinstance(op, Copy) else Literal(op.length) for op in block.ops)
            )
            upload.base = (delta.base_id, delta.base_version)
        self._changed()
        if wrong:
            raise errors.HashMismatch(blocks=wrong)

    def raise_epoch(self) -> None:
        """As after the database was restored from a backup: every cursor is answered with a reset."""
        self.epoch += 1
        self._changed()

    def back_up(self) -> Backup:
        return Backup(*copy.deepcopy((self.nodes, self.uploads, self.journal, self._live, self._next_id)))

    def restore_backup(self, backup: Backup) -> None:
        """What happened since is gone, ids that were given since are given again, and so the epoch is raised. The
        blocks are all there: they are kept for as long as any backup needs them."""
        kept = copy.deepcopy(backup)
        self.nodes, self.uploads, self.journal = kept.nodes, kept.uploads, kept.journal
        self._live, self._next_id = kept.live, kept.next_id
        self.raise_epoch()

    # --- the change feed ----------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, limit: int) -> types.ChangesAnswer:
        limit = min(limit, self.page_max)
        listed: int | None
        if cursor is None or cursor == "empty":
            epoch, seq, listed = self.epoch, self.seq, 0
        else:
            epoch, seq, listed = _places(cursor)
            if epoch != self.epoch or seq > self.seq:
                return types.ChangesAnswer(changes=[], cursor="empty", has_more=True, reset=True)
        found: list[types.Change] = []
        if listed is not None:
            listed = self._list(listed, limit, found)
        if listed is None:
            rows = self.journal[seq : seq + max(0, limit - len(found))]
            found += rows
            seq += len(rows)
        return types.ChangesAnswer(
            changes=found, cursor=_cursor(epoch, seq, listed), has_more=listed is not None or seq < self.seq
        )

    def is_behind(self, cursor: str) -> bool:
        if cursor == "empty":
            return True
        return _places(cursor) != (self.epoch, self.seq, None)

    def _list(self, listed: int, limit: int, found: list[types.Change]) -> int | None:
        """Live nodes by id, each after its folders; where the listing stands then (None: done)."""
        ids = [one for one in sorted(self.nodes) if one > listed][:limit]
        told: set[int] = set()
        for node_id in ids:
            node = self.nodes[node_id]
            if not self.is_live(node):
                continue
            chain = [node]
            while chain[-1].parent_id is not None:
                chain.append(self.nodes[chain[-1].parent_id])
            for above in reversed(chain):
                if above is node or (above.id > node_id and above.id not in told):
                    told.add(above.id)
                    op = "folder" if above.is_folder else "put"
                    found.append(self._change(op, above, 0, None, None))
        return ids[-1] if len(ids) == limit else None

    # --- inside -------------------------------------------------------------------------------------------------

    def _upload(self, upload_id: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise errors.NotFound(what="upload")
        if upload.state in ("cancelled", "expired"):
            raise errors.UploadGone
        return upload

    def _moved_already(self, body: types.MoveBody, names: tuple[str, ...]) -> Node | None:
        depth, there = self._walk(names)
        if depth < len(names) or there.id != body.id or there.name != names[-1]:
            return None
        return there if body.parent_id in (None, there.parent_id) else None

    def _guarded(self, path: str, file_id: int | None) -> Node:
        node = self._find(path)
        if file_id is not None and node.id != file_id:
            raise errors.VersionConflict(current_version=None if node.is_folder else node.current.number, guard="id")
        return node

    def _check_parent(self, names: tuple[str, ...], parent_id: int) -> None:
        depth, parent = self._walk(names[:-1])
        if depth < len(names) - 1 or parent.id != parent_id:
            raise errors.VersionConflict(current_version=None, guard="parent_id")

    def _check_write(self, entry: types.CommitEntry, names: tuple[str, ...]) -> Node | None:
        """The live file that the entry names, after every check that is not of versions."""
        if not names:
            raise errors.IsAFolder
        depth, node = self._walk(names)
        if entry.parent_id is not None:
            self._check_parent(names, entry.parent_id)
        if depth < len(names) and not node.is_folder:
            raise errors.NotAFolder
        there = node if depth == len(names) else None
        if there is not None and there.is_folder:
            raise errors.IsAFolder
        if entry.id is not None and (there is None or there.id != entry.id):
            raise errors.VersionConflict(current_version=there.current.number if there else None, guard="id")
        return there

    def _check_unchanged(self, node: Node, cursor: str) -> None:
        if cursor == "empty":
            raise errors.BadCursor
        epoch, seq, listed = _places(cursor)
        inside = {one.id for one in self.below(node)}
        changed = epoch != self.epoch or listed is not None
        for change in self.journal[seq:]:
            if change.op in ("pending", "withdrawn"):
                continue
            # What was moved out or deleted since has changed something here, too.
            changed = changed or change.id in inside or change.parent_id in inside
        if changed:
            raise errors.VersionConflict(current_version=None, guard="unchanged_since")

    def _trashed_file(self, parent: Node, key: str) -> Node | None:
        found = [
            node
            for node in self.nodes.values()
            if node.parent_id == parent.id and node.deleted is not None and not node.is_folder and node.key == key
        ]
        return max(found, key=lambda node: node.deleted or 0, default=None)

    def _make_folders(self, names: tuple[str, ...], device: int | None) -> Node:
        node = self.nodes[ROOT_ID]
        for name in names:
            child_id = self._live.get(node.id, {}).get(name_key(name))
            if child_id is not None:
                node = self.nodes[child_id]
                if not node.is_folder:
                    raise errors.NotAFolder
                continue
            child = Node(self._take_id(), node.id, name, None, self._now())
            self.nodes[child.id] = child
            self._appear(child)
            self._tell("folder", child, device)
            node = child
        return node

    def _trash(self, node: Node, device: int | None) -> None:
        assert node.parent_id is not None
        self._deletions += 1
        self._tell("delete", node, device)
        node.deleted = self._deletions
        del self._live[node.parent_id][node.key]

    def _appear(self, node: Node) -> None:
        """Let its folder hold it."""
        assert node.parent_id is not None
        self._live.setdefault(node.parent_id, {})[node.key] = node.id

    def _is_within(self, node: Node, folder: Node) -> bool:
        at: Node | None = node
        while at is not None:
            if at is folder:
                return True
            at = None if at.parent_id is None else self.nodes[at.parent_id]
        return False

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _tell(self, op: str, node: Node, device: int | None, upload_id: str | None = None) -> None:
        self.journal.append(self._change(op, node, self.seq + 1, device, upload_id))
        self._changed()

    def _change(self, op: Any, node: Node, seq: int, device: int | None, upload_id: str | None) -> types.Change:
        return types.Change(
            seq=seq,
            namespace_id=1,
            op=op,
            id=node.id,
            parent_id=node.parent_id,
            name=node.name,
            path=self.path_of(node),
            metadata=None if op == "delete" else self.metadata(node),
            upload_id=upload_id,
            device_id=device,
        )

    def _tell_upload(self, op: Any, upload: Upload, node: Node | None, parent: Node | None, device: int | None) -> None:
        entry = upload.entry
        name = node.name if node is not None and op == "withdrawn" else split_path(entry.path)[-1]
        metadata = None
        if op == "pending":
            metadata = types.Metadata(
                id=node.id if node else 0,
                path=entry.path,
                kind=types.Kind.FILE,
                version=(entry.base_version or 0) + 1,
                size=entry.size,
                content_hash=upload.content,
                modified_at=self._now(),
                client_modified_at=entry.mtime,
                modified_by=EMAIL,
                state="pending",
                executable=entry.executable,
                parent_id=parent.id if parent else None,
            )
        self.journal.append(
            types.Change(
                seq=self.seq + 1,
                namespace_id=1,
                op=op,
                id=node.id if node else 0,
                parent_id=parent.id if parent else None,
                name=name,
                path=entry.path,
                metadata=metadata,
                upload_id=upload.id,
                device_id=device,
            )
        )
        self._changed()

    def _changed(self) -> None:
        for told in self.on_change:
            told()


def _cursor(epoch: int, seq: int, listed: int | None) -> str:
    return f"{epoch}.{seq}" if listed is None else f"{epoch}.{seq}.{listed}"


def _places(cursor: str) -> tuple[int, int, int | None]:
    try:
        epoch, seq, *listed = map(int, cursor.split("."))
    except ValueError:
        raise errors.BadCursor from None
    return epoch, seq, listed[0] if listed else None


def _content_of(entry: types.CommitEntry) -> str:
    if len(entry.blocks) != count_blocks(entry.size):
        raise errors.SizeMismatch(received=len(entry.blocks) * BLOCK_BYTES, expected=entry.size)
    return content_hash(bytes.fromhex(one) for one in entry.blocks).hex()


# --- requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str]
    device: int


def handle(service: SimService, request: Request) -> object:
    """What the service answers: bytes as they are, everything else as JSON. Raises ApiError."""
    for method, pattern, answer in _ROUTES:
        if method == request.method and (match := pattern.fullmatch(request.path)):
            return answer(service, request, *match.groups())
    raise errors.NotFound(what="address")


def _body(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.MsgspecError as error:
        raise errors.BadRequest(reason=str(error)) from error


def _get_metadata(service: SimService, request: Request) -> object:
    if "id" not in request.query:
        return service.metadata(service._find(request.query["path"]))
    node = service.nodes.get(int(request.query["id"]))
    if node is None or not service.is_live(node):
        raise errors.NotFound(what="file or folder")
    return service.metadata(node)


def _get_list_folder(service: SimService, request: Request) -> object:
    node = service._find(request.query["path"])
    if not node.is_folder:
        raise errors.NotAFolder
    deep = request.query.get("recursive") == "true"
    found = list(service.below(node))[1:] if deep else service.children(node.id)
    start, limit = int(request.query.get("page", "0")), int(request.query["limit"])
    more = str(start + limit) if start + limit < len(found) else None
    return types.FolderPage(entries=[service.metadata(one) for one in found[start : start + limit]], next_page=more)


def _get_blocks(service: SimService, request: Request) -> object:
    if "upload" in request.query:
        upload = service._upload(request.query["upload"])
        entry = upload.entry
        return types.BlockList(
            version=(entry.base_version or 0) + 1, size=entry.size, content_hash=upload.content, blocks=entry.blocks
        )
    version = _version(service, request)
    return types.BlockList(
        version=version.number, size=version.size, content_hash=version.content, blocks=list(version.blocks)
    )


def _version(service: SimService, request: Request) -> Version:
    """Of a file in the trash only by its number."""
    wanted = request.query.get("version")
    node = service._find(request.query["path"]) if wanted is None else service._find_or_trashed(request.query["path"])
    if node.is_folder:
        raise errors.IsAFolder
    if wanted is None:
        return node.current
    for version in node.versions or ():
        if version.number == int(wanted):
            return version
    raise errors.NotFound(what="version")


def _get_revisions(service: SimService, request: Request) -> object:
    node = service._find_or_trashed(request.query["path"])
    if node.is_folder:
        raise errors.IsAFolder
    before, limit = int(request.query.get("before", types.VERSION_MAX)), int(request.query["limit"])
    rows = [one for one in reversed(node.versions or []) if one.number < before][:limit]
    return types.VersionList(
        versions=[
            types.VersionRow(
                version=one.number,
                size=one.size,
                content_hash=one.content,
                modified_at=one.at,
                client_modified_at=one.mtime,
                modified_by=EMAIL,
                executable=one.executable,
            )
            for one in rows
        ]
    )


def _get_download(service: SimService, request: Request) -> object:
    return _cut(service.content(_version(service, request)), request)


def _post_fetch(service: SimService, request: Request) -> object:
    contents: list[bytes | None] = []
    for one in _body(request, types.FetchBody).files:
        version = service._version(one.id, one.version)
        contents.append(None if version is None or version.size > BLOCK_BYTES else service.content(version))
    return join_fetched(contents)


def _cut(plain: bytes, request: Request) -> bytes:
    wanted = request.headers.get("Range")
    if wanted is None:
        return plain
    match = _RANGE.fullmatch(wanted)
    assert match is not None, wanted
    if int(match[1]) >= len(plain):
        raise errors.RangeNotSatisfiable(size=len(plain))
    return plain[int(match[1]) : int(match[2]) + 1]


def _get_block(service: SimService, request: Request, digest: str) -> object:
    upload_id = request.query.get("upload")
    if digest in service.blocks:
        return _cut(service.blocks[digest], request)
    if upload_id is not None and service._upload(upload_id).state != "pending":
        raise errors.UploadGone
    raise errors.NotFound(what="block")


def _put_block(service: SimService, request: Request, digest: str) -> object:
    if not request.body:
        raise errors.BadRequest(reason="a block has at least one byte")
    service.put_block(digest, request.body)
    return types.BatchAnswer(stored=1)


def _post_batch(service: SimService, request: Request) -> object:
    at = stored = 0
    while at < len(request.body):
        size = int.from_bytes(request.body[at + 32 : at + 36], "big")
        service.put_block(request.body[at : at + 32].hex(), request.body[at + 36 : at + 36 + size])
        at, stored = at + 36 + size, stored + 1
    if not 0 < stored <= types.BATCH_BLOCKS_MAX:
        raise errors.BadRequest(reason="a batch has at least one block")
    return types.BatchAnswer(stored=stored)


def _post_delta(service: SimService, request: Request) -> object:
    try:
        delta = decode_delta(request.body)
    except BadDelta as error:
        raise errors.BadRequest(reason=str(error)) from error
    service.put_delta(request.query["upload"], delta)
    return types.BatchAnswer(stored=len(delta.blocks))


def _get_delta(service: SimService, request: Request) -> object:
    upload = service._upload(request.query["upload"])
    if not upload.deltas:
        raise errors.NotFound(what="delta")
    blocks = tuple(upload.deltas[index] for index in sorted(upload.deltas))
    return encode_delta(Delta(*upload.base, blocks), literals=False)


def _post_announce(service: SimService, request: Request) -> object:
    body = _body(request, types.AnnounceBody)
    results = []
    for entry in body.entries:
        try:
            upload = service.announce(entry, request.device)
        except errors.ApiError as error:
            results.append(types.AnnounceResult(error=_error(error)))
            continue
        missing = service.missing(entry.blocks)
        if body.as_ranges:
            results.append(types.AnnounceResult(upload_id=upload.id, missing_ranges=_ranges(entry.blocks, missing)))
        else:
            results.append(types.AnnounceResult(upload_id=upload.id, missing=missing))
    return types.AnnounceAnswer(results=results)


def _ranges(blocks: list[str], missing: list[str]) -> list[tuple[int, int]]:
    """Where the missing blocks are first."""
    found: list[tuple[int, int]] = []
    for index in sorted(blocks.index(one) for one in missing):
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def _post_commit(service: SimService, request: Request) -> object:
    body = _body(request, types.CommitBody)
    results = []
    for entry in body.entries:
        try:
            results.append(types.CommitResult(metadata=service.commit(entry, body.request_key, request.device)))
        except errors.ApiError as error:
            results.append(types.CommitResult(error=_error(error)))
    return types.CommitAnswer(results=results)


def _get_changes(service: SimService, request: Request) -> object:
    return service.changes(request.query.get("cursor"), int(request.query.get("limit", "1000")))


def _get_trash(service: SimService, request: Request) -> object:
    rows = sorted((one for one in service.nodes.values() if one.deleted), key=lambda one: -(one.deleted or 0))
    return types.TrashList(
        entries=[
            types.TrashRow(
                id=node.id,
                path=service.path_of(node),
                kind=types.Kind.FOLDER if node.is_folder else types.Kind.FILE,
                size=0 if node.is_folder else node.current.size,
                version=0 if node.is_folder else node.current.number,
                deleted_at=node.at,
                deleted_by=EMAIL,
            )
            for node in rows
        ]
    )


def _get_whoami(service: SimService, request: Request) -> object:
    return types.Account(
        user_id=1,
        device_id=request.device,
        email=EMAIL,
        name="Ann",
        is_admin=False,
        quota=service.quota,
        used=service.used(),
        pending=service.reserved(),
    )


_ROUTES: Final[list[tuple[str, re.Pattern[str], Callable[..., object]]]] = [
    (method, re.compile(pattern), answer)
    for method, pattern, answer in (
        ("GET", "/auth/whoami", _get_whoami),
        ("GET", "/files/metadata", _get_metadata),
        ("GET", "/files/list_folder", _get_list_folder),
        ("GET", "/files/list_revisions", _get_revisions),
        ("GET", "/files/blocks", _get_blocks),
        ("GET", "/files/download", _get_download),
        ("GET", "/files/delta", _get_delta),
        ("POST", "/files/fetch", _post_fetch),
        ("GET", "/files/trash", _get_trash),
        ("POST", "/files/create_folder", lambda s, r: s.create_folder(_body(r, types.CreateFolderBody), r.device)),
        ("POST", "/files/move", lambda s, r: s.move(_body(r, types.MoveBody), r.device)),
        ("POST", "/files/delete", lambda s, r: s.delete(_body(r, types.DeleteBody), r.device)),
        ("POST", "/files/restore", lambda s, r: s.restore(_body(r, types.RestoreBody), r.device)),
        ("POST", "/files/announce", _post_announce),
        ("POST", "/files/commit", _post_commit),
        (
            "POST",
            "/blocks/missing",
            lambda s, r: types.MissingAnswer(missing=s.missing(_body(r, types.MissingBody).hashes)),
        ),
        ("POST", "/blocks/batch", _post_batch),
        ("POST", "/blocks/delta", _post_delta),
        ("GET", "/blocks/([0-9a-f]{64})", _get_block),
        ("PUT", "/blocks/([0-9a-f]{64})", _put_block),
        ("GET", "/changes", _get_changes),
    )
]


def _error(error: errors.ApiError) -> dict[str, object]:
    return {**error.facts, "code": error.code, "message": error.message, "request_id": "sim"}


# --- the network ------------------------------------------------------------------------------------------------


@dataclass
class Weather:
    """How the network is. Probabilities for each call; `down`: nothing gets through at all."""

    down: bool = False
    lost_request: float = 0.0  # never arrives
    late_request: float = 0.0  # the caller gives up, and it is carried out some time after
    lost_answer: float = 0.0
    twice: float = 0.0  # repeated by the connection, since the first answer was lost
    busy: float = 0.0  # 503
    slow: float = 0.0  # takes `slow_s` at most, so that others overtake it
    slow_s: float = 3.0

    def clear(self) -> None:
        """A perfect network from now on."""
        vars(self).update(vars(Weather()))


class SimConnection:
    """One device's way to the service: what client.connection.Connection is to the real one.

    `calls` counts by method and path. Without a scheduler every call is carried out at once.
    """

    def __init__(
        self,
        service: SimService,
        device: int,
        *,
        scheduler: Scheduler | None = None,
        network: Machine | None = None,
        tape: random.Random | None = None,
        weather: Weather | None = None,
    ) -> None:
        """`network` is the machine on which requests travel: it outlives the device."""
        self.url = URL
        self.device = device
        self.weather = weather or Weather()
        self.calls: dict[str, int] = {}
        self._service = service
        self._scheduler = scheduler
        self._network = network
        self._tape = tape or random.Random(0)
        self._moved: Signal | None = None
        if scheduler is not None:
            self._moved = Signal(scheduler)
            service.on_change.append(self._moved.notify)

    def close(self) -> None:
        if self._moved is not None:
            self._service.on_change.remove(self._moved.notify)
            self._moved = None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | bytearray | memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = 60.0,
        accept: Collection[int] = (),
    ) -> Answer:
        """As Connection.call."""
        request = _request(method, path, bytes(body or b""), headers or {}, self.device)
        self.calls[request.path] = self.calls.get(request.path, 0) + 1
        status, answer, repeated = self._travel(request)
        if not (200 <= status < 300 or status in accept):
            raise Refused(status, msgspec.json.decode(answer)["error"])
        return Answer(status, {}, answer, repeated)

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As Connection.stream; breaks off in the middle where the answer is lost."""
        request = _request("GET", path, b"", headers, self.device)
        try:
            status, answer, _ = self._travel(request)
        except Unreachable as error:
            raise ConnectionError(error.message) from error
        if status >= 400:
            raise Refused(status, msgspec.json.decode(answer)["error"])
        yield status, self._pieces(answer)

    def _pieces(self, answer: bytes) -> Iterator[bytes]:
        middle = len(answer) // 2
        yield answer[:middle]
        self._pause("piece", None)
        if self._chance(self.weather.lost_answer):
            raise ConnectionError("the line broke")
        yield answer[middle:]

    def _travel(self, request: Request) -> tuple[int, bytes, bool]:
        """(status, body, repeated). Raises Unreachable."""
        weather, about = self.weather, _about(request)
        self._pause(f"{request.method} {request.path}", about)
        if self._chance(weather.slow):
            self._sleep(self._tape.random() * weather.slow_s)
        if weather.down or self._chance(weather.lost_request):
            raise self._unreachable()
        if self._chance(weather.busy):
            return 503, msgspec.json.encode({"error": _error(errors.Unavailable())}), False
        if self._chance(weather.late_request):
            self._carry_out_later(request)
            raise self._unreachable()
        try:
            self._pause("arrives", about)
        except Crashed:
            # The request was on its way when the device stopped. It may still be carried out.
            if self._chance(0.5):
                self._carry_out_later(request)
            raise
        repeated = False
        if self._chance(weather.twice):
            repeated = True
            self._answer(request)
            self._sleep(0.2)
        status, answer = self._wait_for(request)
        self._pause("answered", status)
        if self._chance(weather.slow):
            self._sleep(self._tape.random() * weather.slow_s)
        if weather.down or self._chance(weather.lost_answer):
            raise self._unreachable()
        return status, answer, repeated

    def _wait_for(self, request: Request) -> tuple[int, bytes]:
        """Long polls and blocks that are still on their way are waited for."""
        if request.path == "/changes/longpoll":
            cursor, timeout_s = request.query["cursor"], float(request.query["timeout"])
            changed = self._wait(timeout_s, lambda: self._service.is_behind(cursor))
            return 200, msgspec.json.encode(types.LongpollAnswer(changes=changed, backoff=0.0))
        status, answer = self._answer(request)
        if status == 404 and "wait" in request.query and request.path.startswith("/blocks/"):
            self._wait(float(request.query["wait"]), lambda: self._answer(request)[0] != 404)
            return self._answer(request)
        return status, answer

    def _wait(self, timeout_s: float, condition: Callable[[], bool]) -> bool:
        if self._scheduler is None:
            return condition()
        deadline = self._scheduler.now + timeout_s
        while not condition():
            left = deadline - self._scheduler.now
            if left <= 0 or self.weather.down or self._moved is None:
                return False
            self._moved.wait(left)
        return True

    def _answer(self, request: Request) -> tuple[int, bytes]:
        try:
            answer = handle(self._service, request)
        except errors.ApiError as error:
            return error.status, msgspec.json.encode({"error": _error(error)})
        if isinstance(answer, bytes):
            return 206 if "Range" in request.headers else 200, answer
        return 200, msgspec.json.encode(answer)

    def _carry_out_later(self, request: Request) -> None:
        """It has left the device and arrives when nobody waits for it any more."""
        if self._scheduler is None or self._network is None or request.method == "GET":
            return
        delay = self._tape.random() * 20

        def arrive() -> None:
            assert self._scheduler is not None
            self._scheduler.sleep(delay)
            self._scheduler.pause("late request", _about(request))
            self._answer(request)

        self._scheduler.spawn(self._network, "network", arrive)

    def _unreachable(self) -> Unreachable:
        self._sleep(0.5)
        return Unreachable(url=self.url, reason="it did not answer")

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._tape.random() < probability

    def _pause(self, what: str, about: object) -> None:
        if self._scheduler is not None:
            self._scheduler.pause(what, about)

    def _sleep(self, seconds: float) -> None:
        if self._scheduler is not None and self._scheduler.current is not None:
            self._scheduler.sleep(seconds)


def sim_api(connection: SimConnection) -> Api:
    """The client's real API over the simulated network."""
    return Api(connection)  # type: ignore[arg-type]  # what Api needs of a Connection


def _request(method: str, target: str, body: bytes, headers: Mapping[str, str], device: int) -> Request:
    url = urlsplit(target)
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    path = unquote(url.path.removeprefix("/api/v1"))
    return Request(method, path, dict(parse_qsl(url.query, keep_blank_values=True)), body, headers, device)


def _about(request: Request) -> object:
    """For the trace."""
    if request.method == "POST" and request.path.startswith("/files/"):
        return request.body
    return tuple(request.query.values())
