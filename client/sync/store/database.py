"""The SQLite file of one synced folder: opened and checked, written in transactions, read by several threads.

Guarantees: what one `transaction` wrote is there as a whole or not at all, also after `kill -9`; after a power cut the
file may be some transactions older but never torn, except that a durable transaction and all before it survive.
Does not: know what the tables mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import peewee

from client.sync.store.tables import FORMAT_VERSION, MIGRATIONS, TABLES

CHECKED_BYTES_MAX: Final = 64 << 20  # checked whole at every start (0.2 s); a larger one shows damage when it is met

# No space; over a quota; no space for the index of the journal, which other readers share.
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})

Row = tuple[Any, ...]


class Readable(Protocol):
    """Where rows come from. They are fetched whole: an open statement would keep its thread's view of the database
    where it is, and the journal from being emptied."""

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]: ...
    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None: ...


class StoreDamaged(Exception):
    """The file is no usable database any more: set it aside (`set_aside`) and open a new one."""


class StoreFull(Exception):
    """Nothing can be written any more, since its disk is full: what the transaction wrote is not there. Whoever meets
    this opens the file anew, once there is space: what was to be written is seen again."""


class Database:
    """Belongs to the control thread. `_depth` counts nested transactions."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file (None: in memory, for tests). Raises StoreDamaged, StoreFull."""
        self.path = path
        self._file = peewee.SqliteDatabase(
            ":memory:" if path is None else str(path),
            pragmas=[("journal_mode", "wal"), ("synchronous", "normal"), ("cache_size", -16_000)],
            timeout=30,
            thread_safe=False,
            check_same_thread=False,
        )
        self._depth = 0
        self._durable = False
        try:
            self._open()
        except (peewee.DatabaseError, sqlite3.DatabaseError) as error:
            with suppress(peewee.DatabaseError, sqlite3.DatabaseError):
                self._file.close()
            if _is_full(error):
                raise StoreFull from error
            if isinstance(error, peewee.OperationalError | sqlite3.OperationalError):
                raise  # locked, unreadable: not the file's contents
            raise StoreDamaged(str(error)) from error

    def _open(self) -> None:
        self._file.connect()
        self._sql: sqlite3.Connection = self._file.connection()  # type: ignore[no-untyped-call]  # peewee's own
        (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            raise StoreDamaged(f"it is of format {version}, which a newer client has written")
        small = self.path is None or self.path.stat().st_size <= CHECKED_BYTES_MAX
        if small and self._sql.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreDamaged("its pages contradict each other")
        with self._file.atomic(), self._file.bind_ctx(TABLES):
            if version == 0:
                self._file.create_tables(TABLES)
            else:
                for step in range(version, FORMAT_VERSION):
                    MIGRATIONS[step](self._file)
            self._sql.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def close(self) -> None:
        self._file.close()

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        return self._sql.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        found: Row | None = self._sql.execute(sql, parameters).fetchone()
        return found

    def write(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> None:
        assert self._depth, "writes belong into a transaction"
        self._sql.execute(sql, parameters)

    def write_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        assert self._depth, "writes belong into a transaction"
        self._sql.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return self._depth > 0

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Everything inside is written as a whole. Only the outermost one counts; `durable`: it survives power loss
        when this returns. Raises StoreFull."""
        if self._depth:
            assert self._durable or not durable, "a durable transaction inside one that is not"
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        if durable:
            self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("BEGIN IMMEDIATE")
        self._depth, self._durable = 1, durable
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._sql.execute("ROLLBACK")
            if _is_full(error):
                raise StoreFull from error
            raise
        finally:
            self._depth, self._durable = 0, False
            if durable:
                self._sql.execute("PRAGMA synchronous = NORMAL")


def _is_full(error: BaseException) -> bool:
    """Also by what peewee has made of it."""
    if isinstance(error, peewee.OperationalError) and error.args and isinstance(error.args[0], sqlite3.Error):
        error = error.args[0]
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in _FULL


class ReadOnly:
    """The file beside its owner, for any number of threads: each has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._file = peewee.SqliteDatabase(str(path), pragmas=[("query_only", 1)], timeout=30)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        connection: sqlite3.Connection = self._file.connection()  # type: ignore[no-untyped-call]  # peewee's own
        return connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        return next(iter(self.rows(sql, parameters)), None)

    def close(self) -> None:
        """Of the calling thread; the others' connections end with their threads."""
        self._file.close()


def set_aside(path: Path) -> Path:
    """Rename a damaged database, so that a person can look at it. Its journal goes with it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside
