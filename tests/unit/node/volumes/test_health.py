from __future__ import annotations

from pathlib import Path

import pytest

from node.volumes.health import DiskState, Health, Thresholds, Usage, judge, read_failure, read_usage
from tests.kit.shards import FakeClock


@pytest.mark.parametrize(
    ("used", "hit_the_end", "state"),
    [
        (0, False, "ok"),
        (949, False, "ok"),
        (950, False, "read_only"),
        (1000, False, "read_only"),
        (10, True, "read_only"),
    ],
)
def test_only_fullness_takes_writes_away(used: int, hit_the_end: bool, state: str) -> None:
    assert judge(Usage(1000, used), Thresholds(), hit_the_end=hit_the_end)[0] == state


def test_usage_counts_what_an_ordinary_process_could_fill(tmp_path: Path) -> None:
    usage = read_usage(tmp_path)
    assert 0 < usage.used < usage.size
    assert usage.free == usage.size - usage.used


def test_failure_is_sticky_across_processes(tmp_path: Path) -> None:
    health = Health(tmp_path, Thresholds(), FakeClock())
    health.fail("fdatasync: Input/output error")
    health.fail("something later")
    health.refresh()
    assert (health.state, health.reason) == (DiskState.FAILED, "fdatasync: Input/output error")
    assert Health(tmp_path, Thresholds(), FakeClock()).state is DiskState.FAILED
    assert read_failure(tmp_path) == "fdatasync: Input/output error"


def test_failure_is_sticky_even_when_it_cannot_be_written_down(tmp_path: Path) -> None:
    health = Health(tmp_path / "gone", Thresholds(), FakeClock())
    health.fail("broken")
    assert health.state is DiskState.FAILED


def test_a_file_system_that_does_not_answer_fails_the_disk(tmp_path: Path) -> None:
    def hang(_path: Path) -> Usage:
        raise OSError(5, "Input/output error")

    health = Health(tmp_path, Thresholds(), FakeClock(), hang)
    health.refresh()
    assert health.state is DiskState.FAILED


def test_usage_is_asked_at_most_once_a_second(tmp_path: Path) -> None:
    clock, asked = FakeClock(), []

    def count(_path: Path) -> Usage:
        asked.append(clock.seconds)
        return Usage(100, 10)

    health = Health(tmp_path, Thresholds(), clock, count)
    for _ in range(5):
        health.refresh()
        clock.seconds += 0.4
    assert len(asked) == 2
