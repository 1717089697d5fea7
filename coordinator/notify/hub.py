"""Who waits past which position of which namespace, and who is told when it moves.

Guarantees: a waiter is woken exactly once: when one of its namespaces moves past its position (at once for a commit of
this worker, after one notice for another's, after one poll for what no notice told), when its time is over, when its
device is signed out, or when the worker drains. Positions may be some seconds old when they are parked: what moved
since is remembered and wakes the waiter at once.

Does not: hold connections (longpoll.py) or decide what a caller may see (the feed does, at the next request).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final

from coordinator.metrics import LONGPOLLS, LONGPOLLS_ANSWERED, NOTICES_MISSED
from coordinator.notify.notices import Notices

log = logging.getLogger("coordinator.notify")

WAKES_PER_TURN: Final = 50  # then the loop runs something else
HEADS_PER_QUERY: Final = 1000
# While notices arrive, the poll only makes up for lost ones, and looks at this many namespaces in turn.
HEADS_PER_CHECK: Final = 500
TICK_S: Final = 1.0
RECENT_S: Final = 15.0  # at least so long a move is remembered for waiters whose positions were read before it
RECENT_MAX: Final = 50_000


class Why(StrEnum):
    """Why a waiter was woken."""

    MOVED = "moved"
    TIMEOUT = "timeout"
    DRAIN = "drain"
    SIGNED_OUT = "signed_out"


class Waiter:
    """Someone who waits. A subclass says in `woken` what happens then; kept small, since there are thousands."""

    __slots__ = ("deadline", "device_id", "parked", "positions")

    def __init__(self, positions: tuple[int, ...], device_id: int, deadline: float) -> None:
        """`positions` are namespace ids, each followed by a seq; `deadline` in the event loop's time, seconds."""
        self.positions = positions
        self.device_id = device_id
        self.deadline = deadline
        self.parked = False  # the hub's own mark

    def namespaces(self) -> tuple[int, ...]:
        return self.positions[::2]

    def is_behind(self, namespace_id: int, seq: int) -> bool:
        return any(
            known == namespace_id and seq > at
            for known, at in zip(self.positions[::2], self.positions[1::2], strict=True)
        )

    def woken(self, why: Why) -> None:
        """Called once, on the event loop, some turns after the cause."""
        raise NotImplementedError


class _Index:
    """Waiters by a key. Most keys have one waiter, which is kept bare: a set costs 216 bytes."""

    def __init__(self) -> None:
        self._found: dict[int, Waiter | set[Waiter]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def add(self, key: int, waiter: Waiter) -> None:
        found = self._found.setdefault(key, waiter)
        if isinstance(found, set):
            found.add(waiter)
        elif found is not waiter:
            self._found[key] = {found, waiter}

    def remove(self, key: int, waiter: Waiter) -> None:
        found = self._found.get(key)
        if isinstance(found, set):
            found.discard(waiter)
        if found is waiter or found == set():
            del self._found[key]

    def get(self, key: int) -> tuple[Waiter, ...]:
        found = self._found.get(key)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, set) else (found,)


