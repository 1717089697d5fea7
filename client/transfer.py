"""What the transfers of one command share: the service, the memory for blocks, and the count of what was done."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from client.api import Api
from client.parallel import Buffers


@dataclass
class Tally:
    """What was done so far: read by progress bars, reported at the end. Safe for any number of threads.

    `done` counts handled bytes (also those that need not travel), `moved` those that went over the wire.
    """

    total_bytes: int | None = None
    done_bytes: int = 0
    moved_bytes: int = 0
    moved_blocks: int = 0
    files: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def expect(self, size_bytes: int) -> None:
        with self._lock:
            self.total_bytes = (self.total_bytes or 0) + size_bytes

    def moved(self, size_bytes: int, blocks: int = 1) -> None:
        """Bytes that travelled; they are done as well."""
        with self._lock:
            self.moved_bytes += size_bytes
            self.moved_blocks += blocks
            self.done_bytes += size_bytes

    def spared(self, size_bytes: int) -> None:
        """Bytes that the other side had already."""
        with self._lock:
            self.done_bytes += size_bytes

    def finished_file(self) -> None:
        with self._lock:
            self.files += 1

    def report(self) -> dict[str, int]:
        """The "transfer" object of JSON output."""
        return {"files": self.files, "blocks_moved": self.moved_blocks, "bytes_moved": self.moved_bytes}


@dataclass(frozen=True)
class Transfer:
    """One command's transfers: every part of it may be used by any number of threads."""

    api: Api
    tally: Tally = field(default_factory=Tally)
    buffers: Buffers = field(default_factory=Buffers)
