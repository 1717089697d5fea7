"""Moving contents between a disk in memory and the service's twin: what travels, what is refused, what goes on after
breaks. Files are of random bytes with fixed seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from client.api import Api
from client.connection import Answer
from client.errors import Refused, Unreachable
from client.fs.base import OWN_FOLDER, Path
from client.fs.fake import FakeDisk, FakeFileSystem
from client.sync.engine.apply import Outcome, Placed, Stale, Stuck, Told, Unavailable
from client.sync.store.reader import SyncedContent
from client.sync.transfer import fetch as fetching
from client.sync.transfer import send
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.transfer.contents import Fetched, Learned, Sent, Tools
from client.sync.transfer.jobs import Job, OneByOne
from client.sync.transfer.limits import RateLimit
from client.sync.transfer.prefetch import PATIENCE_S, WAIT_S
from client.sync.transfer.transfers import Transfers
from client.sync.tree import Content, LocalId, LocalNode, PendingUpload, RemoteId, RemoteNode
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from coordinator.protocol.types import Kind
from node.base.clock import SystemClock
from tests.kit.contents import MIB, Memory, blocks_of, digest_of, noise
from tests.kit.sim_service import ROOT_ID, SimConnection, SimService, sim_api


class Line(SimConnection):
    """Counts what travels. `on_call` sees each call first, and may raise."""

    def __init__(self, service: SimService, device: int) -> None:
        super().__init__(service, device)
        self.up = self.down = 0
        self.log: list[str] = []
        self.on_call: Callable[[str, str], None] = lambda method, path: None

    def call(self, method: str, path: str, **details: Any) -> Answer:
        self.on_call(method, path)
        self.log.append(f"{method} {path.removeprefix('/api/v1').split('?')[0]}")
        answer = super().call(method, path, **details)
        self.up += len(details.get("body") or b"")
        self.down += len(answer.body)
        return answer

    def count(self, beginning: str) -> int:
        return sum(entry.startswith(beginning) for entry in self.log)


class Device:
    """One computer: a disk, a line, and the transfers."""

    def __init__(self, service: SimService, number: int = 1) -> None:
        self.service = service
        self.disk = FakeDisk(SystemClock(), device=number)
        self.fs = FakeFileSystem(self.disk)
        self.fs.write_marker(b"{}")
        self.line = Line(service, number)
        self.api: Api = sim_api(self.line)
        self.memory = Memory()
        self.waited: list[float] = []
        self.ids = itertools.count(2)
        keys = itertools.count()
        clock = SystemClock()
        self.tools = Tools(
            fs=self.fs,
            service=self.api,
            known=self.memory,
            parallel=OneByOne(),
            up=RateLimit(None, clock, self.waited.append),
            down=RateLimit(None, clock, self.waited.append),
            pause=self.waited.append,
            new_key=lambda: f"key {next(keys)} of {number}",
        )
        self.transfers = Transfers(self.tools, clock)

    def write(self, name: str, plain: bytes, local_id: LocalId | None = None) -> LocalNode:
        self.disk.user.write_in_place((name,), plain)
        node = LocalNode(
            local_id or LocalId(next(self.ids)),
            LocalId(1),
            name,
            Kind.FILE,
            self.fs.stat((name,)).stamp(),
            Content(digest_of(plain)),
        )
        self.memory.read[node.id] = (digest_of(plain), list(blocks_of(plain)))
        return node

    def to_upload(self, node: LocalNode, base: RemoteNode | None = None) -> ToUpload:
        previous = base.content.digest if base is not None and base.content is not None else None
        return ToUpload(node, (node.name,), f"/{node.name}", RemoteId(ROOT_ID), base, previous)

    def upload(self, *nodes: LocalNode, base: RemoteNode | None = None) -> list[Outcome]:
        outcomes = self.transfers.upload([self.to_upload(node, base) for node in nodes])
        for node, outcome in zip(nodes, outcomes, strict=True):
            if isinstance(outcome, Sent) and outcome.learned is not None:
                self.memory.learned[node.id] = outcome.learned
        return outcomes

    def send(self, node: LocalNode, base: RemoteNode | None = None) -> RemoteNode:
        (outcome,) = self.upload(node, base=base)
        assert isinstance(outcome, Told), outcome
        return self.remote(node.name)

    def remote(self, name: str) -> RemoteNode:
        metadata = self.service.metadata(self.service._find(f"/{name}"))
        assert metadata.content_hash is not None
        return RemoteNode(
            RemoteId(metadata.id),
            RemoteId(ROOT_ID),
            name,
            Kind.FILE,
            metadata.version,
            metadata.size,
            Content(bytes.fromhex(metadata.content_hash), metadata.executable),
            1_600_000_000_123_456_000,
        )

    def download(self, name: str, replaces: LocalNode | None = None) -> Outcome:
        remote = self.remote(name)
        (outcome,) = self.transfers.download([ToDownload(remote, f"/{name}", (name,), replaces)])
        return outcome

    def get(self, name: str, replaces: LocalNode | None = None) -> LocalNode:
        """Downloads and remembers, as the engine does."""
        outcome = self.download(name, replaces)
        assert isinstance(outcome, Fetched), outcome
        assert outcome.learned is not None
        local_id = replaces.id if replaces is not None else LocalId(next(self.ids))
        self.memory.learned[local_id] = outcome.learned
        self.memory.hold((name,), outcome.learned.blocks)
        return LocalNode(local_id, LocalId(1), name, Kind.FILE, outcome.stamp, self.remote(name).content)

    def read(self, name: str) -> bytes:
        return self.disk.user.read((name,))

    def temps(self) -> dict[Path, bytes]:
        return self.disk.user.files((OWN_FOLDER, "temp"))


@pytest.fixture
def service() -> SimService:
    return SimService()


@pytest.fixture
def a(service: SimService) -> Device:
    return Device(service, 1)


@pytest.fixture
def b(service: SimService) -> Device:
    return Device(service, 2)


def content_of(service: SimService, name: str) -> bytes:
    return service.content(service._find(f"/{name}").current)


# --- small files up ---------------------------------------------------------------------------------------------


def test_a_small_file_takes_two_calls(service: SimService, a: Device) -> None:
    plain = noise(100_000, 1)
    node = a.write("f", plain)
    (outcome,) = a.upload(node)
    assert isinstance(outcome, Sent)
    assert outcome.learned == Learned(digest_of(plain), blocks_of(plain))
    assert content_of(service, "f") == plain
    assert a.line.log == ["POST /blocks/batch", "POST /files/commit"]


def test_many_small_files_share_calls(service: SimService, a: Device) -> None:
    nodes = [a.write(f"f{number}", noise(number * 1000, number)) for number in range(100)]
    outcomes = a.upload(*nodes)
    assert all(isinstance(outcome, Told) for outcome in outcomes)
    assert [content_of(service, f"f{number}") for number in range(100)] == [noise(n * 1000, n) for n in range(100)]
    assert a.line.log == ["POST /blocks/missing", "POST /blocks/batch", "POST /files/commit"]


def test_what_does_not_fit_one_call_is_sent_in_several(service: SimService, a: Device) -> None:
    nodes = [a.write(f"f{number}", noise(3 * MIB, number)) for number in range(4)]
    assert all(isinstance(outcome, Told) for outcome in a.upload(*nodes))
    assert a.line.count("POST /files/commit") == 2


def test_a_copy_of_another_file_does_not_travel(service: SimService, a: Device) -> None:
    plain = noise(100_000, 1)
    first, second = a.write("f", plain), a.write("g", plain)
    a.send(first)
    a.memory.places[hash_block(plain)] = [(("f",), 0), (("g",), 0)]
    before = a.line.up
    a.send(second)
    assert a.line.up - before < 1000


def test_each_file_of_a_batch_has_its_own_outcome(service: SimService, a: Device) -> None:
    good, changed, gone, conflict = (
        a.write(name, name.encode() * 100) for name in ("good", "changed", "gone", "there")
    )
    a.send(conflict)
    a.disk.user.write_in_place(("changed",), b"something else")
    a.disk.user.delete(("gone",))
    outcomes = a.upload(good, changed, gone, conflict)
    assert isinstance(outcomes[0], Told)
    assert outcomes[1:3] == [Stale(local=True), Stale(local=True)]
    # The same content is there already, so this one is no conflict.
    assert isinstance(outcomes[3], Told)


def test_a_newer_version_is_told_as_stale(service: SimService, a: Device, b: Device) -> None:
    base = a.send(a.write("f", b"one"))
    b.send(b.write("f", b"two"), base)
    node = a.write("f", b"three")
    assert a.upload(node, base=base) == [Stale(remote=True)]
    assert content_of(service, "f") == b"two"


def test_another_file_at_the_same_path_is_not_replaced(service: SimService, a: Device) -> None:
    base = a.send(a.write("f", b"one"))
    service._trash(service._find("/f"), None)
    service._live[ROOT_ID].pop("f", None)
    other = a.send(a.write("g", b"other"))
    service.nodes[other.id].name = "f"
    service._appear(service.nodes[other.id])
    assert a.upload(a.write("f", b"mine"), base=base) == [Stale(remote=True)]


def test_an_empty_file(service: SimService, a: Device, b: Device) -> None:
    a.send(a.write("empty", b""))
    assert content_of(service, "empty") == b""
    b.get("empty")
    assert b.read("empty") == b""


def test_without_the_service_all_are_unavailable(a: Device) -> None:
    def refuse(method: str, path: str) -> None:
        raise Unreachable(url="", reason="it is gone")

    a.line.on_call = refuse
    outcomes = a.upload(a.write("f", b"f"), a.write("g", b"g"), a.write("large", noise(5 * MIB, 1)))
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable, Unavailable]


def test_a_full_quota_is_told(service: SimService, a: Device) -> None:
    service.quota = 10
    for size in (100, 5 * MIB):
        (outcome,) = a.upload(a.write("f", noise(size, 1)))
        assert isinstance(outcome, Stuck)
        assert (outcome.code, outcome.blocks_all) == ("quota_exceeded", True)


# --- large files up ---------------------------------------------------------------------------------------------


def test_a_large_file_is_announced_before_its_blocks_travel(service: SimService, a: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain))
    assert content_of(service, "f") == plain
    assert a.line.log[0] == "POST /files/announce"
    assert a.line.count("PUT /blocks/") == 3


def test_a_file_that_was_not_read_before_is_hashed(service: SimService, a: Device) -> None:
    node = a.write("f", noise(9 * MIB, 1))
    a.memory.read.clear()
    a.send(node)
    assert content_of(service, "f") == noise(9 * MIB, 1)


def test_wrong_knowledge_of_the_blocks_is_found_out(a: Device) -> None:
    node = a.write("f", noise(5 * MIB, 1))
    a.memory.read[node.id] = (digest_of(noise(5 * MIB, 1)), list(blocks_of(noise(5 * MIB, 2))))
    (outcome,) = a.upload(node)
    assert outcome == Stale(local=True)


def test_only_blocks_that_the_service_lacks_travel(service: SimService, a: Device) -> None:
    plain = noise(13 * MIB, 1)
    a.send(a.write("f", plain))
    before = a.line.up
    a.send(a.write("g", plain[: 8 * MIB] + noise(5 * MIB, 2)))
    assert a.line.up - before < 5 * MIB + 5000


def test_an_upload_that_broke_off_goes_on(service: SimService, a: Device) -> None:
    node = a.write("f", noise(20 * MIB, 1))
    sent = itertools.count()

    def break_off(method: str, path: str) -> None:
        if method == "PUT" and next(sent) == 3:
            raise Unreachable(url="", reason="the line broke")

    a.line.on_call = break_off
    (outcome,) = a.upload(node)
    assert isinstance(outcome, Unavailable)
    a.line.on_call = lambda method, path: None
    before = a.line.up
    a.send(node)
    assert content_of(service, "f") == noise(20 * MIB, 1)
    assert a.line.up - before < 8 * MIB + 5000


def test_blocks_that_the_service_let_go_are_sent_again(service: SimService, a: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain[:8_000_000]))

    def forget(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            service.blocks.pop(blocks_of(plain)[0].hex(), None)
            a.line.on_call = lambda method, path: None

    a.line.on_call = forget
    a.send(a.write("g", plain))
    assert content_of(service, "g") == plain


def test_a_small_file_whose_block_was_let_go_is_sent_by_itself(service: SimService, a: Device) -> None:
    def forget(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            service.blocks.clear()
            a.line.on_call = lambda method, path: None

    a.line.on_call = forget
    a.send(a.write("f", b"small"))
    assert content_of(service, "f") == b"small"


def test_a_file_that_changes_while_it_is_sent_is_stale(service: SimService, a: Device) -> None:
    node = a.write("f", noise(9 * MIB, 1))

    def edit(method: str, path: str) -> None:
        if method == "PUT":
            with a.disk.user.open_for_writing(("f",)) as write:
                write(6 * MIB, b"edited")
            a.line.on_call = lambda method, path: None

    a.line.on_call = edit
    assert a.upload(node) == [Stale(local=True)]
    with pytest.raises(Exception, match="no such file"):
        service._find("/f")


def test_a_file_that_gets_shorter_while_it_is_sent_is_stale(a: Device) -> None:
    node = a.write("f", noise(9 * MIB, 1))

    def shorten(method: str, path: str) -> None:
        if method == "PUT":
            a.disk.truncate(a.disk.find(("f",)), 100)

    a.line.on_call = shorten
    assert a.upload(node) == [Stale(local=True)]


def test_another_file_with_the_same_name_is_stale(a: Device) -> None:
    node = a.write("f", noise(5 * MIB, 1))
    a.disk.user.delete(("f",))
    a.disk.user.write_in_place(("f",), noise(5 * MIB, 1))
    assert a.upload(node) == [Stale(local=True)]


# --- deltas up --------------------------------------------------------------------------------------------------


def sent_again(device: Device, old: bytes, new: bytes) -> int:
    """Bytes that travel up for the second version."""
    node = device.write("f", old)
    base = device.send(node)
    before = device.line.up
    device.send(device.write("f", new, node.id), base)
    assert content_of(device.service, "f") == new
    return device.line.up - before


def test_an_inserted_byte_travels_almost_alone(a: Device) -> None:
    old = noise(30 * MIB + 1000, 1)
    assert sent_again(a, old, b"x" + old) < 3000
    assert a.line.count("PUT /blocks/") == 8  # of the first version


def test_an_edit_in_a_medium_file_is_a_delta(a: Device) -> None:
    old = noise(2 * MIB, 1)
    assert sent_again(a, old, old[:MIB] + b"inserted" + old[MIB:]) < 6000


def test_an_overwritten_part_travels_with_little_more(a: Device) -> None:
    old = noise(20 * MIB, 1)
    assert sent_again(a, old, old[: 9 * MIB] + noise(MIB, 2) + old[10 * MIB :]) < MIB + 10_000


def test_what_has_nothing_in_common_travels_whole(a: Device) -> None:
    assert 9 * MIB < sent_again(a, noise(9 * MIB, 1), noise(9 * MIB, 2)) < 9 * MIB + 5000
    assert a.line.count("POST /blocks/delta") == 0


def test_an_edit_after_an_edit_is_a_delta_too(a: Device) -> None:
    """The signatures of blocks that did not travel are taken over from the version before."""
    versions = [noise(20 * MIB, 1)]
    for number in range(3):
        versions.append(versions[-1][: number * 7 * MIB] + b"inserted" + versions[-1][number * 7 * MIB :])
    node = a.write("f", versions[0])
    base = a.send(node)
    before = a.line.up
    for plain in versions[1:]:
        base = a.send(a.write("f", plain, node.id), base)
        assert content_of(a.service, "f") == plain
    assert a.line.up - before < 30_000


def test_signatures_of_another_version_are_not_used(a: Device) -> None:
    old = noise(9 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    a.memory.learned[node.id] = replace(a.memory.learned[node.id], digest=bytes(32))
    a.send(a.write("f", b"x" + old, node.id), base)
    assert a.line.count("POST /blocks/delta") == 0


def test_damaged_signatures_only_cost_bytes(a: Device) -> None:
    old = noise(9 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    known = a.memory.learned[node.id]
    a.memory.learned[node.id] = replace(known, signatures=noise(len(known.signatures or b""), 5))
    a.send(a.write("f", b"x" + old, node.id), base)
    assert content_of(a.service, "f") == b"x" + old


def test_copies_that_are_wrong_are_sent_whole(service: SimService, a: Device) -> None:
    """As if two pieces had the same strong hash: the service's check of the block finds it."""
    old, lie = noise(9 * MIB, 1), noise(9 * MIB, 2)
    node = a.write("f", old)
    base = a.send(node)
    other = a.write("other", lie)
    a.send(other)
    a.memory.learned[node.id] = replace(a.memory.learned[other.id], digest=digest_of(old))
    new = lie[:MIB] + b"x" + lie[MIB:]
    a.send(a.write("f", new, node.id), base)
    assert content_of(service, "f") == new
    assert a.line.count("POST /blocks/delta") == 1


