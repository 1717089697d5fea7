from __future__ import annotations

import pytest

from coordinator.metadata import ageing, blocks, db, files, leases, sweeps, trees, uploads
from coordinator.metadata.values import BlockRow, Lease, Part
from tests.kit.metadata import Person, new_block

DAY_S = 86_400.0


@pytest.fixture
def lease(database: str) -> Lease:
    found = leases.acquire("test", "test", 600)
    assert found is not None
    return found


def age(days: float) -> None:
    """Everything that is there has happened earlier than it did."""
    for table, column in (("block", "created_at"), ("block", "condemned_at"), ("staged_block", "created_at")):
        db.run(f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)", (days * DAY_S,))


def crawl(lease: Lease) -> tuple[int, int]:
    found = sweeps.condemn(lease, b"", 1000)
    assert found.last is None
    return found.condemned, found.revived


def standing() -> int:
    return int(db.one("SELECT count(*) FROM block")[0])


def test_a_block_goes_when_its_last_reference_is_long_gone(anna: Person, lease: Lease) -> None:
    [row] = anna.send("/f", "x")
    age(1)
    assert crawl(lease) == (0, 0)  # staged
    db.run("DELETE FROM staged_block")
    assert crawl(lease) == (1, 0)
    assert sweeps.count_collectable(DAY_S) == (0, 1)
    assert sweeps.doom(lease, DAY_S, 10) == 0  # still in its grace
    age(2)
    assert sweeps.count_collectable(DAY_S) == (1, 1)
    assert sweeps.doom(lease, DAY_S, 10) == 1
    assert standing() == 0
    [doomed] = sweeps.list_doomed(0, 10)
    assert (doomed.block_id, doomed.group_id, doomed.k, doomed.m) == (row.block_id, 1, 4, 2)
    assert sweeps.list_doomed(DAY_S, 10) == []  # the trash lags behind backups
    sweeps.forget_doomed(lease, [doomed])
    assert sweeps.count_doomed() == 0


def test_every_kind_of_reference_keeps_a_block(anna: Person, lease: Lease) -> None:
    anna.put("/current", "current")
    anna.put("/old", "old version")
    anna.put("/old", "new version", base=1)
    anna.put("/deleted", "in the trash")
    trees.delete(anna.session, anna.at("/deleted"))
    anna.send("/", "staged")
    upload, _ = uploads.create(anna.session, anna.at("/up"), 100)
    claim = uploads.claim(anna.session, upload.id)
    [row] = anna.send("/up", "of an upload", upload_id=upload.id)
    uploads.append(upload.id, claim.epoch, 0, [Part(0, 100, row.block_id)])
    db.run("DELETE FROM staged_block WHERE upload_id <> ''")
    age(9)
    assert crawl(lease) == (0, 0)
    db.run("UPDATE block SET condemned_at = now() - interval '5 days'")
    assert sweeps.doom(lease, DAY_S, 100) == 0
    assert db.rows("SELECT 1 FROM block WHERE condemned_at IS NOT NULL") == []
    assert standing() == 6


def test_a_crawl_takes_back_what_it_finds_referenced_again(anna: Person, lease: Lease) -> None:
    anna.put("/f", "x")
    db.run("UPDATE block SET condemned_at = now()")
    age(1)
    assert crawl(lease) == (0, 1)


def test_a_crawl_goes_on_where_its_page_ended(anna: Person, lease: Lease) -> None:
    for number in range(7):
        anna.send("/", str(number))
    db.run("DELETE FROM staged_block")
    age(1)
    after: bytes | None = b""
    pages = 0
    condemned = 0
    while after is not None:
        page = sweeps.condemn(lease, after, 3)
        pages, condemned, after = pages + 1, condemned + page.condemned, page.last
    assert (pages, condemned) == (3, 7)


def test_a_new_row_is_left_alone_until_it_had_time_for_a_reference(anna: Person, lease: Lease) -> None:
    anna.send("/f", "x")
    db.run("DELETE FROM staged_block")
    assert crawl(lease) == (0, 0)


def test_missing_shards_and_other_sites_copies_go_with_the_row(anna: Person, lease: Lease) -> None:
    new = new_block(anna.user.account_id, "x", 100, missing=(1,))
    blocks.record(anna.user.account_id, anna.home, anna.user.id, None, [new])
    db.run("INSERT INTO site (id, name) VALUES (2, 'far')")
    db.run("INSERT INTO block_replica SELECT id, 2, 77, 1 FROM block")
    db.run("DELETE FROM staged_block")
    db.run("UPDATE block SET condemned_at = now() - interval '5 days'")
    assert sweeps.doom(lease, DAY_S, 10) == 1
    assert blocks.count_missing() == 0
    assert sorted(doomed.group_id for doomed in sweeps.list_doomed(0, 10)) == [1, 77]


