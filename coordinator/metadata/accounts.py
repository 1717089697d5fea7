"""Users, their devices and sessions, and the namespaces that they are members of.

Stores what it is given: passwords arrive as argon2 strings, device tokens as SHA-256 digests, account keys wrapped by
the root key. A disabled user and a revoked device have no session from the next request on.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from coordinator.metadata.values import (
    QUOTA_BYTES_DEFAULT,
    AccountId,
    DeviceId,
    DeviceRow,
    Login,
    NamespaceId,
    Session,
    Usage,
    User,
    UserId,
)
from coordinator.protocol.types import Role


def get_session(token_hash: bytes) -> Session | None:
    """Who shows the token with this SHA-256 (32 bytes), with all mounts, in one round trip.

    None when it is unknown, revoked, or its user is disabled. Not cached: a revocation holds from the next call.
    """
    raise NotImplementedError


def add_user(
    email: str,
    password_hash: str,
    account_key: bytes,
    *,
    name: str | None = None,
    quota_bytes: int = QUOTA_BYTES_DEFAULT,
    is_admin: bool = False,
) -> User:
    """A user with an empty home namespace; `account_key` is the new account's key wrapped by the root key.

    Raises BadRequest when the e-mail address (compared without case) is taken.
    """
    raise NotImplementedError


def get_user(email: str) -> User | None:
    raise NotImplementedError


def get_login(email: str) -> Login | None:
    """For checking a password. None for an unknown or disabled user (take the same time in both cases)."""
    raise NotImplementedError


def list_users() -> list[User]:
    raise NotImplementedError


def disable_user(email: str) -> User:
    """Every token of the user is dead when this returns. Raises NotFound."""
    raise NotImplementedError


def set_password(user_id: UserId, password_hash: str) -> None:
    raise NotImplementedError


def set_quota(email: str, quota_bytes: int) -> User:
    """Raises NotFound."""
    raise NotImplementedError


def get_usage(account_id: AccountId) -> Usage:
    raise NotImplementedError


def get_account_key(account_id: AccountId) -> bytes | None:
    """The account's key wrapped by the root key. None when the account is unknown or its key was destroyed."""
    raise NotImplementedError


def replace_account_key(account_id: AccountId, old: bytes, new: bytes) -> bool:
    """Rotation of the root key: False when the stored key is not `old` any more."""
    raise NotImplementedError


def add_device(user_id: UserId, name: str, token_hash: bytes) -> DeviceRow:
    raise NotImplementedError


def list_devices(user_id: UserId) -> list[DeviceRow]:
    """Those not revoked, newest first; `online` when seen within the last two minutes."""
    raise NotImplementedError


def revoke_device(user_id: UserId, device_id: DeviceId) -> bool:
    """The token is dead when this returns. False when the user has no such device."""
    raise NotImplementedError


def touch_devices(device_ids: Collection[DeviceId]) -> None:
    """They were seen just now. Workers gather and call this at most every 30 s or so."""
    raise NotImplementedError


def add_namespace(account_id: AccountId, name: str) -> NamespaceId:
    """A tree of its own (a shared folder) that belongs to `account_id`; nobody is a member yet."""
    raise NotImplementedError


def add_member(namespace_id: NamespaceId, user_id: UserId, role: Role, mount_path: str) -> None:
    """Mounts the namespace in the user's tree at `mount_path` (like "/Team"), or changes role and path.

    Raises NameTaken when another namespace is mounted there.
    """
    raise NotImplementedError


def remove_member(namespace_id: NamespaceId, user_id: UserId) -> bool:
    raise NotImplementedError


def last_seen(device_id: DeviceId) -> datetime | None:
    raise NotImplementedError
