"""Decisions of the supervisor that need no process."""

from __future__ import annotations

from coordinator.appliance.processes import describe_exit
from coordinator.appliance.supervisor import next_pause_s


def test_pauses_double_up_to_five_seconds() -> None:
    pauses, pause = [], 0.0
    for _ in range(9):
        pause = next_pause_s(pause, lived_s=0.2)
        pauses.append(pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_half_a_minute_of_health_forgives_everything() -> None:
    assert next_pause_s(5.0, lived_s=29.9) == 5.0
    assert next_pause_s(5.0, lived_s=30.0) == 0.1


def test_an_exit_is_described_for_a_person() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-250) == "killed by signal 250"
