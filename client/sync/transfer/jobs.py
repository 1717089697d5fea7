"""Doing several things at once inside one worker's job: the seam where the simulation does them one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from client.parallel import for_each

Job = Callable[[], object]


class Parallel(Protocol):
    def run_all(self, jobs: Iterable[Job], at_once: int) -> None:
        """Do all jobs, `at_once` of them at the same time at most; they are taken as they are needed, not beforehand.

        Returns when nothing runs any more. Raises the first error; no further job is begun then.
        """


class Threads:
    """In threads that live as long as the call. One more takes the jobs, so what makes them runs beside them."""

    def run_all(self, jobs: Iterable[Job], at_once: int) -> None:
        for_each(jobs, _call, workers=at_once)


class OneByOne:
    """In the caller's thread."""

    def run_all(self, jobs: Iterable[Job], at_once: int) -> None:
        for job in jobs:
            job()


def _call(job: Job) -> None:
    job()
