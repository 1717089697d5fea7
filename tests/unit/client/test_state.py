"""What this computer remembers of its login."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.errors import NotLoggedInHere, StateUnreadable
from client.state import Account, forget_account, home, load_account, record_bug, save_account

ACCOUNT = Account(
    url="https://h:1", email="a@b", name="A", user_id=1, device_id=2, device_name="d", token="secret", ca_pem="PEM"
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_account_is_remembered_and_forgotten() -> None:
    with pytest.raises(NotLoggedInHere):
        load_account()
    save_account(ACCOUNT)
    assert load_account() == ACCOUNT
    forget_account()
    with pytest.raises(NotLoggedInHere):
        load_account()


def test_nobody_else_can_read_the_token(own_home: Path) -> None:
    save_account(ACCOUNT)
    assert stat.S_IMODE((own_home / "account.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(own_home.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}'])
def test_a_damaged_account_is_a_sentence(own_home: Path, text: str) -> None:
    own_home.mkdir()
    (own_home / "account.json").write_text(text)
    with pytest.raises(StateUnreadable, match="Log in again"):
        load_account()


def test_without_the_variable_it_is_the_platforms_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert home() == Path("/data/holdfast")


def test_a_bug_is_written_down_for_its_owner_only() -> None:
    path = record_bug(ValueError("what happened"))
    assert "ValueError: what happened" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
