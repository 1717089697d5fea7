"""What workers may read beside the control thread: the trees as they were last written, and where contents lie."""

from __future__ import annotations

from dataclasses import dataclass

from client.sync.store import blocks
from client.sync.store.database import ReadOnly
from client.sync.store.lookups import Lookups
from client.sync.store.store import Store
from client.sync.tree import LocalId, RemoteId


@dataclass(frozen=True, slots=True)
class SyncedContent:
    """Version `version` of the service's file `id` has the content, and so had the local file at `path`."""

    id: RemoteId
    version: int
    local_id: LocalId
    path: tuple[str, ...]


class Reader(Lookups):
    """For any number of threads. Every answer may be outdated when it arrives, so what is made of it is checked."""

    def __init__(self, store: Store) -> None:
        self._own = None if store.path is None else ReadOnly(store.path)
        super().__init__(self._own or store.database)

    def find_block(self, block: bytes, limit: int = 4) -> list[tuple[tuple[str, ...], int]]:
        """Paths of files that held the block when they were last read, and its position in them."""
        found = blocks.find_block(self._readable, block, limit)
        places = [(self.local_path(local_id), position) for local_id, position in found]
        return [(path, position) for path, position in places if path is not None]

    def find_content(self, digest: bytes, limit: int = 3) -> list[SyncedContent]:
        """Files that had this content when both sides last agreed on them."""
        places = [(node, self.local_path(node.local_id)) for node in self.synced_with(digest, limit)]
        return [SyncedContent(node.id, node.version, node.local_id, path) for node, path in places if path is not None]

    def blocks_of(self, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
        """Content hash and block hashes of a local file as it was last read."""
        return blocks.recipe_of(self._readable, local_id)

    def signature(self, local_id: LocalId) -> tuple[bytes, bytes] | None:
        """Content hash and delta.py's signatures of what was last synced of a local file."""
        return blocks.signature_of(self._readable, local_id)

    def close(self) -> None:
        """Of the calling thread; the others' connections end with their threads."""
        if self._own is not None:
            self._own.close()