@pytest.mark.parametrize("code", ["not_found", "bad_request"])
def test_a_base_that_is_gone_costs_the_whole_file(service: SimService, a: Device, code: str) -> None:
    old = noise(9 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)

    def refuse(method: str, path: str) -> None:
        if path.startswith("/api/v1/blocks/delta"):
            raise Refused(404 if code == "not_found" else 400, {"code": code})

    a.line.on_call = refuse
    a.send(a.write("f", b"x" + old, node.id), base)
    assert content_of(service, "f") == b"x" + old


def test_delta_requests_keep_within_the_limits(a: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_DELTA_BYTES", 100_000)
    old = noise(20 * MIB, 1)
    new = b"".join(old[at : at + 400_000] + b"x" for at in range(0, len(old), 400_000))
    sent_again(a, old, new)
    assert a.line.count("POST /blocks/delta") > 2


def test_a_huge_base_is_searched_in_windows(a: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_BASE_WINDOW", 4)
    monkeypatch.setattr(send, "_BASE_STEP", 1)
    old = noise(40 * MIB, 1)
    assert sent_again(a, old, b"x" + old) < 100_000


# --- down -------------------------------------------------------------------------------------------------------


def test_a_downloaded_file_is_whole_and_dressed(a: Device, b: Device) -> None:
    for name, size in (("small", 1000), ("medium", 3 * MIB), ("large", 9 * MIB + 5)):
        plain = noise(size, size)
        a.send(a.write(name, plain))
        node = b.get(name)
        assert b.read(name) == plain
        assert node.stamp.mtime_ns == 1_600_000_000_123_456_000
        assert b.memory.learned[node.id].blocks == blocks_of(plain)
    assert b.temps() == {}


def test_an_edit_of_what_was_downloaded_is_a_delta(a: Device, b: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain))
    node = b.get("f")
    b.send(b.write("f", b"x" + plain, node.id), b.remote("f"))
    assert b.line.up < 5000


def test_a_download_that_broke_off_goes_on(a: Device, b: Device) -> None:
    a.send(a.write("f", noise(20 * MIB, 1)))
    fetched = itertools.count()

    def break_off(method: str, path: str) -> None:
        if path.startswith("/api/v1/blocks/") and next(fetched) == 3:
            raise Unreachable(url="", reason="the line broke")

    b.line.on_call = break_off
    assert isinstance(b.download("f"), Unavailable)
    assert not b.disk.user.files()
    b.line.on_call = lambda method, path: None
    before = b.line.down
    b.get("f")
    assert b.line.down - before < 8 * MIB + 5000
    assert b.read("f") == noise(20 * MIB, 1)


def test_damage_in_a_part_is_fetched_again(a: Device, b: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain))
    with b.fs.open_temp(digest_of(plain).hex()) as temp:
        temp.write_at(0, plain[:BLOCK_BYTES] + b"damage" + plain[BLOCK_BYTES + 6 :] + b"and more behind the end")
    b.get("f")
    assert b.read("f") == plain
    assert b.line.count("GET /blocks/") == 1


