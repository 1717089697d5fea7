"""What this computer remembers of its login."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec import structs

from client.errors import NotLoggedInHere, StateUnreadable, UsageProblem
from client.state import Account, forget_account, home, list_accounts, load_account, record_bug, save_account

ACCOUNT = Account(
    url="https://h:1",
    service_id="s1",
    email="a@b",
    name="A",
    user_id=1,
    device_id=2,
    device_name="d",
    token="secret",
    ca_pem="PEM",
)
OTHER = structs.replace(ACCOUNT, email="c@d", user_id=7, token="other")
ELSEWHERE = structs.replace(ACCOUNT, url="https://i:1", service_id="s2", token="elsewhere")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_account_is_remembered_and_forgotten() -> None:
    with pytest.raises(NotLoggedInHere):
        load_account()
    save_account(ACCOUNT)
    assert load_account() == ACCOUNT
    forget_account(ACCOUNT)
    with pytest.raises(NotLoggedInHere):
        load_account()


def test_several_logins_live_side_by_side() -> None:
    save_account(ACCOUNT)
    save_account(OTHER)
    assert load_account() == OTHER, "the newest is the first"
    assert load_account("a@b") == ACCOUNT
    with pytest.raises(UsageProblem, match="nobody is not logged in on this computer; logged in are: c@d, a@b"):
        load_account("nobody")
    forget_account(OTHER)
    assert list_accounts() == [ACCOUNT]


def test_one_person_logs_in_once_at_each_service() -> None:
    save_account(ACCOUNT)
    save_account(ELSEWHERE)
    again = structs.replace(ACCOUNT, url="https://new:1", token="new", device_id=9)
    save_account(again)
    assert list_accounts() == [again, ELSEWHERE]
    with pytest.raises(UsageProblem, match='say which: "a@b https://new:1", "a@b https://i:1"'):
        load_account("a@b")
    assert load_account("a@b https://i:1") == ELSEWHERE


def test_nobody_else_can_read_the_token(own_home: Path) -> None:
    save_account(ACCOUNT)
    assert stat.S_IMODE((own_home / "accounts.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(own_home.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"url": 1}]'])
def test_a_damaged_account_is_a_sentence(own_home: Path, text: str) -> None:
    own_home.mkdir()
    (own_home / "accounts.json").write_text(text)
    with pytest.raises(StateUnreadable, match="Log in again"):
        load_account()
    save_account(ACCOUNT)
    assert load_account() == ACCOUNT


def test_without_the_variable_it_is_the_platforms_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert home() == Path("/data/holdfast")


def test_a_bug_is_written_down_for_its_owner_only() -> None:
    path = record_bug(ValueError("what happened"))
    assert "ValueError: what happened" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
