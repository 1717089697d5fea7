"""Cursors: a place in every journal that a session reads, as opaque text. Pure.

A namespace stands at (epoch, seq); while its tree is still being listed for the first time, `listed` is the last file
id that was delivered, and the journal follows from the seq that stood when the listing began. A cursor carries no
rights: what it names is only read where the session may.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from coordinator.metadata.pages import pack, unpack
from coordinator.metadata.values import FileId, NamespaceId
from coordinator.protocol.errors import BadCursor


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where one namespace's reader stands; `listed` None: the listing is done."""

    epoch: int
    seq: int
    listed: FileId | None = None


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    format_version: int
    places: dict[NamespaceId, Place]


def encode_cursor(places: Mapping[NamespaceId, Place]) -> str:
    return pack(_Cursor(1, dict(places)))


def decode_cursor(cursor: str) -> dict[NamespaceId, Place]:
    """Raises BadCursor for anything that encode_cursor did not make."""
    try:
        decoded = unpack(cursor, _Cursor)
    except ValueError:
        raise BadCursor() from None
    if decoded.format_version != 1 or any(place.epoch < 1 or place.seq < 0 for place in decoded.places.values()):
        raise BadCursor()
    return decoded.places
