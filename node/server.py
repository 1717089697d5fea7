"""The node's socket: decode, check, hand to a disk's queue, send answers back. One thread; it never waits for a disk.

Guarantees: a request is answered once, or not at all when its peer is gone; what a disk refuses or cannot take in
time is said so; a hung disk, a full queue or a broken message never stops the others. Does not: touch disks (volumes/),
retry, keep anything about requests that were answered.

A deadline arrives as time left and is kept on the node's own monotonic clock. Disk threads put answers into a deque
and ring through an eventfd; only this thread touches the ROUTER socket.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import zmq

from node.base.clock import Clock
from node.config import NodeKeys
from node.gate import Gate
from node.protocol.errors import BadRequest, DiskUnknown, NodeBusy, NodeError
from node.protocol.messages import (
    ENVELOPE_BYTES_MAX,
    SHARD_PAYLOAD_BYTES_MAX,
    AdvanceEpoch,
    Buffer,
    Done,
    Hello,
    PutShards,
    Refused,
    Reply,
    Request,
    Result,
    Status,
    TrashShards,
    decode_request,
    encode_envelope,
)
from node.volumes.changes import Epochs
from node.volumes.disk import Disk
from node.volumes.queue import Answer, Job

_RECEIVE_BATCH: Final = 64  # requests taken before answers get their turn
_COPY_BELOW_BYTES: Final = 128 * 1024  # a copy is cheaper than pyzmq's bookkeeping for a frame that is not copied
_LATE_CHECK_MS: Final = 1000
_CURVE_OVERHEAD_BYTES: Final = 1024

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServerCounts:
    """For the metrics; the server's thread counts, anyone reads."""

    requests: dict[str, int] = field(default_factory=dict)  # by operation
    refusals: dict[str, int] = field(default_factory=dict)  # by error code
    bytes_received: int = 0
    bytes_sent: int = 0
    answers_dropped: int = 0


