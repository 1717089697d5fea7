"""Retention: old versions thin out with age, the trash is emptied, the journal is cut at its far end.

Never touches a current version. What to drop is decided by `choose_drops` alone; dropping only removes references, the
blocks are collected later like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Final

from coordinator.metadata import ageing
from coordinator.metadata.ageing import VersionAge
from coordinator.metadata.db import Door
from coordinator.metadata.values import Lease, Swept
from node.base.clock import Clock

_DAY_S: Final = 86_400.0
_FILES_BATCH: Final = 2000
_TRASH_BATCH: Final = 100
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """Up to this age, of the versions within each `every` only the newest is kept (zero: all are)."""

    up_to: timedelta
    every: timedelta


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """`steps` by rising age; beyond the last one `beyond_every` holds. `versions_max` for each file: over it, what
    `tighter_steps` would drop goes, too, and then the oldest."""

    steps: tuple[Step, ...] = (
        Step(timedelta(days=30), timedelta(0)),
        Step(timedelta(days=120), timedelta(days=1)),
        Step(timedelta(days=730), timedelta(weeks=1)),
    )
    beyond_every: timedelta = timedelta(weeks=4)  # stretches nest: one divides the next, or runs would add up
    versions_max: int = 500
    tighter_steps: tuple[Step, ...] = (
        Step(timedelta(hours=6), timedelta(0)),
        Step(timedelta(days=3), timedelta(hours=1)),
        Step(timedelta(days=120), timedelta(days=1)),
        Step(timedelta(days=730), timedelta(weeks=1)),
    )
    trash_s: float = 30 * _DAY_S
    journal_s: float = 400 * _DAY_S  # a device may be away for a year and still catch up
    read_notifications_s: float = 180 * _DAY_S


def choose_drops(versions: Sequence[VersionAge], now: datetime, rules: RetentionRules) -> list[VersionAge]:
    """Which earlier versions of one file (oldest first, without the current one) are not kept any more."""
    dropped = _thin(versions, now, rules.steps, rules.beyond_every)
    kept = [version for version in versions if version not in dropped]
    if len(kept) > rules.versions_max:
        dropped |= _thin(kept, now, rules.tighter_steps, rules.beyond_every)
        kept = [version for version in versions if version not in dropped]
        dropped.update(kept[: max(0, len(kept) - rules.versions_max)])
    return [version for version in versions if version in dropped]


def _thin(
    versions: Sequence[VersionAge], now: datetime, steps: Sequence[Step], beyond_every: timedelta
) -> set[VersionAge]:
    """All that have a newer one within their stretch of time, as long as their own age says, whatever the newer one's
    age: else a run that comes before both are old would drop one that a later run alone would keep. Stretches lie fixed
    on the calendar, not relative to `now`: else each run would choose other ones and together they would drop all."""
    dropped = set()
    for version, newer in pairwise(versions):
        every = next((step.every for step in steps if now - version.modified_at <= step.up_to), beyond_every)
        if every and _stretch(version, every) == _stretch(newer, every):
            dropped.add(version)
    return dropped


def _stretch(version: VersionAge, every: timedelta) -> int:
    return int(version.modified_at.timestamp() // every.total_seconds())


async def retain(db: Door, lease: Lease, clock: Clock, rules: RetentionRules) -> Swept:
    """One whole round over all files, the trash and the journals."""
    looked_at, dropped = await _drop_versions(db, lease, clock, rules)
    purged = await _empty_trash(db, lease, rules)
    cut = 0
    for namespace_id in await db.run(ageing.list_namespaces):
        while count := await db.run_within(_TIMEOUT_S, ageing.trim_journal, lease, namespace_id, rules.journal_s):
            cut += count
    while await db.run(ageing.trim_notices, rules.read_notifications_s):
        pass
    return Swept(
        found={"old versions": looked_at},
        done={"versions dropped": dropped, "trash removed": purged, "journal entries cut": cut},
    )


async def _drop_versions(db: Door, lease: Lease, clock: Clock, rules: RetentionRules) -> tuple[int, int]:
    after: ageing.FileName | None = (0, 0)
    looked_at = count = 0
    while after is not None:
        page = await db.run_within(_TIMEOUT_S, ageing.list_old_versions, after, _FILES_BATCH)
        looked_at += len(page.versions)
        now = datetime.fromtimestamp(clock.now(), UTC)
        drops = [
            version
            for _, versions in groupby(page.versions, key=lambda version: (version.namespace_id, version.file_id))
            for version in choose_drops(list(versions), now, rules)
        ]
        for namespace_id, group in groupby(drops, key=lambda version: version.namespace_id):
            count += await db.run_within(_TIMEOUT_S, ageing.drop_versions, lease, namespace_id, list(group))
        after = page.last
    return looked_at, count


async def _empty_trash(db: Door, lease: Lease, rules: RetentionRules) -> int:
    removed = 0
    while batch := await db.run(ageing.list_old_trash, rules.trash_s, _TRASH_BATCH):
        for trashed in batch:
            complete = False
            while not complete:
                count, complete = await db.run_within(_TIMEOUT_S, ageing.purge, lease, trashed, rules.trash_s)
                removed += count
    return removed
