"""What the jobs that clean up do to the database: blocks without a reference, and references whose time is over.

Guarantees: a block row goes only when nothing refers to it, checked under its row lock, in the transaction that dooms
its shards; the foreign keys refuse it if this module were wrong. Every write is fenced by the job's lease.
"""

# ruff: noqa: S608  # the SQL is composed of this module's constants only

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from coordinator.metadata import db, leases
from coordinator.metadata.arrays import Bytes
from coordinator.metadata.values import DoomedBlock, Lease

_YOUNG_S: Final = 3600.0  # a row this new may still be on its way to its first reference

_UNREFERENCED: Final = """(SELECT 1 FROM version_block v WHERE v.block_id = b.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM staged_block s WHERE s.block_id = b.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM upload_block p WHERE p.block_id = b.id LIMIT 1) IS NULL"""


@dataclass(frozen=True, slots=True)
class Condemned:
    """One page of the crawl; `last` is None when it was the end."""

    looked_at: int
    condemned: int
    revived: int
    last: bytes | None


def condemn(lease: Lease, after: bytes, limit: int) -> Condemned:
    """Look at `limit` blocks with ids above `after`: mark those without any reference, unmark those with one."""
    with db.transaction():
        leases.check(lease)
        looked_at, last, condemned, revived = db.one(
            f"""WITH page AS MATERIALIZED (
                    SELECT b.id, b.created_at, b.condemned_at FROM block b
                    WHERE b.id > %(after)s ORDER BY b.id LIMIT %(limit)s
                ), judged AS MATERIALIZED (
                    SELECT b.id, b.condemned_at IS NULL AS lives, {_UNREFERENCED} AS unreferenced FROM page b
                    WHERE b.created_at < now() - make_interval(secs => %(young)s)
                ), marked AS (
                    UPDATE block b SET condemned_at =
                        CASE WHEN b.id = ANY (ARRAY(SELECT j.id FROM judged j WHERE j.unreferenced)) THEN now() END
                    WHERE b.id = ANY (ARRAY(SELECT j.id FROM judged j WHERE j.lives = j.unreferenced))
                    RETURNING b.condemned_at IS NOT NULL AS condemned
                )
                SELECT (SELECT count(*) FROM page), (SELECT id FROM page ORDER BY id DESC LIMIT 1),
                       count(*) FILTER (WHERE condemned), count(*) FILTER (WHERE NOT condemned) FROM marked""",
            {"after": after, "limit": limit, "young": _YOUNG_S},
        )
    return Condemned(looked_at, condemned, revived, last if looked_at == limit else None)


def count_collectable(grace_s: float) -> tuple[int, int]:
    """Blocks that have been condemned for longer than the grace period, and all blocks. Counts every block."""
    collectable, living = db.one(
        """SELECT (SELECT count(*) FROM block WHERE condemned_at < now() - make_interval(secs => %s)),
                  (SELECT count(*) FROM block)""",
        (grace_s,),
    )
    return collectable, living


def held_reason() -> str:
    """Why collecting must wait for a person ("" when it need not), as after a restore of the database."""
    found = db.row("SELECT collect_held FROM cluster")
    return found[0] if found else ""


def hold(reason: str) -> None:
    """Nothing is collected until `hold("")`."""
    db.run("UPDATE cluster SET collect_held = %s", (reason,))


def doom(lease: Lease, grace_s: float, limit: int) -> int:
    """Delete rows of blocks condemned for longer than `grace_s` and still without a reference; how many.

    Their shards, at every site, are to be trashed from now on.
    """
    with db.transaction():
        leases.check(lease)
        # While the row is locked nobody can add a reference to it (the key check needs a share lock); a commit that is
        # doing so right now keeps its block, which is skipped here.
        locked = db.rows(
            """SELECT id FROM block WHERE condemned_at < now() - make_interval(secs => %s)
               ORDER BY condemned_at LIMIT %s FOR UPDATE SKIP LOCKED""",
            (grace_s, limit),
        )
        ids = Bytes(block_id for (block_id,) in locked)
        db.run(
            f"""UPDATE block b SET condemned_at = NULL WHERE b.id = ANY (%s::bytea[]) AND NOT ({_UNREFERENCED})""",
            (ids,),
        )
        (doomed,) = db.one(
            """WITH gone AS (
                   SELECT * FROM block b WHERE b.id = ANY (%s::bytea[]) AND b.condemned_at IS NOT NULL
               ), doomed AS (
                   INSERT INTO doomed_block (block_id, account_id, group_id, group_epoch, k, m, sealed_size)
                   SELECT g.id, g.account_id, g.group_id, g.group_epoch, g.k, g.m, g.sealed_size FROM gone g
                   UNION ALL
                   SELECT g.id, g.account_id, r.group_id, r.group_epoch, g.k, g.m, g.sealed_size
                   FROM gone g JOIN block_replica r ON r.block_id = g.id
                   ON CONFLICT DO NOTHING
               )
               SELECT count(*) FROM gone""",
            (ids,),
        )
        db.run("DELETE FROM block b WHERE b.id = ANY (%s::bytea[]) AND b.condemned_at IS NOT NULL", (ids,))
    return int(doomed)


def list_doomed(older_than_s: float, limit: int) -> list[DoomedBlock]:
    """Those whose shards are to be trashed now, oldest first."""
    found = db.rows(
        """SELECT block_id, group_id, group_epoch, k, m, sealed_size, doomed_at, attempts FROM doomed_block
           WHERE next_attempt_at <= now() AND doomed_at <= now() - make_interval(secs => %s)
           ORDER BY next_attempt_at LIMIT %s""",
        (older_than_s, limit),
    )
    return [DoomedBlock(*row) for row in found]


def forget_doomed(lease: Lease, trashed: Collection[DoomedBlock]) -> None:
    """Every shard of these has been trashed, each node having said so."""
    with db.transaction():
        leases.check(lease)
        for block in trashed:
            db.run("DELETE FROM doomed_block WHERE block_id = %s AND group_id = %s", (block.block_id, block.group_id))


def postpone_doomed(blocks: Collection[DoomedBlock], seconds: float) -> None:
    """Not every node answered; not again before `seconds` have passed."""
    db.run(
        """UPDATE doomed_block SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => %s)
           WHERE block_id = ANY (%s::bytea[])""",
        (seconds, Bytes(block.block_id for block in blocks)),
    )


def count_doomed() -> int:
    """How many blocks wait for their shards to be trashed."""
    (count,) = db.one("SELECT count(*) FROM doomed_block")
    return int(count)


def expire_staged(older_than_s: float, limit: int) -> int:
    """Drop references of blocks that were sent and then used by no commit; how many. A pending upload keeps its own."""
    return db.run(
        """DELETE FROM staged_block WHERE ctid = ANY (ARRAY(
               SELECT s.ctid FROM staged_block s WHERE s.created_at < now() - make_interval(secs => %s)
                  AND (SELECT 1 FROM upload u WHERE u.id = s.upload_id AND u.state = 'pending' LIMIT 1) IS NULL
               ORDER BY s.created_at LIMIT %s))""",
        (older_than_s, limit),
    )
