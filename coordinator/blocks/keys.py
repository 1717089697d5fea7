"""The key hierarchy: the root key (a file, never in the database) wraps account keys, those wrap the blocks' keys.

Wrapping is AES key wrap (RFC 3394). Destroying an account's wrapped key shreds every block of that account; replacing
the root key re-wraps one row an account.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from coordinator.metadata.values import AccountId
from coordinator.protocol.errors import BlockDamaged

KEY_BYTES: Final = 32
_ACCOUNTS_CACHED_MAX: Final = 4096


class BadRootKey(Exception):
    """The root key file cannot be used, or it is not the one that this cluster's accounts were wrapped with."""


class RootKey:
    """The root key. Its bytes never leave this object, and its repr shows nothing."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise BadRootKey(f"a root key has {KEY_BYTES} bytes, this one {len(key)}")
        self._key = key

    @classmethod
    def read(cls, path: Path) -> RootKey:
        """Read a key file: 64 hex digits."""
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError) as error:
            raise BadRootKey(f"the root key file {path} cannot be read: {error}") from error

    def make_account_key(self) -> bytes:
        """A new account key, wrapped (40 bytes), ready for the account's row."""
        return aes_key_wrap(self._key, os.urandom(KEY_BYTES))

    def open_account_key(self, wrapped: bytes) -> bytes:
        """Raises BadRootKey when `wrapped` was not made with this root key."""
        try:
            return aes_key_unwrap(self._key, wrapped)
        except (InvalidUnwrap, ValueError) as error:
            raise BadRootKey("an account's key does not open with this root key") from error

    def __repr__(self) -> str:
        return "RootKey(…)"


class AccountKeys:
    """Opened account keys, kept for the accounts used last. `fetch` reads an account's wrapped key."""

    def __init__(self, root: RootKey, fetch: Callable[[AccountId], Awaitable[bytes | None]]) -> None:
        self._root = root
        self._fetch = fetch
        self._opened: OrderedDict[AccountId, bytes] = OrderedDict()

    async def get(self, account_id: AccountId) -> bytes:
        """Raises BlockDamaged when the account's key was destroyed: its blocks cannot be opened any more, by design."""
        key = self._opened.get(account_id)
        if key is None:
            wrapped = await self._fetch(account_id)
            if wrapped is None:
                raise BlockDamaged(account=account_id, cause="the account's key has been destroyed")
            key = self._root.open_account_key(wrapped)
            self._opened[account_id] = key
            if len(self._opened) > _ACCOUNTS_CACHED_MAX:
                self._opened.popitem(last=False)
        else:
            self._opened.move_to_end(account_id)
        return key
