"""What a client that runs for months takes up without being started again: a yes, a new login."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import NewUser
from tests.kit.api import User
from tests.kit.cluster import wait_until
from tests.kit.sync_device import Device, check_equal, read_service_tree


@pytest.fixture
def person(new_user: NewUser) -> User:
    return new_user()


@pytest.fixture
def ann(person: User, tmp_path: Path) -> Device:
    return Device(person, tmp_path, "ann")


def test_a_running_client_is_told_the_yes_to_many_deletes(person: User, ann: Device) -> None:
    """One that systemd runs has no terminal at which it could be started again."""
    for number in range(60):
        ann.put(f"f{number}", b"%d" % number)
    ann.once()
    with ann.running():
        ann.wait_for_state("in_sync")
        for number in range(59):
            ann.delete(f"f{number}")
        told = ann.wait_for_state("blocked")
        assert "holdfast sync DIR --allow-deletes" in told["reason"]
        ann.run("sync", ann.root, "--allow-deletes")
        ann.wait_for_state("in_sync")
        assert set(check_equal(person, ann)) == {"f59"}
        for number in range(60, 120):
            ann.put(f"f{number}", b"%d" % number)
        wait_until(lambda: len(read_service_tree(person)) == 61, what="new files in the service")
        for number in range(59, 119):
            ann.delete(f"f{number}")
        ann.wait_for_state("blocked")  # it was a yes to those deletes, not to all that come


def test_a_running_client_whose_computer_was_signed_out_goes_on_after_a_new_login(person: User, ann: Device) -> None:
    ann.put("before", b"before")
    with ann.running():
        ann.wait_for_state("in_sync")
        devices = ann.run("devices", "--json").document["devices"]
        ann.run("devices", "--revoke", str(next(row["id"] for row in devices if row["current"])), expect=None)
        ann.put("after", b"after")
        assert "Log in again" in ann.wait_for_state("offline")["reason"]
        ann.log_in()
        wait_until(lambda: "after" in read_service_tree(person), what="what was saved meanwhile being sent")
        ann.wait_for_state("in_sync")
    check_equal(person, ann)
