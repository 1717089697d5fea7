"""What goes over the wire, counted on the line, and how soon another device learns of a change."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, PASSWORD, Line, User, digest, entry, read_metric
from tests.kit.cluster import Appliance, CliResult, wait_until
from tests.kit.proxy import TcpProxy

MIB = 1024 * 1024
FILE_BYTES = 10 * BLOCK_BYTES + 123_456
# Requests, their heads and the TLS around them: little beside a block, more than any of the calls without bytes takes.
TALK_BYTES = 64 * 1024
ROUNDS = 5
WAKE_S = 0.2


# --- a changed megabyte costs at most two blocks, a rename and a copy nothing -------------------------------------


class Computer:
    """`holdfast` on a line whose bytes are counted."""

    def __init__(self, appliance: Appliance, user: User, proxy: TcpProxy, folder: Path) -> None:
        self._appliance, self._proxy, self.folder = appliance, proxy, folder
        password_file = folder / "password"
        password_file.write_text(PASSWORD)
        self(
            *("login", f"https://127.0.0.1:{proxy.port}", "--email", user.email),
            *("--password-file", str(password_file), "--ca-file", appliance.description["ca_file"]),
        )

    def __call__(self, *arguments: str) -> CliResult:
        result = self._appliance.cli(*arguments, home=self.folder / "home")
        assert result.code == 0, result
        return result

    def sent_by(self, *arguments: str) -> int:
        """Run a command; the bytes that it sent."""
        before = self._proxy.forwarded_bytes
        self(*arguments)
        return self._proxy.forwarded_bytes - before


@pytest.fixture
def computer(shared_appliance: Appliance, user: User, tmp_path: Path) -> Iterator[Computer]:
    with TcpProxy(urlsplit(shared_appliance.url).port or 0) as proxy:
        yield Computer(shared_appliance, user, proxy, tmp_path)


def test_a_changed_megabyte_costs_two_blocks_and_moving_costs_none(computer: Computer, user: User) -> None:
    rng = random.Random("changed megabyte")
    data = bytearray(rng.randbytes(FILE_BYTES))
    local = computer.folder / "large"
    local.write_bytes(data)
    first = computer.sent_by("put", str(local), "/large")
    assert FILE_BYTES <= first <= FILE_BYTES * 1.02 + TALK_BYTES
    assert computer.sent_by("put", str(local), "/large") <= TALK_BYTES

    # Across a border, where it costs most.
    at = 5 * BLOCK_BYTES - MIB // 2
    data[at : at + MIB] = rng.randbytes(MIB)
    local.write_bytes(data)
    assert BLOCK_BYTES < computer.sent_by("put", str(local), "/large") <= 2 * BLOCK_BYTES * 1.02 + TALK_BYTES
    at = 2 * BLOCK_BYTES + 1000
    data[at : at + MIB] = rng.randbytes(MIB)
    local.write_bytes(data)
    assert computer.sent_by("put", str(local), "/large") <= BLOCK_BYTES * 1.02 + TALK_BYTES
    assert user.content("/large") == data

    assert computer.sent_by("mv", "/large", "/renamed") <= TALK_BYTES
    assert computer.sent_by("cp", "/renamed", "/copied") <= TALK_BYTES
    computer("mkdir", "/folder")
    computer("mv", "/copied", "/folder")
    assert computer.sent_by("cp", "/folder", "/folder-too") <= TALK_BYTES
    # The same content from this side under another name: known by its hashes.
    assert computer.sent_by("put", str(local), "/once-more") <= TALK_BYTES
    for path in ("/renamed", "/folder/copied", "/folder-too/copied", "/once-more"):
        assert user.content(path) == data
    assert computer.sent_by("restore", "/renamed", "--version", "1") <= TALK_BYTES


def test_an_appended_file_costs_its_new_blocks(computer: Computer, user: User) -> None:
    rng = random.Random("appended")
    data = rng.randbytes(3 * BLOCK_BYTES + 100)
    local = computer.folder / "growing"
    local.write_bytes(data)
    computer("put", str(local), "/growing")
    data += rng.randbytes(MIB)
    local.write_bytes(data)
    assert computer.sent_by("put", str(local), "/growing") <= 1.05 * MIB + TALK_BYTES
    assert user.content("/growing") == data


# --- a long poll on one device is answered as soon as another has committed -----------------------------------------


class Poller:
    """A long poll that waits in a thread of its own; `answered_at` is when its answer had arrived."""

    def __init__(self, line: Line, cursor: str) -> None:
        line.send("GET", f"{BASE}/changes/longpoll?cursor={cursor}&timeout=30")
        self._line = line
        self.answered_at = 0.0
        self.document: dict[str, object] = {}
        self._thread = threading.Thread(target=self._wait, name="poller", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        answer = self._line.answer()
        self.answered_at = time.monotonic()
        self.document = answer.document

    def lag_after(self, action: Callable[[], object]) -> float:
        """Seconds from the answer to `action` until the poll's own answer."""
        action()
        acknowledged_at = time.monotonic()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the long poll was not answered"
        assert self.document == {"changes": True, "backoff": 0.0}
        return self.answered_at - acknowledged_at


