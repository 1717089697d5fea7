"""Block rows: recorded once durable, found by hash where the caller may know of them, repaired when shards miss.

Guarantees: one live row for (account, hash); whoever loses that race has its shards doomed in the same transaction.
A hash is "there" for a caller only through a version in a namespace that it may read, or because it sent the block.
"""

# ruff: noqa: S608  # the SQL is composed of this package's constants only

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from coordinator.metadata import db
from coordinator.metadata.arrays import Bigints, Bytes, Ints
from coordinator.metadata.rows import BLOCK, BLOCK_COLUMNS, block_of
from coordinator.metadata.values import (
    AccountId,
    BlockRow,
    GroupId,
    MissingShard,
    NamespaceId,
    NewBlock,
    Session,
    Staged,
    UserId,
)

_RECORD: Final = """SELECT o_ord, o_id FROM record_blocks(
    %s, %s, %s, %s, %s::bytea[], %s::bytea[], %s::integer[], %s::integer[], %s::integer[], %s::integer[], %s::integer[],
    %s::integer[], %s::integer[], %s::bytea[], %s::bytea[], %s::bytea[], %s::integer[])"""

# Whether the caller may count on block `b`: each probe is a scalar subquery, so that it stays one index look-up.
_THERE: Final = """((SELECT 1 FROM staged_block s WHERE s.block_id = b.id AND s.user_id = %(user)s
                        AND s.namespace_id = %(namespace)s LIMIT 1) IS NOT NULL
                  OR (SELECT 1 FROM version_block v WHERE v.block_id = b.id
                        AND v.namespace_id = ANY (%(readable)s::bigint[]) LIMIT 1) IS NOT NULL)"""


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
    if not new_blocks:
        return []
    rows = [new.row for new in new_blocks]
    missing = [(new.row.block_id, index) for new in new_blocks for index in new.missing]
    replaced: dict[int, bytes] = dict(
        db.rows(
            _RECORD,
            (
                account_id,
                namespace_id,
                user_id,
                upload_id,
                Bytes(row.block_id for row in rows),
                Bytes(row.hash for row in rows),
                Ints(row.group_id for row in rows),
                Ints(row.group_epoch for row in rows),
                Ints(row.k for row in rows),
                Ints(row.m for row in rows),
                Ints(row.codec for row in rows),
                Ints(row.plain_size for row in rows),
                Ints(row.sealed_size for row in rows),
                Bytes(row.sealed_digest for row in rows),
                Bytes(row.wrapped_key for row in rows),
                Bytes(block_id for block_id, _ in missing),
                Ints(index for _, index in missing),
            ),
        )
    )
    if not replaced:
        return rows
    # The others stand for sure: their staged reference is committed.
    standing = get_many(replaced.values())
    return [standing[replaced[at]] if at in replaced else row for at, row in enumerate(rows, 1)]


def count_staged(user_id: UserId, account_id: AccountId) -> Staged:
    """What this user has sent by hash into an account, and no version of theirs has taken."""
    return Staged(
        *db.one(
            """SELECT coalesce(sum(b.plain_size), 0)::bigint,
                      (SELECT quota_bytes FROM user_account WHERE id = %(account)s)
               FROM staged_block s JOIN block b ON b.id = s.block_id
               WHERE s.user_id = %(user)s AND s.upload_id = '' AND b.account_id = %(account)s""",
            {"user": user_id, "account": account_id},
        )
    )


def find_missing(
    session: Session, account_id: AccountId, namespace_id: NamespaceId, hashes: Sequence[bytes]
) -> list[bytes]:
    """Which of `hashes` the caller must send to write in this namespace (of `account_id`); in order, no repeats."""
    found = db.rows(
        f"""SELECT e.ord FROM unnest(%(hashes)s::bytea[]) WITH ORDINALITY AS e(hash, ord)
            WHERE (SELECT 1 FROM block b WHERE b.account_id = %(account)s AND b.hash = e.hash AND {_THERE} LIMIT 1)
                  IS NULL
            ORDER BY e.ord""",
        _caller(session, namespace_id, account=account_id, hashes=Bytes(distinct := list(dict.fromkeys(hashes)))),
    )
    return [distinct[ord_ - 1] for (ord_,) in found]


