"""The HTTP API from this side: one typed method for each call that the client makes.

Guarantees: an answer is decoded into the type that the protocol publishes, or the call raises a ClientError. Calls that
carry no hash or request key and whose first attempt may have been carried out unseen (move, copy, delete, new folder)
are judged by what is there now (by its id where the caller gave one), so that a broken connection in the middle is
never told as an error.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import msgspec

from client.connection import READ_TIMEOUT_S, Connection, quote_query
from client.errors import BadAnswer, NotOffered, Refused
from coordinator.protocol import types
from coordinator.protocol.delta import DELTA_KEPT_BYTES_MAX, BadDelta, Delta, decode_delta, encode_delta
from coordinator.protocol.fetched import BadFetched, split_fetched
from coordinator.protocol.hashing import BLOCK_BYTES

if TYPE_CHECKING:
    from client.connection import Answer

T = TypeVar("T")

_ROOT: Final = "/api/v1"
_UNPACKS: Final = {"Accept-Encoding": "gzip"}
_JSON: Final = {"Content-Type": "application/json", **_UNPACKS}
_PLAIN_JSON: Final = {"Content-Type": "application/json"}  # for answers that are not JSON
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_PACKED: Final = {"Content-Encoding": "gzip"}
_PACK_FROM_BYTES: Final = 1024
_DELTA_BLOCKS_MAX: Final = types.SIZE_BYTES_MAX // BLOCK_BYTES
JOB_TIMEOUT_S: Final = 6 * 3600.0  # a full verify reads everything that is stored


def refused_entry(error: Mapping[str, object]) -> Refused:
    """The error of one entry of a batch as an exception."""
    status = 409 if error.get("code") in ("version_conflict", "blocks_missing") else 0
    return Refused(status, error)


class Api:
    """Calls to one service as one device. Safe for any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.url = connection.url

    # --- auth and devices ---------------------------------------------------------------------------------------

    def login(self, email: str, password: str, device_name: str) -> types.LoginAnswer:
        body = types.LoginBody(email=email, password=password, device_name=device_name)
        return self._post("/auth/login", body, types.LoginAnswer)

    def logout(self) -> None:
        self._connection.call("POST", _ROOT + "/auth/logout")

    def whoami(self) -> types.Account:
        return self._get("/auth/whoami", {}, types.Account)

    def devices(self) -> list[types.Device]:
        return self._get("/devices", {}, types.DeviceList).devices

    def revoke_device(self, device_id: int) -> None:
        answer = self._connection.call("DELETE", f"{_ROOT}/devices/{device_id}", accept=(404,))
        if not answer.repeated:
            answer.check()

    # --- files --------------------------------------------------------------------------------------------------

    def metadata(self, path: str) -> types.Metadata:
        return self._get("/files/metadata", {"path": path}, types.Metadata)

    def find(self, path: str) -> types.Metadata | None:
        """The metadata at `path`; None where nothing is, also when a part of the path is missing or a file."""
        try:
            return self.metadata(path)
        except Refused as refusal:
            if refusal.code in ("not_found", "not_a_folder"):
                return None
            raise

    def find_id(self, file_id: int) -> types.Metadata | None:
        """The file or folder with this id, wherever it is now; None when it is deleted or cannot be seen."""
        try:
            return self._get("/files/metadata", {"id": file_id}, types.Metadata)
        except Refused as refusal:
            if refusal.code == "not_found":
                return None
            raise

    def list_folder(self, path: str, *, recursive: bool = False) -> Iterator[types.Metadata]:
        """Everything in the folder, parents before children, fetched page by page."""
        page: str | None = None
        while True:
            query: dict[str, str | int | None] = {"path": path, "limit": types.PAGE_ENTRIES_MAX, "page": page}
            if recursive:
                query["recursive"] = "true"
            answer = self._get("/files/list_folder", query, types.FolderPage)
            yield from answer.entries
            if answer.next_page is None:
                return
            page = answer.next_page

    def create_folder(self, path: str, *, parents: bool = False, parent_id: int | None = None) -> types.Metadata:
        """`parent_id`: the folder that it must be made in, else version_conflict."""
        body = types.CreateFolderBody(path=path, parents=parents, parent_id=parent_id)
        answer = self._call_post("/files/create_folder", body, accept=(409,))
        if answer.status == 409 and answer.repeated:
            there = self.find(path)
            if there is not None and there.kind is types.Kind.FOLDER and parent_id in (None, there.parent_id):
                return there
        return self._decode(answer.check(path), types.Metadata)

    def move(self, source: types.Metadata, target: str, *, replace: bool) -> types.Metadata:
        return self._move(types.MoveBody(from_path=source.path, to_path=target, replace=replace), source.id)

    def move_id(
        self, file_id: int, path: str, target: str, *, parent_id: int, base_version: int | None = None
    ) -> types.Metadata:
        """Move the file or folder `file_id`, which is at `path`, to `target` in the folder `parent_id`.

        Where one of these is not so (any more), nothing happens and version_conflict is raised.
        """
        body = types.MoveBody(
            from_path=path, to_path=target, id=file_id, parent_id=parent_id, base_version=base_version
        )
        return self._move(body, file_id)

    def _move(self, body: types.MoveBody, file_id: int) -> types.Metadata:
        answer = self._call_post("/files/move", body, accept=(404, 409))
        if answer.status != 200 and answer.repeated:
            there = self.find(body.to_path)
            if there is not None and there.id == file_id:
                return there
        return self._decode(answer.check(body.from_path), types.Metadata)

    def copy(self, source: types.Metadata, target: str, *, replace: bool) -> types.Metadata:
        body = types.CopyBody(from_path=source.path, to_path=target, replace=replace)
        answer = self._call_post("/files/copy", body, accept=(409,))
        if answer.status == 409 and answer.repeated:
            there = self.find(target)
            if there is not None and (there.kind, there.content_hash) == (source.kind, source.content_hash):
                return there
        return self._decode(answer.check(source.path), types.Metadata)

    def delete(
        self,
        path: str,
        *,
        file_id: int | None = None,
        base_version: int | None = None,
        unchanged_since: str | None = None,
    ) -> int:
        """How many files and folders went to the trash; 0 when an earlier attempt of this call did it.

        The guards: `file_id` is what must be at `path`, in `base_version`; `unchanged_since` a cursor after which
        nothing at or below it has changed. Where one does not hold, nothing happens and version_conflict is raised.
        """
        body = types.DeleteBody(path=path, id=file_id, base_version=base_version, unchanged_since=unchanged_since)
        answer = self._call_post("/files/delete", body, accept=(404, 409))
        if answer.repeated and answer.status != 200:
            # An earlier attempt has done it, or never arrived: with a folder above, the file may be elsewhere by now.
            done = self.find_id(file_id) is None if file_id is not None else answer.status == 404
            if done:
                return 0
        return self._decode(answer.check(path), types.Deleted).deleted

    def versions(self, path: str, limit: int, before: int | None = None) -> list[types.VersionRow]:
        """Newest first; those below version `before` where it is given."""
        query: dict[str, str | int | None] = {"path": path, "limit": limit, "before": before}
        return self._get("/files/list_revisions", query, types.VersionList).versions

    def restore(self, path: str, version: int | None) -> types.Metadata:
        body = types.RestoreBody(path=path, version=version)
        answer = self._call_post("/files/restore", body, accept=(404, 409))
        if answer.status != 200 and answer.repeated:
            there = self.find(path)
            if there is not None:
                return there
        return self._decode(answer.check(path), types.Metadata)

    def mass_deletes(self) -> list[types.MassDelete]:
        return self._get("/files/mass_deletes", {}, types.MassDeleteList).mass_deletes

    def undelete(self, number: int) -> Iterator[int]:
        """Bring back what a mass delete put into the trash, bit by bit; each time how many files and folders."""
        has_more = True
        while has_more:
            answer = self._post("/files/undelete", types.UndeleteBody(id=number), types.Undeleted)
            yield answer.restored
            has_more = answer.has_more

    def trash(self) -> Iterator[types.TrashRow]:
        page: str | None = None
        while True:
            answer = self._get("/files/trash", {"limit": types.PAGE_ENTRIES_MAX, "page": page}, types.TrashList)
            yield from answer.entries
            if answer.next_page is None:
                return
            page = answer.next_page

    def blocks(self, path: str, version: int | None) -> types.BlockList:
        return self._get("/files/blocks", {"path": path, "version": version}, types.BlockList)

    def upload_blocks(self, upload_id: str) -> types.BlockList:
        """The recipe of an announced version; its blocks may not have arrived yet."""
        return self._get("/files/blocks", {"upload": upload_id}, types.BlockList)

    def download(self, path: str, version: int | None) -> bytes:
        """A whole file that fits into memory."""
        return self._connection.call("GET", self._download_path(path, version)).body

    def stream(
        self, path: str, version: int | None, byte_range: str
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """A range of a file in pieces; raises ConnectionError where it breaks off (Connection.stream)."""
        return self._connection.stream(self._download_path(path, version), headers={"Range": byte_range})

    @staticmethod
    def _download_path(path: str, version: int | None) -> str:
        return f"{_ROOT}/files/download{quote_query({'path': path, 'version': version})}"

    # --- blocks and commits -------------------------------------------------------------------------------------

    def missing(self, path: str, hashes: Sequence[str]) -> set[str]:
        """Which of `hashes` (at most HASHES_MAX) must be sent before a file at `path` can have them."""
        return set(
            self._post(
                "/blocks/missing", types.MissingBody(path=path, hashes=list(hashes)), types.MissingAnswer
            ).missing
        )

    def put_block(self, path: str, block: str, plain: bytes | memoryview) -> None:
        url = f"{_ROOT}/blocks/{block}{quote_query({'path': path})}"
        self._connection.call("PUT", url, body=plain, headers=_BYTES)

    def get_block(
        self,
        path: str,
        block: str,
        *,
        upload_id: str | None = None,
        wait_s: int | None = None,
        byte_range: tuple[int, int] | None = None,
    ) -> bytes:
        """The service's bytes for `block`, or those from `byte_range`'s first to before its second; the caller compares
        them with the hash.

        With `upload_id` also a block of that announced version, as soon as it has arrived: it is waited for at most
        `wait_s` (up to BLOCK_WAIT_S_MAX) seconds. Raises Refused: not_found (what "block") when it has not arrived,
        upload_gone when it never will.
        """
        query = quote_query({"path": path, "upload": upload_id, "wait": wait_s})
        headers = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1] - 1}"}
        return self._connection.call(
            "GET",
            f"{_ROOT}/blocks/{block}{query}",
            headers=headers,
            read_timeout_s=READ_TIMEOUT_S + (wait_s or 0),
        ).body

    def put_batch(self, path: str, blocks: Sequence[tuple[bytes, bytes]]) -> None:
        """Send small blocks as (SHA-256, plaintext) in one call; at most BATCH_BLOCKS_MAX and BATCH_BYTES_MAX."""
        body = b"".join(part for digest, plain in blocks for part in (digest, len(plain).to_bytes(4, "big"), plain))
        self._connection.call("POST", f"{_ROOT}/blocks/batch{quote_query({'path': path})}", body=body, headers=_BYTES)

    def fetch_small(self, wanted: Sequence[tuple[int, int]]) -> list[memoryview | None]:
        """Contents of small files by (id, version), in one call; None: ask for that one by itself. The caller compares
        them with their hash."""
        body = types.FetchBody(files=[types.FetchFile(id=file_id, version=version) for file_id, version in wanted])
        encoded = msgspec.json.encode(body)
        answer = self._connection.call("POST", _ROOT + "/files/fetch", body=encoded, headers=_PLAIN_JSON)
        try:
            return self._one_each(list(split_fetched(answer.body)), wanted)
        except BadFetched as error:
            raise BadAnswer(url=self.url, reason="it ends within a file") from error

    def announce(self, entries: list[types.CommitEntry], *, as_ranges: bool = False) -> list[types.AnnounceResult]:
        body = types.AnnounceBody(entries=entries, as_ranges=as_ranges)
        return self._one_each(self._post("/files/announce", body, types.AnnounceAnswer).results, entries)

    def cancel_upload(self, upload_id: str) -> None:
        """Withdraw what was announced: its space is free and the other devices are told. Nothing happens when it has
        been committed or has ended."""
        address = f"{_ROOT}/uploads/{quote(upload_id, safe='')}"
        self._connection.call("DELETE", address, headers={"Tus-Resumable": "1.0.0"}, accept=(404, 410))

    def put_delta(self, upload_id: str, delta: Delta) -> None:
        """Send blocks of the announced version as copies from a base version and literal bytes.

        At most DELTA_BLOCKS_MAX blocks and DELTA_BODY_BYTES_MAX bytes. Raises Refused: hash_mismatch (fact `blocks`:
        the indices of those that are not what was announced; the others are stored), not_found (the base is gone).
        """
        body = encode_delta(delta, literals=True)
        headers = _BYTES
        if len(body) >= _PACK_FROM_BYTES:
            body, headers = gzip.compress(body, 6, mtime=0), {**_BYTES, **_PACKED}
        self._connection.call(
            "POST", f"{_ROOT}/blocks/delta{quote_query({'upload': upload_id})}", body=body, headers=headers
        )

    def get_delta(self, upload_id: str) -> Delta | None:
        """How an announced (or, for some days, committed) version was sent as a delta, literals by their lengths; None
        when it was not. Blocks may be absent: those were sent whole, or have not arrived yet."""
        path = f"{_ROOT}/files/delta{quote_query({'upload': upload_id})}"
        answer = self._connection.call("GET", path, headers=_UNPACKS, accept=(404,))
        if answer.status == 404:
            return None
        try:
            return decode_delta(answer.body, blocks_max=_DELTA_BLOCKS_MAX, ops_max=DELTA_KEPT_BYTES_MAX)
        except BadDelta as error:
            raise BadAnswer(url=self.url, reason=str(error)) from error

    def commit(self, entries: list[types.CommitEntry], request_key: str) -> list[types.CommitResult]:
        body = types.CommitBody(entries=entries, request_key=request_key)
        return self._one_each(self._post("/files/commit", body, types.CommitAnswer).results, entries)

    # --- changes ------------------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, limit: int = types.PAGE_ENTRIES_MAX) -> types.ChangesAnswer:
        """What changed after `cursor`; without one the whole tree. A page at a time: go on while `has_more`."""
        return self._get("/changes", {"cursor": cursor, "limit": limit}, types.ChangesAnswer)

    def longpoll(self, cursor: str, timeout_s: int) -> types.LongpollAnswer:
        """Wait (1 to 480 seconds, and up to a tenth more) until `changes` has something to say after `cursor`."""
        path = f"{_ROOT}/changes/longpoll{quote_query({'cursor': cursor, 'timeout': timeout_s})}"
        answer = self._connection.call("GET", path, read_timeout_s=1.1 * timeout_s + READ_TIMEOUT_S)
        return self._decode(answer, types.LongpollAnswer)

    # --- notifications ------------------------------------------------------------------------------------------

    def notifications(self, after: int, limit: int) -> types.NotificationList:
        return self._get("/notifications", {"after": after, "limit": limit}, types.NotificationList)

    def mark_read(self, up_to: int) -> None:
        self._call_post("/notifications/read", types.ReadBody(up_to=up_to))

    # --- administration -----------------------------------------------------------------------------------------

    def admin_status(self) -> types.AdminStatus:
        return self._get("/admin/status", {}, types.AdminStatus)

    def add_user(self, body: types.AddUserBody) -> types.User:
        return self._post("/admin/users", body, types.User)

    def users(self) -> list[types.User]:
        return self._get("/admin/users", {}, types.UserList).users

    def disable_user(self, email: str) -> types.User:
        return self._post("/admin/users/disable", types.DisableUserBody(email=email), types.User)

    def run_job(self, name: str) -> types.JobReport:
        return self._decode(self._post_admin(f"/admin/jobs/{name}", JOB_TIMEOUT_S), types.JobReport)

    def change_node(self, name: str, action: str) -> dict[str, object]:
        """`action` is "drain" or "remove"; the answer is the service's own."""
        return self._decode(self._post_admin(f"/admin/nodes/{quote(name, safe='')}/{action}"), dict[str, object])

    def _post_admin(self, path: str, read_timeout_s: float = READ_TIMEOUT_S) -> Answer:
        """Raises NotOffered when the service is older than what is asked of it."""
        try:
            return self._connection.call("POST", _ROOT + path, read_timeout_s=read_timeout_s)
        except Refused as refusal:
            if refusal.code == "not_found" and refusal.facts.get("what") == "address":
                raise NotOffered(url=self.url) from refusal
            raise

    # --- plumbing -----------------------------------------------------------------------------------------------

    def _get(self, path: str, query: Mapping[str, str | int | None], kind: type[T]) -> T:
        try:
            return self._decode(self._connection.call("GET", _ROOT + path + quote_query(query), headers=_UNPACKS), kind)
        except Refused as refusal:
            about = query.get("path")
            refusal.path = about if isinstance(about, str) else None
            raise

    def _post(self, path: str, body: msgspec.Struct, kind: type[T]) -> T:
        return self._decode(self._call_post(path, body), kind)

    def _call_post(self, path: str, body: msgspec.Struct, accept: tuple[int, ...] = ()) -> Answer:
        encoded, headers = msgspec.json.encode(body), _JSON
        if len(encoded) >= _PACK_FROM_BYTES:
            encoded, headers = gzip.compress(encoded, 6, mtime=0), {**_JSON, **_PACKED}
        try:
            return self._connection.call("POST", _ROOT + path, body=encoded, headers=headers, accept=accept)
        except Refused as refusal:
            refusal.path = getattr(body, "path", None) or getattr(body, "from_path", None)
            raise

    def _decode(self, answer: Answer, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.MsgspecError as error:
            raise BadAnswer(url=self.url, reason=str(error)) from error

    def _one_each(self, results: list[T], entries: Sequence[object]) -> list[T]:
        if len(results) != len(entries):
            raise BadAnswer(url=self.url, reason="it named fewer or more results than entries")
        return results
