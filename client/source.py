"""A local file as something to send: read by blocks, and watched for changes while it is read.

Guarantees: `check_unchanged` raises when the file's bytes may have changed since it was opened, so what was hashed in
between is one state of the file. Does not: retry (client.upload), follow what replaces the file under its name.
"""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from client.errors import ClientError, LocalMissing, LocalTrouble
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, count_blocks

# A change in the same clock tick as the last one leaves no trace in mtime; older than this, every change does.
_RACY_NS: Final = 20_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MTIME_MAX_S: Final = 253_402_300_799  # the last second of the year 9999, which RFC 3339 can write


class Unsettled(Exception):
    """The file changed while it was read. Internal: `client.upload` tries again and then raises FileChanged."""


class SourceFile:
    """An open regular file. Reading is safe from any number of threads; nothing is changed after opening."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._identity, facts = _settled_identity(descriptor)
        self.size = facts.st_size
        self.blocks = count_blocks(facts.st_size)
        self.mtime = datetime_of(facts.st_mtime_ns)
        self.executable = bool(facts.st_mode & stat.S_IXUSR)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises LocalMissing, or LocalTrouble when it is not a regular file or cannot be read."""
        descriptor = -1
        try:
            # Without O_NONBLOCK a pipe that took the file's place would hang the open.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LocalTrouble(path=path, reason="it is not a regular file")
            return cls(path, descriptor)
        except OSError as error:
            _close(descriptor)
            raise local_error(path, error) from error
        except ClientError:
            _close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read_block(self, index: int, buffer: bytearray) -> memoryview:
        """Block `index` in the beginning of `buffer`. Raises Unsettled when the file got shorter; LocalTrouble."""
        wanted = memoryview(buffer)[: block_size(self.size, index)]
        self._fill(wanted, index * BLOCK_BYTES)
        return wanted

    def read_whole(self) -> bytes:
        """All of a small file. Raises like `read_block`."""
        buffer = bytearray(self.size)
        self._fill(memoryview(buffer), 0)
        return bytes(buffer)

    def check_unchanged(self) -> None:
        """Raises Unsettled when the file may have changed since it was opened."""
        if _identity(os.fstat(self._descriptor)) != self._identity:
            raise Unsettled

    def _fill(self, rest: memoryview, offset: int) -> None:
        while rest:
            try:
                count = os.preadv(self._descriptor, [rest], offset)
            except OSError as error:
                raise local_error(self.path, error) from error
            if count == 0:
                raise Unsettled
            rest, offset = rest[count:], offset + count


def local_error(path: Path, error: OSError) -> ClientError:
    """What an OSError about a local file means to a person."""
    if isinstance(error, FileNotFoundError):
        return LocalMissing(path=path)
    return LocalTrouble(path=path, reason=(error.strerror or str(error)).lower())


def datetime_of(mtime_ns: int) -> datetime:
    """A file's time as the service takes it: microseconds, within the years 1 to 9999."""
    seconds, rest_ns = divmod(mtime_ns, 1_000_000_000)
    clamped = max(-62_135_596_800, min(seconds, _MTIME_MAX_S))
    return datetime.fromtimestamp(clamped, UTC).replace(microsecond=rest_ns // 1000)


def mtime_ns_of(moment: datetime) -> int:
    """The way back, exact to the microsecond; a float of seconds would be off by one now and then."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _settled_identity(descriptor: int) -> tuple[tuple[int, ...], os.stat_result]:
    """The file's identity once its mtime is old enough to show any later change."""
    facts = os.fstat(descriptor)
    if 0 <= time.time_ns() - facts.st_mtime_ns < _RACY_NS:
        time.sleep(_RACY_NS / 1e9)
        facts = os.fstat(descriptor)
    return _identity(facts), facts


def _identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
