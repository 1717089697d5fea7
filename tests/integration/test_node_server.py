"""The node's server against a real NodePeer over loopback with CURVE; disks whose I/O the test controls."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from node.protocol.client import NodePeer
from node.protocol.errors import (
    BadRequest,
    DeadlinePassed,
    DiskFailed,
    DiskFull,
    DiskUnknown,
    NodeBusy,
    NodeUnreachable,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StaleEpoch,
)
from node.protocol.messages import (
    AdvanceEpoch,
    Buffer,
    Done,
    GetShard,
    Hello,
    Inventory,
    ListShards,
    PutDone,
    PutShards,
    ShardFound,
    Status,
    TrashDone,
    TrashShards,
    Verified,
    VerifyShards,
)
from node.volumes.disk import DiskSettings
from node.volumes.disk_io import RealDiskIO
from node.volumes.health import Thresholds
from node.volumes.identity import Identity, format_disk
from node.volumes.store import StoreSettings
from tests.kit.node_process import ServerThread, make_disk_id, make_keys, wait_until_ready
from tests.kit.shards import BAD_DISK, ForgetfulIO, flip_bit, make_meta, make_name

DISK = make_disk_id(1)
Test = Callable[[NodePeer], Awaitable[None]]


class GatedIO(RealDiskIO):
    """A disk that hangs in fdatasync while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    async def wait_until_hung(self) -> None:
        assert await asyncio.to_thread(self.waiting.wait, 10)

    def fdatasync(self, descriptor: int) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(60)
        super().fdatasync(descriptor)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    servers: list[ServerThread] = []

    def start_one(**options: Any) -> ServerThread:
        servers.append(ServerThread(tmp_path, **options))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


def talk(server: ServerThread, test: Test) -> None:
    async def run() -> None:
        with server.peer() as peer:
            await test(peer)

    asyncio.run(run())


async def put(
    peer: NodePeer, number: int, payload: Buffer, *, disk: str = DISK, timeout_s: float = 10, **more: int
) -> None:
    meta = make_meta(number, bytes(payload), **more)
    result, _ = await peer.request(PutShards(disk, (meta,)), (payload,), timeout_s=timeout_s)
    assert result == PutDone()


async def get(peer: NodePeer, number: int, *, disk: str = DISK) -> bytes:
    result, payload = await peer.request(GetShard(disk, make_name(number)), timeout_s=10)
    assert isinstance(result, ShardFound)
    assert payload is not None
    return bytes(payload)


def test_every_operation_answers(start: Callable[..., ServerThread]) -> None:
    async def test(peer: NodePeer) -> None:
        status = await wait_until_ready(peer)
        assert (status.cluster_id, status.node) == ("c" * 32, "node1")
        assert [disk.state for disk in status.disks] == ["ok", "ok"]
        big = random.Random(1).randbytes(1 << 20)
        metas = tuple(make_meta(number, payload) for number, payload in ((1, b"one"), (2, big), (3, b"three")))
        result, _ = await peer.request(PutShards(DISK, metas), (b"one", big, b"three"), timeout_s=10)
        assert result == PutDone()
        assert [await get(peer, number) for number in (1, 2, 3)] == [b"one", big, b"three"]
        found, payload = await peer.request(GetShard(DISK, make_name(2)), timeout_s=10)
        assert found == ShardFound(metas[1])
        assert isinstance(payload, memoryview)
        page, _ = await peer.request(ListShards(DISK, make_name(1), 2), timeout_s=10)
        assert isinstance(page, Inventory)
        assert ([row.payload_bytes for row in page.rows], page.complete) == ([1 << 20, 5], False)
        names = (make_name(1), make_name(9))
        trashed, _ = await peer.request(TrashShards(DISK, 1, 1, names), timeout_s=10)
        assert trashed == TrashDone(1)
        verified, _ = await peer.request(VerifyShards(DISK, (make_name(1), make_name(2))), timeout_s=10)
        assert verified == Verified(("shard_missing", "ok"))
        with pytest.raises(ShardMissing):
            await get(peer, 1)
        with pytest.raises(ShardMissing):
            await get(peer, 2, disk=make_disk_id(2))

    talk(start(ios=[RealDiskIO(), RealDiskIO()]), test)


