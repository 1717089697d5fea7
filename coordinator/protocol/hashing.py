"""How a file is cut into blocks and how it is named by its content; both sides of the API use this.

The content hash is SHA-256 over the concatenated SHA-256 digests of the 4 MiB blocks: the algorithm that Dropbox
publishes as `content_hash`, so existing tools can check it. An empty file has no blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

BLOCK_BYTES: Final = 4 * 1024 * 1024
HASH_BYTES: Final = 32


def hash_block(plain: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of a block's plaintext (32 bytes). Releases the GIL."""
    return hashlib.sha256(plain).digest()


def content_hash(block_hashes: Iterable[bytes]) -> bytes:
    """A file's content hash from its blocks' hashes in order."""
    whole = hashlib.sha256()
    for digest in block_hashes:
        whole.update(digest)
    return whole.digest()


def count_blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES)


def block_size(size_bytes: int, index: int) -> int:
    """Bytes in block `index` of a file: all are full but the last."""
    return min(BLOCK_BYTES, size_bytes - index * BLOCK_BYTES)
