"""How long a failed call is repeated."""

from __future__ import annotations

from typing import Any

import pytest

from client.retry import Failure, RetryPolicy

POLICY = RetryPolicy()


def delay(failure: Failure, *, attempts: int = 1, elapsed_s: float = 0.0, **more: Any) -> float | None:
    facts: dict[str, Any] = {"reached_before": True, "jitter": 0.5, **more}
    return POLICY.next_delay(failure, attempts=attempts, elapsed_s=elapsed_s, **facts)


def test_a_broken_connection_is_tried_again_at_once_and_then_with_growing_pauses() -> None:
    pauses = [delay(Failure.BROKEN, attempts=attempts) for attempts in (1, 2, 3, 4)]
    assert pauses[0] == 0
    assert pauses == sorted(p for p in pauses if p is not None)


def test_pauses_are_spread_and_bounded() -> None:
    for attempts in range(2, 40):
        for jitter in (0.0, 0.999):
            pause = delay(Failure.BUSY, attempts=attempts, jitter=jitter)
            assert pause is not None
            assert 0 < pause <= POLICY.delay_max_s
    assert delay(Failure.BUSY, attempts=3, jitter=0.0) != delay(Failure.BUSY, attempts=3, jitter=0.9)


def test_nobody_there_is_told_soon_but_a_restart_is_waited_for() -> None:
    assert delay(Failure.REFUSED, elapsed_s=2.0, reached_before=False) is None
    assert delay(Failure.REFUSED, elapsed_s=2.0, reached_before=True) is not None
    assert delay(Failure.REFUSED, elapsed_s=30.0, reached_before=True) is None


def test_the_services_own_wish_is_honoured_unless_it_is_beyond_all_patience() -> None:
    assert delay(Failure.BUSY, retry_after_s=3.0) == 3.0
    assert delay(Failure.BUSY, retry_after_s=3600.0) is None


@pytest.mark.parametrize("failure", list(Failure))
def test_every_failure_is_given_up_in_the_end(failure: Failure) -> None:
    assert delay(failure, attempts=50, elapsed_s=1000.0) is None
