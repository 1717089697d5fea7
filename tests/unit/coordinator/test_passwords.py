"""Passwords, and who stands before their check."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.blocks.cpu import CpuPool
from coordinator.metadata.db import Door
from coordinator.passwords import CHECKS_MAX, LoginGuard, hash_password, is_outdated, verify_password
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


def test_a_busy_service_uses_up_nobodys_guesses(conninfo: str) -> None:
    async def main() -> None:
        pool, door = CpuPool(1), Door(conninfo, 2)
        guard = LoginGuard(pool, door, per_account_max=1, per_address_max=100)
        stored = hash_password("right")
        crowd = [guard.check(f"user{n}", "192.0.2.1", stored, "right") for n in range(CHECKS_MAX)]
        tasks = [asyncio.create_task(check) for check in crowd]
        await asyncio.sleep(0)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await guard.check("anna", "192.0.2.2", stored, "wrong")
        assert all(await asyncio.gather(*tasks))
        assert await guard.check("anna", "192.0.2.2", stored, "wrong") is False
        with pytest.raises(TooManyRequests) as refused:
            await guard.check(" Anna", "192.0.2.3", stored, "right")
        assert refused.value.facts["retry_after_s"] in range(1, 61)
        pool.close()
        door.close()

    asyncio.run(main())