def test_many_requests_at_once_are_each_answered(start: Callable[..., ServerThread]) -> None:
    async def test(peer: NodePeer) -> None:
        payloads = {number: random.Random(number).randbytes(1000 * number) for number in range(1, 101)}
        await asyncio.gather(*(put(peer, number, payload) for number, payload in payloads.items()))
        found = await asyncio.gather(*(get(peer, number) for number in payloads))
        assert found == list(payloads.values())

    server = start()
    talk(server, test)
    store = server.disks[DISK].store
    assert store is not None
    assert store.counts.commits < 100


def test_a_foreign_key_is_refused_and_does_not_hinder_others(start: Callable[..., ServerThread]) -> None:
    server = start()

    async def run() -> None:
        with server.peer(make_keys()) as foreign, server.peer() as peer:
            with pytest.raises(NodeUnreachable):
                await foreign.request(Hello(), timeout_s=5)
            assert not foreign.connected
            await put(peer, 1, b"mine")
            with pytest.raises(NodeUnreachable):
                await foreign.request(GetShard(DISK, make_name(1)), timeout_s=5)

    asyncio.run(run())
    assert server.server.gate.refused >= 1


def test_an_older_epoch_is_refused_everywhere_also_after_a_restart(
    start: Callable[..., ServerThread], tmp_path: Path
) -> None:
    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"one", group_epoch=2)
        result, _ = await peer.request(AdvanceEpoch(1, 7), timeout_s=10)
        assert result == Done()
        for disk in (DISK, make_disk_id(2)):
            with pytest.raises(StaleEpoch):
                await put(peer, 2, b"late", group_epoch=6, disk=disk)
        with pytest.raises(StaleEpoch):
            await peer.request(TrashShards(DISK, 6, 1, (make_name(1),)), timeout_s=10)
        with pytest.raises(StaleEpoch):
            await peer.request(AdvanceEpoch(1, 6), timeout_s=10)
        await put(peer, 2, b"in time", group_epoch=7)

    server = ServerThread(tmp_path, ios=[RealDiskIO(), RealDiskIO()])
    talk(server, test)
    server.stop()

    async def again(peer: NodePeer) -> None:
        with pytest.raises(StaleEpoch):
            await put(peer, 3, b"late", group_epoch=6, disk=make_disk_id(2))
        assert await get(peer, 1) == b"one"

    talk(start(ios=[RealDiskIO(), RealDiskIO()], format_=False), again)


def test_refusals_say_why(start: Callable[..., ServerThread]) -> None:
    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"one")
        await put(peer, 1, b"one")
        with pytest.raises(ShardConflict):
            await put(peer, 1, b"other")
        with pytest.raises(DiskUnknown):
            await put(peer, 1, b"one", disk="f" * 32)
        with pytest.raises(BadRequest):
            await peer.request(PutShards(DISK, (make_meta(2, b"sent"),)), (b"came",), timeout_s=10)
        with pytest.raises(NodeUnreachable):  # it breaks a limit: there is no answer to what cannot be read
            await peer.request(PutShards(DISK, (make_meta(2, b"sent"),)), (), timeout_s=0.3)
        await put(peer, 2, b"sent")

    talk(start(), test)


def test_a_flipped_bit_is_never_served(start: Callable[..., ServerThread], tmp_path: Path) -> None:
    payload = random.Random(3).randbytes(50_000)

    async def test(peer: NodePeer) -> None:
        await put(peer, 1, payload)
        flip_bit(tmp_path / "disk1" / "volumes" / "00000001.volume", 4096 + 256 + 33_333)
        with pytest.raises(ShardCorrupt):
            await get(peer, 1)
        verified, _ = await peer.request(VerifyShards(DISK, (make_name(1),)), timeout_s=10)
        assert verified == Verified(("shard_corrupt",))
        await put(peer, 1, payload)
        assert await get(peer, 1) == payload

    talk(start(), test)


