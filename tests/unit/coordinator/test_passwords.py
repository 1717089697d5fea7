"""Passwords and how often they may be guessed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.blocks.cpu import CpuPool
from coordinator.passwords import CHECKS_MAX, GuessLimit, LoginGuard, hash_password, is_outdated, verify_password
from coordinator.protocol.errors import TooManyRequests, Unavailable


def test_only_the_right_password_opens() -> None:
    stored = hash_password("pässword\0 ")
    assert stored.startswith("$argon2id$") and not is_outdated(stored)
    assert verify_password(stored, "pässword\0 ")
    assert not verify_password(stored, "pässword")
    assert not verify_password(None, "nobody has this password")
    assert not verify_password("not a hash", "x")


def test_weaker_hash_is_outdated() -> None:
    assert is_outdated("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ")


def test_guesses_run_out_and_come_back_after_the_window() -> None:
    limit = GuessLimit(2, window_s=60.0)
    assert limit.guess("anna", 0.0) == 0.0
    assert limit.guess("anna", 10.0) == 0.0
    assert limit.guess("anna", 20.0) == 40.0
    assert limit.guess("bert", 20.0) == 0.0
    assert limit.guess("anna", 60.0) == 0.0


def test_right_guesses_do_not_count() -> None:
    limit = GuessLimit(2)
    for _ in range(10):
        assert limit.guess("anna", 0.0) == 0.0
        limit.take_back("anna")
    limit.take_back("unknown")


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 200)), max_size=200))
def test_memory_is_bounded_and_no_window_lets_more_through(guesses: list[tuple[int, float]]) -> None:
    limit = GuessLimit(3, window_s=60.0, keys_max=10)
    now, allowed = 0.0, dict[int, list[float]]()
    for key, step in guesses:
        now += step
        if limit.guess(str(key), now) == 0.0:
            allowed.setdefault(key, []).append(now)
        assert len(limit._windows) <= 10
    if len(allowed) <= 10:
        for times in allowed.values():
            for n, first in enumerate(times[:-6]):  # two windows may touch: at most twice the limit in one span
                assert times[n + 6] - first >= 60.0


def test_busy_service_uses_up_nobodys_guesses() -> None:
    async def main() -> None:
        pool = CpuPool(1)
        guard = LoginGuard(pool, per_account_max=1, per_address_max=100)
        stored = hash_password("right")
        crowd = [guard.check(f"user{n}", "192.0.2.1", stored, "right", 0.0) for n in range(CHECKS_MAX)]
        tasks = [asyncio.create_task(check) for check in crowd]
        await asyncio.sleep(0)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await guard.check("anna", "192.0.2.2", stored, "wrong", 0.0)
        assert all(await asyncio.gather(*tasks))
        assert await guard.check("anna", "192.0.2.2", stored, "wrong", 0.0) is False
        with pytest.raises(TooManyRequests) as refused:
            await guard.check("Anna", "192.0.2.3", stored, "right", 20.0)
        assert refused.value.facts["retry_after_s"] == 40
        pool.close()

    asyncio.run(main())
