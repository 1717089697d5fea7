from __future__ import annotations

import pytest

from coordinator import access
from coordinator.metadata.values import AccountId, DeviceId, FileId, Mount, NamespaceId, Session, UserId
from coordinator.protocol.errors import BadPath, NotAllowed, NotFound
from coordinator.protocol.types import Role


def mount(number: int, path: str, role: Role) -> Mount:
    keys = tuple(path.casefold().split("/")[1:])
    return Mount(NamespaceId(number), AccountId(number * 10), role, path, keys, FileId(number * 100))


def session(*mounts: Mount, is_admin: bool = False) -> Session:
    return Session(DeviceId(1), UserId(1), "anna@example.org", "Anna", is_admin, None, mounts)


HOME = mount(1, "", Role.OWNER)
TEAM = mount(2, "/Team", Role.EDITOR)
DEEP = mount(3, "/Team/Archive", Role.VIEWER)


@pytest.mark.parametrize(
    ("path", "namespace", "names"),
    [
        ("/", 1, ()),
        ("/a/b", 1, ("a", "b")),
        ("/Teams", 1, ("Teams",)),
        ("/team", 2, ()),
        ("/TEAM/Plan", 2, ("Plan",)),
        ("/Team/archive/2020", 3, ("2020",)),
        ("/Team/archives", 2, ("archives",)),
    ],
)
def test_a_path_belongs_to_the_longest_mount(path: str, namespace: int, names: tuple[str, ...]) -> None:
    target = access.resolve(session(HOME, TEAM, DEEP), path, Role.VIEWER)
    assert (target.namespace_id, target.names) == (namespace, names)


@pytest.mark.parametrize("need", list(Role))
@pytest.mark.parametrize("has", list(Role))
def test_a_role_includes_the_weaker_ones(has: Role, need: Role) -> None:
    order = [Role.VIEWER, Role.EDITOR, Role.OWNER]
    assert access.may(has, need) == (order.index(has) >= order.index(need))


def test_reading_where_one_may_not_write_is_told_apart_from_nothing_there() -> None:
    reader = session(HOME, DEEP)
    assert access.resolve(reader, "/Team/Archive/x", Role.VIEWER).role is Role.VIEWER
    with pytest.raises(NotAllowed):
        access.resolve(reader, "/Team/Archive/x", Role.EDITOR)
    with pytest.raises(NotFound):
        access.resolve(session(TEAM), "/elsewhere", Role.VIEWER)


def test_what_was_resolved_earlier_is_checked_again() -> None:
    assert access.resolve_in(session(HOME, TEAM), NamespaceId(2), ("f",), Role.EDITOR).mount_path == "/Team"
    with pytest.raises(NotFound):
        access.resolve_in(session(HOME), NamespaceId(2), ("f",), Role.VIEWER)
    with pytest.raises(NotAllowed):
        access.resolve_in(session(HOME, DEEP), NamespaceId(3), ("f",), Role.EDITOR)


def test_unusable_paths_and_missing_rights_have_their_errors() -> None:
    with pytest.raises(BadPath):
        access.resolve(session(HOME), "/a/../b", Role.VIEWER)
    access.require_admin(session(HOME, is_admin=True))
    with pytest.raises(NotAllowed):
        access.require_admin(session(HOME))
