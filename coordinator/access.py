"""Who may do what in which namespace: the only place that decides.

A path in the caller's tree belongs to the mount with the longest matching prefix. What lies outside every mount is
NotFound, so that nobody learns what exists elsewhere; what is visible but may not be changed is NotAllowed. Disabled
users and revoked devices have no session and never come here. No I/O: the session carries its mounts.
"""

from __future__ import annotations

from typing import Final

from coordinator.metadata.values import Mount, NamespaceId, Session, Target
from coordinator.protocol.errors import NotAllowed, NotFound
from coordinator.protocol.names import name_key, split_path
from coordinator.protocol.types import Role

_RANK: Final = {Role.VIEWER: 0, Role.EDITOR: 1, Role.OWNER: 2}


def may(role: Role, need: Role) -> bool:
    """Whether `role` includes everything that `need` allows."""
    return _RANK[role] >= _RANK[need]


def resolve(session: Session, path: str, need: Role) -> Target:
    """The namespace and the names that `path` means for this caller.

    Raises BadPath (unusable path), NotFound (outside of everything the caller may read), NotAllowed (readable, but
    `need` is more than the caller's role there).
    """
    names = split_path(path)
    keys = tuple(name_key(name) for name in names)
    within = [mount for mount in session.mounts if keys[: len(mount.keys)] == mount.keys]
    if not within:
        raise NotFound(what="file or folder")
    mount = max(within, key=lambda mount: len(mount.keys))
    return _target(mount, names[len(mount.keys) :], need)


def resolve_in(session: Session, namespace_id: NamespaceId, names: tuple[str, ...], need: Role) -> Target:
    """As `resolve`, for what was resolved earlier (an upload): memberships may have changed since."""
    for mount in session.mounts:
        if mount.namespace_id == namespace_id:
            return _target(mount, names, need)
    raise NotFound(what="file or folder")


def _target(mount: Mount, names: tuple[str, ...], need: Role) -> Target:
    if not may(mount.role, need):
        raise NotAllowed()
    return Target(
        namespace_id=mount.namespace_id,
        account_id=mount.account_id,
        role=mount.role,
        names=names,
        mount_path=mount.path,
        root_id=mount.root_id,
    )


def require_admin(session: Session) -> None:
    """Raises NotAllowed unless the caller administers the installation."""
    if not session.is_admin:
        raise NotAllowed()
