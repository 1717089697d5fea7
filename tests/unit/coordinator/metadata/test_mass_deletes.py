"""Very many deletes in one go: when they are told, and what undoing them brings back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.metadata import db, files, mass_deletes, notifications, trees
from coordinator.metadata.mass_deletes import FILES_MAX
from coordinator.protocol.errors import NotFound
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, add_person, share

MORE = FILES_MAX + 1


def tree_of(anna: Person) -> dict[str, str | None]:
    """Paths and what is in them."""
    return {
        entry.path: None if entry.content_hash is None else entry.content_hash.hex()
        for entry in files.list_tree(anna.at("/"), 10_000).entries
    }


def told(anna: Person) -> list[str]:
    return [row.message for row in notifications.list_after(anna.user.id, 0, 100)[0] if row.kind == "mass_delete"]


def undo(anna: Person, number: int, at_once: int = 10_000) -> int:
    """As the service does it; how many entries came back."""

    def restored() -> Iterator[int]:
        while found := mass_deletes.list_deleted(anna.session, number, at_once):
            for file_id, path in found:
                assert trees.undelete(anna.session, anna.at(path), file_id) is not None
                yield 1

    count = sum(restored())
    mass_deletes.end(number)
    return count


def fill(anna: Person, folder: str, count: int) -> None:
    trees.create_folder(anna.session, anna.at(folder), True)
    for number in range(count):
        anna.put(f"{folder}/{number}", f"{folder} {number}")


def test_more_than_half_of_all_files_in_one_go_is_told_once(anna: Person) -> None:
    fill(anna, "/gone", MORE)
    fill(anna, "/stays", 10)
    for number in range(MORE):
        trees.delete(anna.session, anna.at(f"/gone/{number}"))
        assert len(told(anna)) == (number == MORE - 1)
    [row] = mass_deletes.list_told(anna.session)
    assert f"holdfast undelete {row.id}" in told(anna)[0]
    assert (row.files, row.email, row.undone_at) == (MORE, anna.user.email, None)
    trees.delete(anna.session, anna.at("/stays"))
    assert len(told(anna)) == 1
    assert mass_deletes.list_told(anna.session)[0].files == MORE + 10


def test_a_whole_folder_in_one_call_counts_with_what_is_in_it(anna: Person) -> None:
    fill(anna, "/gone", MORE)
    trees.delete(anna.session, anna.at("/gone"))
    assert len(told(anna)) == 1


@pytest.mark.parametrize(("gone", "stay"), [(FILES_MAX, 0), (MORE, MORE)])
def test_few_files_or_less_than_half_are_nobodys_alarm(anna: Person, gone: int, stay: int) -> None:
    fill(anna, "/gone", gone)
    fill(anna, "/stays", stay)
    trees.delete(anna.session, anna.at("/gone"))
    assert told(anna) == []
    assert mass_deletes.list_told(anna.session) == []
    with pytest.raises(NotFound):
        mass_deletes.list_deleted(anna.session, 1, 10)


def test_deletes_with_long_pauses_are_not_one_go(anna: Person) -> None:
    fill(anna, "/a", 40)
    fill(anna, "/b", 40)
    trees.delete(anna.session, anna.at("/a"))
    db.run("UPDATE mass_delete SET last_at = last_at - interval '11 minutes'")
    trees.delete(anna.session, anna.at("/b"))
    assert told(anna) == []


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_undoing_brings_everything_back_where_it_was(anna: Person, at_once: int) -> None:
    fill(anna, "/docs/deep/deeper", MORE)
    anna.put("/docs/top", "t")
    anna.put("/docs/deleted long ago", "x")
    trees.delete(anna.session, anna.at("/docs/deleted long ago"))
    db.run("UPDATE mass_delete SET last_at = last_at - interval '1 hour', began_at = began_at - interval '1 hour'")
    db.run("UPDATE file SET deleted_at = deleted_at - interval '1 hour' WHERE deleted_at IS NOT NULL")
    before, used = tree_of(anna), anna.usage()
    for path in sorted(before, reverse=True):  # as a client does: what is in a folder first
        trees.delete(anna.session, anna.at(path))
    assert tree_of(anna) == {}
    [row] = mass_deletes.list_told(anna.session)
    undo(anna, row.id, at_once)
    assert tree_of(anna) == before
    assert anna.usage() == used
    assert mass_deletes.list_told(anna.session)[0].undone_at is not None


def test_what_has_a_name_in_use_by_now_comes_back_beside_it(anna: Person) -> None:
    fill(anna, "/docs", MORE)
    anna.put("/plan.tar.gz", "plan")
    before = tree_of(anna)
    trees.delete(anna.session, anna.at("/docs/0"))
    trees.delete(anna.session, anna.at("/docs"))
    trees.delete(anna.session, anna.at("/plan.tar.gz"))
    anna.put("/docs", "a file of that name")
    anna.put("/another", "another plan")
    trees.move(anna.session, anna.at("/another"), anna.at("/plan.tar.gz"))
    [row] = mass_deletes.list_told(anna.session)
    undo(anna, row.id)
    after = tree_of(anna)
    assert {path.replace("/docs/", "/docs (restored)/") for path in before if path.startswith("/docs/")} < set(after)
    assert after["/plan.tar (restored).gz"] == before["/plan.tar.gz"]
    assert after["/plan.tar.gz"] != before["/plan.tar.gz"]


def test_what_a_person_brought_back_already_stays_as_it_is(anna: Person) -> None:
    fill(anna, "/docs", MORE)
    for number in range(MORE):
        trees.delete(anna.session, anna.at(f"/docs/{number}"))
    [row] = mass_deletes.list_told(anna.session)
    trees.restore(anna.session, anna.at("/docs/3"))
    assert undo(anna, row.id) == MORE - 1
    assert len(tree_of(anna)) == MORE + 1


def test_everybody_of_a_shared_tree_is_told_and_only_who_may_write_undoes(anna: Person) -> None:
    ben, cleo, stranger = (add_person(f"{name}@example.org") for name in ("ben", "cleo", "stranger"))
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.EDITOR), c=(cleo, Role.VIEWER))
    fill(ben, "/Team/docs", MORE)
    trees.delete(ben.session, ben.at("/Team/docs"))
    assert [len(told(one)) for one in (anna, ben, cleo, stranger)] == [1, 1, 1, 0]
    [row] = mass_deletes.list_told(ben.session)
    for other in (cleo, stranger):
        assert mass_deletes.list_told(other.session) == []
        with pytest.raises(NotFound):
            mass_deletes.list_deleted(other.session, row.id, 10)