def test_a_lost_lease_sweeps_nothing(anna: Person, lease: Lease) -> None:
    anna.send("/f", "x")
    db.run("DELETE FROM staged_block")
    db.run("UPDATE block SET condemned_at = now() - interval '5 days', created_at = now() - interval '9 days'")
    db.run("UPDATE job_lease SET epoch = epoch + 1")
    for act in (
        lambda: sweeps.condemn(lease, b"", 10),
        lambda: sweeps.doom(lease, DAY_S, 10),
        lambda: sweeps.forget_doomed(lease, []),
        lambda: ageing.drop_versions(lease, anna.home, []),
        lambda: ageing.trim_journal(lease, anna.home, -1),
        lambda: ageing.purge(lease, ageing.TrashedFile(anna.home, anna.session.mounts[0].root_id), -1),
    ):
        with pytest.raises(leases.LeaseLost):
            act()
    assert standing() == 1


def test_what_no_node_confirmed_is_put_off(anna: Person, lease: Lease) -> None:
    anna.send("/f", "x")
    blocks.record(anna.user.account_id, anna.home, anna.user.id, None, [new_block(anna.user.account_id, "x", 100)])
    [doomed] = sweeps.list_doomed(0, 10)
    sweeps.postpone_doomed([doomed], 60)
    assert sweeps.list_doomed(0, 10) == []
    assert sweeps.count_doomed() == 1


def test_references_of_blocks_that_nobody_committed_end(anna: Person, lease: Lease) -> None:
    anna.send("/f", "sent and forgotten")
    upload, _ = uploads.create(anna.session, anna.at("/up"), 100)
    anna.send("/up", "of a pending upload", upload_id=upload.id)
    age(3)
    anna.send("/g", "sent just now")
    assert sweeps.expire_staged(2 * DAY_S, 100) == 1
    assert db.one("SELECT count(*) FROM staged_block") == (2,)
    uploads.cancel(anna.session, upload.id)
    assert db.one("SELECT count(*) FROM staged_block") == (1,)


# --- ageing


def put_versions(anna: Person, path: str, count: int) -> list[BlockRow]:
    for base in range(count):
        anna.put(path, f"{path}{base}", base=base)
    return []


def test_dropped_versions_leave_their_blocks_to_the_collector(anna: Person, lease: Lease) -> None:
    put_versions(anna, "/f", 3)
    anna.put("/single", "s")
    page = ageing.list_old_versions((0, 0), 100)
    assert [version.version for version in page.versions] == [1, 2]
    assert page.last is None
    assert ageing.drop_versions(lease, anna.home, page.versions) == 2
    assert [version.version for version in files.list_versions(anna.at("/f"), 10)] == [3]
    age(1)
    assert crawl(lease) == (2, 0)


def test_the_current_version_is_never_dropped(anna: Person, lease: Lease) -> None:
    put_versions(anna, "/f", 2)
    [old] = ageing.list_old_versions((0, 0), 100).versions
    current = ageing.VersionAge(old.namespace_id, old.file_id, 2, old.modified_at)
    assert ageing.drop_versions(lease, anna.home, [old, current]) == 1
    assert files.get_recipe(anna.at("/f"), None, 0, 1).version.version == 2


def test_pages_of_old_versions_follow_each_other(anna: Person) -> None:
    for name in "abc":
        put_versions(anna, f"/{name}", 2)
    after: ageing.FileName | None = (0, 0)
    seen = 0
    while after is not None:
        page = ageing.list_old_versions(after, 2)
        seen += len(page.versions)
        after = page.last
    assert seen == 3


def test_the_trash_is_emptied_from_below(anna: Person, lease: Lease) -> None:
    for path in ("/a/b/c/1", "/a/b/c/2", "/a/b/3", "/a/4", "/kept"):
        put_versions(anna, path, 2)
    trees.delete(anna.session, anna.at("/a/b/3"))
    trees.delete(anna.session, anna.at("/a"))
    trash = ageing.list_old_trash(-1, 10)
    assert len(trash) == 2
    removed = 0
    for trashed in trash:
        complete = False
        while not complete:
            count, complete = ageing.purge(lease, trashed, -1, limit=2)
            removed += count
    assert removed == 7
    assert db.one("SELECT count(*) FROM file") == (2,)
    assert db.one("SELECT count(*) FROM file_version") == (2,)
    assert files.list_trash(anna.session, 10).entries == ()
    assert files.get_entry(anna.at("/kept")).version == 2


def test_what_was_taken_out_of_the_trash_is_not_purged(anna: Person, lease: Lease) -> None:
    anna.put("/f", "x")
    trees.delete(anna.session, anna.at("/f"))
    [trashed] = ageing.list_old_trash(-1, 10)
    trees.restore(anna.session, anna.at("/f"))
    assert ageing.purge(lease, trashed, -1) == (0, True)
    assert ageing.list_old_trash(3600, 10) == []
    assert files.get_entry(anna.at("/f")).version == 1


def test_only_old_read_notifications_go(anna: Person) -> None:
    db.run("INSERT INTO notification (user_id, kind, message, read_at) VALUES (%s, 'k', 'm', now())", (anna.user.id,))
    db.run("INSERT INTO notification (user_id, kind, message) VALUES (%s, 'k', 'unread')", (anna.user.id,))
    assert ageing.trim_notices(3600) == 0
    assert ageing.trim_notices(-1) == 1
    assert db.rows("SELECT message FROM notification") == [("unread",)]
