"""Users, their devices and sessions, and the namespaces that they are members of.

Stores what it is given: passwords arrive as argon2 strings, device tokens as SHA-256 digests, account keys wrapped by
the root key. A disabled user and a revoked device have no session from the next request on.
"""

# ruff: noqa: S608  # the SQL is composed of this module's constants only

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

import psycopg

from coordinator.metadata import db
from coordinator.metadata.values import (
    ONLINE_WITHIN_S,
    QUOTA_BYTES_DEFAULT,
    AccountId,
    DeviceId,
    DeviceRow,
    Login,
    Mount,
    NamespaceId,
    Session,
    Usage,
    User,
    UserId,
)
from coordinator.protocol.errors import BadRequest, NameTaken, NotFound
from coordinator.protocol.names import name_key, split_path
from coordinator.protocol.types import Role

_TOUCH_EVERY_S: Final = 15.0  # a device seen more recently is not written again
_USER: Final = """u.id, u.email, u.name, u.is_admin, u.disabled_at IS NOT NULL, u.quota_bytes, u.used_bytes,
    u.pending_bytes, u.created_at"""
_DEVICE: Final = (
    "id, name, created_at, last_seen_at, coalesce(last_seen_at > now() - make_interval(secs => %(online)s), false)"
)

# --- sessions ---------------------------------------------------------------------------------------------------


def get_session(token_hash: bytes) -> Session | None:
    """Who shows the token with this SHA-256 (32 bytes), with all mounts, in one round trip.

    None when it is unknown, revoked, or its user is disabled. Not cached: a revocation holds from the next call.
    """
    found = db.rows(
        """SELECT d.id, u.id, u.email, u.name, u.is_admin, d.last_seen_at,
                  m.namespace_id, n.account_id, m.role, m.mount_path, m.mount_key, n.root_id
           FROM device d JOIN user_account u ON u.id = d.user_id
           LEFT JOIN membership m ON m.user_id = u.id LEFT JOIN namespace n ON n.id = m.namespace_id
           WHERE d.token_hash = %s AND d.revoked_at IS NULL AND u.disabled_at IS NULL""",
        (token_hash,),
    )
    if not found:
        return None
    device_id, user_id, email, name, is_admin, last_seen_at = found[0][:6]
    mounts = tuple(_mount(row[6:]) for row in found if row[6] is not None)
    return Session(device_id, user_id, email, name, is_admin, last_seen_at, mounts)


def _mount(row: db.Row) -> Mount:
    namespace_id, account_id, role, path, key, root_id = row
    return Mount(namespace_id, account_id, Role(role), path, tuple(key.split("/")) if key else (), root_id)


# --- users ------------------------------------------------------------------------------------------------------


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
    try:
        with db.transaction():
            (user_id,) = db.one(
                """INSERT INTO user_account (email, email_key, name, password_hash, wrapped_key, quota_bytes, is_admin)
                   VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id""",
                (email, email_key(email), name or "", password_hash, account_key, quota_bytes, is_admin),
            )
            home = _add_tree(AccountId(user_id), "home", "")
            db.run(
                """INSERT INTO membership (user_id, namespace_id, role, mount_path, mount_key)
                   VALUES (%s, %s, 'owner', '', '')""",
                (user_id, home),
            )
            return _user(db.one(f"SELECT {_USER} FROM user_account u WHERE u.id = %s", (user_id,)))
    except psycopg.errors.UniqueViolation:
        raise BadRequest(reason="there is a user of this e-mail address already") from None


def get_user(email: str) -> User | None:
    found = db.row(f"SELECT {_USER} FROM user_account u WHERE u.email_key = %s", (email_key(email),))
    return _user(found) if found else None


def get_login(email: str) -> Login | None:
    """For checking a password. None for an unknown or disabled user (take the same time in both cases)."""
    found = db.row(
        f"SELECT {_USER}, u.password_hash FROM user_account u WHERE u.email_key = %s AND u.disabled_at IS NULL",
        (email_key(email),),
    )
    return Login(_user(found[:-1]), found[-1]) if found else None


def list_users() -> list[User]:
    return [_user(row) for row in db.rows(f"SELECT {_USER} FROM user_account u ORDER BY u.email_key")]


def disable_user(email: str) -> User:
    """Every token of the user is dead when this returns. Raises NotFound."""
    return _changed_user(email, "disabled_at = coalesce(disabled_at, now())", ())


def set_password(user_id: UserId, password_hash: str) -> None:
    db.run("UPDATE user_account SET password_hash = %s WHERE id = %s", (password_hash, user_id))


def set_quota(email: str, quota_bytes: int) -> User:
    """Raises NotFound."""
    return _changed_user(email, "quota_bytes = %s", (quota_bytes,))


def _changed_user(email: str, change: str, params: tuple[object, ...]) -> User:
    found = db.row(
        f"UPDATE user_account u SET {change} WHERE u.email_key = %s RETURNING {_USER}", (*params, email_key(email))
    )
    if found is None:
        raise NotFound(what="user")
    return _user(found)


def _user(row: db.Row) -> User:
    return User(*row)


def email_key(email: str) -> str:
    """The same for every spelling under which an address is found."""
    return name_key(email.strip())


