"""Requests that a worker must refuse in its own words, and what it does for every request."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import wait_until
from tests.kit.postgres import PostgresServer
from tests.kit.worker import PASSWORD, Worker, add_user, running_worker

pytest_plugins = ("tests.kit.postgres",)

ANNA, BERT, ROOT = "anna@example.org", "bert@example.org", "root@example.org"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def worker(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder: Path = tmp_path_factory.mktemp("worker")
    with postgres.database() as conninfo, running_worker(folder, conninfo) as running:
        add_user(folder, conninfo, ANNA)
        add_user(folder, conninfo, BERT)
        add_user(folder, conninfo, ROOT, is_admin=True)
        yield running
        failed = [event for event in running.log_events() if "exception" in event]
        assert not failed, "a refused request left a traceback in the log"


@pytest.fixture(scope="module")
def token(worker: Worker) -> str:
    return worker.log_in(ANNA)


def converse(worker: Worker, *sent: bytes) -> bytes:
    """What the worker answers to raw bytes until it closes the connection or says nothing for two seconds."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=2.0) as line:
        for part in sent:
            line.sendall(part)
        received = b""
        try:
            while part := line.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
        return received


# --- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b'{"email": "a"}',
        b'{"email": 1, "password": "x", "device_name": "y"}',
        b'{"email": "a", "password": "x", "device_name": "y", "remember": true}',
        b'{"email": "a", "password": "x", "device_name": "\xff"}',
        b'{"email": "a", "password": "x", "device_name": ""}',
        b"[" * 5000,
    ],
)
def test_unreadable_body_is_a_bad_request(worker: Worker, body: bytes) -> None:
    answer = worker.call("POST", "/api/v1/auth/login", data=body)
    assert (answer.status, answer.code) == (400, "bad_request")


def test_body_of_another_type_is_unsupported(worker: Worker) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = worker.call("POST", "/api/v1/auth/login", data=b"email=a", headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media")


def test_oversized_body_is_refused_and_the_connection_stays_usable(worker: Worker, token: str) -> None:
    answer = worker.call("POST", "/api/v1/files/move", token=token, data=b" " * (MIB + 1))
    assert (answer.status, answer.code) == (413, "too_large")
    assert answer.document["error"]["limit"] == MIB
    assert "Connection" not in answer.headers


def test_absurdly_long_body_is_refused_before_it_is_sent(worker: Worker, token: str) -> None:
    head = f"POST /api/v1/files/move HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    answer = converse(worker, f"{head}Content-Length: {10**12}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413") and b'"too_large"' in answer


def test_oversized_chunked_body_is_refused(worker: Worker, token: str) -> None:
    head = f"POST /api/v1/files/move HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    answer = converse(worker, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk, b"1\r\n \r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b'"too_large"' in answer


def test_body_of_someone_not_logged_in_is_not_kept(worker: Worker) -> None:
    answer = worker.call("POST", "/api/v1/files/move", data=b"x" * (4 * MIB))
    assert (answer.status, answer.code) in {(401, "not_logged_in"), (413, "too_large")}


def test_body_is_not_invited_from_someone_not_logged_in(worker: Worker) -> None:
    head = b"POST /api/v1/files/move HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    answer = converse(worker, head)
    assert answer.startswith(b"HTTP/1.1 401") and b"100" not in answer.split(b"\r\n")[0]


# --- who asks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer " + "x" * 5000])
def test_without_a_good_token_nobody_is_logged_in(worker: Worker, value: str) -> None:
    answer = worker.call("GET", "/api/v1/auth/whoami", headers={"Authorization": value})
    assert (answer.status, answer.code) == (401, "not_logged_in")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_token_is_dead_after_logout(worker: Worker) -> None:
    token = worker.log_in(ANNA)
    assert worker.call("POST", "/api/v1/auth/logout", token=token).status == 204
    assert worker.call("GET", "/api/v1/auth/whoami", token=token).code == "not_logged_in"


def test_token_is_dead_after_its_device_was_revoked_elsewhere(worker: Worker, token: str) -> None:
    lost = worker.log_in(ANNA, device="lost phone")
    listed = worker.call("GET", "/api/v1/devices", token=token).document["devices"]
    [device] = [device for device in listed if device["name"] == "lost phone"]
    assert not device["current"] and device["created_at"].endswith("Z")
    assert worker.call("DELETE", f"/api/v1/devices/{device['id']}", token=token).status == 204
    assert worker.call("GET", "/api/v1/auth/whoami", token=lost).code == "not_logged_in"
    assert worker.call("DELETE", f"/api/v1/devices/{device['id']}", token=token).code == "not_found"


def test_devices_of_others_do_not_exist(worker: Worker, token: str) -> None:
    theirs = worker.call("GET", "/api/v1/auth/whoami", token=worker.log_in(BERT)).document["device_id"]
    answer = worker.call("DELETE", f"/api/v1/devices/{theirs}", token=token)
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("device", ["abc", "-1", "%FF", "9" * 40, "1.5", "%00"])
def test_unusable_device_ids_are_not_found(worker: Worker, token: str, device: str) -> None:
    answer = worker.call("DELETE", f"/api/v1/devices/{device}", token=token)
    assert answer.code in {"not_found", "bad_request"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/admin/users"), ("POST", "/admin/users"), ("POST", "/admin/users/disable"), ("GET", "/admin/status")],
)
def test_administration_is_for_administrators(worker: Worker, token: str, method: str, path: str) -> None:
    answer = worker.call(method, "/api/v1" + path, token=token, body={} if method == "POST" else None)
    assert (answer.status, answer.code) == (403, "not_allowed")


# --- logging in -------------------------------------------------------------------------------------------------


def test_wrong_password_and_unknown_user_look_the_same(worker: Worker) -> None:
    bodies = [{"email": who, "password": "wrong", "device_name": "x"} for who in (ANNA, "nobody@example.org")]
    answers = [worker.call("POST", "/api/v1/auth/login", body=body) for body in bodies]
    assert [(answer.status, answer.code) for answer in answers] == [(401, "wrong_password")] * 2
    assert answers[0].document["error"]["message"] == answers[1].document["error"]["message"]


def test_user_can_log_in_whatever_the_case_of_the_address(worker: Worker) -> None:
    assert worker.log_in(ANNA.upper())


# --- addresses, methods, arguments, headers ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1/nothing", "/api/v1/auth/login/", "/api/v2/auth/login", "/%ff"])
def test_unknown_address_is_not_found(worker: Worker, path: str) -> None:
    answer = worker.call("GET", path)
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "FROBNICATE"])
def test_other_methods_are_not_allowed(worker: Worker, token: str, method: str) -> None:
    answer = worker.call(method, "/api/v1/auth/whoami", token=token)
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"
    assert worker.call("GET", "/healthz").status == 200  # over the same connection


