"""One connection to PostgreSQL over which the workers tell each other what has moved.

Guarantees: what `send_*` was given leaves within one round trip while the connection is up; what comes in is handed to
the callbacks on the event loop; a lost connection is opened again with a growing pause, and `connected` is called each
time, since notices of the gap are gone. Does not: promise delivery. A notice is a hint; the hub's poll is the truth.

NOTIFY is never part of a commit's own transaction: there it would serialise the commits of the whole database.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import psycopg

from coordinator.metrics import NOTICE_CONNECTION_UP, NOTICES_RECEIVED, NOTICES_SENT

log = logging.getLogger("coordinator.notify")

CHANNEL: Final = "holdfast"
PAYLOAD_BYTES_MAX: Final = 7000  # PostgreSQL takes less than 8000
POSITIONS_PER_NOTICE: Final = 150  # two 19-digit numbers and punctuation each
OUTBOX_MAX: Final = 10_000  # while the database is away; what is dropped is found by the poll
PAUSE_S_MAX: Final = 10.0
CONNECT_TIMEOUT_S: Final = 10
SEND_TIMEOUT_S: Final = 10.0


class _Notice(msgspec.Struct, array_like=True):
    """What travels: positions (namespace, seq) and messages (topic, payload)."""

    positions: list[tuple[int, int]] = []
    messages: list[tuple[str, str]] = []


class Notices:
    """Owned by the event loop; `run` is its one task and the connection's only user."""

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        position: Callable[[int, int], None],
        message: Callable[[str, str], None],
        connected: Callable[[], None],
    ) -> None:
        """`position(namespace_id, seq)` and `message(topic, payload)` get what other workers sent."""
        self._conninfo = conninfo
        self._name = name
        self._position = position
        self._message = message
        self._connected = connected
        self._positions: dict[int, int] = {}
        self._messages: list[tuple[str, str]] = []
        self._something = asyncio.Event()  # to send or to read
        self._own_pid = 0
        self.up = False

    def send_position(self, namespace_id: int, seq: int) -> None:
        """Tell the others that the namespace's journal has reached `seq`."""
        if namespace_id in self._positions or len(self._positions) < OUTBOX_MAX:
            self._positions[namespace_id] = max(seq, self._positions.get(namespace_id, 0))
            self._something.set()

    def send_message(self, topic: str, payload: str) -> None:
        """Tell the others' subscribers of `topic`. Raises ValueError when it is too long for one notice."""
        if len(msgspec.json.encode((topic, payload))) > PAYLOAD_BYTES_MAX // 2:
            raise ValueError("a message must fit one notice")
        if len(self._messages) < OUTBOX_MAX:
            self._messages.append((topic, payload))
            self._something.set()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        pause_s = 0.1
        while True:
            try:
                async with await self._connect() as connection:
                    pause_s = 0.1
                    await self._serve(connection)
            except (OSError, psycopg.Error, TimeoutError) as error:
                log.warning("notices.disconnected", extra={"cause": str(error).strip(), "pause_s": round(pause_s, 1)})
            finally:
                self.up = False
                NOTICE_CONNECTION_UP.set(0)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads load, keeps no secret
            pause_s = min(PAUSE_S_MAX, pause_s * 2)

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=f"{self._name} notices",
            keepalives_idle=30,
        )
        connection.add_notify_handler(self._received)
        return connection

    async def _serve(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        loop, socket = asyncio.get_running_loop(), connection.fileno()
        await connection.execute(f"LISTEN {CHANNEL}")
        self._own_pid = connection.info.backend_pid
        self.up = True
        NOTICE_CONNECTION_UP.set(1)
        self._connected()
        try:
            while True:
                loop.add_reader(socket, self._something.set)
                await self._something.wait()
                # psycopg watches the same socket while it waits for an answer.
                loop.remove_reader(socket)
                self._something.clear()
                self._read(connection)
                if payloads := self._take_outbox():
                    query = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload"
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await connection.execute(query, (CHANNEL, payloads))
                    NOTICES_SENT.inc(len(payloads))
        finally:
            loop.remove_reader(socket)

    def _read(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        wire = connection.pgconn
        wire.consume_input()
        while notice := wire.notifies():
            self._deliver(notice.be_pid, notice.extra)

    def _received(self, notice: psycopg.Notify) -> None:
        """Called by psycopg for a notice that comes while a statement runs."""
        self._deliver(notice.pid, notice.payload.encode())

    def _deliver(self, sender_pid: int, payload: bytes) -> None:
        if sender_pid == self._own_pid:
            return
        try:
            notice = msgspec.json.decode(payload, type=_Notice)
        except msgspec.DecodeError:
            log.warning("notices.unreadable", extra={"bytes": len(payload)})
            return
        NOTICES_RECEIVED.inc()
        for namespace_id, seq in notice.positions:
            self._position(namespace_id, seq)
        for topic, text in notice.messages:
            self._message(topic, text)

    def _take_outbox(self) -> list[str]:
        positions, self._positions = list(self._positions.items()), {}
        messages, self._messages = self._messages, []
        return encode_notices(positions, messages)


def encode_notices(positions: Sequence[tuple[int, int]], messages: Sequence[tuple[str, str]]) -> list[str]:
    """As few payloads as hold all of these within PostgreSQL's limit."""
    notices = [
        _Notice(positions=list(positions[start : start + POSITIONS_PER_NOTICE]))
        for start in range(0, len(positions), POSITIONS_PER_NOTICE)
    ]
    size = len(msgspec.json.encode(notices[-1])) if notices else PAYLOAD_BYTES_MAX
    for message in messages:
        length = len(msgspec.json.encode(message))
        if size + length > PAYLOAD_BYTES_MAX - 16:
            notices.append(_Notice())
            size = 0
        notices[-1].messages.append(message)
        size += length + 1
    return [msgspec.json.encode(notice).decode() for notice in notices]
