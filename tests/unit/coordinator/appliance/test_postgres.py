"""Where PostgreSQL's socket goes, and how it begins a recovery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.appliance.layout import Paths
from coordinator.appliance.postgres import choose_socket_folder, choose_sync_method


def test_the_socket_lies_in_the_data_folder_when_its_path_is_short() -> None:
    assert choose_socket_folder(Paths(Path("/srv/holdfast")), {}) == Path("/srv/holdfast/postgres/socket")


def test_a_long_path_gets_a_short_folder_of_its_own() -> None:
    folders = [
        choose_socket_folder(Paths(Path("/srv") / name / "x"), {"XDG_RUNTIME_DIR": "/run/user/7"})
        for name in ("a" * 90, "b" * 90)
    ]
    assert folders[0] != folders[1]
    for folder in folders:
        assert folder.parent == Path("/run/user/7")
        assert len(os.fsencode(folder / ".s.PGSQL.5432")) < 108


@pytest.mark.parametrize(
    ("release", "method"),
    [("6.1.0-18-amd64", "syncfs"), ("5.8.0", "syncfs"), ("5.10", "syncfs"), ("5.7.19", "fsync"), ("4.19", "fsync")],
)
def test_a_recovery_syncs_everything_at_once_where_the_kernel_tells_of_failures(release: str, method: str) -> None:
    assert choose_sync_method(release) == method


def test_an_unknown_kernel_is_not_trusted() -> None:
    assert choose_sync_method("unknown") == "fsync"
