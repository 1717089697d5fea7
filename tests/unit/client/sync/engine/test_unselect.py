"""What is not selected any more goes from the disk where it is stored as it is, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from client.fs.base import Path
from client.sync.engine.rules import Rules
from client.sync.engine.unselect import Removal
from client.sync.local.selection import Selection
from client.sync.tree import Stamp
from client.sync.workers import Result, run
from tests.kit.engine_rig import Rig


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    for folder in (("big",), ("big", "sub")):
        rig.disk.user.mkdir(folder)
    for name in ("big/clean", "big/sub/edited", "Kept"):
        rig.write(name, name.encode())
    rig.run()
    choose(rig)
    return rig


def choose(rig: Rig, *excluded: str, rules: str = "") -> None:
    rig.selection = Selection(rules, [tuple(path.split("/")) for path in excluded])
    rig.engine.reload_rules()
    rig.run()


def problems(rig: Rig) -> list[str]:
    return [path for path, _ in rig.store.told.problems()]


def test_clean_files_go_and_stay_in_the_service(rig: Rig) -> None:
    choose(rig, "BIG")
    assert rig.files() == {"Kept": b"Kept"}
    assert problems(rig) == []
    rig.settle()
    assert rig.files() == {"Kept": b"Kept"}
    assert {path.strip("/") for path in rig.remote()} >= {"big/clean", "big/sub/edited", "Kept"}


def test_what_was_changed_or_is_new_stays_and_is_told(rig: Rig) -> None:
    rig.write("big/sub/edited", b"edited and not seen yet")
    rig.write("big/new", b"new")
    choose(rig, "big")
    assert rig.files() == {"Kept": b"Kept", "big/sub/edited": b"edited and not seen yet", "big/new": b"new"}
    assert "big" in problems(rig)
    assert "big/sub/edited" in problems(rig)
    rig.settle()
    assert rig.files() == {"Kept": b"Kept", "big/sub/edited": b"edited and not seen yet", "big/new": b"new"}


def test_what_is_selected_again_comes_back(rig: Rig) -> None:
    choose(rig, "big")
    rig.settle()
    choose(rig)
    rig.settle()
    assert rig.files() == {"big/clean": b"big/clean", "big/sub/edited": b"big/sub/edited", "Kept": b"Kept"}


def test_what_a_rule_ignores_newly_stays_on_both_sides(rig: Rig) -> None:
    choose(rig, rules="big/\n")
    rig.settle()
    assert set(rig.files()) == {"big/clean", "big/sub/edited", "Kept"}
    assert {path.strip("/") for path in rig.remote()} >= {"big/clean", "big/sub/edited", "Kept"}


def test_what_is_moved_to_where_it_is_left_out_goes_and_what_was_changed_stays(rig: Rig) -> None:
    choose(rig, "elsewhere")
    rig.settle()
    other = Rig(service=rig.service)
    other.run()
    rig.write("Kept", b"edited here meanwhile")
    other.disk.user.mkdir(("elsewhere",))
    for name in ("big", "Kept"):
        other.disk.user.rename((name,), ("elsewhere", name))
    other.settle()
    rig.settle()
    assert rig.files() == {"Kept": b"edited here meanwhile"}
    other.settle()
    assert other.files() == {
        "Kept": b"edited here meanwhile",
        "elsewhere/Kept": b"Kept",
        "elsewhere/big/clean": b"big/clean",
        "elsewhere/big/sub/edited": b"big/sub/edited",
    }


def test_the_same_choice_twice_changes_nothing(rig: Rig) -> None:
    choose(rig, "big")
    rig.disk.user.mkdir(("big",))
    rig.write("big/later", b"later")
    choose(rig, "big")
    assert rig.files() == {"Kept": b"Kept", "big/later": b"later"}


def test_others_are_synced_while_very_much_leaves_the_disk(rig: Rig) -> None:
    removal = keep_job(rig, Removal.carry_out)
    rig.selection = Selection("", [("big",)])
    rig.engine.reload_rules()
    rig.run(lambda: bool(removal))
    rig.write("new", b"new")
    rig.look()
    rig.run(lambda: "new" in {path.strip("/") for path in rig.remote()})
    assert "big/clean" in rig.files(), "nothing has left the disk yet"
    assert not rig.engine.is_settled()
    rig.write("big/clean", b"edited meanwhile")
    removal.pop()()
    rig.run()
    assert rig.files() == {"Kept": b"Kept", "new": b"new", "big/clean": b"edited meanwhile"}
    assert "big/clean" in problems(rig)


def test_what_is_selected_again_while_it_leaves_the_disk_is_not_deleted_in_the_service(rig: Rig) -> None:
    removal = keep_job(rig, Removal.carry_out)
    trash = rig.fs.trash

    def then_it_is_selected_again(path: Path, expected: Stamp | None) -> None:
        trash(path, expected)
        if rig.selection.excluded:
            rig.selection = Selection()
            rig.engine.reload_rules()
            for _ in range(20):
                rig.engine.step(rig.clock.at)

    rig.fs.trash = then_it_is_selected_again  # type: ignore[method-assign]  # in the midst of the removal
    rig.selection = Selection("", [("big",)])
    rig.engine.reload_rules()
    rig.run(lambda: bool(removal))
    removal.pop()()
    rig.run()
    rig.settle()
    assert rig.files() == {"big/clean": b"big/clean", "big/sub/edited": b"big/sub/edited", "Kept": b"Kept"}
    assert {path.strip("/") for path in rig.remote()} >= {"big/clean", "big/sub/edited", "Kept"}
    assert "delete" not in rig.api.calls


def test_a_removal_that_another_choice_comes_into_goes_on_after_it(rig: Rig) -> None:
    removal = keep_job(rig, Removal.carry_out)
    rig.selection = Selection("", [("big",)])
    rig.engine.reload_rules()
    rig.run(lambda: bool(removal))
    rig.selection = Selection("*.log", [("big",)])
    rig.engine.reload_rules()
    for _ in range(20):
        rig.engine.step(rig.clock.at)
    removal.pop()()
    rig.run(lambda: bool(removal))
    removal.pop()()
    rig.run()
    assert rig.files() == {"Kept": b"Kept"}
    start_anew(rig)
    assert problems(rig) == []


def test_a_removal_that_ends_as_another_choice_comes_is_told_by_nobody(rig: Rig) -> None:
    removal = keep_job(rig, Removal.carry_out)
    rig.selection = Selection("", [("big",)])
    rig.engine.reload_rules()
    rig.run(lambda: bool(removal))
    ended = removal.pop()
    result = run(ended.job)  # it is done, and nobody has looked at that yet
    rig.selection = Selection("*.log", [("big",)])
    rig.engine.reload_rules()
    for _ in range(20):
        rig.engine.step(rig.clock.at)
    ended.told(result)
    rig.run()
    assert rig.files() == {"Kept": b"Kept"}
    start_anew(rig)
    assert problems(rig) == []


def test_a_removal_that_a_client_did_not_end_is_told_by_the_next(rig: Rig) -> None:
    removal = keep_job(rig, Removal.carry_out)
    rig.selection = Selection("", [("big",)])
    rig.engine.reload_rules()
    rig.run(lambda: bool(removal))
    start_anew(rig)
    assert problems(rig) == ["big"]


def start_anew(rig: Rig) -> None:
    Rules(*(rig.store, rig.fs, rig.local, rig.engine.remote, rig.workers, rig.clock, None), on_change=lambda: None)


@dataclass
class KeptJob:
    """Calling it does the job and tells the control thread what it gave."""

    job: Callable[[], Any]
    told: Callable[[Result[Any]], None]

    def __call__(self) -> None:
        self.told(run(self.job))


def keep_job(rig: Rig, kind: Callable[..., object]) -> list[KeptJob]:
    """The jobs of this kind are not done but kept here."""
    kept: list[KeptJob] = []
    submit = rig.workers.submit

    def keep(job: Any, done: Callable[[Result[Any]], None]) -> None:
        if getattr(getattr(job, "func", None), "__func__", None) is kind:
            kept.append(KeptJob(job, done))
        else:
            submit(job, done)

    rig.workers.submit = keep  # type: ignore[method-assign]  # the rig's own
    return kept