class Server:
    """`run` owns the sockets and must be called from the thread that made it; `stop` may be called from anywhere,
    signal handlers included. `_answers` is filled by disk threads and emptied by `run`."""

    def __init__(
        self,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        listen: str,
        keys: NodeKeys,
        allowed_keys: Collection[str],
        cluster_id: str,
        node: str,
        disks: Mapping[str, Disk],
        epochs: Epochs,
        clock: Clock,
    ) -> None:
        """Bind `listen`; raises zmq.ZMQError when that is not possible."""
        self._disks = disks
        self._epochs = epochs
        self._clock = clock
        self._cluster_id = cluster_id
        self._node = node
        self._answers: deque[tuple[bytes, Reply, Buffer | None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self.counts = ServerCounts()
        self.gate = Gate(context, allowed_keys)
        self._socket = _make_socket(context, keys)
        self._socket.setsockopt(zmq.IPV6, int("[" in listen))
        self._socket.bind(listen)

    @property
    def address(self) -> str:
        """Where it listens, with the real port when `listen` left it open."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stopping = True
        self._ring()

    def run(self) -> None:
        """Serve until `stop`."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self.gate.socket, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        while not self._stopping:
            self._wait(poller)

    def drain(self, timeout_s: float) -> bool:
        """Refuse what is new and send the answers to what the disks still do; whether they finished in time."""
        for disk in self._disks.values():
            disk.begin_stop()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        deadline = self._clock.monotonic() + timeout_s
        while not (stopped := all(disk.wait_until_stopped(0) for disk in self._disks.values())):
            if self._clock.monotonic() > deadline:
                break
            poller.poll(20)  # a few rounds at the very end; a disk's thread does not ring when it has ended
            self._receive()
            self._send_answers()
        self._send_answers()
        return stopped

    def close(self) -> None:
        self._socket.close()
        self.gate.close()

    def _wait(self, poller: zmq.Poller) -> None:
        # Without anything queued only traffic wakes this thread, so an idle node costs nothing.
        waiting = any(disk.queued for disk in self._disks.values())
        ready = dict(poller.poll(_LATE_CHECK_MS if waiting else None))
        if self.gate.socket in ready:
            self.gate.answer_all()
        if self._bell in ready:
            os.eventfd_read(self._bell)
        if self._socket in ready:
            self._receive()
        self._send_answers()
        if not ready:
            for disk in self._disks.values():
                disk.refuse_late()

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    # --- requests

    def _receive(self) -> None:
        for _ in range(_RECEIVE_BATCH):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._take(identity.bytes, [frame.buffer for frame in frames])

    def _take(self, identity: bytes, frames: Sequence[memoryview]) -> None:
        if not frames:
            return  # no envelope, nobody to answer
        try:
            request = decode_request(frames[0], frames[1:])
        except BadRequest as error:
            # Without a readable request there is no id to answer to; the sender runs into its own deadline.
            _log.warning("request.not_understood", extra={"reason": str(error)})
            self._count_refusal(error.code)
            return
        size = sum(frame.nbytes for frame in frames)
        self.counts.bytes_received += size
        kind = type(request.operation).__name__
        self.counts.requests[kind] = self.counts.requests.get(kind, 0) + 1
        try:
            self._dispatch(identity, request, frames[1:], size)
        except NodeError as error:
            self._send(identity, Reply(request.request_id, Refused(error.code, str(error))), None)

    def _dispatch(self, identity: bytes, request: Request, payloads: Sequence[memoryview], size: int) -> None:
        """Answer at once or queue. Raises what the request is refused with."""
        operation = request.operation
        if isinstance(operation, Hello):
            self._send(identity, Reply(request.request_id, self._describe()), None)
            return
        if self._stopping:
            raise NodeBusy("the node is stopping")
        answer = _Answering(self, identity, request.request_id)
        job = Job(operation, payloads, size, self._clock.monotonic() + request.time_left_ms / 1000, answer)
        if isinstance(operation, AdvanceEpoch):
            self._advance_epoch(operation, job)
            return
        disk = self._disks.get(operation.disk_id)
        if disk is None:
            raise DiskUnknown(f"node {self._node} has no disk {operation.disk_id}")
        # The disk checks epochs again when the request's turn comes; here an outdated one is spared the queue.
        if isinstance(operation, PutShards):
            for meta in operation.shards:
                self._epochs.check(meta.group_id, meta.group_epoch)
        elif isinstance(operation, TrashShards):
            self._epochs.check(operation.group_id, operation.group_epoch)
        disk.submit(job)

    def _advance_epoch(self, operation: AdvanceEpoch, job: Job) -> None:
        """Every disk that is in use keeps the epoch, since any of them may hold shards of the group."""
        self._epochs.check(operation.group_id, operation.group_epoch)
        usable = [disk for disk in self._disks.values() if disk.status().state in {"ok", "read_only"}]
        if not usable:
            raise DiskUnknown("no disk of this node can keep the epoch")
        joint = _JointAnswer(len(usable), job.answer)
        for disk in usable:
            try:
                disk.submit(Job(operation, (), job.size_bytes, job.deadline, joint.take))
            except NodeError as error:
                joint.take(Refused(error.code, str(error)), None)

    def _describe(self) -> Status:
        return Status(self._cluster_id, self._node, tuple(disk.status() for disk in self._disks.values()))

    # --- answers

    def queue_answer(self, identity: bytes, reply: Reply, payload: Buffer | None) -> None:
        """For disk threads: have this sent."""
        self._answers.append((identity, reply, payload))
        self._ring()

    def _send_answers(self) -> None:
        while self._answers:
            self._send(*self._answers.popleft())

    def _send(self, identity: bytes, reply: Reply, payload: Buffer | None) -> None:
        if isinstance(reply.result, Refused):
            self._count_refusal(reply.result.code)
        frames: list[Buffer] = [identity, encode_envelope(reply)]
        if payload is not None:
            frames.append(payload)
            self.counts.bytes_sent += memoryview(payload).nbytes
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK)
            copy = payload is None or memoryview(payload).nbytes < _COPY_BELOW_BYTES
            self._socket.send(frames[-1], zmq.NOBLOCK, copy=copy)
        except zmq.ZMQError as error:
            # Its peer is gone (EHOSTUNREACH) or reads nothing (EAGAIN): nobody waits for this any more.
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            self.counts.answers_dropped += 1

    def _count_refusal(self, code: str) -> None:
        self.counts.refusals[code] = self.counts.refusals.get(code, 0) + 1


class _Answering:
    """The way back to whoever asked."""

    __slots__ = ("_identity", "_request_id", "_server")

    def __init__(self, server: Server, identity: bytes, request_id: int) -> None:
        self._server, self._identity, self._request_id = server, identity, request_id

    def __call__(self, result: Result, payload: Buffer | None) -> None:
        self._server.queue_answer(self._identity, Reply(self._request_id, result), payload)


class _JointAnswer:
    """Answers once when all of several disks have: Done, or the first refusal."""

    def __init__(self, count: int, answer: Answer) -> None:
        self._missing = count
        self._answer = answer
        self._lock = Lock()
        self._refusal: Refused | None = None

    def take(self, result: Result, _payload: Buffer | None) -> None:
        with self._lock:
            if isinstance(result, Refused) and self._refusal is None:
                self._refusal = result
            self._missing -= 1
            if self._missing:
                return
        self._answer(self._refusal or Done(), None)


def _make_socket(context: zmq.Context[zmq.Socket[bytes]], keys: NodeKeys) -> zmq.Socket[bytes]:
    sock: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    sock.setsockopt(zmq.ZAP_DOMAIN, b"holdfast")
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
    sock.setsockopt(zmq.LINGER, 2000)
    sock.setsockopt(zmq.BACKLOG, 256)
    sock.setsockopt(zmq.SNDHWM, 1024)  # answers; a peer has at most a few hundred requests in flight
    sock.setsockopt(zmq.RCVHWM, 64)  # whole messages that wait before this thread: they are only handed on here
    sock.setsockopt(zmq.MAXMSGSIZE, max(SHARD_PAYLOAD_BYTES_MAX, ENVELOPE_BYTES_MAX) + _CURVE_OVERHEAD_BYTES)
    sock.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
    sock.setsockopt(zmq.HANDSHAKE_IVL, 10000)
    return sock
