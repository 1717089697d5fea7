"""Leases of the jobs that run once in the whole cluster, with a fencing epoch.

The database's clock decides; a holder whose lease was taken over finds every fenced write refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.metadata import db
from coordinator.metadata.arrays import Texts
from coordinator.metadata.values import JobRow, Lease


class LeaseLost(Exception):
    """Another runner holds the job now; stop without writing anything more."""


def list_due(periods_s: Mapping[str, float]) -> list[str]:
    """Which of these jobs (name -> period) nobody runs and have not been begun within their period."""
    found = db.rows(
        """SELECT e.job FROM unnest(%s::text[], %s::float8[]) AS e(job, period) LEFT JOIN job_lease l ON l.job = e.job
           WHERE l.job IS NULL OR (l.expires_at <= now()
             AND coalesce(l.started_at <= now() - make_interval(secs => e.period), true))""",
        (Texts(periods_s), [float(period) for period in periods_s.values()]),
    )
    return [job for (job,) in found]


def acquire(job: str, holder: str, ttl_s: float, not_begun_within_s: float = 0.0) -> Lease | None:
    """The lease under a new epoch; None while somebody's is valid, or when a run has begun more recently than told."""
    row = db.row(
        """INSERT INTO job_lease (job, holder, epoch, expires_at)
           VALUES (%(job)s, %(holder)s, 1, now() + make_interval(secs => %(ttl)s))
           ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, epoch = job_lease.epoch + 1,
                  expires_at = excluded.expires_at
           WHERE job_lease.expires_at <= now()
             AND coalesce(job_lease.started_at <= now() - make_interval(secs => %(period)s), true)
           RETURNING epoch""",
        {"job": job, "holder": holder, "ttl": ttl_s, "period": not_begun_within_s},
    )
    return Lease(job, holder, row[0]) if row else None


def renew(lease: Lease, ttl_s: float) -> None:
    """Raises LeaseLost."""
    kept = db.run(
        """UPDATE job_lease SET expires_at = now() + make_interval(secs => %s)
           WHERE job = %s AND epoch = %s AND expires_at > now()""",
        (ttl_s, lease.job, lease.epoch),
    )
    if not kept:
        raise LeaseLost(lease.job)


def release(lease: Lease) -> None:
    """Give it back, so that another may have it at once; nothing happens when it was lost."""
    db.run("UPDATE job_lease SET expires_at = now() WHERE job = %s AND epoch = %s", (lease.job, lease.epoch))


def check(lease: Lease) -> None:
    """In a transaction: holds the lease row to its end, so that no newer epoch begins before. Raises LeaseLost."""
    if db.row("SELECT 1 FROM job_lease WHERE job = %s AND epoch = %s FOR SHARE", (lease.job, lease.epoch)) is None:
        raise LeaseLost(lease.job)


def mark_started(lease: Lease) -> None:
    """A run begins. Raises LeaseLost."""
    _mark(lease, "started_at = now(), finished_at = NULL, outcome = %s", "")


def mark_finished(lease: Lease, outcome: str) -> None:
    """A run is over; `outcome` says in words what it found and did, or why it stopped. Raises LeaseLost."""
    _mark(lease, "finished_at = now(), outcome = %s", outcome)


def _mark(lease: Lease, change: str, outcome: str) -> None:
    sql = f"UPDATE job_lease SET {change} WHERE job = %s AND epoch = %s"  # noqa: S608  # two constants above
    if not db.run(sql, (outcome, lease.job, lease.epoch)):
        raise LeaseLost(lease.job)


def list_jobs() -> list[JobRow]:
    """Every job that has ever been leased; `holder` is empty while nobody holds it."""
    found = db.rows(
        """SELECT job, CASE WHEN expires_at > now() THEN holder ELSE '' END, started_at, finished_at, outcome
           FROM job_lease ORDER BY job"""
    )
    return [JobRow(*row) for row in found]
