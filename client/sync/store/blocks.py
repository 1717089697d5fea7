"""What the contents of local files consist of: their blocks, where a block lies, and signatures for deltas.

All is as of the last reading: whoever uses it checks what he gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from client.sync.store.database import Database, Readable
from client.sync.tree import LocalId

_DIGEST_BYTES: Final = 32

_GET_RECIPE: Final = "SELECT digest, hashes FROM recipe WHERE local_id = ?"
_GET_SIGNATURE: Final = "SELECT digest, data FROM signature WHERE local_id = ?"
_FIND: Final = """SELECT p.local_id, p.position FROM block_place p JOIN recipe r ON r.local_id = p.local_id
    WHERE p.prefix = ? AND substr(r.hashes, p.position * 32 + 1, 32) = ? LIMIT ?"""


class Blocks:
    """What the control thread writes down."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, local_id: LocalId, digest: bytes, hashes: Sequence[bytes]) -> None:
        """The local file's content is `digest`, of these blocks. Its signature stays: it says what it is one of."""
        self._forget_recipe(local_id)
        if not hashes:
            return
        self._database.write(
            "INSERT OR REPLACE INTO recipe (local_id, digest, hashes) VALUES (?, ?, ?)",
            (local_id, digest, b"".join(hashes)),
        )
        self._database.write_many(
            "INSERT OR REPLACE INTO block_place (prefix, local_id, position) VALUES (?, ?, ?)",
            ((_prefix(block), local_id, position) for position, block in enumerate(hashes)),
        )

    def put_signature(self, local_id: LocalId, digest: bytes, data: bytes) -> None:
        self._database.write(
            "INSERT OR REPLACE INTO signature (local_id, digest, data) VALUES (?, ?, ?)", (local_id, digest, data)
        )

    def forget(self, local_id: int) -> None:
        """The file is not there any more."""
        self._forget_recipe(local_id)
        self._database.write("DELETE FROM signature WHERE local_id = ?", (local_id,))

    def _forget_recipe(self, local_id: int) -> None:
        row = self._database.row(_GET_RECIPE, (local_id,))
        if row is None:
            return
        self._database.write_many(
            "DELETE FROM block_place WHERE prefix = ? AND local_id = ? AND position = ?",
            ((_prefix(block), local_id, position) for position, block in enumerate(_split(row[1]))),
        )
        self._database.write("DELETE FROM recipe WHERE local_id = ?", (local_id,))


def recipe_of(database: Readable, local_id: LocalId) -> tuple[bytes, list[bytes]] | None:
    """Content hash and block hashes of a local file; None when they are not known."""
    row = database.row(_GET_RECIPE, (local_id,))
    return None if row is None else (row[0], _split(row[1]))


def signature_of(database: Readable, local_id: LocalId) -> tuple[bytes, bytes] | None:
    """Content hash, and delta.py's signatures of that content: what was last synced of the file."""
    row = database.row(_GET_SIGNATURE, (local_id,))
    return None if row is None else (row[0], row[1])


def find_block(database: Readable, block: bytes, limit: int) -> list[tuple[LocalId, int]]:
    """Files that held the block, and its position in them."""
    return [(LocalId(row[0]), row[1]) for row in database.rows(_FIND, (_prefix(block), block, limit))]


def _prefix(block: bytes) -> int:
    """What the index is by: the recipe tells the rest."""
    return int.from_bytes(block[:8], "big", signed=True)


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _DIGEST_BYTES] for at in range(0, len(hashes), _DIGEST_BYTES)]