def test_a_hung_disk_says_busy_and_late_and_the_other_disk_works_on(start: Callable[..., ServerThread]) -> None:
    io = GatedIO()
    server = start(ios=[io, RealDiskIO()], settings=DiskSettings(queue_jobs_max=3))

    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"before")
        io.gate.clear()
        stuck = asyncio.ensure_future(put(peer, 2, b"x"))
        await io.wait_until_hung()
        queued = [asyncio.ensure_future(put(peer, number, b"y")) for number in (3, 4, 5)]
        await wait_until_queued(server, 3)
        with pytest.raises(NodeBusy):
            await put(peer, 6, b"z")
        await put(peer, 7, b"elsewhere", disk=make_disk_id(2))
        assert await get(peer, 1) == b"before"
        assert (await wait_until_ready(peer)).disks[0].queued == 3
        io.gate.set()
        await asyncio.gather(stuck, *queued)
        assert await get(peer, 5) == b"y"

    talk(server, test)


async def wait_until_queued(server: ServerThread, count: int) -> None:
    deadline = time.monotonic() + 10
    while server.disks[DISK].queued < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_a_request_whose_deadline_passes_in_the_queue_is_not_done(start: Callable[..., ServerThread]) -> None:
    io = GatedIO()
    server = start(ios=[io])

    async def test(peer: NodePeer) -> None:
        io.gate.clear()
        stuck = asyncio.ensure_future(put(peer, 1, b"x"))
        await io.wait_until_hung()
        # The node's clock must run out before the peer's, or the refusal would come too late to be seen.
        patient = peer.request(PutShards(DISK, (make_meta(2, b"late"),)), (b"late",), timeout_s=0.2)
        with pytest.raises(NodeUnreachable):
            await patient
        io.gate.set()
        await stuck
        with pytest.raises(ShardMissing):
            await get(peer, 2)
        assert server.server.counts.refusals[DeadlinePassed.code] == 1

    talk(server, test)


def test_late_requests_leave_the_queue_of_a_hung_disk(start: Callable[..., ServerThread]) -> None:
    io = GatedIO()
    server = start(ios=[io])

    async def test(peer: NodePeer) -> None:
        io.gate.clear()
        stuck = asyncio.ensure_future(put(peer, 1, b"x"))
        await io.wait_until_hung()
        with pytest.raises(NodeUnreachable):
            await put(peer, 2, b"late", timeout_s=0.1)
        deadline = time.monotonic() + 10
        while server.disks[DISK].queued:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        io.gate.set()
        await stuck

    talk(server, test)


def test_a_failed_fsync_is_never_acknowledged_and_reads_go_on(start: Callable[..., ServerThread]) -> None:
    io = ForgetfulIO()
    server = start(ios=[io])

    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"safe")
        io.fail_sync = BAD_DISK
        with pytest.raises(DiskFailed):
            await put(peer, 2, b"lost")
        io.fail_sync = None
        with pytest.raises(DiskFailed):
            await put(peer, 3, b"refused")
        assert await get(peer, 1) == b"safe"
        status = await wait_until_ready(peer)
        assert (status.disks[0].state, "fdatasync" in status.disks[0].reason) == ("failed", True)

    talk(server, test)


