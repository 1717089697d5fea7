from __future__ import annotations

import pytest

from coordinator.metadata import accounts, ageing, db, journal, leases, sweeps, trees, uploads
from coordinator.metadata.cursors import Place, decode_cursor, encode_cursor
from coordinator.metadata.values import ChangePage, ChangeRow, NamespaceId, Session
from coordinator.protocol.errors import BadCursor
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, share


def follow(session: Session, cursor: str | None, limit: int = 100) -> tuple[list[ChangeRow], str]:
    """All pages from `cursor` to the end."""
    changes: list[ChangeRow] = []
    while True:
        page = journal.changes(session, cursor, limit)
        assert not page.reset
        changes += page.changes
        cursor = page.cursor
        if not page.has_more:
            return changes, cursor


def brief(changes: list[ChangeRow]) -> list[tuple[str, str]]:
    return [(change.op.value, change.path) for change in changes]


def test_without_a_cursor_the_whole_tree_comes_parents_first(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    anna.put("/g", "y")
    changes, cursor = follow(anna.session, None, 2)
    assert brief(changes) == [("folder", "/"), ("folder", "/a"), ("folder", "/a/b"), ("put", "/a/b/f"), ("put", "/g")]
    assert follow(anna.session, cursor)[0] == []
    assert changes[3].entry is not None
    assert (changes[3].entry.version, changes[3].parent_id) == (1, changes[2].file_id)


def test_changes_after_a_cursor_come_in_their_order_with_what_they_were(anna: Person) -> None:
    cursor = journal.latest_cursor(anna.session)
    anna.put("/a/f", "x")
    trees.move(anna.session, anna.at("/a"), anna.at("/b"))
    trees.delete(anna.session, anna.at("/b/f"))
    changes, _ = follow(anna.session, cursor, 1)
    assert brief(changes) == [("folder", "/a"), ("put", "/a/f"), ("move", "/b"), ("delete", "/b/f")]
    assert [change.seq for change in changes] == [1, 2, 3, 4]
    assert changes[1].entry is not None
    assert changes[1].entry.size_bytes == 100
    assert changes[3].entry is None
    assert {change.by_device for change in changes} == {anna.session.device_id}


def test_pending_and_withdrawn_name_their_upload(anna: Person) -> None:
    cursor = journal.latest_cursor(anna.session)
    upload, _ = uploads.create(anna.session, anna.at("/f"), 1000)
    uploads.cancel(anna.session, upload.id)
    pending, withdrawn = follow(anna.session, cursor)[0]
    assert (pending.op.value, pending.upload_id, pending.file_id) == ("pending", upload.id, 0)
    assert pending.entry is not None
    assert (pending.entry.pending, pending.entry.size_bytes) == (True, 1000)
    assert (withdrawn.op.value, withdrawn.upload_id, withdrawn.entry) == ("withdrawn", upload.id, None)


def test_what_changes_during_the_first_listing_is_told_after_it(anna: Person) -> None:
    for name in "abcdef":
        anna.put(f"/{name}/f", name)
    page = journal.changes(anna.session, None, 4)
    assert page.has_more
    trees.move(anna.session, anna.at("/f"), anna.at("/a/f2"))  # not listed yet, into what is listed
    trees.delete(anna.session, anna.at("/b"))
    rest, _ = follow(anna.session, page.cursor, 4)
    assert brief(rest)[-2:] == [("move", "/a/f2"), ("delete", "/b")]
    told = {change.file_id for change in [*page.changes, *rest]}
    below_b = {row[0] for row in db.rows("SELECT f.id FROM file f JOIN file b ON f.parent_id = b.id AND b.name = 'b'")}
    assert told == {row[0] for row in db.rows("SELECT id FROM file")} - below_b


def test_a_parent_that_is_younger_than_its_child_is_told_first(anna: Person) -> None:
    anna.put("/old", "x")
    trees.create_folder(anna.session, anna.at("/young"))
    trees.move(anna.session, anna.at("/old"), anna.at("/young/old"))
    changes, _ = follow(anna.session, None, 1)
    known: set[int] = set()
    for change in changes:
        assert change.parent_id is None or change.parent_id in known
        known.add(change.file_id)


def test_what_lies_in_a_deleted_folder_is_not_listed(anna: Person) -> None:
    anna.put("/a/b/f", "x")
    trees.delete(anna.session, anna.at("/a"))
    assert brief(follow(anna.session, None)[0]) == [("folder", "/")]


def test_a_new_membership_is_delivered_as_a_whole_and_a_lost_one_ends(anna: Person, ben: Person) -> None:
    cursor = journal.latest_cursor(ben.session)
    team = share(anna, "Team", a=(anna, Role.OWNER))
    anna.put("/Team/a/f", "x")
    accounts.add_member(team, ben.user.id, Role.VIEWER, "/From Anna")
    assert journal.is_behind(ben.refresh(), cursor, journal.heads(ben.session.namespace_ids))
    changes, cursor = follow(ben.session, cursor)
    assert brief(changes) == [("folder", "/From Anna"), ("folder", "/From Anna/a"), ("put", "/From Anna/a/f")]
    assert changes[0].name == "From Anna"
    accounts.remove_member(team, ben.user.id)
    assert journal.is_behind(ben.refresh(), cursor, {})
    [lost], cursor = follow(ben.session, cursor)
    assert (lost.op.value, lost.namespace_id, lost.file_id, lost.path) == ("delete", team, 0, "")
    assert follow(ben.session, cursor)[0] == []


def test_a_cursor_gives_no_right_to_read(anna: Person, ben: Person) -> None:
    anna.put("/secret", "x")
    stolen = encode_cursor({anna.home: Place(1, 0), ben.home: Place(1, 0)})
    changes, _ = follow(ben.session, stolen)
    assert [change.namespace_id for change in changes if change.op.value != "delete"] == []


@pytest.mark.parametrize(
    "cursor", ["", "x", "äöü", "AAAAAAAA", "a" * 10_000, encode_cursor({})[:-1], encode_cursor({})[::-1]]
)
def test_a_cursor_from_nowhere_is_refused(anna: Person, cursor: str) -> None:
    if not cursor:
        return  # the absence of a cursor
    with pytest.raises(BadCursor):
        journal.changes(anna.session, cursor, 10)
    with pytest.raises(BadCursor):
        journal.is_behind(anna.session, cursor, {})


@pytest.mark.parametrize("place", [Place(0, 1), Place(1, -1)])
def test_a_cursor_with_impossible_places_is_refused(place: Place) -> None:
    with pytest.raises(BadCursor):
        decode_cursor(encode_cursor({NamespaceId(1): place}))


def test_an_older_epoch_and_a_place_beyond_the_journal_are_reset(anna: Person) -> None:
    anna.put("/f", "x")
    cursor = journal.latest_cursor(anna.session)
    beyond = encode_cursor({anna.home: Place(1, 99)})
    assert_reset(anna, journal.changes(anna.session, beyond, 10))
    assert journal.raise_epochs() == 1
    assert journal.is_behind(anna.session, cursor, journal.heads([anna.home]))
    assert_reset(anna, journal.changes(anna.session, cursor, 10))


def assert_reset(anna: Person, page: ChangePage) -> None:
    assert (page.reset, page.changes, page.has_more) == (True, (), True)
    assert brief(follow(anna.session, page.cursor)[0]) == [("folder", "/"), ("put", "/f")]


def test_after_a_restore_nothing_is_collected_before_a_person_says_so(anna: Person) -> None:
    db.run("INSERT INTO cluster (cluster_id) VALUES ('c')")
    assert sweeps.held_reason() == ""
    journal.raise_epochs()
    assert "restored" in sweeps.held_reason()
    sweeps.hold("")
    assert sweeps.held_reason() == ""


def test_a_place_before_the_cut_journal_is_reset(anna: Person) -> None:
    old = journal.latest_cursor(anna.session)
    for number in range(5):
        anna.put(f"/{number}", str(number))
    cursor = journal.latest_cursor(anna.session)
    anna.put("/f", "x")
    lease = leases.acquire("retain", "test", 60)
    assert lease is not None
    assert ageing.trim_journal(lease, anna.home, -1, limit=5) == 5
    assert journal.changes(anna.session, old, 10).reset
    assert brief(follow(anna.session, cursor)[0]) == [("put", "/f")]
    assert ageing.trim_journal(lease, anna.home, 3600) == 0


def test_a_reader_who_is_up_to_date_is_not_behind(anna: Person) -> None:
    _, cursor = follow(anna.session, None)
    now = journal.heads(anna.session.namespace_ids)
    assert not journal.is_behind(anna.session, cursor, now)
    assert not journal.is_behind(anna.session, cursor, {})
    anna.put("/f", "x")
    assert journal.is_behind(anna.session, cursor, journal.heads(anna.session.namespace_ids))
    assert journal.is_behind(anna.session, journal.changes(anna.session, None, 1).cursor, now)
