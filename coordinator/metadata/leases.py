"""Leases of the jobs that run once in the whole cluster, with a fencing epoch.

The database's clock decides; a holder whose lease was taken over finds every fenced write refused.
"""

from __future__ import annotations

from coordinator.metadata.values import JobRow, Lease


class LeaseLost(Exception):
    """Another runner holds the job now; stop without writing anything more."""


def acquire(job: str, holder: str, ttl_s: float) -> Lease | None:
    """The lease under a new epoch; None while somebody else's is valid."""
    raise NotImplementedError


def renew(lease: Lease, ttl_s: float) -> None:
    """Raises LeaseLost."""
    raise NotImplementedError


def release(lease: Lease, outcome: str | None = None) -> None:
    """Give it back (nothing happens when it was lost); `outcome` is what the last run found, for status."""
    raise NotImplementedError


def check(lease: Lease) -> None:
    """In a transaction: holds the lease row to its end, so that no newer epoch begins before. Raises LeaseLost."""
    raise NotImplementedError


def list_jobs() -> list[JobRow]:
    raise NotImplementedError
