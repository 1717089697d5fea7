"""Real node processes: start, stop, kill -9, an fsync error, the command line, metrics."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.protocol.client import NodePeer
from node.protocol.errors import DiskFailed, NodeError, NodeUnreachable
from node.protocol.messages import AdvanceEpoch, GetShard, Hello, PutDone, PutShards, ShardFound
from tests.kit.node_process import NodeProcess, find_free_port, make_disk_id, wait_until_ready
from tests.kit.shards import make_meta, make_name

DISK = make_disk_id(1)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path)
    node.format()
    yield node
    node.stop()


def payload(number: int) -> bytes:
    return random.Random(number).randbytes(20_000 + number)


async def put(peer: NodePeer, number: int) -> None:
    data = payload(number)
    result, _ = await peer.request(PutShards(DISK, (make_meta(number, data),)), (data,), timeout_s=10)
    assert result == PutDone()


async def get(peer: NodePeer, number: int) -> bytes:
    result, data = await peer.request(GetShard(DISK, make_name(number)), timeout_s=10)
    assert isinstance(result, ShardFound)
    return bytes(data or b"")


def test_a_clean_stop_finishes_what_was_asked_and_exits_0(node: NodeProcess) -> None:
    async def run() -> None:
        with node.peer() as peer:
            await wait_until_ready(peer)
            puts = [asyncio.ensure_future(put(peer, number)) for number in range(30)]
            await asyncio.sleep(0)  # each has sent its request by now
            await peer.request(Hello(), timeout_s=5)  # taken in order, so the puts have arrived
            assert await asyncio.to_thread(node.kill, signal.SIGTERM) == 0
            await asyncio.gather(*puts)
            node.start()
            await wait_until_ready(peer)
            assert [await get(peer, number) for number in range(30)] == [payload(number) for number in range(30)]

    node.start()
    asyncio.run(run())
    events = [json.loads(line)["event"] for line in node.log.read_text().splitlines()]
    assert events.count("node.stopped") == 1
    assert "index.rebuilt" not in events


def test_kill_9_at_random_moments_loses_nothing_acknowledged(node: NodeProcess) -> None:
    choice = random.Random(7)
    acknowledged: list[int] = []

    async def put_until_killed(peer: NodePeer, numbers: Iterator[int]) -> None:
        for number in numbers:
            try:
                await put(peer, number)
            except NodeUnreachable:
                return
            acknowledged.append(number)

    async def run() -> None:
        numbers = iter(range(100_000))
        with node.peer() as peer:
            for _ in range(6):
                node.start()
                await wait_until_ready(peer)
                writers = [asyncio.ensure_future(put_until_killed(peer, numbers)) for _ in range(8)]
                await asyncio.sleep(choice.uniform(0.02, 0.2))
                killed_at = time.monotonic()
                await asyncio.to_thread(node.kill)
                await asyncio.gather(*writers)
                assert time.monotonic() - killed_at < 2.0, "requests in flight to a killed node must fail at once"
            node.start()
            await wait_until_ready(peer)
            for number in acknowledged:
                assert await get(peer, number) == payload(number)

    asyncio.run(run())
    assert len(acknowledged) > 50


def test_an_fsync_error_fails_the_disk_across_restarts_until_it_is_cleared(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    node = NodeProcess(tmp_path, env={"HOLDFAST_FAULT_FSYNC_FILE": str(fault)})
    node.format()

    async def run() -> None:
        with node.peer() as peer:
            node.start()
            await wait_until_ready(peer)
            await put(peer, 1)
            fault.touch()
            with pytest.raises(DiskFailed):
                await put(peer, 2)
            fault.unlink()
            for restart in (False, True):
                if restart:
                    await asyncio.to_thread(node.kill)
                    node.start()
                status = await wait_until_ready(peer)
                assert status.disks[0].state == "failed"
                with pytest.raises(DiskFailed):
                    await put(peer, 3)
                assert await get(peer, 1) == payload(1)
            await asyncio.to_thread(node.kill, signal.SIGTERM)
            cleared = node.run("clear-disk", "--config", str(node.config), "--disk", str(node.disk_paths[0]), "--json")
            assert "fdatasync" in json.loads(cleared.stdout)["reason"]
            node.start()
            await wait_until_ready(peer)
            await put(peer, 3)
            assert await get(peer, 1) == payload(1)

    try:
        asyncio.run(run())
    finally:
        node.stop()


def test_a_second_daemon_on_the_same_disk_is_kept_off(tmp_path: Path, node: NodeProcess) -> None:
    second = NodeProcess(tmp_path, stem="second")

    async def run() -> None:
        node.start()
        with node.peer() as peer, second.peer() as other:
            await wait_until_ready(peer)
            await put(peer, 1)
            second.start()
            status = await wait_until_ready(other)
            assert (status.disks[0].state, "another process" in status.disks[0].reason) == ("foreign", True)
            await put(peer, 2)

    try:
        asyncio.run(run())
    finally:
        second.stop()


def test_a_stopped_node_is_noticed_and_comes_back(node: NodeProcess) -> None:
    async def run() -> None:
        with node.peer() as peer:
            node.start()
            await wait_until_ready(peer)
            await put(peer, 1)
            assert node.process is not None
            node.process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(NodeUnreachable):
                await peer.request(AdvanceEpoch(1, 1), timeout_s=0.5)
            assert time.monotonic() - started < 1.0
            node.process.send_signal(signal.SIGCONT)
            assert await get(peer, 1) == payload(1)

    asyncio.run(run())


def test_a_node_whose_key_list_grows_is_reached_without_a_new_peer(node: NodeProcess) -> None:
    allowed = node.config.read_text()
    node.config.write_text(allowed.replace(node.peer_keys.public.decode(), node.keys.public.decode()))

    async def run() -> None:
        with node.peer() as peer:
            node.start()
            with pytest.raises(NodeError):
                await peer.request(Hello(), timeout_s=5)
            await asyncio.to_thread(node.kill, signal.SIGTERM)
            node.config.write_text(allowed)
            node.start()
            await wait_until_ready(peer)

    asyncio.run(run())


def test_a_peer_gets_over_something_else_on_the_port(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq gives up for good on a server that does not speak its protocol; the peer begins anew."""
    monkeypatch.setattr("node.protocol.client.REOPEN_AFTER_S", 0.3)

    async def answer_http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100))
        await writer.drain()
        writer.close()

    async def run() -> None:
        port = int(node.address.rpartition(":")[2])
        other = await asyncio.start_server(answer_http, "127.0.0.1", port)
        with node.peer() as peer:
            with pytest.raises(NodeUnreachable):
                await peer.request(Hello(), timeout_s=5)
            other.close()
            await other.wait_closed()
            node.start()
            await wait_until_ready(peer)

    asyncio.run(run())