@pytest.mark.parametrize("cursor", ["", "x", "0", "AAAA", "%FF", "e30", "%00", "a" * 20_000])
def test_cursor_from_nowhere_is_refused(worker: Worker, token: str, cursor: str) -> None:
    for path in ("/api/v1/changes", "/api/v1/changes/longpoll"):
        answer = worker.call("GET", f"{path}?cursor={cursor}", token=token)
        assert answer.status == 400 and answer.code in {"bad_cursor", "bad_request"}, path


def test_cursor_of_someone_else_shows_nothing_of_theirs(worker: Worker, token: str) -> None:
    bert = worker.log_in(BERT)
    cursor = worker.call("GET", "/api/v1/changes", token=bert).document["cursor"]
    worker.call("POST", "/api/v1/files/create_folder", token=bert, body={"path": "/Secret"})
    answer = worker.call("GET", f"/api/v1/changes?cursor={cursor}", token=token)
    assert b"Secret" not in answer.data


@pytest.mark.parametrize(
    "arguments",
    ["timeout=0", "timeout=481", "timeout=x", "timeout=-1", "timeout=1.5", "timeout=1&timeout=2", "timeout=%FF"],
)
def test_longpoll_timeout_has_bounds(worker: Worker, token: str, arguments: str) -> None:
    cursor = worker.call("GET", "/api/v1/changes", token=token).document["cursor"]
    answer = worker.call("GET", f"/api/v1/changes/longpoll?cursor={cursor}&{arguments}", token=token)
    assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\nHost: c\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_broken_http_is_refused_quietly(worker: Worker, head: bytes) -> None:
    answer = converse(worker, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert worker.call("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("offered", "kept"),
    [("abcdef-123.Z_9", True), ("short", False), ("x" * 65, False), ("a b c d e", False)],
)
def test_request_id_is_kept_when_it_is_sane(worker: Worker, offered: str, kept: bool) -> None:
    answer = worker.call("GET", "/healthz", headers={"X-Request-ID": offered})
    assert (answer.headers["X-Request-ID"] == offered) is kept
    assert len(answer.headers["X-Request-ID"]) >= 8


# --- what it says of itself -------------------------------------------------------------------------------------


def test_every_request_has_one_line_in_the_log_without_names_of_files(worker: Worker, token: str) -> None:
    sent = {"X-Request-ID": "find-me-in-the-log"}
    worker.call("GET", "/api/v1/files/metadata?path=/Diary.txt", token=token, headers=sent)

    def find() -> list[dict[str, object]]:
        return [event for event in worker.log_events() if event.get("request") == "find-me-in-the-log"]

    lines = wait_until(find, what="the line in the log")
    assert [line["event"] for line in lines] == ["request.done"]
    assert lines[0]["route"] == "files.metadata" and lines[0]["status"] == 404 and lines[0]["user"]
    text = worker.log_file.read_text()
    assert "Diary" not in text and token not in text and PASSWORD not in text


def test_requests_are_counted_with_the_workers_name(worker: Worker) -> None:
    labels = {"route": "auth.whoami", "method": "GET", "status": "401", "worker": "worker1"}
    before = worker.metric("holdfast_requests_total", **labels)
    worker.call("GET", "/api/v1/auth/whoami")
    assert worker.metric("holdfast_requests_total", **labels) == before + 1


@pytest.mark.parametrize("field", ["email", "password", "device_name"])
def test_a_login_with_a_character_that_no_database_keeps_is_no_failure_of_the_service(
    worker: Worker, field: str
) -> None:
    body = {"email": ANNA, "password": PASSWORD, "device_name": "x"}
    answer = worker.call("POST", "/api/v1/auth/login", body={**body, field: f"{body[field]}\0"})
    assert answer.code == ("wrong_password" if field == "password" else "bad_request")


@pytest.mark.parametrize(
    "bad", [{"email": "a\0@example.org"}, {"email": "a@example.org\n"}, {"email": "a@b@c"}, {"name": "a\0"}]
)
def test_a_user_with_an_impossible_name_is_refused(worker: Worker, bad: dict[str, str]) -> None:
    admin = worker.log_in(ROOT)
    body = {"email": "dora@example.org", "password": PASSWORD, **bad}
    assert worker.call("POST", "/api/v1/admin/users", token=admin, body=body).code == "bad_request"
    if "email" in bad:
        disabled = worker.call("POST", "/api/v1/admin/users/disable", token=admin, body=bad)
        assert disabled.code in ("bad_request", "not_found")


def test_alive_but_not_ready_without_storage_nodes(worker: Worker) -> None:
    assert worker.call("GET", "/healthz").document == {"status": "ok", "checks": {}}
    answer = worker.call("GET", "/readyz")
    assert (answer.status, answer.document["status"]) == (503, "unavailable")
    checks = answer.document["checks"]
    assert checks["database"] == "ok"
    assert checks["reads"] != "ok" and checks["writes"] != "ok"


def test_api_describes_itself(worker: Worker) -> None:
    document = worker.call("GET", "/api/v1/openapi.json").document
    assert document["openapi"].startswith("3.1")
    assert "post" in document["paths"]["/api/v1/auth/login"]


def test_administrator_makes_lists_and_disables_users(worker: Worker) -> None:
    admin = worker.log_in(ROOT)
    body = {"email": "carl@example.org", "password": PASSWORD, "name": "Carl", "quota": 1000}
    made = worker.call("POST", "/api/v1/admin/users", token=admin, body=body)
    assert made.status == 201 and made.document["quota"] == 1000
    assert worker.call("POST", "/api/v1/admin/users", token=admin, body=body).status in {400, 409}
    users = worker.call("GET", "/api/v1/admin/users", token=admin).document["users"]
    assert {user["email"] for user in users} >= {ANNA, "carl@example.org"}
    token = worker.log_in("carl@example.org")
    answer = worker.call("POST", "/api/v1/admin/users/disable", token=admin, body={"email": "carl@example.org"})
    assert answer.document["disabled"] is True
    assert worker.call("GET", "/api/v1/auth/whoami", token=token).code == "not_logged_in"
    body = {"email": "carl@example.org", "password": PASSWORD, "device_name": "x"}
    assert worker.call("POST", "/api/v1/auth/login", body=body).code == "wrong_password"
    gone = worker.call("POST", "/api/v1/admin/users/disable", token=admin, body={"email": "nobody@example.org"})
    assert gone.code == "not_found"


def test_status_is_for_administrators_and_complete(worker: Worker) -> None:
    status = worker.call("GET", "/api/v1/admin/status", token=worker.log_in(ROOT)).document
    assert set(status) == {"sites", "blocks", "repair", "mirror", "jobs"}
    assert status["blocks"] == {"total": 0, "by_margin": {}}


def test_notifications_are_listed_and_marked(worker: Worker, token: str) -> None:
    listed = worker.call("GET", "/api/v1/notifications?after=0&limit=10", token=token).document
    assert listed == {"notifications": [], "unread": 0}
    assert worker.call("POST", "/api/v1/notifications/read", token=token, body={"up_to": 5}).status == 204
    assert worker.call("POST", "/api/v1/notifications/read", token=token, body={"up_to": -1}).code == "bad_request"
    assert worker.call("GET", "/api/v1/notifications?limit=0", token=token).code == "bad_request"
