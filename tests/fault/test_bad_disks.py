"""Full disks and an fsync that fails: a clear refusal, nothing acknowledged lost, reads go on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import Appliance, Process, Session, child_environment, is_alive, short_folder, wait_until
from tests.kit.faults import can_mount, make_random, small_disk

DISK_BYTES = 24 * 1024 * 1024
FILE_BYTES = 3_000_000


def fill(session: Session, rng_bytes: bytes) -> tuple[int, int, str]:
    """Upload until it is refused: how many were taken, and the refusal."""
    for number in range(400):
        answer = session.put(f"/fill-{number}", rng_bytes + number.to_bytes(4, "big"))
        if answer.status not in (200, 201):
            return number, answer.status, answer.error_code
    raise AssertionError("the disks never became full")


@pytest.mark.skipif(not can_mount(), reason="needs root and permission to mount a tmpfs")
def test_full_disks_refuse_writes_and_go_on_reading() -> None:
    rng = make_random("full disks")
    data = rng.randbytes(FILE_BYTES)
    with short_folder() as folder, contextlib.ExitStack() as mounts:
        for number in range(1, 7):
            mounts.enter_context(small_disk(folder / "data" / "nodes" / f"site1-node{number}" / "disk1", DISK_BYTES))
        with Appliance(folder / "data", "--workers", "1") as appliance:
            session = appliance.login()
            taken, status, code = fill(session, data)
            assert taken > 5
            assert (status, code) in ((507, "cluster_full"), (503, "cannot_take_write")), (status, code)
            for number in range(taken):
                assert session.get(f"/fill-{number}").body == data + number.to_bytes(4, "big")
            assert session.get(f"/fill-{taken}").status == 404
            # It starts again on full disks, and what is there is still there.
            assert appliance.stop() == 0
            appliance.start()
            session = appliance.login()
            for number in range(taken):
                assert session.get(f"/fill-{number}").body == data + number.to_bytes(4, "big")


@contextlib.contextmanager
def node_with_hook(appliance: Appliance, node: Process, hook: Path) -> Iterator[None]:
    """Run a node whose fsync fails while `hook` exists, in the place of one that is dead."""
    config = appliance.folder / "config" / f"{node.name}.toml"
    log = appliance.folder / "logs" / f"{node.name}-hooked.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node", "serve", "--config", str(config)],
            env=child_environment(HOLDFAST_FAULT_FSYNC_FILE=str(hook)),
            stdout=output,
            stderr=output,
        )
    try:
        yield
        assert process.poll() is None, "a disk that fails must not end its node"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_a_failed_fsync_takes_one_disk_out_and_loses_nothing(tmp_path: Path) -> None:
    rng = make_random("fsync error")
    before, during, after = (rng.randbytes(2_000_000) for _ in range(3))
    hook = tmp_path / "fsync-fails"
    with short_folder() as folder, Appliance(folder / "data", "--workers", "1", "--no-restart") as appliance:
        node = rng.choice(appliance.processes("node"))
        appliance.wait_until_gone(appliance.kill_child(node.name))
        with node_with_hook(appliance, node, hook):
            session = appliance.login()
            # Acknowledged with the hooked node back or still missing; either is right.
            assert session.put("/before", before).status in (200, 201)
            hook.touch()
            for number in range(4):
                answer = session.put(f"/during-{number}", during)
                assert answer.status in (200, 201), answer
            hook.unlink()
            # The failure is sticky: the disk takes nothing more, though fsync would work again.
            assert session.put("/after", after).status in (200, 201)
            for path, data in (("/before", before), ("/during-0", during), ("/during-3", during), ("/after", after)):
                assert session.get(path).body == data


def test_without_any_durable_disk_nothing_is_acknowledged(tmp_path: Path) -> None:
    rng = make_random("fsync errors everywhere")
    data = rng.randbytes(2_000_000)
    hook = tmp_path / "fsync-fails"
    os.environ["HOLDFAST_FAULT_FSYNC_FILE"] = str(hook)
    try:
        with short_folder() as folder, Appliance(folder / "data", "--workers", "1") as appliance:
            session = appliance.login()
            assert session.put("/before", data).status in (200, 201)
            hook.touch()
            answer = session.put("/lost", data + b"2")
            assert answer.status == 503, answer
            assert session.get("/lost").status == 404
            assert session.get("/before").body == data
            assert all(is_alive(process.pid) for process in appliance.processes("node"))
            wait_until(lambda: session.put("/again", data + b"3").error_code == "cannot_take_write", what="the refusal")
    finally:
        del os.environ["HOLDFAST_FAULT_FSYNC_FILE"]
