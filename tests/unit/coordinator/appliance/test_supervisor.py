"""Decisions of the supervisor that need no process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.appliance import supervisor
from coordinator.appliance.processes import Program, describe_exit
from coordinator.appliance.supervisor import Supervisor, next_pause_s


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


def test_a_cancellation_that_comes_together_with_a_step_s_end_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        def poll(self) -> int:
            return 0

    async def work() -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(supervisor, "wait_for_exit", lambda process: ended)
        monkeypatch.setattr(Supervisor, "_spawn", lambda self, program: Process())
        steps = Supervisor(run=tmp_path, logs=tmp_path, restart=True, changed=lambda: None)
        step = asyncio.create_task(steps.run_once(Program("step", "setup", "", []), timeout_s=10))
        await asyncio.sleep(0)
        ended.set_result(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

    asyncio.run(work())
