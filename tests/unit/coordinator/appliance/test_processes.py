"""The system account that PostgreSQL runs as under root: made once, whoever starts at the same time."""

from __future__ import annotations

import pwd
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.appliance import processes
from coordinator.appliance.processes import ensure_account


class Accounts:
    """/etc/passwd with Debian's `useradd`: it looks for the name first, and later replaces whatever has that name."""

    def __init__(self) -> None:
        self.uids: dict[str, int] = {}
        self.made: list[int] = []
        self.failures = 0  # of the next calls
        self.hidden_looks = 0  # how many look-ups a name service answers from what it remembers
        self._together = threading.Barrier(2)

    def useradd(self, command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == "useradd"
        name = command[-1]
        if self.failures:
            self.failures -= 1
            return subprocess.CompletedProcess(command, 1, "", "useradd: cannot lock /etc/passwd; try again later.")
        if name in self.uids:
            return subprocess.CompletedProcess(command, 9, "", "useradd: user already exists")
        try:
            self._together.wait(0.2)  # the worst moment for another one, if any comes
        except threading.BrokenBarrierError:
            self._together.reset()
        self.made.append(999 - len(self.made))
        self.uids[name] = self.made[-1]
        return subprocess.CompletedProcess(command, 0, "", "")

    def getpwnam(self, name: str) -> SimpleNamespace:
        if name in self.uids and self.hidden_looks:
            self.hidden_looks -= 1
            raise KeyError(name)
        return self._entry(name)

    def getpwuid(self, uid: int) -> SimpleNamespace:
        return self._entry(next((name for name, known in self.uids.items() if known == uid), ""))

    def _entry(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(pw_name=name, pw_uid=self.uids[name], pw_gid=self.uids[name] - 1)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Accounts:
    accounts = Accounts()
    monkeypatch.setattr(pwd, "getpwnam", accounts.getpwnam)
    monkeypatch.setattr(pwd, "getpwuid", accounts.getpwuid)
    monkeypatch.setattr(subprocess, "run", accounts.useradd)
    monkeypatch.setattr(processes, "_LOOK_EVERY_S", 0.001)
    return accounts


def test_two_that_start_at_the_same_time_get_the_same_account(accounts: Accounts, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(ensure_account, "pgserver", lock_file=tmp_path / "lock") for _ in range(2)]
        found = [start.result(10) for start in starts]
    assert found == [(999, 998), (999, 998)]
    assert accounts.made == [999]


def test_an_account_that_exists_needs_no_lock(accounts: Accounts, tmp_path: Path) -> None:
    accounts.uids["pgserver"] = 7
    assert ensure_account("pgserver", lock_file=tmp_path / "absent" / "lock") == (7, 6)


def test_it_is_tried_again_while_somebody_else_edits_the_accounts(accounts: Accounts, tmp_path: Path) -> None:
    accounts.failures = 3
    assert ensure_account("pgserver", lock_file=tmp_path / "lock") == (999, 998)


def test_it_is_made_once_and_waited_for_until_it_can_be_looked_up(accounts: Accounts, tmp_path: Path) -> None:
    accounts.hidden_looks = 5
    assert ensure_account("pgserver", lock_file=tmp_path / "lock") == (999, 998)
    assert accounts.made == [999]


def test_without_success_the_reason_is_told(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.failures = 1_000_000
    monkeypatch.setattr(processes, "_ACCOUNT_TIMEOUT_S", 0.02)
    with pytest.raises(OSError, match="cannot lock /etc/passwd"):
        ensure_account("pgserver", lock_file=tmp_path / "lock")


def test_a_lock_that_is_never_let_go_is_named(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_LOCK_TIMEOUT_S", 0.02)
    with processes._locked(tmp_path / "lock"), pytest.raises(OSError, match="lock"):
        ensure_account("pgserver", lock_file=tmp_path / "lock")
    assert accounts.made == []
