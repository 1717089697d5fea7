"""How often passwords may be guessed, counted in the database."""

from __future__ import annotations

from functools import partial

import pytest

from coordinator.metadata import db, logins
from tests.kit.metadata import in_parallel

ANNA, HOME = logins.account_key("anna@example.org"), logins.address_key("192.0.2.1")
MOST = {ANNA: 2, HOME: 3}


def end_windows() -> None:
    db.run("UPDATE login_guess SET ends_at = now() - interval '1 second'")


def test_guesses_run_out_and_come_back_after_the_window(database: str) -> None:
    assert [logins.count_guess(MOST) for _ in range(2)] == [0.0, 0.0]
    assert 0 < logins.count_guess(MOST) <= logins.WINDOW_S
    end_windows()
    assert logins.count_guess(MOST) == 0.0


def test_a_refused_guess_counts_nowhere(database: str) -> None:
    """Whoever has used up what an address has must not go on to lock other people out."""
    ben = {logins.account_key("ben@example.org"): 2, HOME: 3}
    for most in (MOST, MOST, ben):
        assert logins.count_guess(most) == 0.0
    for _ in range(5):
        assert logins.count_guess(ben) > 0
    assert logins.count_guess({**ben, HOME: 100}) == 0.0


def test_right_guesses_do_not_count(database: str) -> None:
    for _ in range(10):
        assert logins.count_guess(MOST) == 0.0
        logins.take_back(MOST)
    end_windows()
    logins.take_back(MOST)
    assert [logins.count_guess(MOST) for _ in range(2)] == [0.0, 0.0]


def test_guesses_at_once_do_not_outrun_the_limit(database: str) -> None:
    results = in_parallel(database, *(partial(logins.count_guess, MOST) for _ in range(8)))
    assert [result for result in results if isinstance(result, BaseException)] == []
    assert results.count(0.0) == 2


def test_rows_whose_window_has_ended_go(database: str) -> None:
    for number in range(30):
        logins.count_guess({logins.account_key(str(number)): 1})
    end_windows()
    for number in range(3):
        logins.count_guess({logins.account_key(f"new {number}"): 1})
    assert db.one("SELECT count(*) FROM login_guess") == (3,)


def test_every_spelling_of_an_address_is_one_account() -> None:
    for spelling in ("ANNA@example.org", " anna@example.org", "anna@example.org\t"):
        assert logins.account_key(spelling) == ANNA
    assert logins.account_key("ann@example.org") != ANNA


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_a_hosts_addresses_are_one_origin(one: str, other: str, same: bool) -> None:
    assert (logins.address_key(one) == logins.address_key(other)) == same
