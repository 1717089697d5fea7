"""The asyncio side of the node protocol: `NodePeer` speaks to one node over one connection.

Guarantees: every request ends by its own deadline, with an answer or an exception of node.protocol.errors; a node whose
connection breaks fails everything in flight to it at once; nothing is queued for a node that is not there; it
reconnects by itself. Does not: retry (the caller knows whether that is safe), choose nodes, check payload digests.

A raw ZeroMQ socket is watched through its file descriptor, since zmq.asyncio costs several times as much per message.
The descriptor only says "something may have happened": after every send and receive ZMQ_EVENTS must be read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from node.protocol.errors import BadRequest, NodeBusy, NodeUnreachable, error_from_wire
from node.protocol.messages import Buffer, Operation, Refused, Reply, Request, Result, decode_reply, encode_envelope

# Below this a copy is cheaper than the bookkeeping of a zero-copy send (pyzmq wakes a thread for each buffer it frees).
COPY_BELOW_BYTES: Final = 128 * 1024

# After this long without a sign of a connection attempt the socket is made anew: libzmq gives a connection up for good
# when the other side breaks the protocol or refuses the key.
REOPEN_AFTER_S: Final = 8.0

_RECEIVE_BATCH: Final = 32  # messages per turn of the loop, so that one fast node cannot keep it

_UP: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED
_REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_TRYING: Final = zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECT_RETRIED
_DOWN: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | _REFUSED

_log = logging.getLogger(__name__)


class _Link(Enum):
    """`NEW`: the first attempt is under way, requests wait for it; `DOWN`: requests fail at once."""

    NEW = "new"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


_Answer = tuple[Result, memoryview | None]


class NodePeer:
    """One node, as seen from a running asyncio loop. All fields belong to that loop; make and use it there only.

    `_waiting` holds a future for each request in flight; whoever takes an entry out resolves or drops it.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        server_key: str | bytes,
        public_key: str | bytes,
        secret_key: str | bytes,
        in_flight_max: int = 256,
    ) -> None:
        """Connect to `address` ("tcp://host:port") in the background. Keys are Z85; `server_key` is the node's."""
        self.address = address
        self._context = context
        self._keys = (_z85(server_key), _z85(public_key), _z85(secret_key))
        self._in_flight_max = in_flight_max
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._last_id = 0
        self._link = _Link.NEW
        self._link_known = self._loop.create_future()  # resolved when the link leaves NEW
        self._reopening: asyncio.TimerHandle | None = None
        self._open()

    @property
    def connected(self) -> bool:
        """Whether the connection stands and the node has accepted our key."""
        return self._link is _Link.UP

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._waiting)

    async def request(
        self, operation: Operation, payloads: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Result, memoryview | None]:
        """Ask the node; gives its result and the payload frame (read-only use; no copy was made), if there is one.

        Raises what the node refuses with (NodeError), NodeUnreachable without an answer within `timeout_s` or when the
        connection is down, NodeBusy when `in_flight_max` requests wait already. `payloads` must not change until the
        request has ended with an answer; after any other end give their memory up instead of writing to it again.
        """
        deadline = self._loop.time() + timeout_s
        if self._link is _Link.NEW:
            await self._wait_for_link(timeout_s)
        if self._link is not _Link.UP:
            raise NodeUnreachable(f"no connection to {self.address}")
        if len(self._waiting) >= self._in_flight_max:
            raise NodeBusy(f"{self._in_flight_max} requests to {self.address} wait already")
        self._last_id += 1
        request_id = self._last_id
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._waiting[request_id] = answer
        timer = self._loop.call_at(deadline, self._time_out, request_id)
        try:
            time_left_ms = max(1, int((deadline - self._loop.time()) * 1000))
            self._send(encode_envelope(Request(request_id, time_left_ms, operation)), payloads)
            result, payload = await answer
        finally:
            timer.cancel()
            self._waiting.pop(request_id, None)
        if isinstance(result, Refused):
            raise error_from_wire(result.code, f"{self.address}: {result.message}")
        return result, payload

    def close(self) -> None:
        """Drop the connection; requests in flight fail with NodeUnreachable. May be called twice."""
        if self._link is _Link.CLOSED:
            return
        self._shut()
        self._set_link(_Link.CLOSED)
        self._fail_waiting(f"the connection to {self.address} was closed")

    # --- sending and receiving

    def _send(self, envelope: bytes, payloads: Sequence[Buffer]) -> None:
        sock = self._socket
        try:
            sock.send(envelope, zmq.SNDMORE | zmq.NOBLOCK if payloads else zmq.NOBLOCK)
        except zmq.Again:
            # ZMQ_IMMEDIATE: no connection to put it in. (Or the high-water mark, which in_flight_max keeps us below.)
            raise NodeUnreachable(f"no connection to {self.address}") from None
        last = len(payloads) - 1
        for position, payload in enumerate(payloads):
            more = 0 if position == last else zmq.SNDMORE
            copy = memoryview(payload).nbytes < COPY_BELOW_BYTES
            # Never blocks: the high-water mark counts whole messages, and the first frame was taken.
            sock.send(payload, more | zmq.NOBLOCK, copy=copy)
        # The send may have swallowed the descriptor's edge of an answer that came meanwhile.
        if int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._receive)

    def _receive(self) -> None:
        if self._link is _Link.CLOSED:
            return
        sock = self._socket
        for _ in range(_RECEIVE_BATCH):
            try:
                frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._take_reply(frames)
        self._loop.call_soon(self._receive)

    def _take_reply(self, frames: Sequence[zmq.Frame]) -> None:
        try:
            reply: Reply = decode_reply(frames[0].buffer)
        except BadRequest as error:
            # Without a readable id nobody can be told; whoever waits runs into its deadline.
            _log.warning("node_peer.reply_not_understood", extra={"address": self.address, "reason": str(error)})
            return
        waiting = self._waiting.pop(reply.request_id, None)
        # Nobody waits any more when the deadline passed or the caller was cancelled: the answer is thrown away.
        if waiting is not None and not waiting.done():
            waiting.set_result((reply.result, frames[1].buffer if len(frames) > 1 else None))

    def _time_out(self, request_id: int) -> None:
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(NodeUnreachable(f"no answer from {self.address} in time"))

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(NodeUnreachable(reason))

    # --- the connection

    def _open(self) -> None:
        server_key, public_key, secret_key = self._keys
        sock: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.IMMEDIATE, 1)
        sock.setsockopt(zmq.SNDHWM, self._in_flight_max + 1)
        sock.setsockopt(zmq.RCVHWM, 2 * self._in_flight_max)
        sock.setsockopt(zmq.RECONNECT_IVL, 100)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        sock.setsockopt(zmq.CONNECT_TIMEOUT, 2000)
        sock.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        sock.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        sock.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, public_key)
        sock.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
        monitor: zmq.Socket[bytes] = sock.get_monitor_socket(_UP | _DOWN | _TRYING)
        monitor.setsockopt(zmq.LINGER, 0)
        self._socket = sock
        self._monitor = monitor
        self._loop.add_reader(sock.FD, self._receive)
        self._loop.add_reader(monitor.FD, self._watch_link)
        sock.connect(self.address)
        self._watch_link()  # the descriptor tells only of what comes from now on

    def _shut(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _watch_link(self) -> None:
        while self._link is not _Link.CLOSED:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            if event & _UP:
                self._cancel_reopen()
                self._set_link(_Link.UP)
                continue
            if event & _DOWN and self._link is not _Link.DOWN:
                self._receive()  # answers that arrived before the connection broke still count
                self._set_link(_Link.DOWN)
                self._fail_waiting(f"the connection to {self.address} broke")
            self._expect_attempt(postpone=bool(event & _TRYING))

    def _set_link(self, link: _Link) -> None:
        self._link = link
        if not self._link_known.done():
            self._link_known.set_result(None)

    async def _wait_for_link(self, timeout_s: float) -> None:
        # Not wait_for(): several requests wait for this one future, and none may cancel it.
        await asyncio.wait((self._link_known,), timeout=timeout_s)

    def _expect_attempt(self, *, postpone: bool) -> None:
        if postpone:
            self._cancel_reopen()
        if self._reopening is None:
            self._reopening = self._loop.call_later(REOPEN_AFTER_S, self._reopen)

    def _cancel_reopen(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None

    def _reopen(self) -> None:
        self._reopening = None
        self._shut()
        self._open()


def _z85(key: str | bytes) -> bytes:
    return key.encode("ascii") if isinstance(key, str) else key
