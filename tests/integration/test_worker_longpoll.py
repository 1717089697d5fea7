"""Waiting for changes: who is woken, when, by whom, and what a waiting connection survives."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import urllib3

from tests.kit.cluster import wait_until
from tests.kit.worker import Answer, Worker, add_user, open_listener, running_worker

pytest_plugins = ("tests.kit.postgres",)

ANNA = "anna@example.org"


@dataclass
class Poll:
    """A long poll in a thread of its own."""

    worker: Worker
    token: str
    timeout_s: int = 30
    answers: list[Answer] = field(default_factory=list)
    ended_at: float = 0.0

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # the worker was ended; nobody asks for the answer
            self.ask()

    def ask(self) -> None:
        cursor = self.worker.call("GET", "/api/v1/changes", token=self.token).document["cursor"]
        path = f"/api/v1/changes/longpoll?cursor={cursor}&timeout={self.timeout_s}"
        self.answers.append(self.worker.call("GET", path, token=self.token))
        self.ended_at = time.monotonic()

    def begin(self) -> Poll:
        """Return when the worker waits for it."""
        waiting = self.worker.metric("holdfast_longpolls")
        self._thread.start()
        wait_until(lambda: self.worker.metric("holdfast_longpolls") > waiting, what="the poll to be parked")
        return self

    def result(self, timeout_s: float = 20.0) -> Answer:
        self._thread.join(timeout_s)
        assert self.answers, "the long poll was not answered"
        return self.answers[0]


def make_folder(worker: Worker, token: str, path: str) -> float:
    """When the commit was acknowledged."""
    answer = worker.call("POST", "/api/v1/files/create_folder", token=token, body={"path": path})
    assert answer.status == 200, answer.data
    return time.monotonic()


@contextmanager
def two_workers(folder: Path, conninfo: str, **settings: object) -> Iterator[tuple[Worker, Worker]]:
    with (
        running_worker(folder, conninfo, "worker1", **settings) as first,
        running_worker(folder, conninfo, "worker2", **settings) as second,
    ):
        add_user(folder, conninfo, ANNA)
        yield first, second


def test_commits_wake_long_polls_of_every_worker(conninfo: str, tmp_path: Path) -> None:
    # The poll that makes up for lost notices is far away: only notices can wake in time.
    with two_workers(tmp_path, conninfo, longpoll_poll_s=60.0) as (first, second):
        token = first.log_in(ANNA)
        wait_until(lambda: second.metric("holdfast_notice_connection_up") == 1, what="the notice connection")
        here, there = Poll(first, token).begin(), Poll(second, token).begin()
        committed_at = make_folder(first, token, "/One")
        for poll in (here, there):
            assert poll.result().document == {"changes": True, "backoff": 0.0}
            assert poll.ended_at - committed_at < 0.2
        back = Poll(first, token).begin()
        make_folder(second, token, "/Two")
        assert back.result().document["changes"] is True


def test_commit_is_noticed_although_the_notice_is_lost(conninfo: str, tmp_path: Path) -> None:
    with two_workers(tmp_path, conninfo, longpoll_poll_s=0.2) as (first, second):
        token = first.log_in(ANNA)
        poll = Poll(second, token).begin()
        with psycopg.connect(conninfo, autocommit=True) as admin:
            query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE %s"
            [ended] = admin.execute(query, ("%notices",)).fetchone() or [0]
        assert ended == 2
        committed_at = make_folder(first, token, "/One")
        assert poll.result().document["changes"] is True
        assert poll.ended_at - committed_at < 2.0
        both = (first, second)
        wait_until(
            lambda: all(worker.metric("holdfast_notice_connection_up") == 1 for worker in both),
            what="the connections again",
        )


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_long_poll_ends_at_its_timeout_and_its_connection_goes_on(conninfo: str, tmp_path: Path, tls: bool) -> None:
    with running_worker(tmp_path, conninfo, tls=tls) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        cursor = worker.call("GET", "/api/v1/changes", token=token).document["cursor"]
        began = time.monotonic()
        path = f"/api/v1/changes/longpoll?cursor={cursor}&timeout=1"
        answer = worker.call("GET", path, token=token, headers={"X-Request-ID": "my-long-poll"})
        assert answer.document == {"changes": False, "backoff": 0.0}
        assert 0.9 < time.monotonic() - began < 4.0
        assert answer.headers["X-Request-ID"] == "my-long-poll"
        body = {"path": "/" + "x" * 200}
        for _ in range(3):  # over the same connection, which the worker took back
            assert worker.call("POST", "/api/v1/files/create_folder", token=token, body=body).status in {200, 409}
        assert worker.call("GET", path, token=token).document["changes"] is True
        assert worker.pool_connections() == 1
        # Behind the cursor there is something: no waiting.
        make_folder(worker, token, "/One")
        began = time.monotonic()
        assert worker.call("GET", path, token=token).document["changes"] is True
        assert time.monotonic() - began < 0.9


def test_a_client_that_leaves_is_forgotten(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        poll = Poll(worker, token).begin()
        cursor = worker.call("GET", "/api/v1/changes", token=token).document["cursor"]
        with socket.create_connection(("127.0.0.1", worker.port)) as line:
            head = f"GET /api/v1/changes/longpoll?cursor={cursor}&timeout=60 HTTP/1.1\r\nHost: x\r\n"
            line.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
            wait_until(lambda: worker.metric("holdfast_longpolls") == 2, what="the second poll")
        wait_until(lambda: worker.metric("holdfast_longpolls") == 1, what="the second poll to be forgotten")
        make_folder(worker, token, "/One")
        assert poll.result().document["changes"] is True


@pytest.mark.parametrize("how", ["logout", "revoked", "disabled"])
def test_long_poll_ends_when_its_device_is_signed_out(conninfo: str, tmp_path: Path, how: str) -> None:
    with two_workers(tmp_path, conninfo, device_seen_s=0.3) as (first, second):
        add_user(tmp_path, conninfo, "root@example.org", is_admin=True)
        token, other = first.log_in(ANNA, device="phone"), first.log_in(ANNA)
        poll = Poll(second, token).begin()
        if how == "logout":
            first.call("POST", "/api/v1/auth/logout", token=token)
        elif how == "revoked":
            devices = first.call("GET", "/api/v1/devices", token=other).document["devices"]
            [device] = [row["id"] for row in devices if row["name"] == "phone"]
            first.call("DELETE", f"/api/v1/devices/{device}", token=other)
        else:
            admin = first.log_in("root@example.org")
            first.call("POST", "/api/v1/admin/users/disable", token=admin, body={"email": ANNA})
        answer = poll.result()
        assert (answer.status, answer.code) == (401, "not_logged_in")


def test_device_with_an_open_long_poll_is_online(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo, device_seen_s=0.2) as worker:
        add_user(tmp_path, conninfo, ANNA)
        phone, laptop = worker.log_in(ANNA, device="phone"), worker.log_in(ANNA, device="laptop")
        Poll(worker, phone).begin()
        with psycopg.connect(conninfo, autocommit=True) as admin:
            admin.execute("UPDATE device SET last_seen_at = now() - interval '1 day' WHERE name = 'phone'")

        def phone_is_online() -> bool:
            devices = worker.call("GET", "/api/v1/devices", token=laptop).document["devices"]
            return any(row["online"] for row in devices if row["name"] == "phone")

        wait_until(phone_is_online, timeout_s=10, what="the phone to be online")


def test_full_worker_sends_pollers_away_for_a_while(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo, longpolls_max=1) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        poll = Poll(worker, token).begin()
        second = Poll(worker, token)
        second.ask()
        document = second.answers[0].document
        assert document["changes"] is False and 1.0 <= document["backoff"] <= 30.0
        make_folder(worker, token, "/One")
        assert poll.result().document["changes"] is True


def test_drain_answers_long_polls_and_exits_cleanly(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        polls = [Poll(worker, token).begin() for _ in range(3)]
        assert worker.stop() == 0
        for poll in polls:
            answer = poll.result()
            assert answer.document["changes"] is False and 1.0 <= answer.document["backoff"] <= 30.0
            assert answer.headers["Connection"] == "close"
        assert len({poll.result().document["backoff"] for poll in polls}) > 1
        events = [event["event"] for event in worker.log_events()]
        assert events[-1] == "worker.stopped"


@contextmanager
def held_namespaces(conninfo: str) -> Iterator[Callable[[], None]]:
    """Every commit waits until the returned function is called."""
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT 1 FROM namespace FOR UPDATE")
        yield holder.rollback


def test_drain_lets_running_requests_finish(conninfo: str, tmp_path: Path) -> None:
    listener = open_listener()
    with running_worker(tmp_path, conninfo, listener=listener) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        answers: list[Answer] = []
        with held_namespaces(conninfo) as release:
            body = {"path": "/Slow"}
            call = threading.Thread(
                target=lambda: answers.append(
                    worker.call("POST", "/api/v1/files/create_folder", token=token, body=body)
                ),
                daemon=True,
            )
            call.start()
            wait_until(lambda: worker.metric("holdfast_requests_running") > 1, what="the request to run")
            worker.process.terminate()
            wait_until(lambda: "worker.draining" in worker.log_file.read_text(), what="the drain to begin")
            assert worker.process.poll() is None
            release()
        call.join(20)
        assert answers[0].status == 200
        assert answers[0].headers["Connection"] == "close"
        assert worker.process.wait(20) == 0


def test_drain_gives_up_at_its_deadline(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo, drain_s=0.5) as worker:
        add_user(tmp_path, conninfo, ANNA)
        token = worker.log_in(ANNA)
        with held_namespaces(conninfo):
            body = {"path": "/Slow"}

            def call() -> None:
                with contextlib.suppress(urllib3.exceptions.HTTPError):  # it is cut off
                    worker.call("POST", "/api/v1/files/create_folder", token=token, body=body)

            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            wait_until(lambda: worker.metric("holdfast_requests_running") > 1, what="the request to run")
            began = time.monotonic()
            assert worker.stop() == 0
            assert time.monotonic() - began < 10.0
            thread.join(10)
        assert "worker.gave_up" in [event["event"] for event in worker.log_events()]
