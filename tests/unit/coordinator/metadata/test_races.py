"""Real transactions at once: what must be decided by the database, not by luck.

Each test releases its calls together, several times over; a wrong interleaving that is possible shows up soon.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest

from coordinator.metadata import blocks, commits, db, files, journal, sweeps, trees, uploads
from coordinator.metadata.leases import acquire
from coordinator.metadata.values import Entry, FileWrite, Part, Upload
from coordinator.protocol.errors import (
    ApiError,
    BlocksMissing,
    MoveIntoItself,
    NameTaken,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    UploadSuperseded,
    VersionConflict,
)
from tests.kit.metadata import Person, add_person, block_hash, in_parallel, new_block

ROUNDS = range(6)


def kinds(results: Sequence[object]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


def commit_one(anna: Person, write: FileWrite) -> Entry | ApiError:
    [result] = anna.commit(write)
    return result


def test_of_commits_on_one_base_exactly_one_wins(anna: Person, database: str) -> None:
    for base in ROUNDS:
        labels = [f"{base}-{writer}" for writer in range(4)]
        for label in labels:
            anna.send("/f", label)
        writes = [anna.write("/f", label, base=base) for label in labels]
        results = in_parallel(database, *(partial(commit_one, anna, write) for write in writes))
        assert kinds(results) == {"Entry": 1, "VersionConflict": 3}
        for result in results:
            if isinstance(result, VersionConflict):
                assert result.facts["current_version"] == base + 1
    assert [version.version for version in files.list_versions(anna.at("/f"), 100)] == list(range(len(ROUNDS), 0, -1))


def test_commits_of_other_files_in_one_tree_all_succeed_in_one_order(anna: Person, database: str) -> None:
    for number in range(24):
        anna.send("/", str(number))

    def commit(writer: int) -> list[Entry | ApiError]:
        return [anna.commit(anna.write(f"/d{number % 3}/{number}", str(number)))[0] for number in range(writer, 24, 4)]

    results = in_parallel(database, *(partial(commit, writer) for writer in range(4)))
    assert all(isinstance(entry, Entry) for result in results if isinstance(result, list) for entry in result)
    seqs = [seq for (seq,) in db.rows("SELECT seq FROM journal ORDER BY seq")]
    assert seqs == list(range(1, 24 + 3 + 1))
    assert len({path for (path,) in db.rows("SELECT path FROM journal WHERE op = 'folder'")}) == 3


def test_two_moves_never_make_a_cycle(anna: Person, database: str) -> None:
    def move(source: str, target: str) -> object:
        return trees.move(anna.session, anna.at(source), anna.at(target))

    for number in ROUNDS:
        a, b = f"/a{number}", f"/b{number}"
        trees.create_folder(anna.session, anna.at(a))
        trees.create_folder(anna.session, anna.at(b))
        results = in_parallel(
            database,
            partial(move, a, f"{b}/x"),
            partial(move, b, f"{a}/x"),
        )
        # The loser finds its target below itself, or (by path) not where it was.
        errors = [result for result in results if isinstance(result, BaseException)]
        assert len(errors) == 1
        assert isinstance(errors[0], MoveIntoItself | NotFound)
    reachable = len(files.list_tree(anna.at("/"), 1000).entries)
    assert reachable == 2 * len(ROUNDS)


def test_a_quota_is_never_overdrawn(database: str) -> None:
    anna = add_person(quota_bytes=1000)
    for label in range(8):
        anna.send("/", str(label), last=300)

    def write(label: int) -> Entry | Upload | ApiError:
        entry = anna.write(f"/{label}", str(label), last=300)
        return commit_one(anna, entry) if label < 4 else uploads.announce(anna.session, [entry]).results[0]

    results = in_parallel(database, *(partial(write, label) for label in range(8)))
    assert sum(isinstance(result, Entry | Upload) for result in results) == 3
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 5
    used, pending = anna.usage()
    assert used + pending == 900


def test_of_blocks_with_the_same_content_one_stands_and_the_others_are_doomed(anna: Person, database: str) -> None:
    for number in ROUNDS:
        new = [new_block(anna.user.account_id, f"same{number}", 100) for _ in range(4)]

        record = partial(blocks.record, anna.user.account_id, anna.home, anna.user.id, None)
        results = in_parallel(database, *(partial(record, [block]) for block in new))
        standing = {str(result) for result in results}
        assert len(standing) == 1
        doomed = db.one("SELECT count(*) FROM doomed_block WHERE block_id = ANY (%s)", ([b.row.block_id for b in new],))
        assert doomed == (3,)


def test_a_commit_and_a_collector_never_lose_a_referenced_block(anna: Person, database: str) -> None:
    """The block is condemned and past its grace while a commit that may use it arrives: either the commit keeps it, or
    it is told that the block is missing and sends it again. Never a version without its block."""
    lease = acquire("collect", "test", 600)
    assert lease is not None
    outcomes = Counter[str]()
    for number in range(12):
        anna.send("/", f"b{number}")
        # As after a staged reference expired and was found missing long ago: only the row is left.
        db.run("UPDATE block SET condemned_at = now() - interval '9 days', created_at = now() - interval '20 days'")
        if number % 2:
            db.run("DELETE FROM staged_block")

        def commit(number: int = number) -> Entry | ApiError:
            # A dedup hit by content: the sender stages the block again, then commits.
            anna.send("/", f"b{number}")
            return anna.commit(anna.write(f"/{number}", f"b{number}"))[0]

        def collect() -> int:
            return sweeps.doom(lease, 3600, 100)

        result, doomed = in_parallel(database, commit, collect)
        assert isinstance(doomed, int), doomed
        assert isinstance(result, Entry | BlocksMissing), result
        outcomes[type(result).__name__] += 1
        if isinstance(result, Entry):
            recipe = files.get_recipe(anna.at(f"/{number}"), None, 0, 1)
            assert [row.hash for row in recipe.blocks] == [block_hash(f"b{number}", 100)]
        db.run("DELETE FROM staged_block")
    broken = db.rows("SELECT 1 FROM version_block v LEFT JOIN block b ON b.id = v.block_id WHERE b.id IS NULL")
    assert broken == []
    gone_but_there = db.rows("SELECT 1 FROM doomed_block d JOIN block b ON b.id = d.block_id")
    assert gone_but_there == []
    assert outcomes["Entry"] > 0


def test_a_commit_waits_for_the_collector_and_then_sees_that_the_block_is_gone(anna: Person, database: str) -> None:
    anna.put("/f", "x")
    trees.delete(anna.session, anna.at("/f"))
    [(block_id,)] = db.rows("SELECT id FROM block")
    # A collector in the middle of its transaction: it has deleted the row, and has not yet committed.
    write = anna.write("/g", "x")

    def collector() -> None:
        with db.transaction():
            db.run("SET LOCAL holdfast.retention = 'on'")
            db.run("DELETE FROM version_block")
            db.run("DELETE FROM block WHERE id = %s", (block_id,))
            deadline = time.monotonic() + 10
            while not db.rows("SELECT 1 FROM pg_locks WHERE NOT granted") and time.monotonic() < deadline:
                time.sleep(0.01)

    def committer() -> Entry | ApiError:
        deadline = time.monotonic() + 10
        sql = "SELECT 1 FROM pg_locks WHERE relation = 'block'::regclass AND mode = 'RowExclusiveLock'"
        while not db.rows(sql) and time.monotonic() < deadline:
            time.sleep(0.005)
        return anna.commit(write)[0]

    _, result = in_parallel(database, collector, committer)
    assert isinstance(result, BlocksMissing)


def test_only_one_of_two_appends_at_an_offset_counts(anna: Person, database: str) -> None:
    upload, _ = uploads.create(anna.session, anna.at("/f"), 10_000)
    epoch = uploads.claim(anna.session, upload.id).epoch
    for offset in range(0, 500, 100):
        rows = []
        for writer in range(3):
            new = new_block(anna.user.account_id, f"{offset}-{writer}", 100)
            rows += blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [new])
        appends = [partial(uploads.append, upload.id, epoch, offset, [Part(offset, 100, row.block_id)]) for row in rows]
        results = in_parallel(database, *appends)
        assert kinds(results) == {"Appended": 1, "OffsetMismatch": 2}
    parts = uploads.list_parts(upload.id)
    assert all(one.start + one.length == two.start for one, two in pairwise(parts))
    assert len(parts) == 5


def test_a_forced_out_request_never_appends_afterwards(anna: Person, database: str) -> None:
    for number in ROUNDS:
        upload, _ = uploads.create(anna.session, anna.at(f"/f{number}"), 1000)
        old = uploads.claim(anna.session, upload.id).epoch
        new = uploads.claim(anna.session, upload.id).epoch
        block = new_block(anna.user.account_id, f"tail{number}", 100)
        [row] = blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [block])
        appended, forced = in_parallel(
            database,
            partial(uploads.append, upload.id, old, 0, [Part(0, 100, row.block_id)]),
            partial(uploads.force, anna.session, upload.id, new),
        )
        assert isinstance(forced, Upload)
        # The new holder was told an offset; whatever the old one did must be in it.
        if isinstance(appended, UploadSuperseded):
            assert forced.offset == 0
        else:
            assert forced.offset == 100
        assert uploads.get(anna.session, upload.id).offset == forced.offset


def test_completing_and_cancelling_one_upload_at_once_has_one_outcome(anna: Person, database: str) -> None:
    for number in ROUNDS:
        upload, _ = uploads.create(anna.session, anna.at(f"/f{number}"), 0)
        done, cancelled = in_parallel(
            database,
            partial(commits.commit_upload, anna.session, upload.id),
            partial(uploads.cancel, anna.session, upload.id),
        )
        there = f"/f{number}" in [entry.path for entry in files.list_folder(anna.session, anna.at("/"), 100).entries]
        assert there == (not isinstance(done, ApiError))
        assert there == (cancelled is None)


def test_one_name_is_given_once(anna: Person, database: str) -> None:
    for number in ROUNDS:
        anna.send("/", f"x{number}")
        results = in_parallel(
            database,
            partial(trees.create_folder, anna.session, anna.at(f"/N{number}")),
            partial(trees.create_folder, anna.session, anna.at(f"/n{number}")),
            partial(commit_one, anna, anna.write(f"/n{number}", f"x{number}")),
        )
        won = [result for result in results if not isinstance(result, ApiError)]
        assert len(won) == 1, results
        assert all(not isinstance(result, Exception) or isinstance(result, ApiError) for result in results)
    with pytest.raises(NameTaken):
        trees.create_folder(anna.session, anna.at("/n0"))


def test_a_reader_of_the_journal_misses_nothing_while_others_write(anna: Person, database: str) -> None:
    for number in range(40):
        anna.send("/", str(number))

    def write(writer: int) -> None:
        for number in range(writer, 40, 2):
            anna.commit(anna.write(f"/{number}", str(number)))

    def follow() -> list[int]:
        seen: list[int] = []
        cursor = journal.latest_cursor(anna.session)
        deadline = time.monotonic() + 20
        while len(seen) < 40 and time.monotonic() < deadline:
            page = journal.changes(anna.session, cursor, 3)
            seen += [change.seq for change in page.changes]
            cursor = page.cursor
        return seen

    _, _, seen = in_parallel(database, lambda: write(0), lambda: write(1), follow)
    assert isinstance(seen, list)
    assert seen == list(range(seen[0], 41)) if seen else False
    missed_at_start = 40 - len(seen)
    assert seen[0] == missed_at_start + 1


def test_offsets_and_errors_are_told_apart_under_load(anna: Person, database: str) -> None:
    upload, _ = uploads.create(anna.session, anna.at("/f"), 1000)
    epoch = uploads.claim(anna.session, upload.id).epoch
    new = new_block(anna.user.account_id, "x", 100)
    [row] = blocks.record(anna.user.account_id, anna.home, anna.user.id, upload.id, [new])
    repeat = [lambda: uploads.append(upload.id, epoch, 0, [Part(0, 100, row.block_id)])] * 3
    results = in_parallel(database, *repeat)
    lost = [result for result in results if isinstance(result, OffsetMismatch)]
    assert [error.facts["expected_offset"] for error in lost] == [100, 100]


def test_batches_of_the_same_blocks_in_another_order_do_not_wait_for_each_other(anna: Person, database: str) -> None:
    for number in ROUNDS:
        batches = [[new_block(anna.user.account_id, f"{number}-{block}", 100) for block in range(30)] for _ in range(2)]
        batches[1].reverse()

        record = partial(blocks.record, anna.user.account_id, anna.home, anna.user.id, None)
        results = in_parallel(database, *(partial(record, batch) for batch in batches))
        assert [len(rows) for rows in results if not isinstance(rows, BaseException)] == [30, 30]
    assert db.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == (0,)
