from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.metadata import db, leases


def test_one_holder_at_a_time(database: str) -> None:
    first = leases.acquire("collect", "w1", 30)
    assert first is not None
    assert leases.acquire("collect", "w2", 30) is None
    assert leases.acquire("collect", "w1", 30) is None  # not even itself: it is at work
    assert leases.acquire("repair", "w2", 30) is not None
    leases.release(first)
    second = leases.acquire("collect", "w2", 30)
    assert second is not None
    assert second.epoch == first.epoch + 1


def test_an_old_holder_is_fenced_out(database: str) -> None:
    old = leases.acquire("collect", "w1", 0)
    assert old is not None
    new = leases.acquire("collect", "w2", 30)
    assert new is not None
    acts: list[Callable[[], object]] = [
        lambda: leases.renew(old, 30),
        lambda: leases.check(old),
        lambda: leases.mark_started(old),
        lambda: leases.mark_finished(old, "x"),
    ]
    for act in acts:
        with pytest.raises(leases.LeaseLost):
            act()
    leases.release(old)  # does nothing to the new one
    leases.renew(new, 30)
    leases.check(new)


def test_a_lease_that_ran_out_is_not_renewed(database: str) -> None:
    lease = leases.acquire("collect", "w1", 0)
    assert lease is not None
    with pytest.raises(leases.LeaseLost):
        leases.renew(lease, 30)


def test_due_is_what_nobody_runs_and_nobody_began_within_its_period(database: str) -> None:
    periods = {"a": 60.0, "b": 60.0}
    assert sorted(leases.list_due(periods)) == ["a", "b"]
    lease = leases.acquire("a", "w1", 30, 60.0)
    assert lease is not None
    leases.mark_started(lease)
    assert leases.list_due(periods) == ["b"]
    leases.mark_finished(lease, "did it")
    leases.release(lease)
    assert leases.list_due(periods) == ["b"]
    assert leases.acquire("a", "w2", 30, 60.0) is None  # too early
    assert leases.acquire("a", "w2", 30) is not None  # a person asks
    db.run("UPDATE job_lease SET started_at = now() - interval '2 minutes', expires_at = now()")
    assert sorted(leases.list_due(periods)) == ["a", "b"]


def test_jobs_tell_what_their_last_run_did(database: str) -> None:
    lease = leases.acquire("a", "w1", 30)
    assert lease is not None
    leases.mark_started(lease)
    [job] = leases.list_jobs()
    assert (job.name, job.holder, job.finished_at) == ("a", "w1", None)
    leases.mark_finished(lease, "3 found")
    leases.release(lease)
    [job] = leases.list_jobs()
    assert (job.holder, job.outcome) == ("", "3 found")
    assert job.finished_at is not None
