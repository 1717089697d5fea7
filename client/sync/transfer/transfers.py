"""Moves contents between the disk and the service for the engine (carry.Carrier): all sizes, both ways, and ahead.

Guarantees: those of send.py and fetch.py; a downloaded file gets its name only where exactly the file that it replaces
is there. Memory: at most `send.WHOLE_AT_ONCE` or `fetch.AT_ONCE` blocks, twice, for each call under way, or one batch.
Does not: decide what is moved, or how many calls run at once (the engine does both).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from client.batches import group
from client.errors import ClientError, DamagedTransfer
from client.sync.engine import apply
from client.sync.engine.apply import Outcome, Stale
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.transfer.contents import Fetched, Tools, is_signed
from client.sync.transfer.fetch import Part, Wanted, fetch, fetch_together, open_part
from client.sync.transfer.prefetch import Prefetch
from client.sync.transfer.send import send_large, send_small
from client.sync.tree import PendingUpload
from coordinator.protocol.hashing import BLOCK_BYTES
from node.base.clock import Clock

AHEAD_AT_ONCE: Final = 2  # prefetches under way: each keeps a worker for as long as the upload takes
AHEAD_BYTES_MIN: Final = BLOCK_BYTES + 1  # smaller versions are complete before anybody could fetch them
PARTS_KEPT: Final = 4  # prefetched and not asked for yet
ANNOUNCED_KEPT: Final = 256
_LOOK_AGAIN_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A file of a call, and which one."""

    number: int
    one: ToUpload

    @property
    def size(self) -> int:
        return self.one.local.stamp.size


@dataclass
class Transfers:
    """One synced folder's. `_lock` guards the rest: `_ahead` are the contents being prefetched (True while they are to
    go on), `_parts` those that were, still open; `_announced` tells under which id a content was announced."""

    tools: Tools
    clock: Clock
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ahead: dict[bytes, bool] = field(default_factory=dict)
    _parts: OrderedDict[bytes, Part] = field(default_factory=OrderedDict)
    _announced: OrderedDict[bytes, str] = field(default_factory=OrderedDict)

    def close(self) -> None:
        """What is half-done stays on the disk for the next time."""
        with self._lock:
            parts = list(self._parts.values())
            self._parts.clear()
        for part in parts:
            part.temp.close()

    # --- up -----------------------------------------------------------------------------------------------------

    def upload(self, files: Sequence[ToUpload]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        small: list[_Numbered] = []
        for number, one in enumerate(files):
            if one.local.stamp.size > BLOCK_BYTES or self._may_be_a_delta(one):
                outcomes[number] = send_large(self.tools, one)
            else:
                small.append(_Numbered(number, one))
        for batch in group(small):
            told = send_small(self.tools, [numbered.one for numbered in batch])
            outcomes.update(zip((numbered.number for numbered in batch), told, strict=True))
        return [outcomes[number] for number in range(len(files))]

    def _may_be_a_delta(self, one: ToUpload) -> bool:
        return (
            one.base is not None
            and is_signed(one.local.stamp.size)
            and self.tools.known.signature(one.local.id) is not None
        )

    # --- down ---------------------------------------------------------------------------------------------------

    def download(self, files: Sequence[ToDownload]) -> list[Outcome]:
        wanted = [self._wanted(one) for one in files]
        try:
            brought = fetch_together(self.tools, wanted)
        except ClientError as error:
            return [apply.refused(error)] * len(files)
        return [
            self._download_one(one, version, brought.pop(at, None))
            for at, (one, version) in enumerate(zip(files, wanted, strict=True))
        ]

    def _wanted(self, one: ToDownload) -> Wanted:
        content = one.remote.content
        assert content is not None
        return Wanted(
            one.remote_path,
            one.remote.version,
            one.remote.size,
            content,
            one.remote.mtime_ns,
            one.remote.id,
            one.path if one.replaces is not None else None,
            one.upload_id or self._announced.get(content.digest),
        )

    def _download_one(self, one: ToDownload, wanted: Wanted, plain: memoryview | None) -> Outcome:
        return apply.touching(one.path, lambda: apply.asking(lambda: self._download(one, wanted, plain)))

    def _download(self, one: ToDownload, wanted: Wanted, plain: memoryview | None) -> Outcome:
        part = self._take_part(wanted.content.digest) or open_part(self.tools, wanted.size, wanted.content)
        try:
            fetch(self.tools, wanted, part, plain)
            placed = self.tools.fs.place(part.temp, one.path, one.replaces.stamp if one.replaces is not None else None)
        except DamagedTransfer:
            # Most likely another file stands at this path by now, with a version of the same number.
            part.temp.close()
            return Stale(remote=True)
        except BaseException:
            part.temp.close()
            raise
        return Fetched(placed.stamp(), part.learned())

    def _take_part(self, digest: bytes) -> Part | None:
        """What a prefetch has brought, once it has ended: all blocks are there, so it ends soon."""
        while True:
            with self._lock:
                if digest not in self._ahead:
                    return self._parts.pop(digest, None)
                self._ahead[digest] = False
            self.tools.pause(_LOOK_AGAIN_S)

    # --- ahead --------------------------------------------------------------------------------------------------

    def prefetch(self, row: PendingUpload, remote_path: str) -> None:
        digest = row.content.digest
        with self._lock:
            self._announced[digest] = row.upload_id
            if len(self._announced) > ANNOUNCED_KEPT:
                self._announced.popitem(last=False)
            known = digest in self._ahead or digest in self._parts
            if row.size < AHEAD_BYTES_MIN or known or len(self._ahead) == AHEAD_AT_ONCE:
                return
            self._ahead[digest] = True
        part: Part | None = None
        try:
            part = open_part(self.tools, row.size, row.content)
            Prefetch(
                *(self.tools, row, part),
                remote_path=remote_path,
                clock=self.clock,
                wanted=lambda: self._ahead[digest],
            ).run()
        except (ClientError, OSError):
            pass  # it was only to save time: what is there is kept, the download meets the same trouble and tells it
        finally:
            self._end_ahead(digest, part)

    def _end_ahead(self, digest: bytes, part: Part | None) -> None:
        dropped: list[Part] = []
        with self._lock:
            del self._ahead[digest]
            if part is not None and part.blocks:
                self._parts[digest] = part
                if len(self._parts) > PARTS_KEPT:
                    dropped.append(self._parts.popitem(last=False)[1])
            elif part is not None:
                dropped.append(part)
        for one in dropped:
            one.temp.close()
