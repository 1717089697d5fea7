"""Passwords: argon2id hashes, and how often somebody may guess.

`hash_password` and `verify_password` take some 60 ms and 32 MiB each and release the GIL: run them in the CPU pool.
Does not: know users (metadata.accounts) or sessions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from coordinator.blocks.cpu import CpuPool
from coordinator.metadata.db import Door
from coordinator.metadata.logins import account_key, address_key, count_guess, take_back
from coordinator.protocol.errors import TooManyRequests, Unavailable

# A crowd of guessers must not starve uploads of the CPU pool, nor the machine of memory.
CHECKS_MAX: Final = 16

# RFC 9106 and OWASP allow these; one lane, since a worker checks several passwords side by side instead.
_HASHER: Final = PasswordHasher(time_cost=3, memory_cost=32 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """The argon2id string to store; it names its own parameters and salt."""
    return _HASHER.hash(password)


def verify_password(stored: str | None, password: str) -> bool:
    """Whether `password` is the one. `stored` None (no such user) takes as long as a wrong password."""
    try:
        _HASHER.verify(_hash_of_nobody() if stored is None else stored, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def is_outdated(stored: str) -> bool:
    """Whether the hash was made with weaker parameters than today's."""
    return _HASHER.check_needs_rehash(stored)


@cache
def _hash_of_nobody() -> str:
    return _HASHER.hash("nobody has this password")


class LoginGuard:
    """Stands before every check of a password; what was guessed is counted in the database, for all workers together.

    Owned by the event loop. `_checking` counts the checks of this worker that are under way.
    """

    def __init__(self, cpu: CpuPool, db: Door, *, per_account_max: int, per_address_max: int) -> None:
        """How many wrong guesses a minute there may be for each account and from each address."""
        self._cpu = cpu
        self._db = db
        self._per_account_max = per_account_max
        self._per_address_max = per_address_max
        self._checking = 0

    async def check(self, email: str, address: str, stored: str | None, password: str) -> bool:
        """Whether it is the password of the account with this address.

        Raises TooManyRequests, and Unavailable when too many passwords are being checked at this moment.
        """
        if self._checking >= CHECKS_MAX:
            raise Unavailable  # before anything is counted: a busy service must not use up anybody's guesses
        most = {account_key(email): self._per_account_max, address_key(address): self._per_address_max}
        self._checking += 1
        try:
            if (wait_s := await self._db.run(count_guess, most)) > 0:
                raise TooManyRequests(retry_after_s=math.ceil(wait_s))
            return await self._check_counted(most, stored, password)
        finally:
            self._checking -= 1

    async def _check_counted(self, most: Mapping[bytes, int], stored: str | None, password: str) -> bool:
        try:
            right = await self._cpu.run(verify_password, stored, password)
        except Unavailable:
            await self._db.run(take_back, most)  # no answer, no guess
            raise
        if right:
            await self._db.run(take_back, most)
        return right
