from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.jobs.retention import RetentionRules, choose_drops, retain
from coordinator.metadata import db, files, leases, trees
from coordinator.metadata.ageing import VersionAge
from coordinator.metadata.db import Door
from coordinator.metadata.values import FileId, NamespaceId
from node.base.clock import SystemClock
from tests.kit.metadata import Person

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
RULES = RetentionRules()


def versions(*ages: timedelta) -> list[VersionAge]:
    """Oldest first."""
    ordered = sorted(ages, reverse=True)
    return [VersionAge(NamespaceId(1), FileId(1), number, NOW - age) for number, age in enumerate(ordered, 1)]


def kept(history: list[VersionAge], rules: RetentionRules = RULES) -> list[VersionAge]:
    dropped = set(choose_drops(history, NOW, rules))
    return [version for version in history if version not in dropped]


def test_everything_of_the_last_month_is_kept() -> None:
    history = versions(*(timedelta(hours=hour) for hour in range(0, 30 * 24, 7)))
    assert kept(history) == history


def test_older_ones_are_kept_by_the_day_then_by_the_week_then_by_four() -> None:
    history = versions(*(timedelta(hours=6 * number) for number in range(4 * 365 * 4)))
    ages = [
        (NOW - version.modified_at) / timedelta(days=1) for version in kept(history, RetentionRules(versions_max=10**6))
    ]
    assert sum(30 < age <= 120 for age in ages) in (90, 91)
    assert sum(120 < age <= 730 for age in ages) in (87, 88, 89)
    assert sum(age > 730 for age in ages) in (26, 27)


def test_of_one_day_the_newest_is_kept() -> None:
    day = timedelta(days=60)
    history = versions(day, day + timedelta(hours=1), day + timedelta(hours=2))
    assert [version.version for version in kept(history)] == [3]


def test_a_file_that_is_saved_every_minute_stays_below_the_limit() -> None:
    history = versions(*(timedelta(minutes=number) for number in range(20_000)))
    left = kept(history)
    assert len(left) <= RULES.versions_max
    newest = [version for version in left if NOW - version.modified_at <= timedelta(hours=6)]
    assert len(newest) == 361


@given(st.lists(st.integers(0, 3 * 365 * 24 * 60), max_size=60), st.lists(st.integers(0, 60 * 24 * 200), max_size=4))
@example([0, 1], [43_201, 129_599])  # of one day when first looked at, then a step's end lies between them
def test_many_runs_keep_what_the_last_one_alone_would(ages: list[int], waits: list[int]) -> None:
    """Versions do not melt away by being looked at often."""
    history = versions(*(timedelta(minutes=age) for age in ages))
    now, left = NOW, history
    for wait in [0, *waits]:
        now += timedelta(minutes=wait)
        dropped = choose_drops(left, now, RULES)
        left = [version for version in left if version not in dropped]
    alone = choose_drops(history, now, RULES)
    assert left == [version for version in history if version not in alone]


def test_a_round_drops_versions_trash_and_journal(anna: Person, door: Door) -> None:
    for base in range(3):
        anna.put("/f", str(base), base=base)
    anna.put("/gone/x", "x")
    trees.delete(anna.session, anna.at("/gone"))
    lease = leases.acquire("retain", "test", 600)
    assert lease is not None
    nothing = asyncio.run(retain(door, lease, SystemClock(), RULES))
    assert nothing.done == {"versions dropped": 0, "trash removed": 0, "journal entries cut": 0}
    rules = RetentionRules(steps=(), beyond_every=timedelta(days=10_000), trash_s=-1, journal_s=-1)
    done = asyncio.run(retain(door, lease, SystemClock(), rules)).done
    assert done == {"versions dropped": 1, "trash removed": 2, "journal entries cut": 6}
    assert [version.version for version in files.list_versions(anna.at("/f"), 10)] == [3, 2]
    assert db.one("SELECT count(*) FROM journal") == (0,)
