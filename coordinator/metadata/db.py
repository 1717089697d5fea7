"""The one door between the event loop and PostgreSQL.

`Door.run` carries a synchronous function to one of a few database threads, each with a connection of its own, and
brings its value back. Guarantees: never more than `queue_max` calls wait; every call ends at its deadline, also when
the server hangs or the network swallows packets; a database that cannot be reached is `Unavailable`, and the thread
reconnects for the next call. A transaction that lost a deadlock or serialization race runs again.

The functions of this package are what runs there: they use `rows`, `row` and `transaction` (or a peewee model), which
act on the calling thread's connection. Such a function is one transaction, or safe to run again from its start.
Does not: cache, pool across processes, know any table.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import psycopg
from peewee import PeeweeException, PostgresqlDatabase

from coordinator.protocol.errors import Unavailable

log = logging.getLogger(__name__)

Params = Sequence[object] | Mapping[str, object]
Row = tuple[Any, ...]
P = ParamSpec("P")
T = TypeVar("T")

THREADS_DEFAULT: Final = 4
QUEUE_DEFAULT: Final = 256
TIMEOUT_S_DEFAULT: Final = 10.0
_ATTEMPTS_MAX: Final = 5  # for deadlocks and serialization failures
_ABORT_AFTER_S: Final = 1.0  # past its deadline the server's own statement timeout has had this long to act

# Plans are made once for each connection, often while tables are still small: a sequential scan that was right then
# must not survive until the table has a million rows. Every query here has its index and is written so that one plan
# fits all parameters; planning a function's statements anew at each call would cost as much as running them.
_SETTINGS: Final = """SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan;
    SET timezone = 'UTC'; SET idle_in_transaction_session_timeout = '60s'"""
# A peer that vanished without a word is noticed by the kernel; a unix socket ignores these.
_KEEPALIVE: Final = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3"}

_here = threading.local()  # .session: the _Connection of this thread


class _Postgres(PostgresqlDatabase):
    """peewee's database, whose connection in each thread is the one that `_Connection.open` has made there."""

    def _connect(self) -> psycopg.Connection[Row]:
        fresh: psycopg.Connection[Row] = _here.session.raw
        return fresh


database = _Postgres("per thread", prefer_psycopg3=True, autoconnect=False)


class _Connection:
    """One thread's connection. Only that thread uses it; `abort` alone may be called from another."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.raw: psycopg.Connection[Row] | None = None
        self._timeout_set_s = 0.0

    def ensure(self) -> psycopg.Connection[Row]:
        """Connected, as far as can be told without a round trip: an idle socket that can be read has ended."""
        if self.raw is not None and (self.raw.closed or _is_readable(self.raw.fileno())):
            self.close()
        if self.raw is None:
            self._open()
        assert self.raw is not None
        return self.raw

    def _open(self) -> None:
        params = {"connect_timeout": "5", "tcp_user_timeout": "10000", "application_name": "holdfast", **_KEEPALIVE}
        given = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        conninfo = psycopg.conninfo.make_conninfo(self.conninfo, **{k: v for k, v in params.items() if k not in given})
        raw = psycopg.connect(conninfo, autocommit=True, prepare_threshold=2)
        try:
            raw.execute(_SETTINGS)
        except psycopg.Error:
            raw.close()
            raise
        self.raw = raw
        self._timeout_set_s = 0.0
        _here.session = self
        database.connect()

    def limit(self, timeout_s: float) -> None:
        """No statement, and no wait for a lock, longer than this from now on. A round trip only when it changes."""
        if timeout_s != self._timeout_set_s:
            ms = max(1, int(timeout_s * 1000))
            self.ensure().execute(f"SET statement_timeout = {ms}; SET lock_timeout = {ms}")
            self._timeout_set_s = timeout_s

    def close(self) -> None:
        raw, self.raw = self.raw, None
        if raw is not None:
            _here.session = None
            database.dispose()  # forget it, also amid a transaction that is lost
            raw.close()

    def abort(self) -> None:
        """Wake the thread that waits for an answer which does not come: its socket is shut down."""
        raw = self.raw
        if raw is None:
            return
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(raw.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


@contextlib.contextmanager
def connected(conninfo: str, timeout_s: float = 60.0) -> Iterator[None]:
    """Give the calling thread a connection: for migrations, command lines and tests, outside of any Door."""
    assert database.is_closed(), "this thread has a connection already"
    opened = _Connection(conninfo)
    try:
        opened.limit(timeout_s)
        yield
    finally:
        opened.close()


# --- what the functions of this package use --------------------------------------------------------------------


def connection() -> psycopg.Connection[Row]:
    """The calling thread's psycopg connection."""
    session: _Connection | None = getattr(_here, "session", None)
    if session is None or session.raw is None:
        raise RuntimeError("only a database thread, or one inside `connected`, has a connection")
    return session.raw


def rows(sql: str, params: Params = ()) -> list[Row]:
    """Run one statement in one round trip and fetch what it returns. Prepared by the server from its third run on."""
    return connection().execute(sql, params, binary=True).fetchall()