def latest(user: User, cursor: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Where the feed stands now, and what came since `cursor`."""
    changes: list[dict[str, Any]] = []
    more = True
    while more:
        page = user.get("/changes", **({"cursor": cursor} if cursor else {}))
        changes += page["changes"]
        cursor, more = page["cursor"], page["has_more"]
    return cursor, changes


@pytest.mark.parametrize(("reader", "writer"), [("worker1", "worker1"), ("worker1", "worker2"), ("worker2", "worker1")])
def test_another_device_learns_of_an_announcement_and_then_of_its_file_at_once(
    user: User, reader: str, writer: str
) -> None:
    other = user.new_device("the other device")
    pending_lags: list[float] = []
    complete_lags: list[float] = []
    cursor, _ = latest(other)
    with other.line_to(reader) as waiting, user.line_to(writer) as writing:
        for number in range(ROUNDS):
            data = random.Random(number).randbytes(100_000)
            path = f"/told-{reader}-{writer}-{number}"
            for call, op, state, lags in (
                ("/files/announce", "pending", "pending", pending_lags),
                ("/files/commit", "put", "complete", complete_lags),
            ):
                poller = Poller(waiting, cursor)
                wait_until(
                    lambda: read_metric(user.appliance, reader, "holdfast_longpolls") > 0,
                    what="the long poll",
                    every_s=0.01,
                )
                lags.append(poller.lag_after(partial(write, writing, call, path, data)))
                cursor, [change] = latest(other, cursor)
                assert (change["op"], change["path"]) == (op, path)
                assert change["metadata"]["state"] == state
                user.put_block(data)
            assert other.content(path) == data
    print(f"from {writer} to {reader}: pending {pending_lags}, complete {complete_lags}")
    assert statistics.median(pending_lags) <= WAKE_S, pending_lags
    assert statistics.median(complete_lags) <= WAKE_S, complete_lags


def write(line: Line, call: str, path: str, data: bytes) -> None:
    """Announce or commit one file."""
    answer = line.post(call, {"entries": [entry(path, data)]})
    assert answer.status == 200, answer
    [result] = answer.document["results"]
    assert not result.get("error"), result


def test_a_plain_upload_wakes_the_other_device_twice(user: User) -> None:
    """Pending while its bytes come in, complete when they are there."""
    other = user.new_device("the other device")
    data = random.Random("plain").randbytes(2 * BLOCK_BYTES)
    cursor, _ = latest(other)
    with other.line() as waiting, user.line() as writing:
        poller = Poller(waiting, cursor)

        def begin() -> None:
            address = f"{BASE}/files/upload?uploadType=simple&path=/plain"
            writing.begin("POST", address, {"Content-Length": str(len(data))})
            writing.feed(data[:-1])

        poller.lag_after(begin)
        cursor, [change] = latest(other, cursor)
        assert (change["op"], change["path"]) == ("pending", "/plain")
        poller = Poller(waiting, cursor)

        def end() -> None:
            writing.feed(data[-1:])
            assert writing.answer().status == 200

        assert poller.lag_after(end) <= 10 * WAKE_S  # one measurement on a busy machine, not the median of several
        _, [change] = latest(other, cursor)
        assert (change["op"], change["path"]) == ("put", "/plain")
    assert other.content("/plain") == data
    assert digest(data[:BLOCK_BYTES]) == other.get("/files/blocks", path="/plain")["blocks"][0]
