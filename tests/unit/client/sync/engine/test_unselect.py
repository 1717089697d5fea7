"""What is not selected any more goes from the disk where it is stored as it is, and nothing else does."""

from __future__ import annotations

import pytest

from client.sync.engine.unselect import take_up
from client.sync.local.selection import Selection
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
    selection = Selection(rules, [tuple(path.split("/")) for path in excluded])
    take_up(rig.store, rig.fs, rig.engine.remote, selection)
    rig.local.selection = selection


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
