"""The journal against a model: whoever replays it, from any moment and in pages of any size, ends with the same tree.

A random history of operations runs on the real database. A reader that pages through the changes all the time (so that
its first listing overlaps with them), and one that begins at the end, must both hold exactly what the tree then is.
The tree itself is checked against a plain dict of paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.metadata import db, files, journal, trees, uploads
from coordinator.metadata.cursors import Place, decode_cursor, encode_cursor
from coordinator.metadata.pages import unpack
from coordinator.metadata.values import ChangeOp, ChangeRow, Entry, NamespaceId
from coordinator.protocol.errors import ApiError, BadCursor
from coordinator.protocol.types import Kind
from tests.kit.metadata import Person, add_person, check_accounts
from tests.kit.postgres import PostgresServer, postgres

__all__ = ["postgres"]

NAMES = st.sampled_from(["a", "b", "C"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), PATHS, st.sampled_from(["x", "y", "z"])),
    st.tuples(st.just("folder"), PATHS, st.just("")),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("copy"), PATHS, PATHS),
    st.tuples(st.just("delete"), PATHS, st.just("")),
    st.tuples(st.just("restore"), PATHS, st.just("")),
    st.tuples(st.just("announce"), PATHS, st.sampled_from(["x", "y"])),
    st.tuples(st.just("read"), st.just(""), st.just("")),
)


@dataclass
class Replica:
    """A client that knows only the change feed: files by id, placed by their parent."""

    person: Person
    limit: int
    cursor: str | None = None
    rows: dict[int, tuple[int | None, str, Kind, bytes | None]] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)

    def read_page(self) -> bool:
        page = journal.changes(self.person.session, self.cursor, self.limit)
        assert not page.reset
        for change in page.changes:
            self.apply(change)
        self.cursor = page.cursor
        return page.has_more

    def catch_up(self) -> None:
        while self.read_page():
            pass

    def apply(self, change: ChangeRow) -> None:
        if change.upload_id is not None and change.op is not ChangeOp.PENDING:
            self.pending.discard(change.upload_id)
        if change.op is ChangeOp.PENDING:
            assert change.upload_id is not None
            self.pending.add(change.upload_id)
        elif change.op is ChangeOp.DELETE:
            self.rows.pop(change.file_id, None)
        elif change.op is not ChangeOp.WITHDRAWN:
            entry = change.entry
            assert entry is not None
            self.rows[change.file_id] = (change.parent_id, change.name, entry.kind, entry.content_hash)

    def tree(self) -> dict[str, bytes | None]:
        """Paths of everything that hangs from a root; a deleted folder's children hang from nothing."""
        found = {}
        for file_id in self.rows:
            path = self.path_of(file_id)
            if path:
                found[path] = self.rows[file_id][3]
        return found

    def path_of(self, file_id: int) -> str | None:
        names = []
        at: int | None = file_id
        while at is not None:
            if at not in self.rows:
                return None
            parent, name, _, _ = self.rows[at]
            if parent is not None:
                names.append(name)
            at = parent
        return "".join(f"/{name}" for name in reversed(names))


def true_tree(person: Person) -> dict[str, bytes | None]:
    entries: list[Entry] = []
    page: str | None = None
    while True:
        found = files.list_tree(person.at("/"), 7, page)
        entries += found.entries
        page = found.next_page
        if page is None:
            return {entry.path: entry.content_hash for entry in entries}


def act(person: Person, kind: str, one: str, two: str) -> None:
    """Do it; a refusal is as good as any other outcome here."""
    session = person.session
    try:
        if kind == "put":
            try:
                base = files.get_entry(person.at(one)).version
            except ApiError:
                base = 0
            person.put(one, two, base=base)
        elif kind == "folder":
            trees.create_folder(session, person.at(one), True)
        elif kind == "move":
            trees.move(session, person.at(one), person.at(two), None, True)
        elif kind == "copy":
            trees.copy(session, person.at(one), person.at(two))
        elif kind == "delete":
            trees.delete(session, person.at(one))
        elif kind == "restore":
            trees.restore(session, person.at(one))
        elif kind == "announce":
            uploads.announce(session, [person.write(one, two)])
    except ApiError:
        return


