"""Rotation of logs whose writers do not know of it."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.appliance.logfiles import open_log, read_tail, rotate_large_logs


def test_a_large_log_is_moved_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "worker1.log"
    writer = open_log(log)
    for generation in (b"first", b"second", b"third", b"fourth", b"fifth"):
        os.write(writer, generation * 30)
        rotate_large_logs(tmp_path, bytes_max=100)
    os.write(writer, b"now")
    os.close(writer)
    assert log.read_bytes() == b"now"
    olds = [(tmp_path / f"worker1.log.{number}").read_bytes()[:5] for number in (1, 2, 3)]
    assert olds == [b"fifth", b"fourt", b"third"]
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "worker1.log.3"


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_text("x" * 100)
    rotate_large_logs(tmp_path, bytes_max=100)
    assert [path.name for path in tmp_path.iterdir()] == ["node.log"]


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("\n".join(f"line {number}" for number in range(10_000)))
    assert read_tail(log, 2) == ["line 9998", "line 9999"]
    assert read_tail(tmp_path / "none.log", 2) == []
