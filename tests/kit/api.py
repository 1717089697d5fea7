"""Users of a running appliance over raw HTTP: what tests of the API say again and again.

A `User` makes calls and knows what a refused call must leave untouched (`State`). A `Line` is one TLS connection with
which a test can send a request in pieces, break it off, and see which worker serves it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import psutil
import psycopg
import urllib3

from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from tests.kit.cluster import Answer, Appliance, Session, wait_until

BASE = "/api/v1"
PASSWORD = "correct horse battery"


def connect_database(appliance: Appliance) -> psycopg.Connection[Any]:
    """A connection of the test's own to the appliance's metadata; close it (`with`)."""
    return psycopg.connect(read_config(appliance)["database"], autocommit=True)


def cut(data: bytes) -> list[bytes]:
    """A file's blocks."""
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def digest(plain: bytes) -> str:
    return hash_block(plain).hex()


def entry(path: str, data: bytes, **more: object) -> dict[str, object]:
    """A commit's or announcement's entry for `data`."""
    return {"path": path, "size": len(data), "blocks": [digest(plain) for plain in cut(data)], **more}


def check_refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The refusal is this one, and its message is a sentence for a person; the error object."""
    assert answer.status == status, (answer.status, answer.body)
    error: dict[str, Any] = answer.document["error"]
    assert error["code"] == code, error
    check_sentence(error["message"])
    assert error["request_id"] == answer.headers["X-Request-ID"]
    return error


def check_sentence(message: str) -> None:
    """One or more plain sentences: no names of classes, no dumps."""
    assert message[0].isupper() or message[0].isdigit(), message
    assert message[-1] in ".)", message
    assert "\n" not in message, message
    for technical in ("Error", "Exception", "Traceback", "None", "object at", "psycopg", "msgspec", "SQL"):
        assert technical not in message, message


@dataclass(frozen=True)
class State:
    """What a user sees and what waits for more: compared around calls that must leave nothing behind."""

    entries: tuple[str, ...]
    trash: tuple[str, ...]
    used: int
    pending: int
    uploads: int


class User:
    """One account with one signed-in device."""

    def __init__(self, appliance: Appliance, email: str, session: Session) -> None:
        self.appliance = appliance
        self.email = email
        self.session = session
        self.ports: set[int] = set()  # of this side of every bare connection
        self.id: int = self.get("/auth/whoami")["user_id"]

    def call(self, method: str, path: str, /, **more: Any) -> Answer:
        """One request below /api/v1; see `Session.call`."""
        return self.session.call(method, BASE + path, **more)

    def get(self, path: str, /, **query: object) -> Any:
        """The document of a GET that succeeds."""
        answer = self.call("GET", path, query=query)
        assert answer.status == 200, answer
        return answer.document

    def post(self, path: str, /, **document: object) -> Any:
        """The document of a POST that succeeds."""
        answer = self.call("POST", path, document=document)
        assert answer.status in (200, 201), answer
        return answer.document if answer.body else None

    def new_device(self, name: str = "another") -> User:
        """The same account, signed in once more."""
        return User(self.appliance, self.email, login(self.appliance, self.email, name))

    # --- files

    def put(self, path: str, data: bytes, base_version: int | None = None) -> dict[str, Any]:
        """A simple upload that succeeds; the metadata."""
        answer = self.session.put(path, data, base_version=base_version)
        assert answer.status == 200, answer
        return dict(answer.document)

    def read(self, path: str, version: int | None = None, headers: dict[str, str] | None = None) -> Answer:
        query: dict[str, object] = {"path": path} | ({} if version is None else {"version": version})
        return self.call("GET", "/files/download", query=query, headers=headers)

    def content(self, path: str, version: int | None = None) -> bytes:
        """The bytes of a download that succeeds."""
        answer = self.read(path, version)
        assert answer.status == 200, answer
        return answer.body

    def metadata(self, path: str) -> dict[str, Any]:
        return dict(self.get("/files/metadata", path=path))

    def put_block(self, plain: bytes, path: str = "/x") -> str:
        """Send one block; its hash."""
        answer = self.call("PUT", f"/blocks/{digest(plain)}", query={"path": path}, body=plain)
        assert answer.status == 201, answer
        return digest(plain)

    def missing(self, hashes: Sequence[str], path: str = "/x") -> list[str]:
        return list(self.post("/blocks/missing", path=path, hashes=list(hashes))["missing"])

    def commit(self, *entries: dict[str, object], **more: object) -> list[dict[str, Any]]:
        """The results."""
        return list(self.post("/files/commit", entries=list(entries), **more)["results"])

    # --- what is left behind

    def usage(self) -> tuple[int, int]:
        """Bytes used and pending."""
        told = self.get("/auth/whoami")
        return told["used"], told["pending"]

    def state(self) -> State:
        entries = self.get("/files/list_folder", path="/", recursive="true")["entries"]
        trash = self.get("/files/trash")["entries"]
        used, pending = self.usage()
        with connect_database(self.appliance) as db:
            row = db.execute("SELECT count(*) FROM upload WHERE user_id = %s AND state = 'pending'", [self.id])
            [(uploads,)] = row.fetchall()
        return State(
            tuple(f"{one['path']} {one['version']} {one['state']}" for one in entries),
            tuple(f"{one['path']} {one['version']}" for one in trash),
            used,
            pending,
            uploads,
        )

    @contextlib.contextmanager
    def unchanged(self, *, at_last: bool = False) -> Iterator[None]:
        """What happens inside leaves nothing behind; `at_last`: only when the service has noticed that a line broke."""
        before = self.state()
        yield
        if at_last:
            wait_until(self.is_idle, timeout_s=15, what="the end of all requests")
        after = self.state()
        assert after == before, f"{after} instead of {before}"

    def is_idle(self) -> bool:
        """Whether no worker holds a bare connection of this user any more, or works on any request."""
        workers = self.appliance.processes("coordinator")
        if any(self.ports & _peer_ports(worker.pid) for worker in workers):
            return False
        # The question itself is a running request.
        return all(read_metric(self.appliance, worker.name, "holdfast_requests_running") <= 1 for worker in workers)

    # --- raw connections

    def line(self) -> Line:
        """A new connection; close it (`with`)."""
        return Line(self)

    def line_to(self, worker: str, tries: int = 200) -> Line:
        """A new connection that this worker serves: the kernel chooses, so that may take a few."""
        for _ in range(tries):
            line = Line(self)
            if line.worker() == worker:
                return line
            line.close()
        raise AssertionError(f"none of {tries} connections reached {worker}")


class Line:
    """One connection of a user, over which requests are sent in pieces."""

    def __init__(self, user: User, port: int | None = None) -> None:
        self._user = user
        url = urlsplit(user.session.url)
        context = ssl.create_default_context(cafile=user.appliance.description["ca_file"])
        self._http = http.client.HTTPSConnection(url.hostname or "", port or url.port, timeout=30, context=context)
        self._http.connect()
        user.ports.add(self.socket.getsockname()[1])

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def socket(self) -> socket.socket:
        assert self._http.sock is not None
        return self._http.sock

    def worker(self) -> str:
        """The name of the worker whose connection this is. Sends a request, since accepting may take a while."""
        self.send("GET", "/healthz")
        assert self.answer().status == 200
        port = self.socket.getsockname()[1]
        for process in self._user.appliance.processes("coordinator"):
            if port in _peer_ports(process.pid):
                return process.name
        raise AssertionError("no worker holds this connection")

    def begin(self, method: str, target: str, headers: dict[str, str] | None = None) -> None:
        """Send the request line and headers; `target` goes out exactly as it is."""
        self._http.putrequest(method, target, skip_accept_encoding=True)
        if self._user.session.token:
            self._http.putheader("Authorization", f"Bearer {self._user.session.token}")
        for name, value in (headers or {}).items():
            self._http.putheader(name, value)
        self._http.endheaders()

    def feed(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._http.send(data)

    def send(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """A whole request whose Content-Length is what the body has, unless `headers` says otherwise."""
        sent = {"Content-Length": str(len(body))} if body else {}
        self.begin(method, target, sent | (headers or {}))
        if body:
            self.feed(body)

    def answer(self) -> Answer:
        """Wait for the answer and read it to its end."""
        answer = self._http.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        self.send(method, target, headers, body)
        return self.answer()

    def post(self, path: str, document: object) -> Answer:
        """A JSON call below /api/v1."""
        return self.ask("POST", BASE + path, {"Content-Type": "application/json"}, as_json(document))

    def hang_up(self) -> None:
        """Send nothing more, in the midst of a request; what was sent arrives before the end does."""
        self.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break the connection without a farewell, as a lost line does: the server sees a reset."""
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._http.close()

    def is_ended(self, timeout_s: float) -> bool:
        """Whether the server closes the connection within `timeout_s`."""
        if self._http.sock is None:
            return True  # the answer said so, and this side has hung up as well
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