def test_blocks_of_other_files_are_copied(a: Device, b: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain))
    b.get("f")
    a.send(a.write("copy", plain))
    before = b.line.down
    b.get("copy")
    assert b.line.down - before < 1000
    assert b.read("copy") == plain


def test_a_hint_that_is_outdated_is_not_believed(a: Device, b: Device) -> None:
    plain = noise(9 * MIB, 1)
    a.send(a.write("f", plain))
    b.write("other", noise(9 * MIB, 2))
    for block in blocks_of(plain):
        b.memory.places[block] = [(("gone",), 0), (("other",), 7), (("other",), 0)]
    b.get("f")
    assert b.read("f") == plain


def test_equal_blocks_travel_once(a: Device, b: Device) -> None:
    plain = bytes(20 * MIB)
    a.send(a.write("f", plain))
    b.get("f")
    assert b.read("f") == plain
    assert b.line.count("GET /blocks/") == 1


def test_bytes_that_are_not_the_wanted_ones_are_never_placed(service: SimService, a: Device, b: Device) -> None:
    for name, size in (("small", 1000), ("large", 9 * MIB)):
        a.send(a.write(name, noise(size, 1)))
        remote = replace(b.remote(name), content=Content(bytes(32)))
        (outcome,) = b.transfers.download([ToDownload(remote, f"/{name}", (name,), None)])
        assert outcome == Stale(remote=True)
    (block, *_) = blocks_of(noise(9 * MIB, 1))
    service.blocks[block.hex()] = noise(BLOCK_BYTES, 9)
    assert b.download("large") == Stale(remote=True)
    assert not b.disk.user.files()


