"""Resumable uploads in chunks of any size, over lines that break or stall, through several workers, and left alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Sequence

import pytest

from coordinator.metadata import uploads
from coordinator.metadata.db import Door
from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, check_refused, connect_database, read_config
from tests.kit.cluster import Appliance, wait_until
from tests.kit.faults import make_random
from tests.kit.tus import OCTETS, Upload

SIZE = 3 * BLOCK_BYTES + 54_321
DATA = random.Random("continue").randbytes(SIZE)
# A newer request waits this long for an older one to store what it has; the machine may be busy beside that.
TAKEOVER_S = 3.0
NOISE_S = 4.0


# --- chunks -----------------------------------------------------------------------------------------------------

MIB = 1024 * 1024
PATTERNS: dict[str, Sequence[int]] = {
    "whole": [SIZE],
    "one byte, then the rest": [1, SIZE],
    "around the first border": [BLOCK_BYTES - 1, 1, 1, BLOCK_BYTES],
    "onto the border": [BLOCK_BYTES, BLOCK_BYTES],
    "just over it": [BLOCK_BYTES + 1, BLOCK_BYTES - 1, BLOCK_BYTES],
    "nine megabytes and odd": [9 * MIB, 7, 13, 99_991],
    "tiny ones in the middle of a block": [5 * MIB, *[1] * 20, 3 * MIB],
    "many odd": [65_537] * 30 + [1_000_003] * 20,
    "two blocks and a byte": [2 * BLOCK_BYTES + 1] * 3,
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_chunks_of_any_size_make_the_same_file(user: User, pattern: Sequence[int]) -> None:
    path = f"/chunks-{abs(hash(tuple(pattern)))}"
    upload = Upload.begin(user, path, SIZE)
    offset = 0
    for size in [*pattern, SIZE]:
        if offset < SIZE:
            offset = upload.send(offset, DATA[offset : offset + size])
            assert upload.offset == offset
    assert user.content(path) == DATA


def test_random_chunks_make_the_same_file(user: User) -> None:
    rng = make_random("random chunks")
    for number in range(4):
        upload = Upload.begin(user, f"/random-chunks-{number}", SIZE)
        offset = 0
        while offset < SIZE:
            size = rng.choice((rng.randint(1, 100), rng.randint(1, 300_000), rng.randint(1, 9_000_000)))
            offset = upload.send(offset, DATA[offset : offset + size])
        assert user.content(f"/random-chunks-{number}") == DATA


def test_two_hundred_tiny_chunks_leave_few_pieces_and_one_file(user: User) -> None:
    data = DATA[:7_777]
    upload = Upload.begin(user, "/tiny", len(data))
    offset, most = 0, 0
    sizes = [len(data) // 200] * 199
    for number, size in enumerate([*sizes, len(data) - sum(sizes)]):
        offset = upload.send(offset, data[offset : offset + size])
        if number % 20 == 0 or number in (62, 63, 64, 65, 126, 127, 128):
            most = max(most, upload.count_parts())
    assert 1 < most <= 64
    assert user.content("/tiny") == data
    assert upload.count_parts() == 0


# --- lines that break -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [0, 1, 70_000, BLOCK_BYTES, BLOCK_BYTES + 1, SIZE - 1])
def test_what_arrived_on_a_line_that_broke_counts(user: User, arrived: int) -> None:
    path = f"/cut-{arrived}"
    upload = Upload.begin(user, path, SIZE)
    with user.line() as line:
        upload.begin_patch(line, 0, SIZE)
        for at in range(0, arrived, 1_000_000):
            line.feed(DATA[at : min(arrived, at + 1_000_000)])
        line.hang_up()
        wait_until(lambda: upload.recorded() == arrived, what=f"the offset {arrived}", timeout_s=15)
    assert upload.offset == arrived
    upload.send(arrived, DATA[arrived:])
    assert user.content(path) == DATA


def test_an_upload_that_breaks_again_and_again_is_completed(user: User) -> None:
    rng = make_random("breaks")
    upload = Upload.begin(user, "/broken-often", SIZE)
    offset, breaks = 0, 0
    while offset < SIZE:
        with user.line() as line:
            upload.begin_patch(line, offset, SIZE - offset)
            # The line before, whose request came in late, may end this one: it counts as newer then.
            with contextlib.suppress(OSError):
                line.feed(DATA[offset : offset + rng.randint(1, 2_500_000)])
            line.cut()
        breaks += 1
        reached = upload.offset
        assert offset <= reached <= SIZE
        offset = reached
    assert breaks > 4
    assert user.content("/broken-often") == DATA


def test_all_bytes_without_the_end_of_the_request_are_the_whole_file(user: User) -> None:
    data = b"hello world"
    upload = Upload.begin(user, "/no-end", len(data))

    def send_rest_without_end() -> bool:
        """The question afterwards ends the request, which may not have received everything by then."""
        if (offset := upload.offset) < len(data):
            rest = data[offset:]
            with user.line() as line:
                headers = OCTETS | {"Upload-Offset": str(offset), "Transfer-Encoding": "chunked"}
                line.begin("PATCH", BASE + upload.address, headers)
                line.feed(f"{len(rest):x}\r\n".encode() + rest + b"\r\n")
                offset = upload.offset
        return offset == len(data)

    wait_until(send_rest_without_end, what="the arrival of everything")
    assert user.content("/no-end") == data


# --- several workers --------------------------------------------------------------------------------------------


def test_every_worker_continues_what_another_began(user: User) -> None:
    upload = Upload.begin(user, "/workers", SIZE)
    with user.line_to("worker1") as one, user.line_to("worker2") as two:
        offset = 0
        for number, size in enumerate((1, 3_000_000, 2_500_001, 70_000, 1, 5_000_000, SIZE)):
            piece = DATA[offset : offset + size]
            line = (one, two)[number % 2]
            headers = OCTETS | {"Upload-Offset": str(offset)}
            assert line.ask("PATCH", BASE + upload.address, headers, piece).status == 204
            offset += len(piece)
            assert upload.offset_over((one, two)[(number + 1) % 2]) == offset
    assert user.content("/workers") == DATA


@pytest.mark.parametrize("newer_worker", ["worker1", "worker2"])
@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
def test_a_newer_request_ends_a_stalled_one_and_goes_on_behind_it(user: User, newer_worker: str, method: str) -> None:
    arrived = BLOCK_BYTES + 100_000
    path = f"/stalled-{newer_worker}-{method}"
    upload = Upload.begin(user, path, SIZE)
    with user.line_to("worker1") as stalled, user.line_to(newer_worker) as newer:
        upload.begin_patch(stalled, 0, SIZE)
        stalled.feed(DATA[:arrived])
        wait_until(lambda: upload.recorded() == BLOCK_BYTES, what="the first block's arrival")
        began = time.monotonic()
        if method == "HEAD":
            reached = upload.offset_over(newer)
        else:
            headers = OCTETS | {"Upload-Offset": str(arrived)}
            answer = newer.ask("PATCH", BASE + upload.address, headers, DATA[arrived:])
            assert answer.status == 204, answer
            reached = int(answer.headers["Upload-Offset"])
        took = time.monotonic() - began
        assert took < TAKEOVER_S + NOISE_S
        assert stalled.is_ended(TAKEOVER_S + NOISE_S)
        assert reached == (arrived if method == "HEAD" else SIZE)
    if method == "HEAD":
        upload.send(arrived, DATA[arrived:])
    assert user.content(path) == DATA


def test_of_many_requests_at_once_one_stores_and_none_harms(user: User) -> None:
    upload = Upload.begin(user, "/crowd", SIZE)
    statuses: list[int] = []

    def send() -> None:
        with user.line() as line:
            upload.begin_patch(line, 0, SIZE)
            try:
                line.feed(DATA)
                statuses.append(line.answer().status)
            except OSError:
                statuses.append(0)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(statuses) <= {0, 204, 409, 410}, statuses
    offset = upload.offset
    if offset < SIZE:
        upload.send(offset, DATA[offset:])
    assert user.content("/crowd") == DATA


def test_cancelling_ends_a_request_that_is_at_work(user: User) -> None:
    before = user.state()
    upload = Upload.begin(user, "/cancelled-at-work", SIZE)
    with user.line() as line:
        upload.begin_patch(line, 0, SIZE)
        line.feed(DATA[: BLOCK_BYTES + 1000])
        wait_until(lambda: upload.recorded() == BLOCK_BYTES, what="the first block's arrival")
        assert upload.cancel().status == 204
        line.feed(DATA[BLOCK_BYTES + 1000 :])
        check_refused(line.answer(), 410, "upload_gone")
    wait_until(lambda: user.state() == before, what="an account as before", timeout_s=10)


# --- time -------------------------------------------------------------------------------------------------------


def test_an_upload_that_nobody_continues_expires_and_returns_its_room(user: User, shared_appliance: Appliance) -> None:
    before = user.state()
    upload = Upload.begin(user, "/left-alone", SIZE, DATA[:5_000_000])
    other = Upload.begin(user, "/not-left-alone", 10)
    upload_id = upload.address.rpartition("/")[2]
    with connect_database(shared_appliance) as db:
        db.execute("UPDATE upload SET expires_at = now() - interval '1 second' WHERE id = %s", [upload_id])
    asyncio.run(_expire(shared_appliance))
    answer = upload.head()
    assert (answer.status, answer.headers.get("Upload-Offset")) == (410, None)
    check_refused(upload.patch(5_000_000, b"x"), 410, "upload_gone")
    assert user.usage() == (before.used, before.pending + 10)
    assert upload.count_parts() == 0
    assert other.offset == 0
    other.cancel()
    assert user.state() == before


async def _expire(appliance: Appliance) -> None:
    """What the workers' job does every minute."""
    door = Door(read_config(appliance)["database"], 1)
    try:
        await door.run(uploads.expire)
    finally:
        door.close()
