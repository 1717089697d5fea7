"""What tests of moving contents share: bytes from seeds, their hashes, and a device's memory of its files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from client.fs.base import Path
from client.sync.store.reader import SyncedContent
from client.sync.transfer.contents import Learned
from client.sync.tree import LocalId
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block

MIB = 1 << 20


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def blocks_of(plain: bytes) -> tuple[bytes, ...]:
    return tuple(hash_block(plain[at : at + BLOCK_BYTES]) for at in range(0, len(plain), BLOCK_BYTES))


def digest_of(plain: bytes) -> bytes:
    return content_hash(blocks_of(plain))


@dataclass
class Memory:
    """contents.Known, as a device's database would be. `read` is what the scan saw, `learned` what was synced, `places`
    where blocks lie, `synced` where contents do."""

    learned: dict[LocalId, Learned] = field(default_factory=dict)
    places: dict[bytes, list[tuple[Path, int]]] = field(default_factory=dict)
    read: dict[LocalId, tuple[bytes, list[bytes]]] = field(default_factory=dict)
    synced: dict[bytes, list[SyncedContent]] = field(default_factory=dict)

    def blocks_of(self, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
        return self.read.get(local_id)

    def signature(self, local_id: LocalId) -> tuple[bytes, bytes] | None:
        known = self.learned.get(local_id)
        return None if known is None or known.signatures is None else (known.digest, known.signatures)

    def find_block(self, block: bytes) -> Sequence[tuple[Path, int]]:
        return self.places.get(block, [])

    def find_content(self, digest: bytes) -> Sequence[SyncedContent]:
        return self.synced.get(digest, [])

    def hold(self, path: Path, blocks: Sequence[bytes]) -> None:
        """The file at `path` holds these."""
        for position, block in enumerate(blocks):
            self.places.setdefault(block, []).append((path, position))
