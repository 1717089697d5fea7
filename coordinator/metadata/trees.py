"""Folders and the tree's shape: make, move, copy, delete, restore.

Guarantees: each is one transaction under the namespace's row lock, decided by file ids, with its journal entries; no
byte moves. Two moves at once can never make a cycle.
"""

from __future__ import annotations

from coordinator.metadata.values import Removed, Session, Target, Written


def create_folder(session: Session, target: Target, parents: bool = False) -> Written:
    """`parents`: make what is missing above, accept an existing one. Raises NameTaken, NotAFolder, NotFound."""
    raise NotImplementedError


def move(
    session: Session, source: Target, to: Target, base_version: int | None = None, replace: bool = False
) -> Written:
    """Rename or move within one namespace; `replace` lets a file take the place of a file (which goes to the trash).

    Raises NotFound, NameTaken, NotAFolder, MoveIntoItself, VersionConflict (`base_version` guards the source),
    BadRequest (between two namespaces: copy and delete instead).
    """
    raise NotImplementedError


def copy(
    session: Session, source: Target, to: Target, base_version: int | None = None, replace: bool = False
) -> Written:
    """Copy a file, or a folder with everything below it (at most 100,000 files), by reference: zero bytes.

    Raises as `move` does, and QuotaExceeded, TooLarge.
    """
    raise NotImplementedError


def delete(session: Session, target: Target, base_version: int | None = None) -> Removed:
    """Into the trash; a folder with all below it is one row. Raises NotFound, VersionConflict, NotAllowed (root)."""
    raise NotImplementedError


def restore(session: Session, target: Target, version: int | None = None) -> Written:
    """Make `version` the current one again (as a new version), or without it undelete what lay at that path.

    Raises NotFound, NameTaken (something else stands there now), IsAFolder, QuotaExceeded.
    """
    raise NotImplementedError
