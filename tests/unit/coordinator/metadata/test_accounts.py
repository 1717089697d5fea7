from __future__ import annotations

import hashlib

import pytest

from coordinator.metadata import accounts, db, files
from coordinator.metadata.values import DeviceId
from coordinator.protocol.errors import BadPath, BadRequest, NameTaken, NotFound
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, add_person


def token(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_new_user_has_an_empty_home(anna: Person) -> None:
    [mount] = anna.session.mounts
    assert (mount.path, mount.keys, mount.role, mount.account_id) == ("", (), Role.OWNER, anna.user.account_id)
    assert files.list_folder(anna.session, anna.at("/"), 10).entries == ()
    assert accounts.get_usage(anna.user.account_id).quota_bytes == anna.user.quota_bytes


def test_an_address_is_taken_in_any_spelling(anna: Person) -> None:
    with pytest.raises(BadRequest):
        add_person("Anna@Example.org")
    assert accounts.get_user(" ANNA@example.org ") == accounts.get_user("anna@example.org")
    assert accounts.get_user("nobody@example.org") is None


def test_sessions_end_with_the_device_or_the_user(anna: Person) -> None:
    phone = accounts.add_device(anna.user.id, "phone", token("phone"))
    assert accounts.get_session(token("phone")) is not None
    assert accounts.get_session(token("guess")) is None
    assert accounts.revoke_device(anna.user.id, phone.id)
    assert accounts.get_session(token("phone")) is None
    assert not accounts.revoke_device(anna.user.id, phone.id)
    assert accounts.get_session(anna.token_hash) is not None
    assert accounts.disable_user("anna@example.org").disabled
    assert accounts.get_session(anna.token_hash) is None
    assert accounts.get_login("anna@example.org") is None


def test_a_device_of_somebody_else_is_not_revoked(anna: Person, ben: Person) -> None:
    assert not accounts.revoke_device(ben.user.id, anna.session.device_id)
    assert accounts.get_session(anna.token_hash) is not None


def test_a_device_is_online_for_two_minutes_after_it_was_seen(anna: Person) -> None:
    assert [device.online for device in accounts.list_devices(anna.user.id)] == [True]
    db.run("UPDATE device SET last_seen_at = now() - interval '121 seconds'")
    assert [device.online for device in accounts.list_devices(anna.user.id)] == [False]
    before = accounts.last_seen(anna.session.device_id)
    assert accounts.touch_devices([anna.session.device_id]) == []
    after = accounts.last_seen(anna.session.device_id)
    assert before is not None
    assert after is not None
    assert after > before
    assert [device.online for device in accounts.list_devices(anna.user.id)] == [True]
    accounts.touch_devices([anna.session.device_id])
    assert accounts.last_seen(anna.session.device_id) == after  # seen seconds ago: not written again


def test_touching_names_those_that_are_signed_out(anna: Person, ben: Person) -> None:
    accounts.revoke_device(anna.user.id, anna.session.device_id)
    accounts.disable_user("ben@example.org")
    unknown = DeviceId(10**9)
    gone = accounts.touch_devices([anna.session.device_id, ben.session.device_id, unknown])
    assert sorted(gone) == sorted([anna.session.device_id, ben.session.device_id, unknown])


def test_passwords_quotas_and_keys_are_replaced(anna: Person) -> None:
    accounts.set_password(anna.user.id, "other")
    login = accounts.get_login("anna@example.org")
    assert login is not None
    assert login.password_hash == "other"
    assert accounts.set_quota("anna@example.org", 5).quota_bytes == 5
    for act in (accounts.disable_user, lambda email: accounts.set_quota(email, 1)):
        with pytest.raises(NotFound):
            act("nobody@example.org")
    assert accounts.replace_account_key(anna.user.account_id, bytes(40), b"n" * 40)
    assert not accounts.replace_account_key(anna.user.account_id, bytes(40), b"m" * 40)
    assert accounts.get_account_key(anna.user.account_id) == b"n" * 40


def test_members_see_a_shared_tree_at_their_own_place(anna: Person, ben: Person) -> None:
    team = accounts.add_namespace(anna.user.account_id, "Team")
    accounts.add_member(team, anna.user.id, Role.OWNER, "/Team")
    accounts.add_member(team, ben.user.id, Role.VIEWER, "/from Anna/Team")
    assert [mount.path for mount in ben.refresh().mounts if mount.namespace_id == team] == ["/from Anna/Team"]
    accounts.add_member(team, ben.user.id, Role.EDITOR, "/Team")
    assert [(mount.path, mount.role) for mount in ben.refresh().mounts if mount.namespace_id == team] == [
        ("/Team", Role.EDITOR)
    ]
    other = accounts.add_namespace(anna.user.account_id, "Other")
    with pytest.raises(NameTaken):
        accounts.add_member(other, ben.user.id, Role.EDITOR, "/TEAM")
    with pytest.raises(BadPath):
        accounts.add_member(other, ben.user.id, Role.EDITOR, "/a/../b")
    assert accounts.remove_member(team, ben.user.id)
    assert not accounts.remove_member(team, ben.user.id)
    assert [mount.path for mount in ben.refresh().mounts] == [""]


def test_users_are_listed_by_address(anna: Person, ben: Person) -> None:
    assert [user.email for user in accounts.list_users()] == ["anna@example.org", "ben@example.org"]
