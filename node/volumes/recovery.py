"""Bringing a disk's volumes and its index back into agreement at start.

The volumes are the truth. `scan_records` walks a volume and says what it found; `recover` takes that into the index,
cuts a torn tail, and never cuts anything else: a damaged stretch with something valid behind it is reported, stepped
over, and the volume is written to no more. Records whose payload is wrong but which may have been acknowledged once
stay in the index as bad, so that the node says "corrupt", never "missing". (An answer leaves only after the index has
its record: what lies beyond an index that is believed was acknowledged to nobody.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final

from node.volumes.disk_io import DiskIO
from node.volumes.format import (
    ALIGNMENT,
    FIRST_RECORD_OFFSET,
    HEADER_BYTES,
    RECORD_MAGIC,
    FormatError,
    Kind,
    Place,
    Record,
    align,
    check_volume_header,
    unpack_record,
)
from node.volumes.index import Changes, Index
from node.volumes.trash import punch_record
from node.volumes.volume import VolumeFile, VolumeFolder, payload_is_intact

_SEARCH_BYTES: Final = 1024 * 1024
_APPLY_BATCH: Final = 512  # records for each index transaction: bounds memory, and time under its lock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A record whose header is valid; `intact` tells whether its payload is, as far as it was read."""

    record: Record
    place: Place
    intact: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """From `start` to `end` nothing can be read, and at `end` a valid record begins (or a full volume ends)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TornTail:
    """From `start` on nothing valid follows."""

    start: int


Finding = Found | Damage | TornTail


class Tail(Enum):
    """What the walked part of a volume may end in."""

    NONE = "none"  # the volume was full and synced: whatever is wrong in it is damage; payloads are not read
    UNKNOWN = "unknown"  # it was in use when the machine went down: cut only what has no valid header
    UNACKNOWLEDGED = "unacknowledged"  # a process died: cut whatever is not intact


@dataclass(slots=True)
class Report:
    """What recovery met; for the log and the metrics."""

    records: int = 0
    bad_payloads: int = 0
    torn_tails: int = 0
    damaged: list[tuple[int, int, int]] = field(default_factory=list)  # volume, start, end


def scan_records(file: VolumeFile, start: int, disk_id: bytes, io: DiskIO, *, tail: Tail) -> Iterator[Finding]:
    """Walk the volume from `start`, a record boundary. Raises OSError when the medium cannot be read."""
    size = file.size
    suspects: list[Found | Damage] = []  # not intact; perhaps a torn tail, unless something intact follows
    offset = start
    while offset < size:
        found = _read_record(file, Place(file.number, offset), size, disk_id, io, verify=tail is not Tail.NONE)
        if found is None:
            following = _find_record(file, offset + ALIGNMENT, size, disk_id, io)
            suspects.append(Damage(offset, size if following is None else following))
            offset = size if following is None else following
            continue
        offset += found.record.span
        if found.intact:
            yield from suspects
            suspects.clear()
            yield found
        else:
            suspects.append(found)
    kept = _count_kept(suspects, tail)
    yield from suspects[:kept]
    if kept < len(suspects):
        first = suspects[kept]
        yield TornTail(first.start if isinstance(first, Damage) else first.place.offset)


def _count_kept(suspects: Sequence[Found | Damage], tail: Tail) -> int:
    """How many of the suspects at the very end of a volume are not what a crash leaves behind."""
    if tail is Tail.NONE:
        return len(suspects)
    if tail is Tail.UNACKNOWLEDGED:
        return 0
    # A valid header says that somebody stored something here: it is kept even if nobody knows how the payload went.
    return max((position + 1 for position, each in enumerate(suspects) if isinstance(each, Found)), default=0)


class IndexDisagrees(Exception):
    """The index claims what the volumes do not hold."""


def recover(folder: VolumeFolder, index: Index, *, believed: bool) -> tuple[Report, bool]:
    """Take into `index` whatever the volumes hold beyond what it knows; an empty index is thereby rebuilt.

    `believed`: the index holds everything that was ever acknowledged. Returns a report, and whether the newest volume
    may be appended to. Raises IndexDisagrees when the index claims more than the volumes hold (throw it away and call
    again), OSError when the disk fails.
    """
    return _Recovery(folder, index, believed).run()


@dataclass(slots=True)
class _Recovery:
    folder: VolumeFolder
    index: Index
    believed: bool
    report: Report = field(default_factory=Report)

    def run(self) -> tuple[Report, bool]:
        folder = self.folder
        numbers, ends = folder.list_numbers(), self.index.volume_ends()
        if not set(ends) <= set(numbers):
            raise IndexDisagrees("a volume of the index is gone")
        writable = False
        for number in numbers:
            in_use = number == numbers[-1]
            file = folder.open_writable(number) if in_use else folder.open_reader(number)
            if in_use and file.size <= FIRST_RECORD_OFFSET and not _header_is_valid(folder, file):
                # It was being made when the power went, and its header comes before any record.
                folder.remove(number)
                return self.report, False
            undamaged = self._recover_volume(file, ends.get(number, FIRST_RECORD_OFFSET), in_use=in_use)
            if not (header_valid := _header_is_valid(folder, file)):
                # Its records name their disk and volume themselves, so nothing else is lost.
                self._report_damage(file, Damage(0, FIRST_RECORD_OFFSET), "the volume header is not valid")
            writable = undamaged and header_valid
        return self.report, writable

    def _recover_volume(self, file: VolumeFile, start: int, *, in_use: bool) -> bool:
        """Whether all of it is as it was written."""
        if start > max(align(file.size), FIRST_RECORD_OFFSET):
            raise IndexDisagrees(f"volume {file.number} ends at {file.size}, the index knows {start} bytes of it")
        tail = Tail.NONE if not in_use else Tail.UNACKNOWLEDGED if self.believed else Tail.UNKNOWN
        findings = scan_records(file, start, self.folder.disk_id, self.folder.io, tail=tail)
        undamaged, end = True, start
        while batch := list(islice(findings, _APPLY_BATCH)):
            with self.index.change() as changes:
                for finding in batch:
                    undamaged &= isinstance(finding, TornTail) or (isinstance(finding, Found) and finding.intact)
                    end = self._take(finding, file, changes)
                changes.set_volume_end(file.number, align(end))
            self._punch_again(batch)
        if in_use:
            # What a killed process wrote may be in the page cache only, yet from now on we say that we have it.
            self.folder.io.fdatasync(file.descriptor)
        return undamaged

    def _take(self, finding: Finding, file: VolumeFile, changes: Changes) -> int:
        """Gives the offset up to which the volume is dealt with."""
        if isinstance(finding, Found):
            changes.apply(finding.record, finding.place, bad=not finding.intact)
            self.report.records += 1
            self.report.bad_payloads += not finding.intact
            return finding.place.offset + finding.record.span
        if isinstance(finding, Damage):
            self._report_damage(file, finding, "nothing there can be read")
            return finding.end
        _log.warning("volume.torn_tail_cut", extra={"volume": file.number, "start": finding.start, "size": file.size})
        self.folder.io.ftruncate(file.descriptor, finding.start)
        self.report.torn_tails += 1
        return finding.start

    def _punch_again(self, batch: Sequence[Finding]) -> None:
        """The crash may have come between a tombstone and the hole."""
        for finding in batch:
            if isinstance(finding, Found) and finding.record.kind is Kind.TOMBSTONE:
                punch_record(self.folder, finding.record.target)

    def _report_damage(self, file: VolumeFile, damage: Damage, reason: str) -> None:
        self.report.damaged.append((file.number, damage.start, damage.end))
        _log.error(
            "volume.damaged",
            extra={"volume": file.number, "start": damage.start, "end": damage.end, "reason": reason},
        )


def _header_is_valid(folder: VolumeFolder, file: VolumeFile) -> bool:
    try:
        check_volume_header(folder.io.pread(file.descriptor, HEADER_BYTES, 0), file.number, folder.disk_id)
    except FormatError:
        return False
    return True


def _read_record(
    file: VolumeFile, place: Place, size: int, disk_id: bytes, io: DiskIO, *, verify: bool
) -> Found | None:
    try:
        record = unpack_record(io.pread(file.descriptor, HEADER_BYTES, place.offset), place, disk_id)
    except FormatError:
        return None
    intact = place.offset + HEADER_BYTES + record.payload_bytes <= size
    if intact and verify and record.payload_bytes:
        payload = io.pread(file.descriptor, record.payload_bytes, place.offset + HEADER_BYTES)
        intact = payload_is_intact(record.meta, payload)
    return Found(record, place, intact)


def _find_record(file: VolumeFile, start: int, size: int, disk_id: bytes, io: DiskIO) -> int | None:
    """The first offset from `start` on at which a valid header stands."""
    for base in range(start, size, _SEARCH_BYTES):
        window = memoryview(io.pread(file.descriptor, min(_SEARCH_BYTES, size - base), base))
        for position in range(0, len(window), ALIGNMENT):
            header = window[position : position + HEADER_BYTES]
            if header[: len(RECORD_MAGIC)].tobytes() != RECORD_MAGIC:
                continue
            try:
                unpack_record(header, Place(file.number, base + position), disk_id)
            except FormatError:
                continue
            return base + position
    return None
