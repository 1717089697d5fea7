"""Contents between two real folders through the real service, in threads."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path as RealPath

import pytest

from client.api import Api
from client.connection import Answer, Connection
from client.fs.real import RealFileSystem
from client.sync.engine.apply import Outcome, Told
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.transfer.contents import Fetched, Sent, Tools
from client.sync.transfer.jobs import Threads
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.transfers import Transfers
from client.sync.tree import Content, LocalId, LocalNode, PendingUpload, RemoteId, RemoteNode
from coordinator.protocol.types import Kind
from node.base.clock import SystemClock
from tests.integration.conftest import NewUser
from tests.kit.api import User
from tests.kit.cluster import wait_until
from tests.kit.contents import MIB, Memory, blocks_of, digest_of, noise


class Counted(Connection):
    """Counts bodies both ways."""

    up = down = 0

    def call(self, method: str, path: str, **details: object) -> Answer:
        answer = super().call(method, path, **details)  # type: ignore[arg-type]  # passed on
        self.up += len(details.get("body") or b"")  # type: ignore[arg-type]  # bytes or a view
        self.down += len(answer.body)
        return answer


class Computer:
    """One folder of one device."""

    def __init__(self, user: User, folder: RealPath) -> None:
        folder.mkdir()
        self.folder = folder
        clock = SystemClock()
        self.fs = RealFileSystem(folder, clock)
        self.fs.write_marker(b"{}")
        appliance = user.appliance
        with open(appliance.description["ca_file"]) as file:
            ca_pem = file.read()
        self.line = Counted(appliance.url, token=user.session.token, ca_pem=ca_pem)
        self.api = Api(self.line)
        self.root = RemoteId(self.api.metadata("/").id)
        self.memory = Memory()
        keys = itertools.count()
        self.tools = Tools(
            fs=self.fs,
            service=self.api,
            known=self.memory,
            parallel=Threads(),
            up=RateLimit(None, clock, time.sleep),
            down=RateLimit(None, clock, time.sleep),
            pause=time.sleep,
            new_key=lambda: f"{id(self)} {next(keys)}",
        )
        self.transfers = Transfers(self.tools, clock)
        self.ids = itertools.count(2)

    def close(self) -> None:
        self.transfers.close()
        self.fs.close()
        self.line.close()

    def write(self, name: str, plain: bytes, local_id: LocalId | None = None) -> LocalNode:
        (self.folder / name).write_bytes(plain)
        node_id = local_id or LocalId(next(self.ids))
        stamp = self.fs.stat((name,)).stamp()
        self.memory.read[node_id] = (digest_of(plain), list(blocks_of(plain)))
        return LocalNode(node_id, LocalId(1), name, Kind.FILE, stamp, Content(digest_of(plain)))

    def upload(self, *nodes: LocalNode, base: RemoteNode | None = None) -> list[Outcome]:
        outcomes = self.transfers.upload(
            [ToUpload(node, (node.name,), f"/{node.name}", self.root, base) for node in nodes]
        )
        for node, outcome in zip(nodes, outcomes, strict=True):
            assert isinstance(outcome, Sent), outcome
            assert outcome.learned is not None
            self.memory.learned[node.id] = outcome.learned
        return outcomes

    def remote(self, name: str) -> RemoteNode:
        told = self.api.metadata(f"/{name}")
        assert told.content_hash is not None
        content = Content(bytes.fromhex(told.content_hash), told.executable)
        return RemoteNode(RemoteId(told.id), self.root, name, Kind.FILE, told.version, told.size, content)

    def get(self, name: str, replaces: LocalNode | None = None) -> LocalNode:
        remote = self.remote(name)
        (outcome,) = self.transfers.download([ToDownload(remote, f"/{name}", (name,), replaces)])
        assert isinstance(outcome, Fetched), outcome
        assert outcome.learned is not None
        local_id = replaces.id if replaces is not None else LocalId(next(self.ids))
        self.memory.learned[local_id] = outcome.learned
        self.memory.hold((name,), outcome.learned.blocks)
        return LocalNode(local_id, LocalId(1), name, Kind.FILE, outcome.stamp, remote.content)

    def listen(self) -> None:
        """From now on `announced` hears what is announced."""
        page = self.api.changes(None)
        while page.has_more:
            page = self.api.changes(page.cursor)
        self.cursor = page.cursor

    def announced(self, name: str) -> PendingUpload | None:
        """The next pending version of that name in the feed."""
        page = self.api.changes(self.cursor)
        for change in page.changes:
            if change.op == "pending" and change.name == name and change.metadata is not None:
                assert change.upload_id is not None
                content = Content(bytes.fromhex(change.metadata.content_hash or ""))
                size = change.metadata.size
                return PendingUpload(change.upload_id, RemoteId(change.id), self.root, name, size, content, None)
        return None

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture
def two(new_user: NewUser, tmp_path: RealPath) -> Iterator[tuple[Computer, Computer]]:
    user = new_user()
    a, b = Computer(user, tmp_path / "a"), Computer(user.new_device(), tmp_path / "b")
    yield a, b
    a.close()
    b.close()


def test_files_of_all_sizes_arrive(two: tuple[Computer, Computer]) -> None:
    a, b = two
    contents = {f"f{size}": noise(size, size) for size in (0, 1, 100_000, 4 * MIB, 4 * MIB + 1, 30 * MIB + 7)}
    a.upload(*(a.write(name, plain) for name, plain in contents.items()))
    for name, plain in contents.items():
        b.get(name)
        assert b.read(name) == plain


def test_many_small_files_arrive(two: tuple[Computer, Computer]) -> None:
    a, b = two
    contents = {f"f{number}": noise(number * 50, number) for number in range(300)}
    outcomes = a.upload(*(a.write(name, plain) for name, plain in contents.items()))
    assert all(isinstance(outcome, Told) for outcome in outcomes)
    for name in ("f0", "f1", "f299"):
        b.get(name)
        assert b.read(name) == contents[name]


def test_an_inserted_byte_costs_little_on_both_ways(two: tuple[Computer, Computer]) -> None:
    a, b = two
    old = noise(40 * MIB + 5, 1)
    node = a.write("f", old)
    a.upload(node)
    mine = b.get("f")
    base = a.remote("f")
    b.listen()
    up = a.line.up
    new = b"!" + old
    a.upload(a.write("f", new, node.id), base=base)
    assert a.line.up - up < 5000
    row = b.announced("f")
    assert row is not None
    down = b.line.down
    b.transfers.prefetch(row, "/f")
    mine = b.get("f", mine)
    assert b.read("f") == new
    assert b.line.down - down < 10_000
    # And back: what was fetched can be the base of a delta.
    up = b.line.up
    b.upload(b.write("f", new[:MIB] + new[MIB + 3 :], mine.id), base=b.remote("f"))
    assert b.line.up - up < 10_000


def test_a_version_is_fetched_while_it_is_sent(two: tuple[Computer, Computer]) -> None:
    a, b = two
    plain = noise(40 * MIB, 3)
    clock = SystemClock()
    a.transfers.tools = Tools(
        **{**vars(a.tools), "up": RateLimit(20 * MIB, clock, time.sleep)},
    )
    node = a.write("stream", plain)
    b.listen()
    sending = threading.Thread(target=a.upload, args=(node,))
    sending.start()
    row = wait_until(lambda: b.announced("stream"), timeout_s=20, what="the announcement")
    b.transfers.prefetch(row, "/stream")
    sending.join()
    down = b.line.down
    b.get("stream")
    assert b.line.down - down < 5000
    assert b.read("stream") == plain
