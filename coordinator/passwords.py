"""Passwords: argon2id hashes, and how often somebody may guess.

`hash_password` and `verify_password` take some 60 ms and 32 MiB each and release the GIL: run them in the CPU pool.
Does not: know users (metadata.accounts) or sessions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from coordinator.blocks.cpu import CpuPool
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


class GuessLimit:
    """How many guesses within `window_s` each key (an account, an address) has left. Time is passed in, in seconds.

    A guess is counted before the password is checked, so that guesses side by side cannot outrun the limit, and taken
    back when it was right. Keeps at most `keys_max` keys: beyond that the one whose window is oldest is forgotten.
    """

    def __init__(self, guesses_max: int, *, window_s: float = 60.0, keys_max: int = 10_000) -> None:
        self._guesses_max = guesses_max
        self._window_s = window_s
        self._keys_max = keys_max
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # key -> (end, guesses), oldest first

    def guess(self, key: str, now: float) -> float:
        """Count one guess. 0.0, or when there are none left the seconds until there are."""
        end, guesses = self._windows.get(key, (0.0, 0))
        if now >= end:
            self._windows.pop(key, None)
            end, guesses = now + self._window_s, 0
        if guesses >= self._guesses_max:
            return end - now
        self._windows[key] = (end, guesses + 1)
        if len(self._windows) > self._keys_max:
            self._windows.popitem(last=False)
        return 0.0

    def take_back(self, key: str) -> None:
        """The guess was right."""
        if key in self._windows:
            end, guesses = self._windows[key]
            self._windows[key] = (end, max(0, guesses - 1))


class LoginGuard:
    """Stands before every check of a password. Owned by the event loop; each worker has its own."""

    def __init__(self, cpu: CpuPool, *, per_account_max: int, per_address_max: int) -> None:
        """How many wrong guesses a minute there may be for each account and from each address."""
        self._cpu = cpu
        self._by_account = GuessLimit(per_account_max)
        self._by_address = GuessLimit(per_address_max)
        self._checking = 0

    async def check(self, account: str, address: str, stored: str | None, password: str, now: float) -> bool:
        """Whether it is the password of `account` (any spelling of the name); `now` in seconds.

        Raises TooManyRequests, and Unavailable when too many passwords are being checked at this moment.
        """
        if self._checking >= CHECKS_MAX:
            raise Unavailable  # before anything is counted: a busy service must not use up anybody's guesses
        account = account.casefold()
        wait_s = max(self._by_account.guess(account, now), self._by_address.guess(address, now))
        if wait_s > 0:
            raise TooManyRequests(retry_after_s=math.ceil(wait_s))
        self._checking += 1
        right = True  # until the check says otherwise: when it cannot be made, the guess does not count
        try:
            right = await self._cpu.run(verify_password, stored, password)
            return right
        finally:
            self._checking -= 1
            if right:
                self._by_account.take_back(account)
                self._by_address.take_back(address)
