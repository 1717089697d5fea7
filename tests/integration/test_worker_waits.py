"""Waiting for blocks across workers: who records a block wakes who waits elsewhere; a drained worker keeps nobody."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.metadata import accounts, blocks, db
from coordinator.metadata.values import Session
from tests.kit.cluster import wait_until
from tests.kit.metadata import block_hash, new_block
from tests.kit.worker import Answer, Worker, add_user, running_worker

pytest_plugins = ("tests.kit.postgres",)

EMAIL, SIZE = "anna@example.org", 100


@pytest.fixture
def pair(conninfo: str, tmp_path: Path) -> Iterator[tuple[Worker, str]]:
    """A worker, and the token of a user of it."""
    with running_worker(tmp_path, conninfo) as worker:
        add_user(tmp_path, conninfo, EMAIL)
        yield worker, worker.log_in(EMAIL)


def announce(worker: Worker, token: str, path: str) -> str:
    block = block_hash(path, SIZE).hex()
    body = {"entries": [{"path": path, "size": SIZE, "blocks": [block]}]}
    answer = worker.call("POST", "/api/v1/files/announce", token=token, body=body)
    assert answer.status == 200, answer
    return str(answer.document["results"][0]["upload_id"])


class Waiting(threading.Thread):
    """A request for the block that was announced at `path`, from another thread."""

    def __init__(self, worker: Worker, token: str, path: str, upload: str) -> None:
        super().__init__()
        self.answer: Answer | None = None
        query = f"path=/&upload={upload}&wait=30"
        address = f"/api/v1/blocks/{block_hash(path, SIZE).hex()}?{query}"
        self._ask: Any = lambda: worker.call("GET", address, token=token)
        self.start()

    def run(self) -> None:
        self.answer = self._ask()

    def result(self) -> Answer:
        self.join(20)
        assert self.answer is not None, "it still waits"
        return self.answer


def waits(worker: Worker) -> None:
    wait_until(lambda: worker.metric("holdfast_requests_running") >= 2, what="a waiting request")


def session_of(conninfo: str, token: str) -> Session:
    found = accounts.get_session(hashlib.sha256(token.encode()).digest())
    assert found is not None, conninfo
    return found


def test_a_drained_worker_sends_who_waits_away(pair: tuple[Worker, str]) -> None:
    worker, token = pair
    waiting = Waiting(worker, token, "/f", announce(worker, token, "/f"))
    waits(worker)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 10
    answer = waiting.result()
    assert (answer.status, answer.code) == (503, "unavailable")


def test_a_block_that_another_worker_recorded_is_found(pair: tuple[Worker, str], conninfo: str) -> None:
    """The test itself is the other worker, and tells nobody. Without nodes the block is found but cannot be read."""
    worker, token = pair
    waiting = Waiting(worker, token, "/f", announce(worker, token, "/f"))
    waits(worker)
    with db.connected(conninfo):
        session = session_of(conninfo, token)
        [mount] = session.mounts
        new = [new_block(mount.account_id, "/f", SIZE)]
        blocks.record(mount.account_id, mount.namespace_id, session.user_id, None, new)
    answer = waiting.result()
    assert (answer.status, answer.code) == (503, "cannot_read")
