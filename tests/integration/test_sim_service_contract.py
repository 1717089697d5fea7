"""The same calls against the real service and its twin in memory (tests/kit/sim_service.py), so that the twin cannot
drift: whatever the sync client relies on is asked here of both."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.api import Api
from client.connection import Connection
from client.errors import Refused
from coordinator.protocol import types
from coordinator.protocol.delta import BlockDelta, Copy, Delta, Literal
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from tests.kit.api import User
from tests.kit.sim_service import SimConnection, SimService, sim_api

_keys = itertools.count(1)

Both = tuple[Api, Api]


@pytest.fixture(params=["twin", "real"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    """Two devices of a person who has nothing yet."""
    if request.param == "twin":
        service = SimService()
        yield sim_api(SimConnection(service, 1)), sim_api(SimConnection(service, 2))
        return
    new_user: Callable[..., User] = request.getfixturevalue("new_user")
    user = new_user()
    devices = [user, user.new_device("second")]
    ca_pem = Path(user.appliance.description["ca_file"]).read_text()
    connections = [Connection(one.session.url, token=one.session.token, ca_pem=ca_pem) for one in devices]
    yield Api(connections[0]), Api(connections[1])
    for connection in connections:
        connection.close()


def digest(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()


def cut(plain: bytes) -> list[bytes]:
    return [plain[at : at + BLOCK_BYTES] for at in range(0, len(plain), BLOCK_BYTES)]


def content(plain: bytes) -> str:
    return content_hash(hash_block(block) for block in cut(plain)).hex()


def entry(path: str, plain: bytes, base: int = 0, **more: Any) -> types.CommitEntry:
    return types.CommitEntry(
        path=path,
        size=len(plain),
        blocks=[digest(block) for block in cut(plain)],
        base_version=base,
        **more,
    )


def new_key() -> str:
    return f"key-{next(_keys)}-{random.getrandbits(64):x}"


def try_put(api: Api, path: str, plain: bytes, base: int = 0, **more: object) -> types.CommitResult:
    if plain:
        api.put_batch(path, [(bytes.fromhex(digest(block)), block) for block in cut(plain)])
    [result] = api.commit([entry(path, plain, base, **more)], new_key())
    return result


def put(api: Api, path: str, plain: bytes, base: int = 0, **more: object) -> types.Metadata:
    result = try_put(api, path, plain, base, **more)
    assert result.metadata is not None, result.error
    return result.metadata


def code_of(result: types.CommitResult | types.AnnounceResult) -> object:
    assert result.error is not None, result
    return result.error["code"]


def follow(api: Api, cursor: str | None = None, limit: int = 2000) -> tuple[list[types.Change], str]:
    """All changes after the cursor, and where that ends."""
    found: list[types.Change] = []
    while True:
        page = api.changes(cursor, limit)
        assert not page.reset
        found += page.changes
        cursor = page.cursor
        if not page.has_more:
            return found, cursor


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code


def tree(api: Api) -> dict[str, object]:
    return {one.path: one.content_hash for one in api.list_folder("/", recursive=True)}


# --- commits ----------------------------------------------------------------------------------------------------


def test_a_commit_makes_versions_and_the_folders_above(both: Both) -> None:
    first, second = both
    made = put(first, "/a/b/c.txt", b"one")
    assert (made.path, made.version, made.size, made.content_hash) == ("/a/b/c.txt", 1, 3, content(b"one"))
    assert made.parent_id == second.metadata("/a/b").id
    again = put(second, "/a/b/c.txt", b"two", base=1, executable=True)
    assert (again.id, again.version, again.executable) == (made.id, 2, True)
    assert tree(first) == {"/a": None, "/a/b": None, "/a/b/c.txt": content(b"two")}
    assert [one.version for one in first.versions("/a/b/c.txt", 10)] == [2, 1]


def test_an_old_base_is_refused_and_equal_content_is_not(both: Both) -> None:
    first, second = both
    put(first, "/f", b"one")
    put(first, "/f", b"two", base=1)
    late = try_put(second, "/f", b"three", base=1)
    assert code_of(late) == "version_conflict"
    assert late.error is not None
    assert late.error["current_version"] == 2
    assert put(second, "/f", b"two", base=1).version == 2
    assert code_of(try_put(second, "/f", b"other")) == "version_conflict"
    assert code_of(try_put(second, "/f", b"two", base=1, executable=True)) == "version_conflict"


def test_the_first_commit_of_a_name_wins(both: Both) -> None:
    first, second = both
    put(first, "/Name", b"one")
    late = try_put(second, "/name", b"two")
    assert code_of(late) == "version_conflict"
    assert put(second, "/NAME", b"one").path == "/Name"


def test_a_repeated_commit_answers_as_the_first_time(both: Both) -> None:
    first, second = both
    first.put_batch("/f", [(hash_block(b"one"), b"one")])
    key = new_key()
    [done] = first.commit([entry("/f", b"one")], key)
    assert done.metadata is not None
    put(second, "/f", b"two", base=1)
    [again] = first.commit([entry("/f", b"one")], key)
    assert again.metadata is not None
    assert (again.metadata.id, again.metadata.version) == (done.metadata.id, 1)
    assert first.metadata("/f").version == 2
    assert code_of(first.commit([entry("/f", b"one")], new_key())[0]) == "version_conflict"


def test_a_repeated_commit_of_what_was_deleted_since_makes_nothing(both: Both) -> None:
    first, second = both
    first.put_batch("/f", [(hash_block(b"one"), b"one")])
    key = new_key()
    first.commit([entry("/f", b"one")], key)
    second.delete("/f")
    [again] = first.commit([entry("/f", b"one")], key)
    assert again.metadata is not None
    assert first.find("/f") is None


def test_a_commit_at_the_place_of_a_deleted_file_brings_its_id_back(both: Both) -> None:
    first, second = both
    old = put(first, "/f", b"one")
    first.delete("/f")
    new = put(second, "/F", b"two")
    assert (new.id, new.version, new.path) == (old.id, 2, "/F")


def test_the_guard_of_the_file_id(both: Both) -> None:
    first, second = both
    old = put(first, "/f", b"one")
    first.move_id(old.id, "/f", "/g", parent_id=_root_id(first))
    other = put(second, "/f", b"two")
    assert code_of(try_put(first, "/f", b"three", base=1, id=old.id)) == "version_conflict"
    assert put(first, "/f", b"three", base=1, id=other.id).version == 2
    assert code_of(try_put(first, "/nowhere", b"x", base=1, id=old.id)) == "version_conflict"


def test_the_guard_of_the_folder_of_a_commit(both: Both) -> None:
    first, second = both
    folder = first.create_folder("/d")
    second.delete("/d")
    assert code_of(try_put(first, "/d/f", b"one", parent_id=folder.id)) == "version_conflict"
    assert tree(first) == {}
    again = second.create_folder("/d")
    assert again.id != folder.id
    assert code_of(try_put(first, "/d/f", b"one", parent_id=folder.id)) == "version_conflict"
    assert put(first, "/d/f", b"one", parent_id=again.id).parent_id == again.id


def test_a_file_cannot_be_written_over_a_folder_nor_below_a_file(both: Both) -> None:
    first, _ = both
    first.create_folder("/d")
    put(first, "/f", b"one")
    assert code_of(try_put(first, "/d", b"x")) == "is_a_folder"
    assert code_of(try_put(first, "/f/x", b"x")) == "not_a_folder"


def test_a_commit_without_its_blocks_says_which_are_missing(both: Both) -> None:
    first, _ = both
    plain = random.Random(1).randbytes(BLOCK_BYTES + 1)
    blocks = cut(plain)
    first.put_block("/f", digest(blocks[1]), blocks[1])
    [result] = first.commit([entry("/f", plain)], new_key())
    assert code_of(result) == "blocks_missing"
    assert result.error is not None
    assert result.error["missing"] == [digest(blocks[0])]
    assert first.missing("/f", [digest(one) for one in blocks]) == {digest(blocks[0])}


def test_an_empty_file(both: Both) -> None:
    first, second = both
    made = put(first, "/empty", b"")
    assert (made.size, made.content_hash) == (0, content(b""))
    assert second.download("/empty", None) == b""
    assert second.blocks("/empty", None).blocks == []


# --- announced uploads ------------------------------------------------------------------------------------------


def test_an_announced_upload_is_told_and_committed_by_its_id(both: Both) -> None:
    first, second = both
    _, cursor = follow(second)
    plain = b"coming"
    [told] = first.announce([entry("/f", plain)], as_ranges=True)
    assert told.upload_id is not None
    assert [tuple(one) for one in told.missing_ranges] == [(0, 1)]
    [pending], cursor = follow(second, cursor)
    assert (pending.op, pending.name, pending.upload_id, pending.id) == ("pending", "f", told.upload_id, 0)
    assert pending.parent_id == _root_id(first)
    assert pending.metadata is not None
    assert (pending.metadata.content_hash, pending.metadata.state) == (content(plain), "pending")
    recipe = second.upload_blocks(told.upload_id)
    assert (recipe.version, recipe.size, recipe.blocks) == (1, len(plain), [digest(plain)])
    assert refused(lambda: second.get_block("/f", digest(plain), upload_id=told.upload_id)) == "not_found"
    first.put_block("/f", digest(plain), plain)
    assert second.get_block("/f", digest(plain), upload_id=told.upload_id, wait_s=5) == plain
    committed = types.CommitEntry(path="/f", size=len(plain), upload_id=told.upload_id)
    [done] = first.commit([committed], new_key())
    assert done.metadata is not None, done.error
    [arrived], _ = follow(second, cursor)
    assert (arrived.op, arrived.id, arrived.upload_id) == ("put", done.metadata.id, told.upload_id)
    assert second.download("/f", None) == plain


def test_announcing_the_same_again_goes_on_with_the_first(both: Both) -> None:
    first, _ = both
    [one] = first.announce([entry("/f", b"same")])
    [two] = first.announce([entry("/f", b"same")])
    assert one.upload_id == two.upload_id
    assert one.missing == two.missing == [digest(b"same")]


def test_an_announcement_on_an_old_base_is_refused(both: Both) -> None:
    first, second = both
    put(first, "/f", b"one")
    [late] = second.announce([entry("/f", b"two")])
    assert code_of(late) == "version_conflict"


def test_an_announced_version_that_somebody_else_stored_ends_without_a_version(both: Both) -> None:
    first, second = both
    [told] = first.announce([entry("/f", b"same")])
    made = put(second, "/g", b"same")
    second.move_id(made.id, "/g", "/f", parent_id=_root_id(second))
    _, cursor = follow(second)
    [done] = first.commit([types.CommitEntry(path="/f", size=4, upload_id=told.upload_id)], new_key())
    assert done.metadata is not None
    assert (done.metadata.id, done.metadata.version) == (made.id, 1)
    [withdrawn], _ = follow(second, cursor)
    assert (withdrawn.op, withdrawn.upload_id) == ("withdrawn", told.upload_id)


def test_a_block_is_waited_for_until_it_arrives(both: Both, request: pytest.FixtureRequest) -> None:
    if "twin" in request.node.name:
        pytest.skip("the twin waits in virtual time")
    first, second = both
    [told] = first.announce([entry("/f", b"late")])
    timer = threading.Timer(0.3, lambda: first.put_block("/f", digest(b"late"), b"late"))
    timer.start()
    assert second.get_block("/f", digest(b"late"), upload_id=told.upload_id, wait_s=20) == b"late"
    timer.join()


def test_blocks_sent_as_a_delta(both: Both) -> None:
    first, second = both
    old = random.Random(2).randbytes(100_000)
    base = put(first, "/f", old)
    plain = b"inserted" + old
    [told] = first.announce([entry("/f", plain, base=1, id=base.id)])
    assert told.upload_id is not None
    delta = Delta(base.id, 1, (BlockDelta(0, (Literal(8, b"inserted"), Copy(0, len(old)))),))
    first.put_delta(told.upload_id, delta)
    kept = second.get_delta(told.upload_id)
    assert kept == Delta(base.id, 1, (BlockDelta(0, (Literal(8), Copy(0, len(old)))),))
    [done] = first.commit(
        [types.CommitEntry(path="/f", size=len(plain), upload_id=told.upload_id, base_version=1)], new_key()
    )
    assert done.metadata is not None, done.error
    assert second.download("/f", None) == plain
    block = digest(plain)
    assert second.get_block("/f", block, byte_range=(2, 8)) == plain[2:8]


def test_a_wrong_delta_stores_nothing(both: Both) -> None:
    first, second = both
    base = put(first, "/f", b"x" * 1000)
    [told] = first.announce([entry("/f", b"y" * 1000, base=1)])
    assert told.upload_id is not None
    upload_id = told.upload_id
    delta = Delta(base.id, 1, (BlockDelta(0, (Copy(0, 1000),)),))
    assert refused(lambda: first.put_delta(upload_id, delta)) == "hash_mismatch"
    assert second.get_delta(upload_id) is None
    assert first.missing("/f", [digest(b"y" * 1000)])


# --- folders, moves, deletes ------------------------------------------------------------------------------------


def _root_id(api: Api) -> int:
    return api.metadata("/").id


def test_folders_are_made_once_and_guarded_by_their_parent(both: Both) -> None:
    first, second = both
    made = first.create_folder("/d", parent_id=_root_id(first))
    assert (made.kind, made.version, made.parent_id) == (types.Kind.FOLDER, 0, _root_id(first))
    assert refused(lambda: second.create_folder("/D")) == "name_taken"
    assert refused(lambda: second.create_folder("/none/d")) == "not_found"
    inner = first.create_folder("/d/e", parent_id=made.id)
    assert inner.parent_id == made.id
    assert refused(lambda: first.create_folder("/x", parent_id=made.id)) == "version_conflict"
    assert refused(lambda: first.create_folder("/gone/x", parent_id=made.id)) == "version_conflict"


def test_a_move_by_id_keeps_the_file_and_tells_it_once(both: Both) -> None:
    first, second = both
    made = put(first, "/f", b"one")
    folder = first.create_folder("/d")
    _, cursor = follow(second)
    moved = first.move_id(made.id, "/f", "/d/g", parent_id=folder.id)
    assert (moved.id, moved.path, moved.version) == (made.id, "/d/g", 1)
    again = first.move_id(made.id, "/f", "/d/g", parent_id=folder.id)
    assert again.path == "/d/g"
    changes, _ = follow(second, cursor)
    assert [(one.op, one.id, one.parent_id, one.name) for one in changes] == [("move", made.id, folder.id, "g")]
    assert changes[0].metadata is not None
    assert changes[0].metadata.content_hash == content(b"one")


def test_a_move_whose_ids_do_not_hold_is_refused(both: Both) -> None:
    first, second = both
    one, two = put(first, "/one", b"1"), put(first, "/two", b"2")
    root, folder = _root_id(first), first.create_folder("/d")
    assert refused(lambda: first.move_id(two.id, "/one", "/x", parent_id=root)) == "version_conflict"
    assert refused(lambda: first.move_id(one.id, "/one", "/x", parent_id=folder.id)) == "version_conflict"
    assert refused(lambda: first.move_id(one.id, "/one", "/d/x", parent_id=root)) == "version_conflict"
    assert refused(lambda: first.move_id(one.id, "/one", "/two", parent_id=root)) == "name_taken"
    put(second, "/one", b"1b", base=1)
    call = lambda: first.move_id(one.id, "/one", "/x", parent_id=root, base_version=1)  # noqa: E731
    assert refused(call) == "version_conflict"
    assert set(tree(first)) == {"/one", "/two", "/d"}


def test_only_the_spelling_of_a_name_changes(both: Both) -> None:
    first, second = both
    made = put(first, "/readme", b"one")
    moved = first.move_id(made.id, "/readme", "/README", parent_id=_root_id(first))
    assert (moved.id, moved.path) == (made.id, "/README")
    assert list(tree(second)) == ["/README"]


def test_a_folder_cannot_be_moved_below_itself(both: Both) -> None:
    first, _ = both
    outer, inner = first.create_folder("/a"), first.create_folder("/a/b")
    assert refused(lambda: first.move_id(outer.id, "/a", "/a/b/a", parent_id=inner.id)) == "move_into_itself"


def test_a_moved_folder_takes_everything_along(both: Both) -> None:
    first, second = both
    put(first, "/a/b/f", b"one")
    folder = first.metadata("/a/b")
    _, cursor = follow(second)
    first.move_id(folder.id, "/a/b", "/c", parent_id=_root_id(first))
    assert set(tree(second)) == {"/a", "/c", "/c/f"}
    changes, _ = follow(second, cursor)
    assert [(one.op, one.id) for one in changes] == [("move", folder.id)]


def test_a_delete_takes_the_subtree_and_is_told_once(both: Both) -> None:
    first, second = both
    put(first, "/d/e/f", b"one")
    folder = first.metadata("/d")
    _, cursor = follow(second)
    assert first.delete("/d", file_id=folder.id) == 3
    assert tree(first) == {}
    changes, _ = follow(second, cursor)
    assert [(one.op, one.id, one.metadata) for one in changes] == [("delete", folder.id, None)]
    assert refused(lambda: first.delete("/d")) == "not_found"


def test_the_guards_of_a_delete(both: Both) -> None:
    first, second = both
    one, two = put(first, "/one", b"1"), put(first, "/two", b"2")
    assert refused(lambda: first.delete("/one", file_id=two.id)) == "version_conflict"
    put(second, "/one", b"1b", base=1)
    assert refused(lambda: first.delete("/one", file_id=one.id, base_version=1)) == "version_conflict"
    assert first.delete("/one", file_id=one.id, base_version=2) == 1
    assert set(tree(first)) == {"/two"}


def _edit(api: Api) -> None:
    put(api, "/d/e/f", b"two", base=1)


def _add(api: Api) -> None:
    put(api, "/d/e/new", b"new")


def _add_folder(api: Api) -> None:
    api.create_folder("/d/e/new")


def _move_in(api: Api) -> None:
    api.move_id(api.metadata("/x").id, "/x", "/d/e/x", parent_id=api.metadata("/d/e").id)


def _move_out(api: Api) -> None:
    api.move_id(api.metadata("/d/e/f").id, "/d/e/f", "/f", parent_id=_root_id(api))


def _rename_inside(api: Api) -> None:
    api.move_id(api.metadata("/d/e/f").id, "/d/e/f", "/d/e/g", parent_id=api.metadata("/d/e").id)


def _delete_inside(api: Api) -> None:
    api.delete("/d/e/f")


@pytest.mark.parametrize("change", [_edit, _add, _add_folder, _move_in, _rename_inside])
def test_a_folder_in_which_something_changed_is_not_deleted(both: Both, change: Callable[[Api], None]) -> None:
    first, second = both
    put(first, "/d/e/f", b"one")
    put(first, "/x", b"x")
    folder = first.metadata("/d")
    _, cursor = follow(first)
    change(second)
    delete = lambda: first.delete("/d", file_id=folder.id, unchanged_since=cursor)  # noqa: E731
    assert refused(delete) == "version_conflict"
    assert first.find("/d") is not None
    _, cursor = follow(first, cursor)
    assert first.delete("/d", file_id=folder.id, unchanged_since=cursor)


def test_changes_elsewhere_and_announcements_do_not_keep_a_folder(both: Both) -> None:
    first, second = both
    put(first, "/d/e/f", b"one")
    _, cursor = follow(first)
    put(second, "/elsewhere", b"x")
    second.announce([entry("/d/e/f", b"coming", base=1)])
    assert first.delete("/d", file_id=first.metadata("/d").id, unchanged_since=cursor) == 3


def test_what_is_inside_a_deleted_folder_is_gone_for_every_call(both: Both) -> None:
    first, _ = both
    made = put(first, "/d/f", b"one")
    folder = first.metadata("/d")
    first.delete("/d")
    assert first.find_id(made.id) is None
    assert first.find_id(folder.id) is None
    assert refused(lambda: first.move_id(made.id, "/d/f", "/f", parent_id=_root_id(first))) == "not_found"


def test_a_file_is_found_by_its_id_wherever_it_is(both: Both) -> None:
    first, second = both
    made = put(first, "/f", b"one")
    first.create_folder("/d")
    first.move_id(made.id, "/f", "/d/g", parent_id=first.metadata("/d").id)
    there = second.find_id(made.id)
    assert there is not None
    assert there.path == "/d/g"


# --- the change feed --------------------------------------------------------------------------------------------


def test_the_first_listing_tells_every_parent_before_its_children(both: Both) -> None:
    first, second = both
    for name in "abcdef":
        put(first, f"/{name}/one", name.encode())
    late = first.create_folder("/late")
    first.move_id(first.metadata("/a").id, "/a", "/late/a", parent_id=late.id)
    first.delete("/b")
    for limit in (1, 2, 3, 2000):
        changes, _ = follow(second, limit=limit)
        known = {_root_id(first)}
        for change in changes:
            assert change.op in ("put", "folder")
            assert change.parent_id is None or change.parent_id in known, change
            known.add(change.id)
        assert {one.path for one in changes} - {"/"} == set(tree(first))


def test_what_changes_while_the_first_listing_is_read_is_not_missed(both: Both) -> None:
    first, second = both
    for name in "abcdef":
        put(first, f"/{name}", name.encode())
    nodes: dict[int, types.Change] = {}
    cursor, step = None, 0
    while True:
        page = second.changes(cursor, 2)
        for change in page.changes:
            if change.op == "delete":
                nodes.pop(change.id, None)
            elif change.metadata is not None and change.metadata.state == "complete":
                nodes[change.id] = change
        cursor, step = page.cursor, step + 1
        if step == 1:
            first.delete("/b")
            put(first, "/e", b"edited", base=1)
        elif step == 2:
            first.move_id(first.metadata("/a").id, "/a", "/z", parent_id=_root_id(first))
            put(first, "/new", b"new")
        if not page.has_more:
            break
    told = {one.metadata.path: one.metadata.content_hash for one in nodes.values() if one.metadata}
    told.pop("/", None)
    assert told == tree(first)


def test_changes_name_the_device_that_made_them(both: Both) -> None:
    first, second = both
    _, cursor = follow(first)
    put(first, "/one", b"1")
    put(second, "/two", b"2")
    changes, _ = follow(first, cursor)
    devices = [one.device_id for one in changes]
    assert devices == [first.whoami().device_id, second.whoami().device_id]


def test_a_long_poll_answers_at_once_when_something_has_changed(both: Both) -> None:
    first, second = both
    _, cursor = follow(first)
    put(second, "/f", b"one")
    answer = first.longpoll(cursor, 30)
    assert (answer.changes, answer.backoff) == (True, 0.0)


def test_an_undone_delete_is_told_as_a_file(both: Both) -> None:
    first, second = both
    made = put(first, "/f", b"one")
    first.delete("/f")
    _, cursor = follow(second)
    first.restore("/f", None)
    [change], _ = follow(second, cursor)
    assert (change.op, change.id) == ("put", made.id)


def test_a_cursor_from_nowhere_is_refused(both: Both) -> None:
    assert refused(lambda: both[0].changes("nonsense", 10)) == "bad_cursor"


# --- what is read -----------------------------------------------------------------------------------------------


def test_old_versions_can_be_read_also_of_deleted_files(both: Both) -> None:
    first, _ = both
    put(first, "/f", b"one")
    put(first, "/f", b"two", base=1)
    assert first.download("/f", 1) == b"one"
    first.delete("/f")
    assert refused(lambda: first.download("/f", None)) == "not_found"
    assert first.download("/f", 2) == b"two"
    assert [one.version for one in first.versions("/f", 10)] == [2, 1]


def test_a_range_is_streamed(both: Both) -> None:
    first, _ = both
    put(first, "/f", b"0123456789")
    with first.stream("/f", 1, "bytes=3-6") as (status, pieces):
        assert (status, b"".join(pieces)) == (206, b"3456")
