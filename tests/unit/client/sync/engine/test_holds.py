"""Nodes are busy while anything is at work on them, or until all that they wait for has passed."""

from __future__ import annotations

from client.sync.engine.apply import Stuck
from client.sync.engine.holds import Holds, Trouble
from client.sync.planner.plan import Busy
from client.sync.tree import LocalId, RemoteId
from tests.kit.engine_rig import Rig

NODES = Busy(frozenset({RemoteId(1)}), frozenset({LocalId(2)}))


def make(rig: Rig) -> tuple[Holds, list[None]]:
    changes: list[None] = []
    return Holds(rig.feed, rig.local, rig.clock, lambda: changes.append(None)), changes


def test_nodes_that_are_taken_are_busy_until_they_are_free(rig: Rig) -> None:
    holds, _ = make(rig)
    holds.take(NODES)
    assert (holds.busy.remote, holds.busy.local) == ({1}, {2})
    holds.free(NODES)
    assert (holds.busy.remote, holds.busy.local) == (set(), set())


def test_a_hold_ends_when_its_moment_its_fetch_and_its_scan_have_passed(rig: Rig) -> None:
    holds, changes = make(rig)
    rig.feed.passed, rig.local.scans_done = 3, 5
    holds.hold(NODES, not_before=rig.clock.at + 10.0, fetch=4, scan=6, trouble=Trouble(Stuck("why", "code"), "a"))
    assert holds.release() == rig.clock.at + 10.0
    rig.clock.at += 10.0
    assert holds.release() is None
    rig.feed.passed = 4
    assert holds.release() is None
    assert holds.busy.local == {2}
    assert [trouble.path for trouble in holds.troubles] == ["a"]
    assert not changes
    rig.local.scans_done = 6
    holds.release()
    assert holds.busy.local == set()
    assert holds.troubles == []
    assert holds.is_empty
    assert len(changes) == 1