def test_a_foreign_disk_is_told_and_the_others_serve(start: Callable[..., ServerThread], tmp_path: Path) -> None:
    first = ServerThread(tmp_path, ios=[RealDiskIO(), RealDiskIO()])
    first.stop()
    os.rename(tmp_path / "disk1", tmp_path / "swap")
    (tmp_path / "disk1").mkdir()

    async def test(peer: NodePeer) -> None:
        status = await wait_until_ready(peer)
        assert [disk.state for disk in status.disks] == ["foreign", "ok"]
        assert "mounted" in status.disks[0].reason
        with pytest.raises(DiskUnknown):
            await put(peer, 1, b"one")
        await put(peer, 1, b"one", disk=make_disk_id(2))

    talk(start(ios=[RealDiskIO(), RealDiskIO()], format_=False), test)
    assert list((tmp_path / "disk1").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk1"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_refuses_writes_keeps_what_it_has_and_still_deletes(
    small_disk: Path, tmp_path: Path, start: Callable[..., ServerThread]
) -> None:
    format_disk(small_disk, Identity(cluster_id="c" * 32, node="node1", disk_id=DISK))
    settings = DiskSettings(
        store=StoreSettings(volume_bytes=4 << 20, trash_keep_s=0.0, reserve_bytes=1 << 20),
        thresholds=Thresholds(98, 99, 100),  # so that the end of the device is really met
    )
    size = 500_000

    async def test(peer: NodePeer) -> None:
        held: list[int] = []
        with pytest.raises(DiskFull):
            for number in range(100):
                await put(peer, number, random.Random(number).randbytes(size))
                held.append(number)
        assert 30 < len(held) < 50
        for number in held:
            assert await get(peer, number) == random.Random(number).randbytes(size)
        assert (await wait_until_ready(peer)).disks[0].state == "read_only"
        names = tuple(make_name(number) for number in held[:20])
        trashed, _ = await peer.request(TrashShards(DISK, 1, 1, names), timeout_s=10)
        assert trashed == TrashDone(20)
        assert await get(peer, held[-1]) == random.Random(held[-1]).randbytes(size)

    server = start(settings=settings, format_=False)
    talk(server, test)


def test_a_peer_that_was_cancelled_or_timed_out_ignores_the_late_answer(start: Callable[..., ServerThread]) -> None:
    io = GatedIO()

    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"x")
        io.gate.clear()
        task = asyncio.ensure_future(put(peer, 2, b"y"))
        await io.wait_until_hung()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert peer.in_flight == 0
        io.gate.set()
        await put(peer, 3, b"z")
        assert await get(peer, 2) == b"y"

    talk(start(ios=[io]), test)


def test_a_peer_bounds_what_it_has_in_flight(start: Callable[..., ServerThread]) -> None:
    io = GatedIO()
    server = start(ios=[io])

    async def run() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        peer = NodePeer(
            context,
            server.address,
            server_key=server.keys.public,
            public_key=server.peer_keys.public,
            secret_key=server.peer_keys.secret,
            in_flight_max=2,
        )
        await wait_until_ready(peer)
        io.gate.clear()
        tasks = [asyncio.ensure_future(put(peer, number, b"x")) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(NodeBusy):
            await put(peer, 3, b"x")
        io.gate.set()
        await asyncio.gather(*tasks)
        await put(peer, 3, b"x")
        peer.close()
        context.term()

    asyncio.run(run())


def test_garbage_on_the_wire_hurts_nobody(start: Callable[..., ServerThread]) -> None:
    server = start()
    frames: Sequence[list[bytes]] = ([b""], [b"x" * 100], [b"\x01" + bytes(20)], [b"", b"", b""], [os.urandom(2 << 20)])

    async def test(peer: NodePeer) -> None:
        with server.peer() as other:
            await put(other, 1, b"one")
            for message in frames:
                other._socket.send_multipart(message, zmq.NOBLOCK)
            await put(other, 2, b"two")
        await put(peer, 3, b"three")
        assert await get(peer, 2) == b"two"

    talk(server, test)
    assert server.server.counts.refusals[BadRequest.code] == len(frames)


def test_a_status_tells_how_full_the_disk_is(start: Callable[..., ServerThread]) -> None:
    async def test(peer: NodePeer) -> None:
        await put(peer, 1, b"x" * 1000)
        result, _ = await peer.request(Hello(), timeout_s=5)
        assert isinstance(result, Status)
        [disk] = result.disks
        assert (disk.state, disk.shards, disk.queued) == ("ok", 1, 0)
        assert 0 < disk.used_bytes < disk.size_bytes

    talk(start(), test)