def test_a_file_that_was_deleted_meanwhile_is_stale(service: SimService, a: Device, b: Device) -> None:
    for name, size in (("small", 1000), ("large", 9 * MIB)):
        a.send(a.write(name, noise(size, 1)))
        remote = b.remote(name)
        service.nodes.pop(remote.id)
        service._live[ROOT_ID].pop(name)
        (outcome,) = b.transfers.download([ToDownload(remote, f"/{name}", (name,), None)])
        assert outcome == Stale(remote=True)


def test_a_local_edit_during_the_download_is_kept(a: Device, b: Device) -> None:
    a.send(a.write("f", noise(9 * MIB, 1)))
    node = b.get("f")
    a.send(a.write("f", noise(9 * MIB, 2)), a.remote("f"))

    def edit(method: str, path: str) -> None:
        b.disk.user.write_in_place(("f",), b"my edit")

    b.line.on_call = edit
    assert b.download("f", node) == Stale(local=True)
    assert b.read("f") == b"my edit"
    # What was fetched is there for the next time.
    b.line.on_call = lambda method, path: None
    b.disk.user.delete(("f",))
    before = b.line.down
    b.get("f")
    assert b.line.down - before < 1000


def test_a_full_disk_is_told_before_anything_travels(a: Device, b: Device) -> None:
    a.send(a.write("f", noise(9 * MIB, 1)))
    b.disk.capacity = 5 * MIB
    outcome = b.download("f")
    assert isinstance(outcome, Stuck)
    assert (outcome.code, outcome.blocks_all) == ("disk_full", True)
    assert b.line.count("GET /blocks/") == 0


