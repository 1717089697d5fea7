"""The check of a client at rest: what it does when it finds something, and that it never ends the client."""

from __future__ import annotations

import sqlite3
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from client.errors import Unreachable
from client.sync.check import Between, Checked, Difference
from client.sync.idle import EVERY_S, IdleCheck
from client.sync.workers import run

FOUND = Difference("a", Between.BOTH_SIDES, "only the service has it")


class Rig:
    """A settled client; `finds` is what each check gives, or raises."""

    def __init__(self, *finds: list[Difference] | Exception) -> None:
        self.finds = list(finds)
        self.at = 0.0
        self.asked: list[str] = []
        self.told: list[str | None] = []
        note = self.asked.append
        engine = SimpleNamespace(
            is_settled=lambda: True,
            remote=SimpleNamespace(cursor="1", relist=lambda: note("listing")),
            disk=SimpleNamespace(want_all=lambda: note("scan")),
            feed=SimpleNamespace(want=lambda: note("feed")),
            store=SimpleNamespace(
                transaction=nullcontext,
                told=SimpleNamespace(add_failure=lambda at, path, message: self.told.append(path)),
            ),
        )
        clock = SimpleNamespace(monotonic=lambda: self.at, now=lambda: self.at)
        workers = SimpleNamespace(submit=lambda job, done: done(run(job)))
        self.check = IdleCheck(engine, self.compare, workers, clock)  # type: ignore[arg-type]  # only what it asks of them

    def compare(self) -> Checked:
        found = self.finds.pop(0)
        if isinstance(found, Exception):
            raise found
        return Checked(1, found)

    def later(self, seconds: float) -> None:
        self.at += seconds
        self.check.step()


@pytest.mark.parametrize(
    "error", [OSError(5, "no"), sqlite3.OperationalError("database is locked"), Unreachable(url="u", reason="no")]
)
def test_a_check_that_does_not_work_out_is_done_again(error: Exception) -> None:
    rig = Rig(error, [])
    rig.later(EVERY_S)
    assert rig.finds == [[]]
    rig.later(EVERY_S)
    assert rig.finds == []
    assert rig.asked == []


def test_only_what_is_found_twice_is_told_and_mended() -> None:
    rig = Rig([FOUND], [FOUND])
    rig.later(EVERY_S)
    assert rig.told == []
    assert "listing" not in rig.asked
    rig.later(EVERY_S)
    assert rig.told == ["a"]
    assert {"listing", "scan", "feed"} <= set(rig.asked)