def test_metrics_tell_of_disks_and_requests(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{find_free_port()}"
    node = NodeProcess(tmp_path, settings=f'metrics_listen = "{listen}"')
    node.format()

    async def run() -> None:
        with node.peer() as peer:
            node.start()
            await wait_until_ready(peer)
            await put(peer, 1)

    try:
        asyncio.run(run())
        with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as response:
            text = response.read().decode()
        assert f'holdfast_node_disk_state{{disk="{DISK}",state="ok"}} 1.0' in text
        assert f'holdfast_node_disk_shards{{disk="{DISK}"}} 1.0' in text
        assert 'holdfast_node_requests_total{operation="PutShards"} 1.0' in text
        assert "process_resident_memory_bytes" in text
        assert node.kill(signal.SIGTERM) == 0
    finally:
        node.stop()


def test_the_command_line_explains_itself(node: NodeProcess, tmp_path: Path) -> None:
    again = node.run("format", "--config", str(node.config), "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"formatted": []})
    broken = tmp_path / "broken.toml"
    broken.write_text(node.config.read_text().replace("listen", "lissen"))
    refused = node.run("serve", "--config", str(broken))
    assert refused.returncode == 1
    assert 'the key "lissen" is not known' in refused.stderr
    assert "Traceback" not in refused.stderr
    made = node.run("keygen", str(tmp_path / "new.key"))
    assert len(made.stdout.strip()) == 40
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    assert node.run("keygen", str(tmp_path / "new.key")).returncode == 1
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(node.config.read_text().replace("127.0.0.1", "198.51.100.7"))
    unbound = node.run("serve", "--config", str(elsewhere))
    assert unbound.returncode == 1
    assert "127.0.0.1" in unbound.stderr
    assert "Traceback" not in unbound.stderr
