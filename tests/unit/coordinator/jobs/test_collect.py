from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from coordinator.jobs.collect import CollectRules, collect, retry_after_s, why_not
from coordinator.jobs.expiry import ExpiryRules, expire
from coordinator.metadata import db, leases, sweeps, uploads
from coordinator.metadata.db import Door
from coordinator.metadata.values import DoomedBlock, Head, Lease, Swept
from tests.kit.metadata import Person

NOW = CollectRules(grace_s=-1, trash_after_s=-1, few=0)


@pytest.mark.parametrize(
    ("collectable", "living", "held", "stops"),
    [
        (0, 0, "", False),
        (0, 100, "restored", False),  # nothing to decide about
        (1, 100, "restored", True),
        (1000, 1000, "", False),  # few
        (1001, 1000, "", True),
        (10_000, 100_000, "", False),
        (10_001, 100_000, "", True),
    ],
)
def test_a_run_that_takes_too_much_or_after_a_restore_stops(
    collectable: int, living: int, held: str, stops: bool
) -> None:
    assert bool(why_not(collectable, living, held, CollectRules())) is stops


def test_a_silent_node_is_asked_less_and_less_often() -> None:
    waits = [retry_after_s(attempts) for attempts in range(40)]
    assert waits[0] == 60
    assert waits == sorted(waits)
    assert waits[-1] == 6 * 3600


def abandon(anna: Person, count: int) -> None:
    """Blocks that nothing refers to any more, since long."""
    for number in range(count):
        anna.send("/", f"abandoned{number}")
    db.run("DELETE FROM staged_block")
    db.run("UPDATE block SET created_at = now() - interval '9 days'")


def lease_of(job: str = "collect") -> Lease:
    lease = leases.acquire(job, "test", 600)
    assert lease is not None
    return lease


def test_a_round_goes_from_live_to_trashed(anna: Person, door: Door) -> None:
    anna.put("/kept", "kept")
    abandon(anna, 5)
    asked: list[DoomedBlock] = []

    async def trash(blocks: Sequence[DoomedBlock]) -> Sequence[DoomedBlock]:
        asked.extend(blocks)
        return blocks

    swept = asyncio.run(collect(door, lease_of(), trash, NOW, forced=True))
    assert swept.found == {"blocks": 6, "newly unreferenced": 5, "referenced again": 0}
    assert swept.done == {"doomed": 5, "trashed": 5, "put off": 0}
    assert len(asked) == 5
    assert db.one("SELECT count(*) FROM block") == (1,)
    assert sweeps.count_doomed() == 0


def test_what_not_every_node_let_go_stays_doomed(anna: Person, door: Door) -> None:
    abandon(anna, 3)

    async def one_answers(blocks: Sequence[DoomedBlock]) -> Sequence[DoomedBlock]:
        return blocks[:1]

    swept = asyncio.run(collect(door, lease_of(), one_answers, NOW, forced=True))
    assert swept.done == {"doomed": 3, "trashed": 1, "put off": 2}
    assert sweeps.count_doomed() == 2
    assert sweeps.list_doomed(-1, 10) == []  # not now


async def never(blocks: Sequence[DoomedBlock]) -> Sequence[DoomedBlock]:
    raise AssertionError("nothing may be trashed")


def test_too_much_at_once_stops_before_anything_is_doomed(
    anna: Person, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    anna.put("/kept", "kept")
    abandon(anna, 5)
    swept = asyncio.run(collect(door, lease_of(), never, NOW))
    assert swept.found["held back"] == 5
    assert [record.message for record in caplog.records] == ["collect.stopped"]
    assert db.one("SELECT count(*) FROM block") == (6,)


def test_a_person_ends_a_hold_by_forcing(anna: Person, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    db.run("INSERT INTO cluster (cluster_id) VALUES ('c')")
    sweeps.hold("the database was restored from a backup")
    abandon(anna, 1)
    lease = lease_of()
    generous = CollectRules(grace_s=-1, trash_after_s=-1)
    assert asyncio.run(collect(door, lease, never, generous)).found["held back"] == 1

    async def trash(blocks: Sequence[DoomedBlock]) -> Sequence[DoomedBlock]:
        return blocks

    assert asyncio.run(collect(door, lease, trash, generous, forced=True)).done["trashed"] == 1
    assert sweeps.held_reason() == ""


def test_within_their_grace_blocks_are_only_condemned(anna: Person, door: Door) -> None:
    abandon(anna, 2)
    swept = asyncio.run(collect(door, lease_of(), never, CollectRules()))
    assert (swept.found["newly unreferenced"], swept.done["doomed"]) == (2, 0)


def test_expiry_ends_what_is_over_and_tells_the_watchers(anna: Person, door: Door) -> None:
    uploads.create(anna.session, anna.at("/over"), 100, expires_after_s=-1)
    kept, _ = uploads.create(anna.session, anna.at("/kept"), 100)
    anna.send("/", "forgotten")
    told: list[Head] = []
    swept = asyncio.run(expire(door, told.extend, ExpiryRules(staged_s=-1, ended_uploads_s=-1)))
    assert swept == Swept(done={"uploads expired": 1, "blocks let go": 1, "old uploads forgotten": 1})
    assert [head.namespace_id for head in told] == [anna.home]
    assert uploads.get(anna.session, kept.id).offset == 0