class Hub:
    """Owned by the event loop. `run` is its one task; a waiter is in the indexes until it is woken or leaves."""

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        read_heads: Callable[[Collection[int]], Awaitable[Mapping[int, int]]],
        mark_seen: Callable[[Collection[int]], Awaitable[Collection[int]]],
        poll_s: float = 1.0,
        seen_s: float = 30.0,
        waiters_max: int = 20_000,
    ) -> None:
        """`read_heads` gives the journal's position for namespaces; `mark_seen` notes that devices are online and
        returns those of them that are signed out."""
        self._notices = Notices(
            conninfo, name=name, position=self._moved, message=self._deliver, connected=self._check_all
        )
        self._read_heads = read_heads
        self._mark_seen = mark_seen
        self._poll_s = poll_s
        self._seen_s = seen_s
        self._waiters_max = waiters_max
        self._count = 0
        self._by_namespace = _Index()
        self._by_second: dict[int, set[Waiter]] = {}  # every waiter, by the second of its deadline
        self._recent: dict[int, int] = {}  # namespaces that moved and how far; two generations, the younger first
        self._older: dict[int, int] = {}
        self._seen: set[int] = set()  # devices that asked for something since the last check
        self._waking: deque[tuple[Waiter, Why]] = deque()
        self._all_told = asyncio.Event()  # set while nobody is about to be woken
        self._all_told.set()
        self._unchecked: list[int] = []  # namespaces still to be polled in this round
        self._subscribers: dict[str, list[Callable[[str], None]]] = {}
        self._draining = False
        self.subscribe("signed_out", lambda device_id: self._signed_out({int(device_id)}))

    # --- waiting -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        return self._draining or self._count >= self._waiters_max

    def park(self, waiter: Waiter) -> None:
        """Take in `waiter` until it is woken or leaves; its positions were read at most RECENT_S ago.

        Check `full` before.
        """
        waiter.parked = True
        for namespace_id in waiter.namespaces():
            self._by_namespace.add(namespace_id, waiter)
        self._by_second.setdefault(int(waiter.deadline), set()).add(waiter)
        self._count += 1
        LONGPOLLS.set(self._count)
        if any(waiter.is_behind(namespace_id, self._known_head(namespace_id)) for namespace_id in waiter.namespaces()):
            self._wake((waiter,), Why.MOVED)

    def leave(self, waiter: Waiter) -> bool:
        """Forget `waiter`, which then is never woken; False when it was woken already (or never parked)."""
        if not waiter.parked:
            return False
        waiter.parked = False
        for namespace_id in waiter.namespaces():
            self._by_namespace.remove(namespace_id, waiter)
        second = self._by_second[int(waiter.deadline)]
        second.discard(waiter)
        if not second:
            del self._by_second[int(waiter.deadline)]
        self._count -= 1
        LONGPOLLS.set(self._count)
        return True

    def seen(self, device_id: int) -> None:
        """The device asked for something just now; written down in bulk."""
        if len(self._seen) < RECENT_MAX:
            self._seen.add(device_id)

    async def drain(self, timeout_s: float) -> None:
        """Wake everyone, and return when all are told; from now on the hub is full. Raises TimeoutError."""
        self._draining = True
        self._wake(list(self._everyone()), Why.DRAIN)
        async with asyncio.timeout(timeout_s):
            await self._all_told.wait()

    @property
    def telling(self) -> bool:
        """Whether waiters are about to be woken."""
        return bool(self._waking)

    # --- telling -----------------------------------------------------------------------------------------------

    def published(self, namespace_id: int, seq: int) -> None:
        """A commit of this worker moved the namespace's journal to `seq`."""
        self._moved(namespace_id, seq)
        self._notices.send_position(namespace_id, seq)

    def publish(self, topic: str, payload: str) -> None:
        """Hand `payload` to the subscribers of `topic` in every worker, this one included. A hint that may be lost."""
        self._deliver(topic, payload)
        self._notices.send_message(topic, payload)

    def sign_out(self, device_id: int) -> None:
        """End the long polls of a device whose token is dead, in every worker."""
        self.publish("signed_out", str(device_id))

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(payload)` for what is published under `topic`. Returns what ends the subscription."""
        self._subscribers.setdefault(topic, []).append(callback)

        def unsubscribe() -> None:
            callbacks = self._subscribers[topic]
            callbacks.remove(callback)
            if not callbacks:
                del self._subscribers[topic]

        return unsubscribe

    def _deliver(self, topic: str, payload: str) -> None:
        for callback in tuple(self._subscribers.get(topic, ())):
            callback(payload)

    def _known_head(self, namespace_id: int) -> int:
        return max(self._recent.get(namespace_id, 0), self._older.get(namespace_id, 0))

    def _moved(self, namespace_id: int, seq: int) -> None:
        if len(self._recent) >= RECENT_MAX:
            self._forget_moves()
        self._recent[namespace_id] = max(seq, self._recent.get(namespace_id, 0))
        behind = [w for w in self._by_namespace.get(namespace_id) if w.is_behind(namespace_id, seq)]
        self._wake(behind, Why.MOVED)

    def _forget_moves(self) -> None:
        self._older, self._recent = self._recent, {}

    def _wake(self, waiters: Iterable[Waiter], why: Why) -> None:
        self._waking.extend((waiter, why) for waiter in waiters if self.leave(waiter))
        if self._waking and self._all_told.is_set():
            self._all_told.clear()
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for _ in range(min(WAKES_PER_TURN, len(self._waking))):
            waiter, why = self._waking.popleft()
            LONGPOLLS_ANSWERED.labels(why.value).inc()
            waiter.woken(why)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)
        else:
            self._all_told.set()

    # --- the hub's own work ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Notices, time-outs, polls and device checks, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._notices.run())
            tasks.create_task(self._end_waits())
            tasks.create_task(self._age_moves())
            tasks.create_task(self._repeat(self._poll_s, self._poll))
            tasks.create_task(self._repeat(self._seen_s, self._check_devices))

    async def _end_waits(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = int(loop.time())
            due = [second for second in self._by_second if second < now]
            for second in due:
                self._wake(tuple(self._by_second[second]), Why.TIMEOUT)

    async def _age_moves(self) -> None:
        while True:
            await asyncio.sleep(RECENT_S)
            self._forget_moves()

    async def _repeat(self, period_s: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period_s)
            if not self._count and not self._seen:
                continue
            try:
                await act()
            except Exception as error:  # noqa: BLE001 -- the database is away; the waiters stay and so does the hub
                log.warning("hub.check_failed", extra={"check": act.__name__, "cause": repr(error)})

    def _check_all(self) -> None:
        """Begin a round over all namespaces: while the connection was away notices were lost."""
        self._unchecked = list(self._by_namespace)

    async def _poll(self) -> None:
        if not self._unchecked:
            self._check_all()
        rest = HEADS_PER_CHECK if self._notices.up else len(self._unchecked)
        while rest > 0 and self._unchecked:
            batch = self._unchecked[-min(rest, HEADS_PER_QUERY) :]
            del self._unchecked[-len(batch) :]
            rest -= len(batch)
            missed = False
            for namespace_id, seq in (await self._read_heads(batch)).items():
                if seq > self._known_head(namespace_id):
                    waiting = self._count
                    self._moved(namespace_id, seq)
                    if self._count < waiting:
                        NOTICES_MISSED.inc()
                        missed = True
            if missed:
                rest = len(self._unchecked)  # notices get lost: look at all of them

    async def _check_devices(self) -> None:
        # No index by device: this look at everyone takes milliseconds twice a minute, an index 100 bytes a waiter.
        devices = list(self._seen.union(waiter.device_id for waiter in self._everyone()))
        self._seen.clear()
        for start in range(0, len(devices), HEADS_PER_QUERY):
            self._signed_out(set(await self._mark_seen(devices[start : start + HEADS_PER_QUERY])))

    def _signed_out(self, device_ids: set[int]) -> None:
        if device_ids:
            gone = [waiter for waiter in self._everyone() if waiter.device_id in device_ids]
            self._wake(gone, Why.SIGNED_OUT)

    def _everyone(self) -> Iterator[Waiter]:
        return itertools.chain.from_iterable(self._by_second.values())
