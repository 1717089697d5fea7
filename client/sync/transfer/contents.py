"""What moving contents needs, and what is known of a content once it was moved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from client.fs.base import FileSystem, Path
from client.sync.engine.apply import Placed, Told
from client.sync.store.reader import SyncedContent
from client.sync.transfer.jobs import Parallel
from client.sync.transfer.limits import RateLimit
from client.sync.tree import LocalId
from coordinator.protocol.delta import Delta
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import AnnounceResult, BlockList, CommitEntry, CommitResult

_SIGNED_BYTES_MIN: Final = 1 << 20  # smaller files are sent whole: a delta would save little time
_SIGNED_BYTES_MAX: Final = 1 << 34  # 50 MB of signatures; of larger files whole blocks are sent


def is_signed(size: int) -> bool:
    """Whether signatures are kept of files of this size."""
    return _SIGNED_BYTES_MIN <= size <= _SIGNED_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Learned:
    """A file's content by its hash, its blocks, and delta.py's joined signatures where it has any: worth keeping."""

    digest: bytes
    blocks: tuple[bytes, ...]
    signatures: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sent(Told):
    learned: Learned | None = None


@dataclass(frozen=True, slots=True)
class Fetched(Placed):
    learned: Learned | None = None


class BlockService(Protocol):
    """The part of client.api.Api that moves contents. Every call answers or raises a ClientError."""

    url: str

    def blocks(self, path: str, version: int | None) -> BlockList: ...
    def upload_blocks(self, upload_id: str) -> BlockList: ...
    def download(self, path: str, version: int | None) -> bytes: ...
    def fetch_small(self, wanted: Sequence[tuple[int, int]]) -> list[memoryview | None]: ...
    def missing(self, path: str, hashes: Sequence[str]) -> set[str]: ...
    def put_block(self, path: str, block: str, plain: bytes | memoryview) -> None: ...
    def get_block(
        self,
        path: str,
        block: str,
        *,
        upload_id: str | None = None,
        wait_s: int | None = None,
        byte_range: tuple[int, int] | None = None,
    ) -> bytes: ...
    def put_batch(self, path: str, blocks: Sequence[tuple[bytes, bytes]]) -> None: ...
    def announce(self, entries: list[CommitEntry], *, as_ranges: bool = False) -> list[AnnounceResult]: ...
    def commit(self, entries: list[CommitEntry], request_key: str) -> list[CommitResult]: ...
    def put_delta(self, upload_id: str, delta: Delta) -> None: ...
    def get_delta(self, upload_id: str) -> Delta | None: ...


class Known(Protocol):
    """What this device knows of the contents of its files. Safe for any number of threads; may be outdated."""

    def blocks_of(self, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
        """(content hash, block hashes) of a local file as it was last read."""

    def signature(self, local_id: LocalId) -> tuple[bytes, bytes] | None:
        """(content hash, joined signatures) of what was last synced of a local file."""

    def find_block(self, block: bytes) -> Sequence[tuple[Path, int]]:
        """Files that held the block when they were last read, and its position in them."""

    def find_content(self, digest: bytes) -> Sequence[SyncedContent]:
        """Some of the files that had this content when both sides last agreed on them."""


@dataclass
class Traffic:
    """Bytes that travelled or were spared, since the start. Safe for any number of threads."""

    up: int = 0
    down: int = 0
    spared: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sent(self, size: int) -> None:
        with self._lock:
            self.up += size

    def fetched(self, size: int) -> None:
        with self._lock:
            self.down += size

    def had(self, size: int) -> None:
        with self._lock:
            self.spared += size


class Buffers:
    """Block-sized buffers that are used again while any is in use; an idle client holds none. Never waits: how many are
    in use is bounded by who runs the jobs. `_lock` guards the rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[bytearray] = []
        self._used = 0

    @contextmanager
    def take(self) -> Iterator[bytearray]:
        """A buffer of BLOCK_BYTES with arbitrary contents."""
        with self._lock:
            self._used += 1
            buffer = self._free.pop() if self._free else bytearray(BLOCK_BYTES)
        try:
            yield buffer
        finally:
            with self._lock:
                self._used -= 1
                self._free.append(buffer)
                if not self._used:
                    self._free.clear()


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all transfers of one synced folder share: safe for any number of threads. `pause` waits for some seconds,
    `new_key` makes unique request keys."""

    fs: FileSystem
    service: BlockService
    known: Known
    parallel: Parallel
    up: RateLimit
    down: RateLimit
    pause: Callable[[float], None]
    new_key: Callable[[], str]
    traffic: Traffic = field(default_factory=Traffic)
    buffers: Buffers = field(default_factory=Buffers)
