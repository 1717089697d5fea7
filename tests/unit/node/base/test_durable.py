from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.base.durable import write_file_durably


def test_a_file_is_replaced_whole_with_the_mode_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_file_durably(file, b"old")
    write_file_durably(file, b"new", mode=0o600)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "state"
    write_file_durably(file, b"old")

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_file_durably(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
