"""Bringing a disk's volumes and its index back into agreement at start.

The volumes are the truth. `scan_records` walks a volume and says what it found; `recover` takes that into the index,
cuts a torn tail, and never cuts anything else: a damaged stretch with something valid behind it is reported, stepped
over, and the volume is written to no more. Records whose payload is wrong but which may have been acknowledged once
stay in the index as bad, so that the node says "corrupt", never "missing".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from node.volumes.index import Index
from node.volumes.trash import punch_record
from node.volumes.volume import VolumeFile, VolumeFolder, payload_is_intact

_SEARCH_BYTES: Final = 1024 * 1024
_APPLY_BATCH: Final = 512  # records for each index transaction: bounds memory, and time under its lock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A record whose header is valid; `intact` tells whether its payload is (as far as was asked)."""

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


@dataclass(slots=True)
class Report:
    """What recovery met; for the log and the metrics."""

    records: int = 0
    bad_payloads: int = 0
    torn_tails: int = 0
    damaged: list[tuple[int, int, int]] = field(default_factory=list)  # volume, start, end


def scan_records(
    file: VolumeFile, start: int, disk_id: bytes, io: DiskIO, *, verify: bool, in_use: bool
) -> Iterator[Finding]:
    """Walk the volume from `start`, a record boundary. Raises OSError when the medium cannot be read.

    `verify` compares payloads with their digests. `in_use`: this volume was the one being written, so a tail without
    anything valid behind it is what a crash leaves and ends the walk as TornTail; elsewhere it is damage.
    """
    size = file.size
    suspects: list[Found | Damage] = []  # not intact; a torn tail unless something intact follows
    offset = start
    while offset < size:
        found = _read_record(file, Place(file.number, offset), size, disk_id, io, verify=verify)
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
    if suspects and in_use:
        first = suspects[0]
        yield TornTail(first.start if isinstance(first, Damage) else first.place.offset)
    else:
        yield from suspects


def recover(folder: VolumeFolder, index: Index) -> tuple[Report, bool]:
    """Take into `index` whatever the volumes hold beyond what it knows; an empty index is thereby rebuilt.

    Returns a report, and whether the newest volume may be appended to. Raises IndexDisagrees when the index claims more
    than the volumes hold: throw it away and call again. Raises OSError when the disk fails.
    """
    numbers = folder.list_numbers()
    ends = index.volume_ends()
    if not set(ends) <= set(numbers):
        raise IndexDisagrees("a volume of the index is gone")
    report = Report()
    writable = False
    for number in numbers:
        in_use = number == numbers[-1]
        file = folder.open_writable(number) if in_use else folder.open_reader(number)
        if in_use and file.size <= FIRST_RECORD_OFFSET and not _header_is_valid(folder, file):
            # It was being made when the power went, and its header comes before any record.
            folder.remove(number)
            return report, False
        undamaged = _recover_volume(folder, index, file, ends.get(number, FIRST_RECORD_OFFSET), report, in_use=in_use)
        if not (header_valid := _header_is_valid(folder, file)):
            # Its records name their disk and volume themselves; only the warning is lost with the header.
            _report_damage(report, file, Damage(0, FIRST_RECORD_OFFSET), "the volume header is not valid")
        writable = undamaged and header_valid
    return report, writable


class IndexDisagrees(Exception):
    """The index claims what the volumes do not hold."""


def _recover_volume(
    folder: VolumeFolder, index: Index, file: VolumeFile, start: int, report: Report, *, in_use: bool
) -> bool:
    if start > align(file.size) and start != FIRST_RECORD_OFFSET:
        raise IndexDisagrees(f"volume {file.number} ends at {file.size}, the index knows {start} bytes of it")
    # Payloads that were never synced can be torn under a valid header, but only in the volume that was in use.
    findings = scan_records(file, start, folder.disk_id, folder.io, verify=in_use, in_use=in_use)
    undamaged, end = True, start
    tombstones: list[Record] = []
    while batch := list(islice(findings, _APPLY_BATCH)):
        with index.change() as changes:
            for finding in batch:
                if isinstance(finding, Found):
                    changes.apply(finding.record, finding.place, bad=not finding.intact)
                    report.records += 1
                    if finding.record.kind is Kind.TOMBSTONE:
                        tombstones.append(finding.record)
                    report.bad_payloads += not finding.intact
                    undamaged &= finding.intact
                    end = finding.place.offset + finding.record.span
                elif isinstance(finding, Damage):
                    _report_damage(report, file, finding, "nothing there can be read")
                    undamaged, end = False, finding.end
                else:
                    _cut_tail(folder, file, finding, report)
                    end = finding.start
            changes.set_volume_end(file.number, align(end))
        for tombstone in tombstones:
            punch_record(folder, tombstone.target)  # the crash may have come between the tombstone and this
        tombstones.clear()
    if in_use:
        # What a killed process wrote may be in the page cache only, yet from now on we say that we have it.
        folder.io.fdatasync(file.descriptor)
    return undamaged


def _header_is_valid(folder: VolumeFolder, file: VolumeFile) -> bool:
    try:
        check_volume_header(folder.io.pread(file.descriptor, HEADER_BYTES, 0), file.number, folder.disk_id)
    except FormatError:
        return False
    return True


def _report_damage(report: Report, file: VolumeFile, damage: Damage, reason: str) -> None:
    report.damaged.append((file.number, damage.start, damage.end))
    _log.error(
        "volume.damaged",
        extra={"volume": file.number, "start": damage.start, "end": damage.end, "reason": reason},
    )


def _cut_tail(folder: VolumeFolder, file: VolumeFile, tail: TornTail, report: Report) -> None:
    _log.warning("volume.torn_tail_cut", extra={"volume": file.number, "start": tail.start, "size": file.size})
    folder.io.ftruncate(file.descriptor, tail.start)
    report.torn_tails += 1


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