def _caller(session: Session, namespace_id: NamespaceId, **more: object) -> dict[str, object]:
    return {"user": session.user_id, "namespace": namespace_id, "readable": Bigints(session.namespace_ids), **more}


def find_readable(session: Session, namespace_id: NamespaceId, block_hash: bytes) -> BlockRow | None:
    """A block that a version in this namespace holds, or that the caller sent for it. Access is resolved already."""
    found = db.row(
        f"""SELECT {BLOCK} FROM namespace n CROSS JOIN LATERAL (
                SELECT * FROM block b WHERE b.account_id = n.account_id AND b.hash = %(hash)s LIMIT 1) b
            WHERE n.id = %(namespace)s AND {_THERE}""",
        {"user": session.user_id, "namespace": namespace_id, "readable": Bigints([namespace_id]), "hash": block_hash},
    )
    return block_of(found) if found else None


def find_recorded(keys: Collection[tuple[AccountId, bytes]]) -> list[tuple[AccountId, bytes]]:
    """Which of these (account, hash) have a row, whoever may know of it: a hint for who waits, to look again."""
    found = db.rows(
        """SELECT e.account, e.hash FROM unnest(%s::bigint[], %s::bytea[]) AS e(account, hash)
           WHERE (SELECT 1 FROM block b WHERE b.account_id = e.account AND b.hash = e.hash LIMIT 1) IS NOT NULL""",
        (Bigints(account for account, _ in keys), Bytes(block_hash for _, block_hash in keys)),
    )
    return [(AccountId(row[0]), row[1]) for row in found]


def stage_existing(
    session: Session, account_id: AccountId, namespace_id: NamespaceId, upload_id: str | None, hashes: Sequence[bytes]
) -> list[BlockRow | None]:
    """Reference blocks that are there for the caller already instead of storing them again (None: not there)."""
    found = db.rows(
        f"""WITH there AS MATERIALIZED (
                SELECT b.* FROM unnest(%(hashes)s::bytea[]) AS e(hash) CROSS JOIN LATERAL (
                    SELECT * FROM block b WHERE b.account_id = %(account)s AND b.hash = e.hash FOR KEY SHARE) b
                WHERE {_THERE}
            ), revived AS (
                UPDATE block b SET condemned_at = NULL
                WHERE b.id = ANY (ARRAY(SELECT t.id FROM there t WHERE t.condemned_at IS NOT NULL))
            ), staged AS (
                INSERT INTO staged_block (block_id, user_id, namespace_id, upload_id)
                SELECT t.id, %(user)s, %(namespace)s, coalesce(%(upload)s, '') FROM there t
                ON CONFLICT ON CONSTRAINT staged_block_pkey DO UPDATE SET created_at = now()
            )
            SELECT {BLOCK} FROM there b""",
        _caller(session, namespace_id, account=account_id, upload=upload_id, hashes=Bytes(dict.fromkeys(hashes))),
    )
    by_hash = {row.hash: row for row in map(block_of, found)}
    return [by_hash.get(block_hash) for block_hash in hashes]


def get_many(block_ids: Collection[bytes]) -> dict[bytes, BlockRow]:
    """The rows of those that exist."""
    found = db.rows(f"SELECT {BLOCK} FROM block b WHERE b.id = ANY (%s::bytea[])", (Bytes(block_ids),))
    return {row.block_id: row for row in map(block_of, found)}


# --- what repair works on ---------------------------------------------------------------------------------------


def report_missing(block_id: bytes, indexes: Collection[int], reason: str) -> None:
    """Shards that a read or a scrub found missing or bad: queue them for repair. Unknown blocks are ignored."""
    db.run(
        """INSERT INTO missing_shard (block_id, shard, reason)
           SELECT b.id, e.shard, %(reason)s FROM block b CROSS JOIN unnest(%(indexes)s::integer[]) AS e(shard)
           WHERE b.id = %(block)s AND e.shard < b.k + b.m
           ON CONFLICT DO NOTHING""",
        {"block": block_id, "indexes": Ints(sorted(indexes)), "reason": reason},
    )


