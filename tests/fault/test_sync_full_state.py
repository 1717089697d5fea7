"""The disk that holds what sync remembers is full: it is told, nothing is lost, and it goes on when there is room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.api import add_user
from tests.kit.cluster import Appliance
from tests.kit.faults import can_mount, small_disk
from tests.kit.sync_device import Device, check_equal

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root and permission to mount a tmpfs")
HOME_BYTES = 12 << 20


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 16))
            except OSError:
                break
        while True:
            try:
                file.write(bytes(512))
            except OSError:
                return


@pytest.mark.timeout(300)
def test_a_client_goes_on_when_its_disk_has_room_again(shared_appliance: Appliance, tmp_path: Path) -> None:
    user = add_user(shared_appliance.login("full state"), shared_appliance)
    with small_disk(tmp_path / "ann" / "home", HOME_BYTES):
        ann = Device(user, tmp_path, "ann")
        ann.put("a.txt", b"first")
        with ann.running():
            ann.wait_for_state("in_sync")
            fill(ann.home / "filler")
            for number in range(400):
                ann.put(f"many/{number:03} {'x' * 100}", os.urandom(100))
            told = ann.wait_for_state("blocked", timeout_s=60.0)
            assert "is full" in told["reason"]
            (ann.home / "filler").unlink()
            ann.wait_for_state("in_sync", timeout_s=120.0)  # the long poll that was begun ends first
        assert len(check_equal(user, ann)) == 402
