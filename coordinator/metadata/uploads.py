"""Announced versions: what is coming, what has arrived of it, and who may append to it now.

Guarantees: nothing of an upload lives in a process: any coordinator continues from `offset`, which only ever advances
without a gap over durable blocks. An append under an epoch below the floor is refused, so a request that was taken over
can change nothing more, however late it wakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coordinator.metadata.values import (
    AnnounceResults,
    Appended,
    Claim,
    FileWrite,
    Head,
    Part,
    PartRow,
    Session,
    Target,
    Upload,
)

EXPIRES_AFTER_S_DEFAULT = 24 * 3600.0


def create(
    session: Session,
    target: Target,
    size_bytes: int | None,
    *,
    base_version: int | None = None,
    client_modified_at: datetime | None = None,
    executable: bool = False,
    client_metadata: str = "",
    expires_after_s: float = EXPIRES_AFTER_S_DEFAULT,
) -> tuple[Upload, Head]:
    """A streamed upload at offset 0 (size None: told later). Watchers learn of it by a "pending" journal entry.

    Raises VersionConflict, IsAFolder, NotAFolder, QuotaExceeded. `client_metadata` is kept as it is (tus).
    """
    raise NotImplementedError


def announce(
    session: Session, writes: Sequence[FileWrite], expires_after_s: float = EXPIRES_AFTER_S_DEFAULT
) -> AnnounceResults:
    """Pending versions whose blocks will be sent by hash; the same path and content again is the earlier upload."""
    raise NotImplementedError


def get(session: Session, upload_id: str) -> Upload:
    """Raises NotFound (also for another user's), UploadGone (cancelled or expired)."""
    raise NotImplementedError


def list_parts(upload_id: str, from_start: int = 0) -> list[PartRow]:
    """Stored parts that begin at `from_start` or later, in order; the open block's segments are the last ones."""
    raise NotImplementedError


def set_size(session: Session, upload_id: str, size_bytes: int) -> Upload:
    """Tell the deferred length. Raises BadRequest (another is told already, more has arrived), QuotaExceeded."""
    raise NotImplementedError


def claim(session: Session, upload_id: str) -> Claim:
    """Ask to be the one who appends. Where `previous_active`, wait for its release (get(...).active_epoch is None), at
    most as long as you like, then `force`. Otherwise the claim holds at once. Raises as `get`.
    """
    raise NotImplementedError


def force(upload_id: str, epoch: int) -> Upload:
    """Take over: whatever an older epoch still sends is refused from now on; the answer holds the offset to go on from.

    Also to be called after the previous holder has released. Raises UploadSuperseded when a newer claim exists.
    """
    raise NotImplementedError


def release(upload_id: str, epoch: int) -> None:
    """The claim is over; nothing happens when it was over before."""
    raise NotImplementedError


def append(upload_id: str, epoch: int, offset: int, parts: Sequence[Part]) -> Appended:
    """Record durable parts. `offset` is the one that the caller believes in; `parts` follow each other without a gap.

    The first part starts at `offset`, or before it at the start of stored parts which the new ones then replace (the
    segments of a block that is now whole, or one merged segment). Pushes the expiry back.
    Raises UploadSuperseded (older than the floor), OffsetMismatch (`expected_offset`), UploadGone, QuotaExceeded
    (deferred length), SizeMismatch (beyond the announced size).
    """
    raise NotImplementedError


def cancel(session: Session, upload_id: str) -> Head | None:
    """Give up; its space and blocks become free. None when it was already over. Raises NotFound."""
    raise NotImplementedError


def expire(limit: int = 100) -> list[Head]:
    """End uploads whose time is over, at most `limit`; the heads of the namespaces that were told."""
    raise NotImplementedError