def _peer_ports(pid: int) -> set[int]:
    """The other side's ports of a process's connections."""
    return {one.raddr.port for one in psutil.Process(pid).net_connections("tcp") if one.raddr}


def read_config(appliance: Appliance, worker: str = "worker1") -> dict[str, Any]:
    return tomllib.loads((appliance.folder / "config" / f"{worker}.toml").read_text())


def read_metric(appliance: Appliance, worker: str, name: str) -> float:
    """A metric of one worker that has one value there."""
    address = read_config(appliance, worker)["metrics_listen"]
    metrics = urllib3.request("GET", f"http://{address}/metrics", retries=False).data.decode()
    [found] = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", metrics, re.MULTILINE)
    return float(found)


def target(path: str, /, **query: object) -> str:
    """A request target below /api/v1."""
    return BASE + quote(path) + (f"?{urlencode(query)}" if query else "")


def forge(value: object) -> str:
    """A token with the right checksum around what this service never puts into one."""
    body = msgspec.msgpack.encode(value)
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).rstrip(b"=").decode()


def login(appliance: Appliance, email: str, device_name: str = "test", password: str = PASSWORD) -> Session:
    session = Session(appliance.url, appliance.description["ca_file"])
    document = {"email": email, "password": password, "device_name": device_name}
    answer = session.call("POST", BASE + "/auth/login", document=document)
    assert answer.status == 200, answer
    session.token = answer.document["token"]
    return session


def add_user(admin: Session, appliance: Appliance, quota: int | None = None) -> User:
    """A new account, signed in."""
    email = f"{secrets.token_hex(6)}@example.org"
    document: dict[str, object] = {"email": email, "password": PASSWORD}
    if quota is not None:
        document["quota"] = quota
    answer = admin.call("POST", BASE + "/admin/users", document=document)
    assert answer.status == 201, answer
    return User(appliance, email, login(appliance, email))


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()
