"""Block rows: recorded once durable, found by hash where the caller may know of them, repaired when shards miss.

Guarantees: one live row for (account, hash); whoever loses that race has its shards doomed in the same transaction.
A hash is "there" for a caller only through a version in a namespace that it may read, or because it sent the block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from coordinator.metadata.values import (
    AccountId,
    BlockRow,
    MissingShard,
    NamespaceId,
    NewBlock,
    Session,
    UserId,
)


def record(
    account_id: AccountId,
    namespace_id: NamespaceId,
    user_id: UserId,
    upload_id: str | None,
    new_blocks: Sequence[NewBlock],
) -> list[BlockRow]:
    """Rows for blocks that are durable, with what misses of them, and the references that keep them: one transaction.

    Answers in the order given the row that stands for each hash: another one where the account had that block already
    (the new shards are doomed then, a condemned row is revived). Safe to repeat.
    """
    raise NotImplementedError


def find_missing(
    session: Session, account_id: AccountId, namespace_id: NamespaceId, hashes: Sequence[bytes]
) -> list[bytes]:
    """Which of `hashes` the caller must send to write in this namespace (of `account_id`); in order, no repeats."""
    raise NotImplementedError


def find_readable(session: Session, namespace_id: NamespaceId, block_hash: bytes) -> BlockRow | None:
    """A block that a version in this namespace holds, or that the caller sent for it. Access is resolved already."""
    raise NotImplementedError


def stage_existing(
    session: Session, account_id: AccountId, namespace_id: NamespaceId, upload_id: str | None, hashes: Sequence[bytes]
) -> list[BlockRow | None]:
    """Reference blocks that are there for the caller already instead of storing them again (None: not there)."""
    raise NotImplementedError


def get_many(block_ids: Collection[bytes]) -> dict[bytes, BlockRow]:
    raise NotImplementedError


def report_missing(block_id: bytes, indexes: Collection[int], reason: str) -> None:
    """Shards that a read or a scrub found missing or bad: queue them for repair. Unknown blocks are ignored."""
    raise NotImplementedError


def list_missing(limit: int, after_attempts: int | None = None) -> list[MissingShard]:
    """What repair is to rebuild now, the smallest margin first, oldest first among equals."""
    raise NotImplementedError


def mark_repaired(block_id: bytes, indexes: Collection[int]) -> None:
    raise NotImplementedError


def postpone_repair(block_id: bytes, indexes: Collection[int], seconds: float) -> None:
    """The attempt failed; not again before `seconds` have passed."""
    raise NotImplementedError


def count_missing() -> int:
    """Length of the repair queue."""
    raise NotImplementedError


def count_by_margin() -> dict[int, int]:
    """How many blocks may lose how many more shards. Counts every block: for status and metrics, not for requests."""
    raise NotImplementedError
