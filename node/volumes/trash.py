"""The second half of a delete: when a shard has been in the trash long enough, a tombstone, then its space.

The order carries the safety: the tombstone is durable before a byte is given back, so a record never reads as a live
shard full of zeros. Holes are punched only in volumes that are no longer written, since recovery compares the payloads
of the newest one with their digests. The header of a punched record stays, for whoever walks the volume later.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from node.volumes.format import (
    ALIGNMENT,
    HEADER_BYTES,
    FormatError,
    Kind,
    Place,
    Record,
    make_bare_meta,
    unpack_record,
)
from node.volumes.index import Trashed
from node.volumes.volume import VolumeFolder

PURGE_BATCH: Final = 256

_NO_HOLES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

_log = logging.getLogger(__name__)


def make_tombstone(trashed: Trashed, now_ms: int) -> Record:
    """The record that ends `trashed` for good."""
    return Record(Kind.TOMBSTONE, make_bare_meta(trashed.name), 0, now_ms, trashed.place, trashed.at_ms)


def punch_record(folder: VolumeFolder, place: Place) -> int:
    """Give the payload's space of a purged record back; gives the bytes. Safe to repeat.

    Raises nothing for a file system without holes (the space then stays used); other OSErrors are the disk's.
    """
    file = folder.open_writable(place.volume)
    try:
        record = unpack_record(folder.io.pread(file.descriptor, HEADER_BYTES, place.offset), place, folder.disk_id)
    except FormatError as error:
        _log.error("trash.no_record", extra={"volume": place.volume, "offset": place.offset, "reason": str(error)})
        return 0
    size = record.span - ALIGNMENT
    if record.kind is not Kind.SHARD or size <= 0:
        return 0
    try:
        folder.io.punch_hole(file.descriptor, place.offset + ALIGNMENT, size)
    except OSError as error:
        if error.errno not in _NO_HOLES:
            raise
        return 0
    return size