@pytest.fixture(scope="module")
def shared_database(postgres: PostgresServer) -> Iterator[None]:
    """One database for all examples; each makes a user of its own."""
    with postgres.database() as conninfo, db.connected(conninfo):
        yield


_people = iter(range(10**9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(OPERATIONS, max_size=30), limit=st.integers(1, 5))
def test_every_reader_ends_with_the_tree_that_is_there(
    shared_database: None, history: list[tuple[str, str, str]], limit: int
) -> None:
    person = add_person(f"p{next(_people)}@example.org")
    eager, first = Replica(person, limit), Replica(person, 1000)
    first.catch_up()
    for kind, one, two in history:
        if kind == "read":
            eager.read_page()
        act(person, kind, one, two)
    late = Replica(person, limit)
    expected = true_tree(person)
    for reader in (eager, first, late):
        reader.catch_up()
        assert reader.tree() == expected
    assert first.pending == {
        row[0] for row in db.rows("SELECT id FROM upload WHERE state = 'pending' AND user_id = %s", (person.user.id,))
    }
    seqs = [row[0] for row in db.rows("SELECT seq FROM journal WHERE namespace_id = %s ORDER BY seq", (person.home,))]
    assert seqs == list(range(1, len(seqs) + 1))
    check_accounts()


def model_path(path: str) -> tuple[str, ...]:
    return tuple(name.casefold() for name in path.split("/")[1:])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(OPERATIONS.filter(lambda o: o[0] in ("put", "folder", "delete", "move")), max_size=30))
def test_the_tree_behaves_as_a_dict_of_paths(shared_database: None, history: list[tuple[str, str, str]]) -> None:
    """`None` stands for a folder; content for a file. The model says what must succeed, too."""
    person = add_person(f"p{next(_people)}@example.org")
    model: dict[tuple[str, ...], str | None] = {(): None}

    def below(path: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [other for other in model if other[: len(path)] == path]

    for kind, one, two in history:
        path, to = model_path(one), model_path(two)
        above = [path[:length] for length in range(len(path))]
        act(person, kind, one, two)
        if kind == "put" and all(model.get(up) is None for up in above) and not (path in model and model[path] is None):
            model.update(dict.fromkeys((up for up in above if up not in model), None))
            model[path] = two
        elif kind == "folder" and all(model.get(up) is None for up in [*above, path]):
            model.update(dict.fromkeys([*above, path], None))
        elif kind == "delete" and path in model:
            for other in below(path):
                del model[other]
        elif kind == "move" and path in model and to[:-1] in model and model[to[:-1]] is None:
            into_itself = to[: len(path)] == path and to != path and model[path] is None
            replaces = to in model and to != path
            file_for_file = replaces and model[to] is not None and model[path] is not None
            if not into_itself and (not replaces or file_for_file):
                moved = {to + other[len(path) :]: model[other] for other in below(path)}
                for other in below(path):
                    del model[other]
                model.update(moved)
    got = {model_path(path): content for path, content in true_tree(person).items()}
    assert set(got) == set(model) - {()}
    assert {path for path, content in got.items() if content is None} == {
        p for p, c in model.items() if c is None and p
    }


# --- cursors as data


PLACES = st.dictionaries(
    st.integers(1, 2**62).map(NamespaceId),
    st.builds(Place, st.integers(1, 2**31), st.integers(0, 2**62), st.none() | st.integers(0, 2**62)),
    max_size=20,
)


@given(PLACES)
def test_cursors_come_back_as_they_were(places: dict[NamespaceId, Place]) -> None:
    assert decode_cursor(encode_cursor(places)) == places


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_arbitrary_text_is_no_cursor(text: str) -> None:
    with pytest.raises(BadCursor):
        decode_cursor(text)


@given(PLACES, st.data())
def test_a_changed_cursor_is_noticed(places: dict[NamespaceId, Place], data: st.DataObject) -> None:
    cursor = encode_cursor(places)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("ABCabc012-_").filter(lambda char: char != cursor[at]))
    changed = cursor[:at] + other + cursor[at + 1 :]
    try:
        assert decode_cursor(changed) == places  # only the unused bits of the last character may differ
    except BadCursor:
        return


@given(st.binary(max_size=64))
def test_tokens_of_another_kind_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"token|checksum"):
        unpack(raw.hex() or "00", list[int])
