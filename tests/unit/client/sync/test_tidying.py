"""The trash is looked after for as long as a client runs, and what goes wrong with it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from client.sync.tidying import EVERY_S, Tidying
from tests.kit.engine_rig import Rig


def full() -> None:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def mistaken() -> None:
    raise KeyError("x")


def tidy(rig: Rig, *chores: Callable[[], object], times: int = 1) -> None:
    tidying = Tidying(rig.engine, chores, rig.workers, rig.clock)
    for _ in range(times):
        tidying.step()
        tidying.step()
        while rig.workers.next_event(rig.clock.at):
            pass
        rig.clock.at += EVERY_S


def test_it_is_done_again_and_again(rig: Rig) -> None:
    done: list[int] = []
    tidy(rig, lambda: done.append(1), times=3)
    assert len(done) == 3


def test_what_fails_keeps_no_other_from_being_done_and_is_told_once(rig: Rig) -> None:
    done: list[int] = []
    tidy(rig, full, lambda: done.append(1), times=3)
    assert len(done) == 3
    assert [row.message for row in rig.store.told.failures()] == ["it could not be tidied: Permission denied"]


def test_a_mistake_is_told_and_ends_nothing(rig: Rig) -> None:
    tidy(rig, mistaken, times=2)
    assert [type(error) for error in rig.mistakes] == [KeyError, KeyError]
    assert "mistake in Holdfast itself" in rig.store.told.failures()[0].message
