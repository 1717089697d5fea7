"""Other disks that are mounted inside a synced folder: left alone, told, and never taken for a delete."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import NewUser
from tests.kit.faults import can_mount, small_disk
from tests.kit.sync_device import Device, file_entry, read_service_tree, settle

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs to mount small file systems, as root")
MIB = 1024 * 1024
TOLD = "it is on another file system than the synced folder"


def problems(device: Device) -> dict[str, str]:
    folder = device.run("sync-status", "--json").document["folders"][0]
    return {row["path"]: row["reason"] for row in folder["problems"]}


def test_a_mounted_disk_is_told_and_nothing_of_it_is_sent(new_user: NewUser, tmp_path: Path) -> None:
    user = new_user()
    laptop = Device(user, tmp_path, "laptop")
    laptop.put("own", b"own")
    with small_disk(laptop.path("disk"), MIB):
        laptop.put("disk/theirs", b"theirs")
        laptop.once()
        assert problems(laptop) == {"disk": TOLD}
        assert set(read_service_tree(user)) == {"own"}
    laptop.once()
    assert problems(laptop) == {}
    assert set(read_service_tree(user)) == {"own", "disk"}


def test_what_a_mount_hides_comes_back_with_all_that_was_done_to_it_elsewhere(
    new_user: NewUser, tmp_path: Path
) -> None:
    user = new_user()
    laptop, desktop = Device(user, tmp_path, "laptop"), Device(user, tmp_path, "desktop")
    for name in ("edited", "deleted", "kept"):
        laptop.put(f"photos/{name}", b"old")
    settle(user, laptop, desktop)
    with small_disk(desktop.path("photos"), MIB):
        desktop.put("photos/theirs", b"theirs")
        laptop.put("photos/edited", b"new")
        laptop.put("photos/added", b"added")
        laptop.delete("photos/deleted")
        laptop.once()
        desktop.once(expect=None)
        assert problems(desktop)["photos"] == TOLD
        assert [path.name for path in desktop.path("photos").iterdir()] == ["theirs"]
        laptop.once()
        assert {name for name in read_service_tree(user) if "/" in name} == {
            *("photos/edited", "photos/added", "photos/kept"),
        }
    tree = settle(user, laptop, desktop)
    assert tree["photos/edited"] == file_entry(b"new")
    assert set(tree) == {"photos", "photos/edited", "photos/added", "photos/kept"}
