"""The systemd user unit of a synced folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.sync.folders import Folder
from client.sync.unit import unit_path, unit_text


def folder(path: str) -> Folder:
    return Folder(id="0123abcd", path=path, remote="/team", service_id="s1", user_id=1, email="ann@example.org")


def test_the_unit_lies_where_systemd_looks_for_a_persons_own_units() -> None:
    assert unit_path(folder("/f"), {"HOME": "/home/ann"}) == Path(
        "/home/ann/.config/systemd/user/holdfast-sync-0123abcd.service"
    )
    assert unit_path(folder("/f"), {"XDG_CONFIG_HOME": "/c", "HOME": "/home/ann"}).parent == Path("/c/systemd/user")


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/home/ann/Drive", '"/home/ann/Drive"'),
        ('/with "quotes" and spaces', '"/with \\"quotes\\" and spaces"'),
        ("/100 %h of $HOME", '"/100 %%h of $$HOME"'),
        ("/a\nExecStartPre=/bin/false", '"/a\\nExecStartPre=/bin/false"'),
    ],
)
def test_a_folders_name_cannot_change_what_the_unit_does(path: str, quoted: str) -> None:
    text = unit_text(folder(path), None, python="/usr/bin/python3")
    (command,) = [line for line in text.splitlines() if line.startswith("ExecStart")]
    assert command == f'ExecStart="/usr/bin/python3" "-m" "client" "sync" {quoted} "--remote" "/team"'


def test_the_state_folder_goes_along_when_the_person_chose_one() -> None:
    assert 'Environment="HOLDFAST_HOME=/data/h f"\n' in unit_text(folder("/f"), "/data/h f")
    assert "Environment" not in unit_text(folder("/f"), None)
