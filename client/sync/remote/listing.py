"""Lists everything below a folder of the service, some at a time, so that memory stays bounded whatever is in it.

Guarantees: at its end everything that was below the folder when that was asked for last has been told, wherever the
folder is by then. It is listed by its path, where another one may stand as soon as it has moved: then it begins again.
What it told of the other one is true as well, as every entry says in which folder it is.
Does not: write down (side.py), retry (feed.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from client.errors import Refused
from client.sync.remote.service import Service
from client.sync.tree import RemoteId
from coordinator.protocol.types import PAGE_ENTRIES_MAX, Metadata

MEAN_GONE: Final = frozenset({"not_found", "not_a_folder"})


class Listing:
    """Used by one worker after the other."""

    def __init__(self, service: Service, folder_id: RemoteId) -> None:
        self.folder_id = folder_id
        self._service = service
        self._path: str | None = None
        self._entries: Iterator[Metadata] = iter(())

    def read(self) -> list[Metadata]:
        """The next entries, parents before children; none at the end, and when the folder is gone. After it raised a
        ClientError a new listing is needed."""
        while True:
            refused: Refused | None = None
            try:
                if entries := list(islice(self._entries, PAGE_ENTRIES_MAX)):
                    return entries
            except Refused as refusal:
                if refusal.code not in MEAN_GONE:
                    raise
                refused = refusal
            there = self._service.find_id(self.folder_id)
            if there is None:
                return []
            if there.path == self._path:
                if refused is not None:
                    raise refused
                return []
            self._path = there.path
            self._entries = self._service.list_folder(there.path, recursive=True)
