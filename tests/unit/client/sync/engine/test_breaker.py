"""Many deletes at once wait for a yes, few do not."""

from __future__ import annotations

import pytest

from client.sync.engine import loop
from client.sync.engine.loop import State
from tests.kit.engine_rig import Rig


def test_many_deletes_wait_for_a_yes(rig: Rig) -> None:
    for number in range(60):
        rig.write(f"f{number}", b"%d" % number)
    rig.run()
    for number in range(60):
        rig.disk.user.delete((f"f{number}",))
    rig.look()
    rig.run(rig.engine.is_waiting)
    assert rig.engine.status().state is State.BLOCKED
    assert "60 of 60 files" in (rig.engine.status().reason or "")
    assert len(rig.service.tree()) >= 60
    rig.engine.allow_deletes()
    rig.run()
    assert rig.files() == {}


def test_fifty_deletes_or_a_small_share_pass(rig: Rig) -> None:
    for number in range(150):
        rig.write(f"f{number}", b"%d" % number)
    rig.run()
    for number in range(70):
        rig.disk.user.delete((f"f{number}",))
    rig.settle()
    assert len(rig.files()) == 80


def test_deletes_that_turn_up_while_a_long_plan_is_carried_out_wait_for_a_yes_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "QUEUED_MAX", 5)
    names = [f"f{number:03}" for number in range(200)]
    for name in names:
        rig.write(name, name.encode())
    rig.run(steps=20_000)
    for name in names[:50]:
        rig.write(name, b"edited " + name.encode())
    rig.look()
    rig.run(lambda: rig.engine._pass is not None)
    for name in names[60:]:
        rig.disk.user.delete((name,))
    rig.look()
    rig.run(rig.engine.is_waiting, steps=20_000)
    assert len(rig.remote()) == 200
    assert rig.engine.status().state is State.BLOCKED


def test_deletes_of_the_last_minute_count_and_are_told(rig: Rig) -> None:
    for number in range(90):
        rig.write(f"f{number}", b"%d" % number)
    rig.run()
    for number in range(40):
        rig.disk.user.delete((f"f{number}",))
    rig.settle()
    for number in range(40, 70):
        rig.disk.user.delete((f"f{number}",))
    rig.look()
    rig.run(rig.engine.is_waiting)
    assert (rig.engine.status().reason or "").startswith(
        "Of 90 files 40 were deleted in the last minute, and this would delete 30 more. If that is meant,"
    )
    assert len(rig.remote()) == 50
