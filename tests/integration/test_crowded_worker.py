"""A worker whose memory for incoming bodies is taken up by clients that send nothing more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import Line, User, check_refused, digest, target
from tests.kit.cluster import wait_until

# More than the bodies that a worker takes in at once.
STALLED = 16
PATIENCE_S = 5.0
NOISE_S = 10.0


@pytest.fixture
def stalled(user: User) -> Iterator[list[Line]]:
    """Lines to one worker with a block on each of which only the first byte has come."""
    lines = [user.line_to("worker1") for _ in range(STALLED)]
    for number, line in enumerate(lines):
        line.begin("PUT", target(f"/blocks/{number:064x}", path="/x"), {"Content-Length": str(BLOCK_BYTES)})
        line.feed(b"x")
    yield lines
    for line in lines:
        line.close()


@pytest.mark.usefixtures("stalled")
def test_small_files_and_blocks_do_not_wait_behind_dead_lines(user: User) -> None:
    with user.line_to("worker1") as line:
        began = time.monotonic()
        address = target("/files/upload", uploadType="simple", path="/small")
        assert line.ask("POST", address, body=b"small").status == 200
        assert line.ask("PUT", target(f"/blocks/{digest(b'block')}", path="/x"), body=b"block").status == 201
        assert time.monotonic() - began < PATIENCE_S


def test_large_ones_wait_a_moment_and_then_take_the_place_of_dead_lines(user: User, stalled: list[Line]) -> None:
    data = bytes(range(256)) * (BLOCK_BYTES // 256)
    with user.line_to("worker1") as line:
        began = time.monotonic()
        assert line.ask("PUT", target(f"/blocks/{digest(data)}", path="/x"), body=data).status == 201
        assert time.monotonic() - began < PATIENCE_S + NOISE_S
        address = target("/files/upload", uploadType="simple", path="/large")
        assert line.ask("POST", address, body=data * 3).status == 200
    assert user.content("/large") == data * 3
    assert any(line.is_ended(0.1) for line in stalled)


def test_a_client_that_waited_in_line_and_left_takes_nothing_with_it(user: User, stalled: list[Line]) -> None:
    with user.line_to("worker1") as line:
        line.begin("PUT", target(f"/blocks/{'f' * 64}", path="/x"), {"Content-Length": str(BLOCK_BYTES)})
        line.cut()
    for line in stalled:
        line.cut()
    wait_until(user.is_idle, what="the end of all requests", timeout_s=30)
    with user.line_to("worker1") as line:
        answer = line.ask("PUT", target(f"/blocks/{'f' * 64}", path="/x"), body=bytes(BLOCK_BYTES))
        check_refused(answer, 400, "hash_mismatch")
