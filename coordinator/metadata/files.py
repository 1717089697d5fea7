"""Reading the tree: entries, folder pages, versions, the trash, and the recipes that downloads follow.

Every call is one round trip and follows indexes only, so that it takes as long at a million files as at a thousand.
"""

from __future__ import annotations

from coordinator.metadata.values import (
    Entry,
    EntryPage,
    FileId,
    NamespaceId,
    Recipe,
    Session,
    Target,
    TrashPage,
    VersionInfo,
)


def get_entry(target: Target) -> Entry:
    """Raises NotFound, NotAFolder (a file stands where the path needs a folder)."""
    raise NotImplementedError


def list_folder(session: Session, target: Target, limit: int, page: str | None = None) -> EntryPage:
    """Entries in name-key order, mounted namespaces among them. Raises NotFound, NotAFolder, BadRequest (page)."""
    raise NotImplementedError


def list_tree(target: Target, limit: int, page: str | None = None) -> EntryPage:
    """Everything below a folder, depth first in name-key order, parents before children; one namespace only."""
    raise NotImplementedError


def list_versions(target: Target, limit: int, before: int | None = None) -> list[VersionInfo]:
    """Newest first, those below version `before`. Also of a file that lies in the trash. Raises NotFound, IsAFolder."""
    raise NotImplementedError


def list_trash(session: Session, limit: int, page: str | None = None) -> TrashPage:
    """What was deleted in the namespaces that the caller may write to, newest first; a folder is one row."""
    raise NotImplementedError


def get_recipe(target: Target, version: int | None, first_block: int, count: int) -> Recipe:
    """The current (or the named) version of a file and `count` of its blocks from `first_block` on, in one round trip.

    A named version of a file in the trash is found, too. Raises NotFound, IsAFolder.
    """
    raise NotImplementedError


def get_more_recipe(namespace_id: NamespaceId, file_id: FileId, version: int, first_block: int, count: int) -> Recipe:
    """The following blocks of a version that get_recipe named; the path may have changed meanwhile.

    Raises NotFound when retention has removed the version since.
    """
    raise NotImplementedError


def list_hashes(target: Target, version: int | None) -> tuple[VersionInfo, list[bytes]]:
    """All block hashes of a version in order. Raises NotFound, IsAFolder."""
    raise NotImplementedError
