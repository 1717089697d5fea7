"""The API's contract in memory, for tests of the client: a real HTTP server on loopback, without disks or a database.

It keeps to coordinator.protocol and to what the client relies on; the same tests run against the real appliance, which
keeps it honest. It can be told to misbehave: `faults` holds functions that are asked before each request.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from coordinator.protocol import errors, types
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, count_blocks
from coordinator.protocol.names import name_key, split_path

EMAIL, PASSWORD = "ann@example.org", "correct horse"
QUOTA_BYTES = 10**10
SERVICE_ID = "5e71ce"


@dataclass
class Version:
    number: int
    size: int
    blocks: list[str]
    mtime: datetime | None
    executable: bool
    stored_at: datetime

    @property
    def content_hash(self) -> str:
        return content_hash(bytes.fromhex(one) for one in self.blocks).hex()


@dataclass
class Node:
    """A file (with versions) or a folder (with children by name key)."""

    id: int
    name: str
    versions: list[Version] | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        return self.versions is None


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    token: str | None


class Cut(Exception):
    """Raised by a fault: the connection is cut without an answer."""


Fault = Callable[[Request], None]


class Tree:
    """The namespace of the one user; paths as in the API."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.root = Node(next(self.ids), "")
        self.trash: list[tuple[str, Node, datetime]] = []

    def find(self, path: str) -> Node:
        node = self.root
        for name in split_path(path):
            if not node.is_folder:
                raise errors.NotAFolder
            child = node.children.get(name_key(name))
            if child is None:
                raise errors.NotFound(what="file or folder")
            node = child
        return node

    def spelled(self, path: str) -> str:
        node, names = self.root, []
        for name in split_path(path):
            node = node.children[name_key(name)]
            names.append(node.name)
        return "/" + "/".join(names)

    def folder(self, path: str, *, make: bool = True) -> Node:
        node = self.root
        for name in split_path(path):
            child = node.children.get(name_key(name))
            if child is None:
                if not make:
                    raise errors.NotFound(what="folder")
                child = node.children[name_key(name)] = Node(next(self.ids), name)
            if not child.is_folder:
                raise errors.NotAFolder
            node = child
        return node

    def everything(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        for _, child in sorted(node.children.items()):
            below = f"{path.rstrip('/')}/{child.name}"
            yield below, child
            yield from self.everything(child, below)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the tests; anything else shows in the answer that it did not get."""


class FakeService:
    """One service with one account. `sent` counts what arrived, `requests` what was asked; `faults` may raise."""

    def __init__(self, *, cert: Path | None = None, key: Path | None = None) -> None:
        self.lock = threading.RLock()
        self.tree = Tree()
        self.blocks: dict[str, bytes] = {}
        self.tokens: dict[str, types.Device] = {}
        self.users = {EMAIL: PASSWORD}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.bytes_in = 0
        self.sent_blocks: list[str] = []
        self.commits: dict[str, bytes] = {}
        self.announced: set[str] = set()
        self.keep_bytes = True
        self._server = _Server(("127.0.0.1", 0), self._handler())
        scheme = "http"
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeService:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)

    def count(self, method: str, start: str) -> int:
        return sum(1 for verb, path in self.requests if verb == method and path.startswith(start))

    # --- requests -----------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        for fault in list(self.faults):
            fault(request)
        path = request.path.removeprefix("/api/v1")
        if path != "/auth/login" and request.token not in self.tokens:
            raise errors.NotLoggedIn
        verb = request.method.lower()
        with self.lock:
            self.requests.append((request.method, path))
            for pattern, name in ROUTES:
                if match := re.fullmatch(pattern, path):
                    handler = getattr(self, f"{verb}_{name}", None)
                    if handler is None:
                        raise errors.MethodNotAllowed(method=request.method)
                    result = handler(request, *match.groups())
                    return result if isinstance(result, tuple) else (200, {}, msgspec.json.encode(result))
        raise errors.NotFound(what="address")

    def post_login(self, request: Request) -> Any:
        body = _body(request, types.LoginBody)
        if self.users.get(body.email) != body.password:
            raise errors.WrongPassword
        device = types.Device(
            id=len(self.tokens) + 1,
            name=body.device_name,
            created_at=_now(),
            last_seen_at=_now(),
            online=True,
            current=False,
        )
        token = hashlib.sha256(f"token {device.id}".encode()).hexdigest()
        self.tokens[token] = device
        return types.LoginAnswer(
            token=token, service_id=SERVICE_ID, device_id=device.id, user_id=1, email=body.email, name="Ann"
        )

    def post_logout(self, request: Request) -> Any:
        del self.tokens[request.token or ""]
        return 204, {}, b""

    def get_whoami(self, request: Request) -> Any:
        device = self.tokens[request.token or ""]
        return types.Account(
            user_id=1, device_id=device.id, email=EMAIL, name="Ann", is_admin=True, quota=QUOTA_BYTES, used=0, pending=0
        )

    def get_devices(self, request: Request) -> Any:
        devices = [msgspec.structs.replace(one, current=token == request.token) for token, one in self.tokens.items()]
        return types.DeviceList(devices=devices)

    def delete_device(self, request: Request, number: str) -> Any:
        token = next((token for token, one in self.tokens.items() if one.id == int(number)), None)
        if token is None:
            raise errors.NotFound(what="device")
        del self.tokens[token]
        return 204, {}, b""

    def get_metadata(self, request: Request) -> Any:
        path = request.query["path"]
        return self._metadata(self.tree.find(path), self.tree.spelled(path))

    def get_list_folder(self, request: Request) -> Any:
        path = request.query["path"]
        node = self.tree.find(path)
        if not node.is_folder:
            raise errors.NotAFolder
        spelled = self.tree.spelled(path)
        found = list(self.tree.everything(node, spelled))
        if request.query.get("recursive") != "true":
            depth = len(split_path(spelled)) + 1
            found = [one for one in found if len(split_path(one[0])) == depth]
        start, limit = int(request.query.get("page", "0")), int(request.query["limit"])
        page = found[start : start + limit]
        more = str(start + limit) if start + limit < len(found) else None
        return types.FolderPage(entries=[self._metadata(one, below) for below, one in page], next_page=more)

    def post_create_folder(self, request: Request) -> Any:
        body = _body(request, types.CreateFolderBody)
        names = split_path(body.path)
        if not body.parents:
            parent = self.tree.folder("/" + "/".join(names[:-1]), make=False)
            if not names or name_key(names[-1]) in parent.children:
                raise errors.NameTaken
        return self._metadata(self.tree.folder(body.path), self.tree.spelled(body.path))

    def post_move(self, request: Request) -> Any:
        body = _body(request, types.MoveBody)
        source = self.tree.find(body.from_path)
        if source.is_folder and self.tree.spelled(body.from_path) != "/" and _inside(body.to_path, body.from_path):
            raise errors.MoveIntoItself
        parent, key, name = self._free_place(body.to_path, body.replace, source)
        *above, last = split_path(body.from_path)
        del self.tree.find("/" + "/".join(above)).children[name_key(last)]
        source.name = name
        parent.children[key] = source
        return self._metadata(source, self.tree.spelled(body.to_path))

    def post_copy(self, request: Request) -> Any:
        body = _body(request, types.CopyBody)
        source = self.tree.find(body.from_path)
        if source.is_folder and _inside(body.to_path, body.from_path):
            raise errors.MoveIntoItself
        parent, key, name = self._free_place(body.to_path, body.replace, source)
        parent.children[key] = self._copy(source, name)
        return self._metadata(parent.children[key], self.tree.spelled(body.to_path))

    def post_delete(self, request: Request) -> Any:
        path = _body(request, types.DeleteBody).path
        names = split_path(path)
        if not names:
            raise errors.NotAllowed
        node, spelled = self.tree.find(path), self.tree.spelled(path)
        del self.tree.find("/" + "/".join(names[:-1])).children[name_key(names[-1])]
        self.tree.trash.insert(0, (spelled, node, _now()))
        return types.Deleted(deleted=1 + sum(1 for _ in self.tree.everything(node, "/")))

    def get_list_revisions(self, request: Request) -> Any:
        node = self._file_or_trashed(request.query["path"])
        before = int(request.query.get("before", 1 << 31))
        rows = [one for one in reversed(node.versions or []) if one.number < before][: int(request.query["limit"])]
        return types.VersionList(
            versions=[
                types.VersionRow(
                    version=one.number,
                    size=one.size,
                    content_hash=one.content_hash,
                    modified_at=one.stored_at,
                    client_modified_at=one.mtime,
                    modified_by=EMAIL,
                    executable=one.executable,
                )
                for one in rows
            ]
        )

    def post_restore(self, request: Request) -> Any:
        body = _body(request, types.RestoreBody)
        names = split_path(body.path)
        trashed = next((row for row in self.tree.trash if row[0] == body.path), None)
        parent = self.tree.folder("/" + "/".join(names[:-1]))
        if body.version is None or name_key(names[-1]) not in parent.children:
            if trashed is None:
                raise errors.NotFound(what="deleted file or folder")
            if name_key(names[-1]) in parent.children:
                raise errors.NameTaken
            self.tree.trash.remove(trashed)
            parent.children[name_key(names[-1])] = trashed[1]
        node = self.tree.find(body.path)
        if body.version is not None:
            old = self._version(node, body.version)
            assert node.versions is not None
            node.versions.append(
                Version(len(node.versions) + 1, old.size, old.blocks, old.mtime, old.executable, _now())
            )
        return self._metadata(node, self.tree.spelled(body.path))

    def get_trash(self, request: Request) -> Any:
        rows = [
            types.TrashRow(
                id=node.id,
                path=path,
                kind=types.Kind.FOLDER if node.is_folder else types.Kind.FILE,
                size=node.versions[-1].size if node.versions else 0,
                version=node.versions[-1].number if node.versions else 0,
                deleted_at=when,
                deleted_by=EMAIL,
            )
            for path, node, when in self.tree.trash
        ]
        return types.TrashList(entries=rows)

    def get_blocks(self, request: Request) -> Any:
        version = self._version(self._file_or_trashed(request.query["path"]), _number(request))
        return types.BlockList(
            version=version.number, size=version.size, content_hash=version.content_hash, blocks=version.blocks
        )

    def get_download(self, request: Request) -> Any:
        version = self._version(self._file_or_trashed(request.query["path"]), _number(request))
        plain = b"".join(self.blocks[one] for one in version.blocks)
        wanted = request.query.get("Range")
        if wanted is None:
            return 200, {"ETag": f'"{version.content_hash}"'}, plain
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()  # type: ignore[union-attr]  # our client's ranges match
        start = int(first) if first else max(0, len(plain) - int(last))
        stop = min(len(plain), int(last) + 1) if first and last else len(plain)
        if start >= len(plain):
            raise errors.RangeNotSatisfiable(size=len(plain))
        return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(plain)}"}, plain[start:stop]

    def post_missing(self, request: Request) -> Any:
        hashes = _body(request, types.MissingBody).hashes
        return types.MissingAnswer(missing=[one for one in dict.fromkeys(hashes) if one not in self.blocks])

    def put_block(self, request: Request, digest: str) -> Any:
        self._store(digest, request.body)
        return 201, {}, msgspec.json.encode(types.BatchAnswer(stored=1))

    def get_block(self, request: Request, digest: str) -> Any:
        if digest not in self.blocks:
            raise errors.NotFound(what="block")
        return 200, {}, self.blocks[digest]

    def post_batch(self, request: Request) -> Any:
        at = stored = 0
        while at < len(request.body):
            size = int.from_bytes(request.body[at + 32 : at + 36], "big")
            self._store(request.body[at : at + 32].hex(), request.body[at + 36 : at + 36 + size])
            at, stored = at + 36 + size, stored + 1
        assert 0 < stored <= types.BATCH_BLOCKS_MAX
        assert len(request.body) - 36 * stored <= types.BATCH_BYTES_MAX
        return 201, {}, msgspec.json.encode(types.BatchAnswer(stored=stored))

    def post_announce(self, request: Request) -> Any:
        results = []
        for entry in _body(request, types.AnnounceBody).entries:
            try:
                self._check(entry)
            except errors.ApiError as error:
                results.append(types.AnnounceResult(error=_error(error)))
                continue
            self.announced.add(entry.path)
            missing = [one for one in dict.fromkeys(entry.blocks) if one not in self.blocks]
            results.append(types.AnnounceResult(upload_id=entry.path, missing=missing))
        return types.AnnounceAnswer(results=results)

    def post_commit(self, request: Request) -> Any:
        body = _body(request, types.CommitBody)
        if body.request_key in self.commits:
            return 200, {}, self.commits[body.request_key]
        answer = msgspec.json.encode(types.CommitAnswer(results=[self._commit(entry) for entry in body.entries]))
        if body.request_key is not None:
            self.commits[body.request_key] = answer
        return 200, {}, answer

    def get_notifications(self, request: Request) -> Any:
        after = int(request.query.get("after", "0"))
        every = [
            types.Notification(
                id=number,
                created_at=_now(),
                kind="note",
                message=f"Something happened ({number}).",
                path=None,
                read=False,
            )
            for number in (1, 2, 3)
        ]
        return types.NotificationList(notifications=[one for one in every if one.id > after], unread=3)

    def post_read(self, request: Request) -> Any:
        _body(request, types.ReadBody)
        return 204, {}, b""

    def get_admin_status(self, request: Request) -> Any:
        disk = types.DiskRow(id="d1", path="/srv/d1", state="up", size=10**12, used=10**11)
        return types.AdminStatus(
            sites=[types.SiteRow(name="site1", nodes=[types.NodeRow(name="site1-node1", state="up", disks=[disk])])],
            blocks=types.BlockMargins(total=7, by_margin={"2": 7}),
            repair=types.RepairRow(queued=0),
            mirror=types.MirrorRow(lag_s=0.0),
            jobs=[],
        )

    def get_users(self, request: Request) -> Any:
        return types.UserList(users=[self._user(email) for email in self.users])

    def post_users(self, request: Request) -> Any:
        body = _body(request, types.AddUserBody)
        self.users[body.email] = body.password
        return 201, {}, msgspec.json.encode(self._user(body.email))

    def post_disable(self, request: Request) -> Any:
        email = _body(request, types.DisableUserBody).email
        if email not in self.users:
            raise errors.NotFound(what="user")
        return msgspec.structs.replace(self._user(email), disabled=True)

    def post_collect(self, request: Request) -> Any:
        return types.JobReport(job="collect", found={"unreferenced": 2}, done={"deleted": 2}, took_s=0.1)

    # --- helpers ------------------------------------------------------------------------------------------------

    def _user(self, email: str) -> types.User:
        return types.User(
            id=1, email=email, name="", is_admin=False, disabled=False, quota=QUOTA_BYTES, used=0, created_at=_now()
        )

    def _metadata(self, node: Node, path: str) -> types.Metadata:
        last = node.versions[-1] if node.versions else None
        return types.Metadata(
            id=node.id,
            path=path,
            kind=types.Kind.FOLDER if node.is_folder else types.Kind.FILE,
            version=last.number if last else 0,
            size=last.size if last else 0,
            content_hash=last.content_hash if last else None,
            modified_at=last.stored_at if last else _now(),
            client_modified_at=last.mtime if last else None,
            modified_by=EMAIL,
            state="complete",
            executable=last.executable if last else False,
        )

    def _free_place(self, path: str, replace: bool, source: Node) -> tuple[Node, str, str]:
        *above, name = split_path(path)
        parent = self.tree.folder("/" + "/".join(above), make=False)
        there = parent.children.get(name_key(name))
        if there is not None and there is not source and not (replace and not there.is_folder and not source.is_folder):
            raise errors.NameTaken
        return parent, name_key(name), name

    def _copy(self, source: Node, name: str) -> Node:
        versions = None if source.versions is None else [_first_version(source.versions[-1])]
        children = {key: self._copy(child, child.name) for key, child in source.children.items()}
        return Node(next(self.tree.ids), name, versions, children)

    def _file_or_trashed(self, path: str) -> Node:
        try:
            node = self.tree.find(path)
        except errors.NotFound:
            trashed = [row[1] for row in self.tree.trash if row[0] == path]
            if not trashed:
                raise
            node = trashed[0]
        if node.is_folder:
            raise errors.IsAFolder
        return node

    def _version(self, node: Node, number: int | None) -> Version:
        assert node.versions is not None
        found = [one for one in node.versions if number in (None, one.number)]
        if not found:
            raise errors.NotFound(what="version")
        return found[-1]

    def _store(self, digest: str, plain: bytes) -> None:
        if hashlib.sha256(plain).hexdigest() != digest:
            raise errors.HashMismatch
        assert 0 < len(plain) <= BLOCK_BYTES
        self.bytes_in += len(plain)
        self.sent_blocks.append(digest)
        self.blocks[digest] = plain if self.keep_bytes else b""

    def _check(self, entry: types.CommitEntry) -> None:
        if len(entry.blocks) != count_blocks(entry.size):
            raise errors.SizeMismatch(received=len(entry.blocks), expected=entry.size)
        *above, name = split_path(entry.path)
        there = self.tree.folder("/" + "/".join(above)).children.get(name_key(name))
        if there is not None and there.is_folder:
            raise errors.IsAFolder
        current = self._version(there, None) if there is not None else None
        if current is not None and current.blocks == entry.blocks:
            return
        if (entry.base_version or 0) != (current.number if current else 0):
            raise errors.VersionConflict(current_version=current.number if current else None)

    def _commit(self, entry: types.CommitEntry) -> types.CommitResult:
        try:
            self._check(entry)
            missing = [one for one in dict.fromkeys(entry.blocks) if one not in self.blocks]
            if missing:
                raise errors.BlocksMissing(missing=missing)
        except errors.ApiError as error:
            return types.CommitResult(error=_error(error))
        *above, name = split_path(entry.path)
        parent = self.tree.folder("/" + "/".join(above))
        node = parent.children.setdefault(name_key(name), Node(next(self.tree.ids), name, []))
        assert node.versions is not None
        last = node.versions[-1] if node.versions else None
        same = last and (last.blocks, last.executable, last.mtime) == (entry.blocks, entry.executable, entry.mtime)
        if not same:
            number = len(node.versions) + 1
            node.versions.append(Version(number, entry.size, entry.blocks, entry.mtime, entry.executable, _now()))
        self.announced.discard(entry.path)
        return types.CommitResult(metadata=self._metadata(node, self.tree.spelled(entry.path)))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16
            timeout = 30

            def setup(self) -> None:
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def log_message(self, format: str, *args: object) -> None:
                """The tests speak for themselves."""

            def handle_any(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if "Range" in self.headers:
                    query["Range"] = self.headers["Range"]
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
                try:
                    status, headers, answer = service.answer(Request(self.command, url.path, query, body, token))
                except errors.ApiError as error:
                    status, answer = error.status, msgspec.json.encode({"error": _error(error)})
                    wait = error.facts.get("retry_after_s")
                    headers = {"Retry-After": str(wait)} if wait is not None else {}
                except Cut:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

        return Handler


ROUTES = (
    ("/auth/login", "login"),
    ("/auth/logout", "logout"),
    ("/auth/whoami", "whoami"),
    ("/devices", "devices"),
    (r"/devices/(\d+)", "device"),
    ("/files/metadata", "metadata"),
    ("/files/list_folder", "list_folder"),
    ("/files/create_folder", "create_folder"),
    ("/files/move", "move"),
    ("/files/copy", "copy"),
    ("/files/delete", "delete"),
    ("/files/list_revisions", "list_revisions"),
    ("/files/restore", "restore"),
    ("/files/trash", "trash"),
    ("/files/blocks", "blocks"),
    ("/files/download", "download"),
    ("/files/announce", "announce"),
    ("/files/commit", "commit"),
    ("/blocks/missing", "missing"),
    ("/blocks/batch", "batch"),
    ("/blocks/([0-9a-f]{64})", "block"),
    ("/notifications", "notifications"),
    ("/notifications/read", "read"),
    ("/admin/status", "admin_status"),
    ("/admin/users", "users"),
    ("/admin/users/disable", "disable"),
    ("/admin/jobs/collect", "collect"),
)


def _body(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.MsgspecError as error:
        raise errors.BadRequest(reason=str(error)) from error


def _error(error: errors.ApiError) -> dict[str, object]:
    return {**error.facts, "code": error.code, "message": error.message, "request_id": "fake"}


def _number(request: Request) -> int | None:
    return int(request.query["version"]) if "version" in request.query else None


def _inside(path: str, folder: str) -> bool:
    keys = [name_key(name) for name in split_path(path)]
    above = [name_key(name) for name in split_path(folder)]
    return len(keys) > len(above) and keys[: len(above)] == above


def _first_version(version: Version) -> Version:
    return Version(1, version.size, version.blocks, version.mtime, version.executable, _now())


def _now() -> datetime:
    return datetime.now(UTC)
