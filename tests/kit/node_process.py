"""A real node process on loopback, and a peer to talk to it; also the same server on a thread, for quick tests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zmq

from node.base.clock import SystemClock
from node.config import NodeKeys
from node.protocol.client import NodePeer
from node.protocol.errors import NodeError, NodeUnreachable
from node.protocol.messages import Hello, Status
from node.server import Server
from node.volumes.changes import Epochs
from node.volumes.disk import Disk, DiskName, DiskSettings
from node.volumes.disk_io import DiskIO, RealDiskIO
from node.volumes.identity import Identity, format_disk

CLUSTER, NODE = "c" * 32, "node1"
DEADLINE_S = 15.0


def make_disk_id(number: int) -> str:
    return f"{number:032x}"


def make_keys() -> NodeKeys:
    return NodeKeys(*zmq.curve_keypair())


def find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class NodeProcess:
    """`holdfast node serve` with one directory for each disk. `kill` and `start` may follow each other."""

    def __init__(
        self, folder: Path, *, stem: str = "node", disks: int = 1, settings: str = "", env: dict[str, str] | None = None
    ) -> None:
        """`stem` names the files, so that two may share a folder and its disks."""
        self.keys, self.peer_keys = make_keys(), make_keys()
        self.address = f"tcp://127.0.0.1:{find_free_port()}"
        self.config = folder / f"{stem}.toml"
        self.log = folder / f"{stem}.log"
        self.env = env or {}
        self.disk_paths = [folder / f"disk{number}" for number in range(1, disks + 1)]
        self.process: subprocess.Popen[bytes] | None = None
        for path in self.disk_paths:
            path.mkdir(exist_ok=True)
        key_file = folder / f"{stem}.key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(self.keys.secret)
        tables = "".join(
            f'[[disks]]\npath = "{path}"\nid = "{make_disk_id(number)}"\n'
            for number, path in enumerate(self.disk_paths, start=1)
        )
        self.config.write_text(
            f'cluster_id = "{CLUSTER}"\nname = "{NODE}"\nsite = "site1"\nlisten = "{self.address}"\n'
            f'secret_key_file = "{key_file}"\ncoordinator_keys = ["{self.peer_keys.public.decode()}"]\n'
            f"{settings}\n{tables}"
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the node's command line."""
        return subprocess.run(
            [sys.executable, "-m", "node", *arguments], capture_output=True, text=True, timeout=DEADLINE_S
        )

    def format(self) -> None:
        done = self.run("format", "--config", str(self.config))
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node", "serve", "--config", str(self.config)],
                stderr=log,
                env=os.environ | self.env,
            )

    def kill(self, how: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(DEADLINE_S)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)

    @contextmanager
    def peer(self, keys: NodeKeys | None = None) -> Iterator[NodePeer]:
        with open_peer(self.address, self.keys, keys or self.peer_keys) as peer:
            yield peer


@contextmanager
def open_peer(address: str, node_keys: NodeKeys, keys: NodeKeys) -> Iterator[NodePeer]:
    """Needs a running loop."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = NodePeer(context, address, server_key=node_keys.public, public_key=keys.public, secret_key=keys.secret)
    try:
        yield peer
    finally:
        peer.close()
        context.term()


async def wait_until_ready(peer: NodePeer) -> Status:
    """Until the node answers and none of its disks is still being opened."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            status, _ = await peer.request(Hello(), timeout_s=1.0)
            assert isinstance(status, Status)
            if all(disk.reason != "being opened" for disk in status.disks):
                return status
        except NodeUnreachable:
            pass
        assert time.monotonic() < deadline, "the node did not come up"
        await asyncio.sleep(0.01)


async def wait_for_refusal(peer: NodePeer, kind: type[NodeError]) -> None:
    """Until a Hello ends in `kind`."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            await peer.request(Hello(), timeout_s=1.0)
        except kind:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {kind.__name__} came")


class ServerThread:
    """A server on a thread of this process, with disks whose I/O the test holds in its hands."""

    def __init__(
        self, folder: Path, *, ios: Sequence[DiskIO] = (), settings: DiskSettings | None = None, format_: bool = True
    ) -> None:
        self.keys, self.peer_keys = make_keys(), make_keys()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.epochs = Epochs()
        self.disks: dict[str, Disk] = {}
        for number, io in enumerate(ios or [RealDiskIO()], start=1):
            path, disk_id = folder / f"disk{number}", make_disk_id(number)
            if format_:
                path.mkdir()
                format_disk(path, Identity(cluster_id=CLUSTER, node=NODE, disk_id=disk_id))
            self.disks[disk_id] = Disk(
                DiskName(path, CLUSTER, NODE, disk_id),
                settings=settings or DiskSettings(),
                epochs=self.epochs,
                clock=SystemClock(),
                io=io,
                boot_id="boot",
            )
        for disk in self.disks.values():
            disk.start()
        for disk in self.disks.values():
            assert disk.wait_until_looked_at(DEADLINE_S)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)

    def _run(self) -> None:
        self.server = Server(
            context=self.context,
            listen="tcp://127.0.0.1:*",
            keys=self.keys,
            allowed_keys=[self.peer_keys.public.decode()],
            cluster_id=CLUSTER,
            node=NODE,
            disks=self.disks,
            epochs=self.epochs,
            clock=SystemClock(),
        )
        self.address = self.server.address
        self._ready.set()
        self.server.run()
        self.server.drain(5.0)
        self.server.close()

    @contextmanager
    def peer(self, keys: NodeKeys | None = None) -> Iterator[NodePeer]:
        with open_peer(self.address, self.keys, keys or self.peer_keys) as peer:
            yield peer

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self.context.term()