def test_what_was_sent_as_a_delta_is_fetched_as_one(service: SimService, a: Device, b: Device) -> None:
    old = noise(30 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    mine = b.get("f")
    new = b"x" + old[: 10 * MIB] + noise(10_000, 2) + old[10 * MIB :]
    a.send(a.write("f", new, node.id), base)
    announced(b, service)
    before = b.line.down
    b.get("f", mine)
    assert b.read("f") == new
    assert b.line.down - before < 25_000


def test_who_was_away_during_the_upload_uses_the_delta_as_well(service: SimService, a: Device, b: Device) -> None:
    old = noise(30 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    mine = b.get("f")
    a.send(a.write("f", b"x" + old, node.id), base)
    before = b.line.down
    told = ToDownload(b.remote("f"), "/f", ("f",), mine, list(service.uploads)[-1])
    (outcome,) = b.transfers.download([told])
    assert isinstance(outcome, Fetched)
    assert b.read("f") == b"x" + old
    assert b.line.down - before < 10_000


def test_a_delta_is_not_used_where_the_old_file_is_another(service: SimService, a: Device, b: Device) -> None:
    old = noise(9 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    b.get("f")
    b.memory.places.clear()
    mine = b.write("f", noise(9 * MIB, 3))
    a.send(a.write("f", b"x" + old, node.id), base)
    announced(b, service)
    b.get("f", mine)
    assert b.read("f") == b"x" + old


def announced(device: Device, service: SimService) -> None:
    """The device has heard of the last upload while it was pending."""
    upload = list(service.uploads.values())[-1]
    device.transfers.prefetch(pending(upload.id, service, size=0), "/f")


def pending(upload_id: str, service: SimService, *, size: int | None = None, remote_id: int = 0) -> PendingUpload:
    upload = service.uploads[upload_id]
    return PendingUpload(
        upload_id,
        RemoteId(remote_id),
        RemoteId(ROOT_ID),
        "f",
        upload.entry.size if size is None else size,
        Content(bytes.fromhex(upload.content)),
        1,
    )


def test_many_literals_are_fetched_in_few_ranges(service: SimService, a: Device, b: Device) -> None:
    old = noise(8 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    mine = b.get("f")
    new = bytearray(old)
    for at in range(0, MIB, 16_384):
        new[at] ^= 1
    a.send(a.write("f", bytes(new), node.id), base)
    announced(b, service)
    before = b.line.down
    b.get("f", mine)
    assert b.read("f") == bytes(new)
    assert b.line.down - before < 2 * MIB
    assert b.line.count("GET /blocks/") <= 2 + fetching.LITERAL_SPANS_MAX


# --- ahead ------------------------------------------------------------------------------------------------------


def test_a_version_is_fetched_while_it_arrives(service: SimService, a: Device, b: Device) -> None:
    plain = noise(17 * MIB, 1)
    started: list[str] = []

    def fetch_along(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            (upload_id,) = service.uploads
            started.append(upload_id)
            b.transfers.prefetch(pending(upload_id, service), "/f")

    a.line.on_call = fetch_along
    a.send(a.write("f", plain))
    assert started
    assert b.line.count("GET /blocks/") == 5
    assert list(b.temps().values()) == [plain]
    before = b.line.down
    b.get("f")
    assert b.line.down == before  # neither blocks nor the recipe
    assert b.read("f") == plain
    assert b.temps() == {}


def test_an_upload_that_ends_without_a_version_leaves_its_blocks_for_the_next(
    service: SimService, a: Device, b: Device
) -> None:
    plain = noise(9 * MIB, 1)

    def give_up(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            (upload_id,) = service.uploads
            last = blocks_of(plain)[2].hex()
            service.blocks.pop(last)
            b.line.on_call = lambda method, path: service.end_upload(upload_id) if last in path else None
            b.transfers.prefetch(pending(upload_id, service), "/f")
            raise Unreachable(url="", reason="gone")

    a.line.on_call = give_up
    a.upload(a.write("f", plain))
    assert not b.disk.user.files()
    a.line.on_call = lambda method, path: None
    a.send(a.write("f", plain))
    before = b.line.count("GET /blocks/")
    b.get("f")
    assert b.read("f") == plain
    assert b.line.count("GET /blocks/") - before == 1


def test_an_upload_that_stands_still_is_given_up(service: SimService, a: Device, b: Device) -> None:
    time = Time()

    def fetch_along(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            (upload_id,) = service.uploads
            arrived = {**service.blocks}
            service.blocks.clear()
            b.transfers.prefetch(pending(upload_id, service), "/f")
            service.blocks.update(arrived)

    def wait_in_vain(method: str, path: str) -> None:
        if path.startswith("/api/v1/blocks/"):
            time.at += WAIT_S

    b.transfers.clock = time
    a.line.on_call, b.line.on_call = fetch_along, wait_in_vain
    a.send(a.write("f", noise(17 * MIB, 1)))
    assert PATIENCE_S < time.at - 1000 <= PATIENCE_S + WAIT_S
    b.get("f")
    assert b.read("f") == noise(17 * MIB, 1)


def test_what_comes_as_a_delta_is_not_fetched_ahead(service: SimService, a: Device, b: Device) -> None:
    old = noise(20 * MIB, 1)
    node = a.write("f", old)
    base = a.send(node)
    mine = b.get("f")

    def fetch_along(method: str, path: str) -> None:
        if path.startswith("/api/v1/files/commit"):
            upload_id = list(service.uploads)[-1]
            b.transfers.prefetch(pending(upload_id, service, remote_id=base.id), "/f")

    a.line.on_call = fetch_along
    before = b.line.down
    a.send(a.write("f", b"x" + old, node.id), base)
    b.get("f", mine)
    assert b.read("f") == b"x" + old
    assert b.line.down - before < 10_000


def test_the_download_takes_over_from_a_prefetch_under_way(service: SimService, a: Device, b: Device) -> None:
    plain = noise(17 * MIB, 1)
    a.send(a.write("f", plain))
    outcomes: list[Outcome] = []

    def commit_meanwhile(method: str, path: str) -> None:
        if path.startswith("/api/v1/blocks/") and not outcomes:
            outcomes.append(Placed(b.fs.stat(()).stamp()))
            # The prefetch is at work in another worker: the download asks it to end and waits.
            b.transfers._ahead[digest_of(plain)] = False

    b.line.on_call = commit_meanwhile
    (upload_id,) = service.uploads
    b.transfers.prefetch(pending(upload_id, service), "/f")
    assert b.line.count("GET /blocks/") == 1
    b.get("f")
    assert b.read("f") == plain
    assert b.line.count("GET /blocks/") == 5


def test_a_download_waits_for_the_prefetch_to_end(a: Device, b: Device) -> None:
    a.send(a.write("f", noise(5 * MIB, 1)))
    digest = digest_of(noise(5 * MIB, 1))
    b.transfers._ahead[digest] = True

    def pause(seconds: float) -> None:
        assert b.transfers._ahead[digest] is False
        del b.transfers._ahead[digest]

    b.transfers.tools = replace(b.tools, pause=pause)
    b.get("f")
    assert b.read("f") == noise(5 * MIB, 1)


# --- limits and memory ------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds


def test_a_limit_spreads_what_travels(service: SimService) -> None:
    time = Time()
    device = Device(service)
    device.transfers.tools = replace(device.tools, up=RateLimit(MIB, time, time.pause))
    device.send(device.write("f", noise(20 * MIB, 1)))
    assert 15 <= time.at - 1000 <= 20


def test_both_directions_have_their_own_limit(a: Device, b: Device) -> None:
    time = Time()
    a.send(a.write("f", noise(20 * MIB, 1)))
    b.transfers.tools = replace(b.tools, down=RateLimit(2 * MIB, time, time.pause))
    b.get("f")
    assert 7 <= time.at - 1000 <= 10


def test_jobs_are_taken_as_they_are_needed(a: Device) -> None:
    """What is sent is bounded by how many jobs run, so they must not be listed beforehand."""

    @dataclass
    class Watching:
        lists: int = 0

        def run_all(self, jobs: Iterable[Job], at_once: int) -> None:
            assert not isinstance(jobs, list | tuple)
            assert at_once <= 6
            for job in jobs:
                job()

    a.transfers.tools = replace(a.tools, parallel=Watching())
    a.send(a.write("f", noise(9 * MIB, 1)))


# --- copies


def sync(device: Device, node: LocalNode) -> RemoteNode:
    """Send it and remember that both sides have it."""
    remote = device.send(node)
    know(device, node, remote)
    return remote


def know(device: Device, node: LocalNode, remote: RemoteNode) -> None:
    assert node.content is not None
    there = SyncedContent(remote.id, remote.version, node.id, (node.name,))
    device.memory.synced.setdefault(node.content.digest, []).append(there)


@pytest.mark.parametrize("size", [10_000, 2 * MIB, 3 * BLOCK_BYTES + 5])
def test_a_copy_is_stored_by_naming_what_it_is_a_copy_of(service: SimService, size: int) -> None:
    device = Device(service)
    plain = noise(size, 1)
    sync(device, device.write("f", plain))
    device.line.log.clear()
    device.line.up = device.line.down = 0
    copy = device.write("g", plain)
    (outcome,) = device.upload(copy)
    assert isinstance(outcome, Sent)
    assert outcome.learned is not None
    assert outcome.learned.blocks == blocks_of(plain)
    assert device.line.log == ["POST /files/commit"]
    assert device.line.up + device.line.down < 1000
    assert content_of(service, "g") == plain


def test_many_small_copies_go_together(service: SimService) -> None:
    device = Device(service)
    plains = [noise(1000, seed) for seed in range(50)]
    for number, plain in enumerate(plains):
        sync(device, device.write(f"f{number}", plain))
    device.line.log.clear()
    nodes = [device.write(f"g{number}", plain) for number, plain in enumerate(plains)]
    device.upload(*nodes, device.write("new", noise(1000, 99)))
    assert device.line.log == ["POST /blocks/batch", "POST /files/commit"]
    assert [content_of(service, f"g{number}") for number in range(50)] == plains


@pytest.mark.parametrize("size", [10_000, 2 * BLOCK_BYTES])
def test_what_was_a_copy_here_but_not_in_the_service_is_sent(service: SimService, size: int) -> None:
    device = Device(service)
    plain = noise(size, 1)
    remote = sync(device, device.write("f", noise(size, 2)))
    copy = device.write("g", plain)
    know(device, copy, remote)  # as after the service was restored from a backup
    (outcome,) = device.upload(copy)
    assert isinstance(outcome, Sent), outcome
    assert content_of(service, "g") == plain


@pytest.mark.parametrize("size", [10_000, 2 * MIB, 2 * BLOCK_BYTES + 5])
def test_what_a_local_file_holds_is_copied_without_asking(service: SimService, size: int) -> None:
    plain = noise(size, 1)
    sender, receiver = Device(service), Device(service, 2)
    remote = sender.send(sender.write("g", plain))
    know(receiver, receiver.write("f", plain), remote)
    outcome = receiver.download("g")
    assert isinstance(outcome, Fetched)
    assert outcome.learned is not None
    assert outcome.learned.blocks == blocks_of(plain)
    assert receiver.read("g") == plain
    assert receiver.line.log == []


@pytest.mark.parametrize("change", ["edited", "shorter", "gone"])
def test_a_local_file_that_is_not_what_it_was_is_no_source(service: SimService, change: str) -> None:
    plain = noise(2 * BLOCK_BYTES + 5, 1)
    sender, receiver = Device(service), Device(service, 2)
    remote = sender.send(sender.write("g", plain))
    know(receiver, receiver.write("f", plain), remote)
    if change == "gone":
        receiver.disk.user.delete(("f",))
    else:
        receiver.disk.user.write_in_place(("f",), plain[:-1] if change == "shorter" else b"!" + plain[1:])
    assert isinstance(receiver.download("g"), Fetched)
    assert receiver.read("g") == plain