def row(sql: str, params: Params = ()) -> Row | None:
    """The first row, or None."""
    found = rows(sql, params)
    return found[0] if found else None


def one(sql: str, params: Params = ()) -> Row:
    """The row of a statement that always returns one."""
    return rows(sql, params)[0]


def run(sql: str, params: Params = ()) -> int:
    """Run one statement that returns nothing; how many rows it touched."""
    return connection().execute(sql, params).rowcount


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """All statements inside take effect together or not at all. Inner ones are savepoints."""
    with connection().transaction():
        yield


def ping() -> None:
    """One round trip to the server."""
    rows("SELECT 1")


# --- the door ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Job:
    call: Callable[[], Any]
    timeout_s: float
    deadline: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any] = field(repr=False)

    def settle(self, value: object, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has gone; nobody waits any more
            self.loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: object, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(value)


class Door:
    """The database threads of one process. Owned by the daemon, which closes it after its last request.

    `_queue` is shared; a `_Worker` belongs to its thread. After `close` every call is Unavailable.
    """

    def __init__(
        self,
        conninfo: str,
        threads: int = THREADS_DEFAULT,
        *,
        queue_max: int = QUEUE_DEFAULT,
        timeout_s: float = TIMEOUT_S_DEFAULT,
    ) -> None:
        self.threads = threads
        self.queue_max = queue_max
        self.timeout_s = timeout_s
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._workers = [_Worker(conninfo, self._queue, index) for index in range(threads)]

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._queue.qsize()

    @property
    def in_use(self) -> int:
        """Threads that are at work."""
        return sum(worker.job is not None for worker in self._workers)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a database thread within the door's usual time. Raises what it raises, and Unavailable."""
        return await self.run_within(self.timeout_s, fn, *args, **kwargs)

    async def run_within(self, timeout_s: float, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, with another time limit: for jobs, which may take long, and probes, which may not.

        Whether a write took effect is unknown when this raises Unavailable. Cancelling the caller does not stop `fn`.
        """
        if self._closed or self.waiting >= self.queue_max:
            raise Unavailable()
        loop = asyncio.get_running_loop()
        job = _Job(lambda: fn(*args, **kwargs), timeout_s, time.monotonic() + timeout_s, loop, loop.create_future())
        self._queue.put(job)
        try:
            # Not wait_for(): up to Python 3.11 it swallows a cancellation that meets the answer, and a task that is
            # being stopped then goes on for ever.
            async with asyncio.timeout(timeout_s + _ABORT_AFTER_S):
                value: T = await job.answer
                return value
        except TimeoutError:
            if not job.answer.cancelled():
                raise  # fn's own
            for worker in self._workers:
                worker.abort(job)
            raise Unavailable() from None

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the running calls end, within `timeout_s`, and close the connections. Blocks."""
        self._closed = True
        for _ in self._workers:
            self._queue.put(None)
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))


class _Worker:
    """One database thread. `job` is what it runs now; `_lock` keeps `abort` from hitting the next job."""

    def __init__(self, conninfo: str, jobs: queue.SimpleQueue[_Job | None], index: int) -> None:
        self.job: _Job | None = None
        self._jobs = jobs
        self._connection = _Connection(conninfo)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"db-{index}", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._connection.abort()
            self._thread.join(1.0)

    def abort(self, job: _Job) -> None:
        with self._lock:
            if self.job is job:
                self._connection.abort()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self.job = job
            try:
                value, error = self._run(job), None
            except BaseException as raised:  # noqa: BLE001  # whatever it is belongs to the caller, who awaits it
                value, error = None, raised
            with self._lock:
                self.job = None
            job.settle(value, error)
            del job, value, error  # nothing of a caller is kept alive while this thread idles
        self._connection.close()

    def _run(self, job: _Job) -> object:
        if time.monotonic() >= job.deadline:
            raise Unavailable()
        try:
            self._connection.ensure()
            self._connection.limit(job.timeout_s)
            return repeated(job.call, job.deadline)
        except (psycopg.Error, PeeweeException) as error:
            cause = _cause(error)
            if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
                raise
            if not isinstance(cause, _IN_GOOD_ORDER):
                self._connection.close()
            log.warning("db.unavailable", extra={"cause": type(cause).__name__, "sqlstate": cause.sqlstate})
            raise Unavailable() from error


# After these the connection is as good as before: a statement was too slow, or lost against its rivals too often.
_IN_GOOD_ORDER: Final = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
)


def repeated(call: Callable[[], T], deadline: float) -> T:
    """Run `call`, again when its transaction lost against a rival, a few times and not past `deadline` (monotonic)."""
    attempt = 1
    while True:
        try:
            return call()
        except (psycopg.Error, PeeweeException) as error:
            lost = isinstance(_cause(error), psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)
            if not lost or attempt == _ATTEMPTS_MAX or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.0, 0.01 * attempt))  # noqa: S311  # only to part two rivals
        attempt += 1


def _cause(error: BaseException) -> BaseException:
    """peewee wraps the driver's exceptions."""
    return getattr(error, "orig", error) if isinstance(error, PeeweeException) else error