def list_missing(limit: int) -> list[MissingShard]:
    """What repair is to rebuild now, the smallest margin first, oldest first among equals."""
    found = db.rows(
        f"""SELECT {BLOCK}, d.shard, b.m - (SELECT count(*) FROM missing_shard o WHERE o.block_id = d.block_id),
                   d.since, d.attempts
            FROM missing_shard d JOIN block b ON b.id = d.block_id WHERE d.next_attempt_at <= now()
            ORDER BY {BLOCK_COLUMNS + 2}, d.since LIMIT %s""",
        (limit,),
    )
    return [MissingShard(block_of(row[:BLOCK_COLUMNS]), *row[BLOCK_COLUMNS:]) for row in found]


def mark_repaired(block_id: bytes, indexes: Collection[int]) -> None:
    """They are durable where they belong again."""
    db.run(
        "DELETE FROM missing_shard WHERE block_id = %s AND shard = ANY (%s::integer[])",
        (block_id, Ints(sorted(indexes))),
    )


def postpone_repair(block_id: bytes, indexes: Collection[int], seconds: float) -> None:
    """The attempt failed; not again before `seconds` have passed."""
    db.run(
        """UPDATE missing_shard SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => %s)
           WHERE block_id = %s AND shard = ANY (%s::integer[])""",
        (seconds, block_id, Ints(sorted(indexes))),
    )


def count_missing() -> int:
    """Length of the repair queue."""
    (count,) = db.one("SELECT count(*) FROM missing_shard")
    return int(count)


def count_by_margin(silent: Collection[tuple[GroupId, int]] = ()) -> dict[int, int]:
    """How many blocks may lose how many more shards; below 0 their data cannot be had now.

    `silent` are the slots (group, number) whose disks do not answer: what stands there counts as lost, for now. Counts
    every block: for status and metrics, not for requests.
    """
    found = db.rows(
        """WITH silent AS (
               SELECT * FROM unnest(%(groups)s::integer[], %(slots)s::integer[]) AS s(group_id, slot)
           ), width AS (
               SELECT group_id, count(*) AS slots FROM group_slot GROUP BY group_id
           ), unheard AS (
               -- Copies (k = 1) rotate over the slots with the last four bytes of the block's id: blocks/place.py.
               SELECT b.id, x.shard FROM silent s JOIN width w USING (group_id) JOIN block b USING (group_id)
               CROSS JOIN LATERAL (SELECT CASE WHEN b.k > 1 THEN s.slot ELSE mod(w.slots + s.slot - mod(
                   get_byte(b.id, 12) * 16777216::bigint + get_byte(b.id, 13) * 65536 + get_byte(b.id, 14) * 256
                   + get_byte(b.id, 15), w.slots), w.slots) END AS shard) x
               WHERE x.shard < b.k + b.m
           ), lost AS (
               SELECT id, shard FROM unheard UNION SELECT block_id, shard FROM missing_shard
           ), weak AS (
               SELECT b.m, b.m - count(*) AS margin FROM lost l JOIN block b ON b.id = l.id GROUP BY b.id, b.m
           )
           SELECT margin, sum(n)::bigint FROM (
               SELECT b.m::bigint AS margin, count(*) AS n FROM block b GROUP BY b.m
               UNION ALL SELECT w.m, -count(*) FROM weak w GROUP BY w.m
               UNION ALL SELECT w.margin, count(*) FROM weak w GROUP BY w.margin) x
           GROUP BY margin HAVING sum(n) > 0""",
        {"groups": Ints(group for group, _ in silent), "slots": Ints(slot for _, slot in silent)},
    )
    return dict(found)


# --- what verification compares with the nodes ------------------------------------------------------------------


def list_page(after: bytes, limit: int) -> list[BlockRow]:
    """Blocks with ids above `after`, in order: all of them, a page at a time."""
    found = db.rows(f"SELECT {BLOCK} FROM block b WHERE b.id > %s ORDER BY b.id LIMIT %s", (after, limit))
    return [block_of(row) for row in found]


def list_known(block_ids: Collection[bytes]) -> set[bytes]:
    """Those that have a row, or wait to be trashed."""
    found = db.rows(
        """SELECT b.id FROM block b WHERE b.id = ANY (%(ids)s::bytea[])
           UNION SELECT d.block_id FROM doomed_block d WHERE d.block_id = ANY (%(ids)s::bytea[])""",
        {"ids": Bytes(block_ids)},
    )
    return {bytes(block_id) for (block_id,) in found}
