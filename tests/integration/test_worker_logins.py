"""Guessing passwords is slow: the workers count wrong ones together, for each account and for each address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kit.worker import PASSWORD, Answer, Worker, add_user, running_worker

pytest_plugins = ("tests.kit.postgres",)


def guess(worker: Worker, email: str, password: str = "wrong", address: str = "") -> Answer:
    body = {"email": email, "password": password, "device_name": "x"}
    return worker.call("POST", "/api/v1/auth/login", body=body, headers={"X-Forwarded-For": address} if address else {})


SETTINGS: dict[str, Any] = {
    "login_failures_per_account_max": 3,
    "login_failures_per_address_max": 5,
    "trusted_proxies": ["127.0.0.1"],
}


def test_a_second_worker_and_a_restart_give_no_more_guesses(conninfo: str, tmp_path: Path) -> None:
    with (
        running_worker(tmp_path, conninfo, "worker1", **SETTINGS) as one,
        running_worker(tmp_path, conninfo, "worker2", **SETTINGS) as other,
    ):
        add_user(tmp_path, conninfo, "anna@example.org")
        codes = [guess(worker, "anna@example.org", address="192.0.2.1").code for worker in (one, other, one, other)]
        assert codes == ["wrong_password"] * 3 + ["too_many_requests"]
    with running_worker(tmp_path, conninfo, "worker1", **SETTINGS) as fresh:
        assert guess(fresh, "anna@example.org", PASSWORD, "192.0.2.9").code == "too_many_requests"


def test_guesses_at_one_account_and_from_one_address_are_limited(conninfo: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, conninfo, **SETTINGS) as worker:
        add_user(tmp_path, conninfo, "anna@example.org")
        add_user(tmp_path, conninfo, "bert@example.org")
        codes = [guess(worker, "anna@example.org", address=f"192.0.2.{n}").code for n in range(4)]
        assert codes == ["wrong_password"] * 3 + ["too_many_requests"]

        for spelling in ("ANNA@example.org", " anna@example.org", "anna@example.org\t"):
            refused = guess(worker, spelling, PASSWORD, "192.0.2.9")
            assert refused.status == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60

        for n in range(5):
            assert guess(worker, f"nobody{n}@example.org", address="198.51.100.7").code == "wrong_password"
        assert guess(worker, "bert@example.org", PASSWORD, "198.51.100.7").code == "too_many_requests"
        assert guess(worker, "bert@example.org", PASSWORD, "198.51.100.8").status == 200

        for _ in range(10):  # right passwords do not count
            assert guess(worker, "bert@example.org", PASSWORD, "198.51.100.8").status == 200
        assert worker.metric("holdfast_logins_failed_total", reason="too_many_requests") == 5