def get_usage(account_id: AccountId) -> Usage:
    return Usage(
        *db.one("SELECT quota_bytes, used_bytes, pending_bytes FROM user_account WHERE id = %s", (account_id,))
    )


def get_account_key(account_id: AccountId) -> bytes | None:
    """The account's key wrapped by the root key. None when the account is unknown or its key was destroyed."""
    found = db.row("SELECT wrapped_key FROM user_account WHERE id = %s", (account_id,))
    return found[0] if found else None


def replace_account_key(account_id: AccountId, old: bytes, new: bytes) -> bool:
    """Rotation of the root key: False when the stored key is not `old` any more."""
    changed = db.run(
        "UPDATE user_account SET wrapped_key = %s WHERE id = %s AND wrapped_key = %s", (new, account_id, old)
    )
    return changed == 1


# --- devices ----------------------------------------------------------------------------------------------------


def add_device(user_id: UserId, name: str, token_hash: bytes) -> DeviceRow:
    """A device that was signed in just now."""
    return DeviceRow(
        *db.one(
            f"""INSERT INTO device (user_id, name, token_hash, last_seen_at)
                VALUES (%(user)s, %(name)s, %(token)s, now()) RETURNING {_DEVICE}""",
            {"user": user_id, "name": name, "token": token_hash, "online": ONLINE_WITHIN_S},
        )
    )


def list_devices(user_id: UserId) -> list[DeviceRow]:
    """Those not revoked, newest first; `online` when seen within the last two minutes."""
    found = db.rows(
        f"""SELECT {_DEVICE} FROM device WHERE user_id = %(user)s AND revoked_at IS NULL
            ORDER BY created_at DESC, id DESC""",
        {"user": user_id, "online": ONLINE_WITHIN_S},
    )
    return [DeviceRow(*row) for row in found]


def revoke_device(user_id: UserId, device_id: DeviceId) -> bool:
    """The token is dead when this returns. False when the user has no such device."""
    changed = db.run(
        "UPDATE device SET revoked_at = now() WHERE id = %s AND user_id = %s AND revoked_at IS NULL",
        (device_id, user_id),
    )
    return changed == 1


def touch_devices(device_ids: Collection[DeviceId]) -> list[DeviceId]:
    """They were seen just now; answers those of them that are signed out. Workers gather and call this every 30 s."""
    found = db.rows(
        """WITH touched AS (
               UPDATE device SET last_seen_at = now() WHERE id = ANY (%(ids)s::bigint[]) AND revoked_at IS NULL
                  AND coalesce(last_seen_at < now() - make_interval(secs => %(every)s), true)
           )
           SELECT e.id FROM unnest(%(ids)s::bigint[]) AS e(id)
           WHERE (SELECT 1 FROM device d JOIN user_account u ON u.id = d.user_id
                  WHERE d.id = e.id AND d.revoked_at IS NULL AND u.disabled_at IS NULL LIMIT 1) IS NULL""",
        {"ids": sorted(device_ids), "every": _TOUCH_EVERY_S},
    )
    return [device_id for (device_id,) in found]


def last_seen(device_id: DeviceId) -> datetime | None:
    found = db.row("SELECT last_seen_at FROM device WHERE id = %s", (device_id,))
    return found[0] if found else None


# --- namespaces -------------------------------------------------------------------------------------------------


def add_namespace(account_id: AccountId, name: str) -> NamespaceId:
    """A tree of its own (a shared folder) that belongs to `account_id`; nobody is a member yet."""
    with db.transaction():
        return _add_tree(account_id, "shared", name)


def _add_tree(account_id: AccountId, kind: str, name: str) -> NamespaceId:
    (namespace_id,) = db.one(
        """INSERT INTO namespace (account_id, kind, name, root_id) VALUES (%s, %s, %s, nextval('file_id_seq'))
           RETURNING id""",
        (account_id, kind, name),
    )
    db.run(
        """INSERT INTO file (namespace_id, id, name, name_key, is_folder, modified_at, modified_by)
           SELECT id, root_id, %s, '', true, now(), %s FROM namespace WHERE id = %s""",
        (name, account_id, namespace_id),
    )
    return NamespaceId(namespace_id)


def add_member(namespace_id: NamespaceId, user_id: UserId, role: Role, mount_path: str) -> None:
    """Mounts the namespace in the user's tree at `mount_path` (like "/Team"), or changes role and path.

    Raises NameTaken when another namespace is mounted there.
    """
    names = split_path(mount_path)
    try:
        db.run(
            """INSERT INTO membership (user_id, namespace_id, role, mount_path, mount_key) VALUES (%s, %s, %s, %s, %s)
               ON CONFLICT (user_id, namespace_id) DO UPDATE
               SET role = excluded.role, mount_path = excluded.mount_path, mount_key = excluded.mount_key""",
            (
                user_id,
                namespace_id,
                role.value,
                "".join(f"/{name}" for name in names),
                "/".join(name_key(name) for name in names),
            ),
        )
    except psycopg.errors.UniqueViolation:
        raise NameTaken() from None


def remove_member(namespace_id: NamespaceId, user_id: UserId) -> bool:
    return db.run("DELETE FROM membership WHERE user_id = %s AND namespace_id = %s", (user_id, namespace_id)) == 1
