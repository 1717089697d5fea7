"""Notes on the desktop."""

from __future__ import annotations

from collections.abc import Sequence

from client.sync.desktop import QUIET_S, Desktop, find_command


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at


def test_nothing_is_started_where_there_is_no_desktop() -> None:
    assert find_command({"PATH": "/usr/bin"}) is None
    started: list[Sequence[str]] = []
    Desktop(Clock(), None, started.append).tell("title", "text")
    assert not started


def test_a_burst_is_one_note_and_the_next_one_tells_how_many_there_were() -> None:
    clock = Clock()
    started: list[Sequence[str]] = []
    desktop = Desktop(clock, ["notify-send"], started.append)
    for number in range(5):
        desktop.tell("Both are kept", f"file {number}")
    clock.at += QUIET_S
    desktop.tell("Both are kept", "-u critical")
    assert started == [
        ["notify-send", "--", "Both are kept", "file 0"],
        ["notify-send", "--", "Both are kept", "-u critical (and 4 more)"],
    ]


def test_a_desktop_that_cannot_be_reached_is_left_alone() -> None:
    tried = []

    def fail(command: Sequence[str]) -> None:
        tried.append(command)
        raise FileNotFoundError

    clock = Clock()
    desktop = Desktop(clock, ["notify-send"], fail)
    desktop.tell("a", "b")
    clock.at += QUIET_S
    desktop.tell("a", "b")
    assert len(tried) == 1
