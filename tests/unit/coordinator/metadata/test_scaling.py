"""What a request costs must not grow with the tables: counted in rows that PostgreSQL touches, not in milliseconds.

The plans are made while the tables are nearly empty and never again (as in a worker that has run since the first
start), then the tables grow, and the same calls must touch as many rows as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from coordinator.metadata import accounts, ageing, blocks, db, files, journal, leases, sweeps, trees, uploads
from coordinator.metadata.values import Part
from tests.kit.metadata import Person, block_hash, new_block

FILES_BEFORE = 20
FILES_AFTER = 6000


def rows_touched() -> int:
    """By this transaction so far, in every table: fetched through an index, or read by a scan."""
    sql = "SELECT coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0)::bigint FROM pg_stat_xact_user_tables"
    return int(db.one(sql)[0])


def cost(act: Callable[[], object]) -> int:
    with db.transaction():
        before = rows_touched()
        act()
        return rows_touched() - before


def fill(anna: Person, first: int, last: int) -> None:
    """Files with a block each, in folders of a hundred, with journal entries, trash and an announcement here and there;
    written in a few statements, as commits would be too slow for a test."""
    home, root, user = anna.home, anna.session.mounts[0].root_id, anna.user.id
    db.run(
        """INSERT INTO file (namespace_id, parent_id, name, name_key, is_folder, modified_at, modified_by)
           SELECT %s, %s, 'd' || g, 'd' || g, true, now(), %s FROM generate_series(%s::int, %s::int) g""",
        (home, root, user, first // 100, last // 100 - 1),
    )
    db.run(
        """WITH made AS (
               INSERT INTO file (namespace_id, parent_id, name, name_key, is_folder, version, size_bytes, content_hash,
                                 modified_at, modified_by, deleted_at, deleted_by)
               SELECT %(ns)s, d.id, 'x' || g, 'x' || g, false, 1, 100, sha256(('x' || g)::bytea), now(), %(user)s,
                      CASE WHEN g %% 10 = 0 THEN now() END, CASE WHEN g %% 10 = 0 THEN %(user)s END
               FROM generate_series(%(first)s::int, %(last)s::int - 1) g JOIN file d
               ON d.namespace_id = %(ns)s AND d.name = 'd' || (g / 100) AND d.is_folder
               RETURNING *
           ), versions AS (
               INSERT INTO file_version SELECT namespace_id, id, 1, size_bytes, content_hash, false, modified_at, NULL,
                                               modified_by, 1, NULL FROM made
           ), blocks AS (
               INSERT INTO block SELECT decode(md5(id::text), 'hex'), %(user)s, content_hash, 1, 1, 4, 2, 1, 100, 116,
                                        decode(repeat('00', 16), 'hex'), decode(repeat('00', 40), 'hex') FROM made
           ), told AS (
               INSERT INTO journal SELECT namespace_id, n.journal_seq + row_number() OVER (), 'put', m.id, parent_id,
                                          m.name, '/' || m.name, false, 1, 100, content_hash, false, now(), NULL,
                                          %(user)s, 1, NULL FROM made m JOIN namespace n ON n.id = m.namespace_id
           )
           INSERT INTO version_block SELECT namespace_id, id, 1, 0, decode(md5(id::text), 'hex') FROM made""",
        {"ns": home, "user": user, "first": first, "last": last},
    )
    db.run(
        """UPDATE namespace n SET journal_seq = (SELECT max(seq) FROM journal j WHERE j.namespace_id = n.id)
           WHERE id = %s""",
        (home,),
    )
    db.run(
        """UPDATE user_account SET used_bytes = (SELECT sum(size_bytes) FROM file WHERE deleted_at IS NULL)
           WHERE id = %s""",
        (user,),
    )


def calls(anna: Person) -> dict[str, Callable[[int], object]]:
    """By name; each takes a number that makes its names fresh."""
    account, home = anna.user.account_id, anna.home
    cursor = journal.latest_cursor(anna.session)

    def commit(number: int) -> None:
        for label in "abc":
            anna.send("/", f"{label}{number}")
        anna.commit(*(anna.write(f"/d0/new{label}{number}", f"{label}{number}") for label in "abc"))

    def commit_again(number: int) -> None:
        anna.send("/", f"again{number}")
        version = files.get_entry(anna.at("/d0/x1")).version
        anna.commit(anna.write("/d0/x1", f"again{number}", base=version))

    def upload(number: int) -> None:
        started, _ = uploads.create(anna.session, anna.at(f"/d0/up{number}"), 100)
        claim = uploads.claim(anna.session, started.id)
        block = new_block(account, f"up{number}", 100)
        [row] = blocks.record(account, home, anna.user.id, started.id, [block])
        uploads.append(started.id, claim.epoch, 0, [Part(0, 100, row.block_id)])
        uploads.cancel(anna.session, started.id)

    def move_about(number: int) -> None:
        trees.create_folder(anna.session, anna.at(f"/d0/folder{number}"))
        trees.move(anna.session, anna.at("/d0/x2"), anna.at(f"/d0/folder{number}/x2"))
        trees.delete(anna.session, anna.at(f"/d0/folder{number}/x2"))
        trees.restore(anna.session, anna.at(f"/d0/folder{number}/x2"))
        trees.move(anna.session, anna.at(f"/d0/folder{number}/x2"), anna.at("/d0/x2"))
        trees.copy(anna.session, anna.at("/d0/x2"), anna.at(f"/d0/folder{number}/copy"))

    lease = leases.acquire("test", "test", 600)
    assert lease is not None

    def retain(number: int) -> None:
        """Thin out one file's versions, and remove one trashed folder for good."""
        name = f"/d0/old{number}"
        for base in range(3):
            anna.put(name, f"{number}-{base}", base=base)
        entry = files.get_entry(anna.at(name))
        drops = ageing.list_old_versions((home, entry.id - 1), 1).versions
        assert ageing.drop_versions(lease, home, drops) == 2
        anna.put(f"/d0/trashed{number}/f", "kept")
        folder = files.get_entry(anna.at(f"/d0/trashed{number}"))
        trees.delete(anna.session, anna.at(f"/d0/trashed{number}"))
        assert ageing.purge(lease, ageing.TrashedFile(home, folder.id), -1)[0] == 1

    def collect(number: int) -> None:
        sweeps.condemn(lease, bytes(16), 10)
        sweeps.expire_staged(1e6, 10)
        uploads.expire(10)
        sweeps.doom(lease, 1e6, 10)

    return {
        "retain": retain,
        "collect": collect,
        "get_session": lambda _: accounts.get_session(anna.token_hash),
        "get_entry": lambda _: files.get_entry(anna.at("/d0/x1")),
        "list_folder": lambda _: files.list_folder(anna.session, anna.at("/d0"), 10),
        "list_tree": lambda _: files.list_tree(anna.at("/"), 10),
        "list_trash": lambda _: files.list_trash(anna.session, 5),
        "list_versions": lambda _: files.list_versions(anna.at("/d0/x1"), 1),
        "get_recipe": lambda _: files.get_recipe(anna.at("/d0/x3"), None, 0, 10),
        "list_hashes": lambda _: files.list_hashes(anna.at("/d0/x3"), None),
        "find_missing": lambda _: blocks.find_missing(
            anna.session, account, home, [block_hash(label, 100) for label in ("nothing", "kept")]
        ),
        "find_readable": lambda _: blocks.find_readable(anna.session, home, block_hash("kept", 100)),
        "stage_existing": lambda _: blocks.stage_existing(anna.session, account, home, None, [block_hash("kept", 100)]),
        "commit": commit,
        "commit_again": commit_again,
        "upload": upload,
        "announce": lambda number: uploads.announce(anna.session, [anna.write(f"/d0/ann{number}", f"ann{number}")]),
        "trees": move_about,
        "changes_first": lambda _: journal.changes(anna.session, None, 10),
        "changes_next": lambda _: journal.changes(anna.session, cursor, 5),
        "heads": lambda _: journal.heads([home]),
    }


@pytest.fixture
def costs(anna: Person) -> dict[str, tuple[int, int]]:
    """For each call: rows touched in a small database and, with the same plans, in a large one."""
    fill(anna, 0, 100)
    anna.put("/d0/kept", "kept")
    all_calls = calls(anna)
    for number in range(8):  # until every plan is made
        for act in all_calls.values():
            act(number)
    small = {name: cost(partial(act, 100)) for name, act in all_calls.items()}
    fill(anna, 100, FILES_AFTER)
    large = {name: cost(partial(act, 200)) for name, act in all_calls.items()}
    return {name: (small[name], large[name]) for name in all_calls}


def test_no_call_touches_more_rows_in_a_larger_database(costs: dict[str, tuple[int, int]]) -> None:
    grown = {name: pair for name, pair in costs.items() if pair[1] > pair[0] * 1.3 + 12}
    assert grown == {}
