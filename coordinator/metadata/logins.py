"""How often somebody may guess passwords, counted by all workers together, so that neither more workers nor a restart
give more guesses.

A guess is counted before the password is checked, so that guesses side by side cannot outrun the limit, and taken back
when it was right. Rows are as many as there were different keys within the last window, whose number the cost of a
check bounds: ended ones go as new ones come.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Final

from coordinator.metadata import db
from coordinator.metadata.accounts import email_key
from coordinator.metadata.arrays import Bytes

WINDOW_S: Final = 60.0
_SWEPT_MAX: Final = 20  # ended rows that go with each guess: more than it adds


class _NoneLeft(Exception):
    """Rolls the transaction back: a guess that is refused counts nowhere."""


def account_key(email: str) -> bytes:
    """The same for every spelling of an address that logs into one account."""
    return hashlib.sha256(f"account {email_key(email)}".encode()).digest()


def address_key(address: str) -> bytes:
    """The same for all addresses that one host may give itself: of IPv6, its whole network of 64 bits."""
    return hashlib.sha256(f"address {_network(address)}".encode()).digest()


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # whatever a trusted proxy says
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or parsed.packed[:8].hex())


def count_guess(most: Mapping[bytes, int], window_s: float = WINDOW_S) -> float:
    """Count a guess for each of the keys; 0.0, or, where one of them has had its `most`, the seconds until it may be
    guessed again, and nothing is counted."""
    keys = sorted(most)  # in one order everywhere, so that no two guesses wait for each other
    try:
        with db.transaction():
            counted = db.rows(
                """INSERT INTO login_guess AS g (key, ends_at, guesses)
                   SELECT k, clock_timestamp() + make_interval(secs => %(window)s), 1
                   FROM unnest(%(keys)s::bytea[]) AS k
                   ON CONFLICT (key) DO UPDATE SET
                       guesses = CASE WHEN g.ends_at <= clock_timestamp() THEN 1 ELSE g.guesses + 1 END,
                       ends_at = CASE WHEN g.ends_at <= clock_timestamp() THEN excluded.ends_at ELSE g.ends_at END
                   RETURNING key, guesses, extract(epoch FROM ends_at - clock_timestamp())::float8""",
                {"keys": Bytes(keys), "window": window_s},
            )
            wait_s = max((left_s for key, guesses, left_s in counted if guesses > most[bytes(key)]), default=0.0)
            if wait_s > 0:
                raise _NoneLeft
            db.run(
                """DELETE FROM login_guess WHERE key IN (
                       SELECT key FROM login_guess WHERE ends_at <= clock_timestamp()
                       LIMIT %s FOR UPDATE SKIP LOCKED)""",
                (_SWEPT_MAX,),
            )
    except _NoneLeft:
        return wait_s
    return 0.0


def take_back(most: Mapping[bytes, int]) -> None:
    """The guess was right."""
    db.run(
        """WITH right_one AS MATERIALIZED (
               SELECT key FROM login_guess WHERE key = ANY (%s) ORDER BY key FOR UPDATE)
           UPDATE login_guess g SET guesses = greatest(0, g.guesses - 1) FROM right_one r WHERE g.key = r.key""",
        (Bytes(sorted(most)),),
    )
