"""The journal and the cursors into it: what changed in the namespaces that a session may read.

Guarantees: replaying all changes from an empty state gives the tree; a page repeats rather than omits (every entry is
a snapshot and may be applied twice); a parent is told before its children; cursors stay good for as long as the
journal is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coordinator.metadata.values import ChangePage, Head, NamespaceId, Session


def changes(session: Session, cursor: str | None, limit: int) -> ChangePage:
    """Up to about `limit` changes after `cursor`; without one the whole tree as "put" and "folder" entries.

    A namespace that the caller may read since the cursor was made is delivered as a whole; one that it may not read any
    more ends with a "delete" of its root. Raises BadCursor. A cursor of another namespace epoch, or from beyond the
    journal, is answered with `reset` and a cursor to start again with.
    """
    raise NotImplementedError


def latest_cursor(session: Session) -> str:
    """A cursor that stands at this moment: only what changes from now on follows it."""
    raise NotImplementedError


def heads(namespace_ids: Collection[NamespaceId]) -> dict[NamespaceId, Head]:
    """Where each journal stands now, in one round trip."""
    raise NotImplementedError


def is_behind(session: Session, cursor: str, now: Mapping[NamespaceId, Head]) -> bool:
    """Whether `changes` would have something to say after `cursor`; pure, no round trip. Raises BadCursor.

    `now` may lack namespaces that the caller knows nothing of yet. True also when memberships differ from the cursor's.
    """
    raise NotImplementedError
