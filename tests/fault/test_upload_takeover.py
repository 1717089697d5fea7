"""Uploads whose worker freezes or dies: another goes on, and whatever wakes later changes nothing."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, add_user
from tests.kit.cluster import Appliance, lend, short_folder, wait_until
from tests.kit.tus import OCTETS, Upload

SIZE = 3 * BLOCK_BYTES + 54_321
DATA = random.Random("takeover").randbytes(SIZE)
# A newer request waits this long for an older one to store what it has; the machine may be busy beside that.
TAKEOVER_S = 3.0
NOISE_S = 4.0

pytestmark = pytest.mark.xdist_group("interrupted uploads")


@pytest.fixture(scope="module")
def appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    # What a test here freezes is to come back as it was.
    with short_folder() as folder, Appliance(folder / "data", "--hung-after", "0") as appliance:
        yield from lend(appliance, request)


def test_a_worker_that_froze_can_change_nothing_after_it_was_taken_over(appliance: Appliance) -> None:
    user = add_user(appliance.login(), appliance)
    upload = Upload.begin(user, "/frozen", SIZE)
    frozen = appliance.process("worker1")
    arrived = BLOCK_BYTES + 50_000
    with user.line_to("worker1") as old, user.line_to("worker2") as newer:
        upload.begin_patch(old, 0, SIZE)
        old.feed(DATA[:arrived])
        wait_until(lambda: upload.recorded() == BLOCK_BYTES, what="the first block's arrival")
        frozen.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            offset = upload.offset_over(newer)
            assert time.monotonic() - began < TAKEOVER_S + NOISE_S
            assert offset == BLOCK_BYTES  # the rest lay in the frozen worker's memory
            other_rest = bytes(SIZE - offset)
            answer = newer.ask("PATCH", BASE + upload.address, OCTETS | {"Upload-Offset": str(offset)}, other_rest)
            assert answer.status == 204
        finally:
            frozen.signal(signal.SIGCONT)
        # It wakes, and would go on storing what it was sent.
        assert old.is_ended(30)
    content = wait_until(lambda: (read := user.read("/frozen")).status == 200 and read.body, what="the file")
    assert content == DATA[:offset] + other_rest
    assert user.metadata("/frozen")["version"] == 1
    assert user.usage() == (SIZE, 0)


def test_a_worker_that_was_killed_loses_no_byte_that_it_had_acknowledged(appliance: Appliance) -> None:
    user = add_user(appliance.login(), appliance)
    upload = Upload.begin(user, "/killed", SIZE)
    acknowledged = upload.send(0, DATA[:123_457])
    with user.line_to("worker1") as line, user.line_to("worker2") as other:
        upload.begin_patch(line, acknowledged, SIZE - acknowledged)
        line.feed(DATA[acknowledged : 2 * BLOCK_BYTES + 10])
        wait_until(lambda: upload.recorded() >= BLOCK_BYTES, what="the first block's arrival")
        killed = appliance.kill_child("worker1")
        offset = upload.offset_over(other)
        assert offset >= BLOCK_BYTES
        answer = other.ask("PATCH", BASE + upload.address, OCTETS | {"Upload-Offset": str(offset)}, DATA[offset:])
        assert answer.status == 204
    appliance.wait_until_back(killed)
    content = wait_until(lambda: (read := user.read("/killed")).status == 200 and read.body, what="the file")
    assert content == DATA
