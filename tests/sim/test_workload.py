"""Workloads: the same seed gives the same steps, steps survive being written down, and shrinking finds the culprits."""

from __future__ import annotations

from tests.kit.workload import Step, draw_workload, shrink


def test_a_seed_gives_its_workload() -> None:
    assert draw_workload(7) == draw_workload(7)
    assert len({draw_workload(seed) for seed in range(50)}) == 50


def test_steps_can_be_written_down() -> None:
    for seed in range(20):
        for step in draw_workload(seed).steps:
            assert Step.parse(str(step)) == step


def test_shrinking_keeps_what_is_needed_to_fail() -> None:
    steps = draw_workload(3, steps_max=200).steps
    wanted = {steps[1], steps[len(steps) // 2], steps[-1]}
    assert set(shrink(steps, lambda fewer: wanted <= set(fewer))) == wanted
