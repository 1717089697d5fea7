"""The change feed becomes the remote tree: repeats, resets, moves into and out of view, nonsense."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from client.sync.local.selection import Selection
from client.sync.remote.side import RemoteSide, join
from client.sync.store.lookups import LOCAL_ROOT
from client.sync.store.store import Store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.types import Change, ChangesAnswer, Kind, Metadata

ROOT = 7
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STAMP = Stamp(1, 2, 3, 4, 5)


def metadata(node: int, path: str, *, version: int = 0, text: str | None = None, parent: int | None = None) -> Metadata:
    """A file when it has a text, else a folder."""
    return Metadata(
        id=node,
        path=path,
        kind=Kind.FOLDER if text is None else Kind.FILE,
        version=version,
        size=len(text or ""),
        content_hash=None if text is None else digest(text).hex(),
        modified_at=NOW,
        client_modified_at=NOW,
        modified_by="ann",
        state="complete",
        parent_id=parent,
    )


def digest(text: str) -> bytes:
    return text.encode().ljust(32, b".")


def told(op: str, node: int, path: str, parent: int | None = ROOT, text: str | None = None, **more: int) -> Change:
    version = more.get("version", 1)
    about = None
    if op in ("put", "folder", "move", "pending"):
        about = metadata(node, path, version=version if text is not None else 0, text=text, parent=parent)
    return Change(
        seq=1,
        namespace_id=1,
        op=op,  # type: ignore[arg-type]  # one of Change's words; cases give plain strings
        id=node,
        parent_id=parent,
        name=path.rpartition("/")[2],
        path=path,
        metadata=about,
        upload_id=f"u{node}" if op in ("pending", "withdrawn") else None,
        device_id=more.get("device"),
    )


@pytest.fixture
def store() -> Store:
    return Store(None)


def side_of(store: Store, path: str = "/", selection: Selection | None = None) -> RemoteSide:
    side = RemoteSide(store, selection or Selection(), own_device_id=1)
    side.begin(metadata(ROOT, path))
    return side


def page(side: RemoteSide, *changes: Change, more: bool = False, reset: bool = False) -> None:
    side.absorb(ChangesAnswer(changes=list(changes), cursor="c", has_more=more, reset=reset))


def names(store: Store, folder: int = ROOT) -> dict[str, int]:
    return {node.name: node.id for node in store.remote_children(RemoteId(folder))}


def pair(store: Store, node: int, local: int, name: str, text: str) -> None:
    with store.transaction():
        content = Content(digest(text))
        store.put_local(LocalNode(LocalId(local), LOCAL_ROOT, name, Kind.FILE, STAMP, content))
        store.put_synced(SyncedNode(RemoteId(node), LocalId(local), RemoteId(ROOT), name, Kind.FILE, 1, content))


def test_what_is_in_a_folder_that_this_computer_moved_is_looked_at_anew(store: Store) -> None:
    """The answer to the move tells it first, so the feed tells nothing new about the folder."""
    side = side_of(store, selection=Selection("", [("left", "out")]))
    page(
        side, told("folder", 10, "/left"), told("folder", 11, "/left/out", 10), told("put", 12, "/left/out/a", 11, "x")
    )
    assert is_skipped(store, 12)
    answer(side, store, replace(known(store, 10), name="here"))
    assert not is_skipped(store, 12)
    page(side, told("move", 10, "/here"), told("put", 13, "/here/out/b", 11, "y"))
    assert not is_skipped(store, 13)
    answer(side, store, replace(known(store, 10), name="left"))
    assert is_skipped(store, 12)


def answer(side: RemoteSide, store: Store, node: RemoteNode) -> None:
    with store.transaction():
        side.put_answer(node, side.tick)


def known(store: Store, node: int) -> RemoteNode:
    found = store.remote(RemoteId(node))
    assert found is not None
    return found


def is_skipped(store: Store, node: int) -> bool:
    return known(store, node).skipped


def begin_upload(store: Store, local: int, remote: int | None, text: str) -> None:
    with store.transaction():
        store.uploads.begin(LocalId(local), None if remote is None else RemoteId(remote), Content(digest(text)))


def test_what_this_computer_stored_is_its_own_though_others_have_gone_on_from_it(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"))
    pair(store, 10, 20, "a", "one")
    begin_upload(store, 20, 10, "two")
    page(side, told("put", 10, "/a", text="two", version=2, device=1), told("put", 10, "/a", text="three", version=3))
    agreed = store.synced(RemoteId(10))
    assert agreed is not None
    assert (agreed.version, agreed.content) == (2, Content(digest("two")))


def test_a_new_file_that_this_computer_stored_is_its_own_though_others_have_gone_on_from_it(store: Store) -> None:
    side = side_of(store)
    page(side)
    with store.transaction():
        store.put_local(LocalNode(LocalId(20), LOCAL_ROOT, "A", Kind.FILE, STAMP, Content(digest("edited since"))))
    begin_upload(store, 20, None, "one")
    page(side, told("put", 10, "/a", text="one", device=1), told("put", 10, "/a", text="two", version=2))
    agreed = store.synced(RemoteId(10))
    assert agreed is not None
    assert (agreed.version, agreed.local_id, agreed.content) == (1, 20, Content(digest("one")))


def test_a_new_file_that_this_computer_stored_and_deleted_since_is_gone_on_one_side_only(store: Store) -> None:
    side = side_of(store)
    page(side)
    begin_upload(store, 20, None, "one")
    page(side, told("put", 10, "/a", text="one", device=1))
    agreed = store.synced(RemoteId(10))
    assert agreed is not None, "it would come back"
    assert agreed.local_id == 20


def test_what_this_computer_stored_again_after_a_delete_and_deleted_since_stays_deleted(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"))
    page(side, told("delete", 10, "/a"))
    with store.transaction():  # the answer to the upload, which the feed has not told yet
        content = Content(digest("two"))
        store.put_synced(SyncedNode(RemoteId(10), LocalId(20), RemoteId(ROOT), "a", Kind.FILE, 2, content))
    page(side, told("put", 10, "/a", text="two", version=2, device=1))
    assert store.synced(RemoteId(10)) is not None


@pytest.mark.parametrize(("device", "text"), [(2, "two"), (1, "by the web on this computer")])
def test_what_somebody_else_stored_is_not_taken_for_this_computers(store: Store, device: int, text: str) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"))
    pair(store, 10, 20, "a", "one")
    begin_upload(store, 20, 10, "two")
    page(side, told("put", 10, "/a", text=text, version=2, device=device))
    agreed = store.synced(RemoteId(10))
    assert agreed is not None
    assert agreed.version == 1


def test_a_page_may_come_twice(store: Store) -> None:
    side = side_of(store)
    changes = [told("folder", 10, "/f"), told("put", 11, "/f/a", 10, "one"), told("move", 11, "/b", text="one")]
    page(side, *changes)
    page(side, *changes)
    assert names(store) == {"b": 11, "f": 10}
    assert names(store, 10) == {}
    assert side.path(RemoteId(11)) == "/b"


def test_a_delete_takes_the_whole_folder_with_it(store: Store) -> None:
    side = side_of(store)
    page(side, told("folder", 10, "/f"), told("folder", 11, "/f/g", 10), told("put", 12, "/f/g/a", 11, "one"))
    page(side, told("delete", 10, "/f"))
    assert [store.remote(RemoteId(node)) for node in (10, 11, 12)] == [None, None, None]


def test_created_and_deleted_in_one_page_leaves_nothing(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"), told("delete", 10, "/a"))
    assert names(store) == {}
    assert not store.is_dirty()


def test_what_was_deleted_and_is_there_again_is_no_longer_known_as_absent_here(store: Store) -> None:
    """Else the delete that this disk has followed, or is just following, would be told to the service as its own."""
    side = side_of(store)
    page(
        side, *(told("put", node, f"/{name}", text=name) for node, name in ((10, "gone"), (11, "same"), (12, "edited")))
    )
    for node, name in ((10, "gone"), (11, "same"), (12, "edited")):
        pair(store, node, node + 10, name, name)
    with store.transaction():
        store.drop_local(LocalId(20))
        edited = store.local(LocalId(22))
        assert edited is not None
        store.put_local(replace(edited, content=Content(digest("edit"))))
    page(side, *(told("delete", node, f"/{name}") for node, name in ((10, "gone"), (11, "same"), (12, "edited"))))
    page(
        side, *(told("put", node, f"/{name}", text=name) for node, name in ((10, "gone"), (11, "same"), (12, "edited")))
    )
    assert store.synced(RemoteId(10)) is None
    assert store.synced(RemoteId(11)) is None, "it is adopted, as it is equal"
    assert store.synced(RemoteId(12)) is not None, "the edit is one of what is there again"


def test_the_listing_is_over_with_its_last_page(store: Store) -> None:
    side = side_of(store)
    assert side.is_listing
    page(side, told("put", 10, "/a", text="one"), more=True)
    assert side.is_listing
    page(side, told("put", 11, "/b", text="two"))
    assert not side.is_listing
    assert names(store) == {"a": 10, "b": 11}


def test_after_a_reset_what_is_not_listed_is_forgotten_and_nothing_is_deleted(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"), told("put", 11, "/b", text="two"))
    pair(store, 10, 20, "a", "one")
    pair(store, 11, 21, "b", "two")
    page(side, reset=True, more=True)
    page(side, told("put", 10, "/a", text="one"))
    assert names(store) == {"a": 10}
    assert store.synced(RemoteId(10)) is not None
    assert store.synced(RemoteId(11)) is None
    assert store.local(LocalId(21)) is not None, "it is uploaded again, as new"


def test_a_delete_that_is_told_during_a_listing_deletes_nothing_here(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"))
    pair(store, 10, 20, "a", "one")
    page(side, reset=True, more=True)
    page(side, told("put", 10, "/a", text="one"), more=True)
    page(side, told("delete", 10, "/a"))
    assert store.synced(RemoteId(10)) is None
    assert list(store.dirty_local()) == [20]


def test_only_the_chosen_folder_is_seen(store: Store) -> None:
    side = side_of(store, "/desk")
    page(
        side,
        told("folder", 1, "/", None),
        told("folder", ROOT, "/desk", 1),
        told("put", 10, "/other", 1, "one"),
        told("put", 11, "/desk/a", ROOT, "two"),
    )
    assert names(store) == {"a": 11}
    assert side.path(RemoteId(11)) == "/desk/a"


def test_what_leaves_the_chosen_folder_is_gone_and_what_enters_it_is_listed(store: Store) -> None:
    side = side_of(store, "/desk")
    page(side, told("put", 11, "/desk/a", ROOT, "two"))
    page(side, told("move", 11, "/a", 1, "two"), told("move", 12, "/desk/f", ROOT))
    assert names(store) == {"f": 12}
    assert side.to_list == [12]
    side.absorb_listing([metadata(13, "/desk/f/g", parent=12)])
    side.absorb_listing([metadata(14, "/desk/f/g/b", text="x", parent=13)])
    assert side.to_list == [12]
    side.forget_to_list(RemoteId(12))
    assert side.to_list == []
    assert names(store, 13) == {"b": 14}


def test_the_chosen_folder_keeps_its_contents_when_it_is_moved(store: Store) -> None:
    side = side_of(store, "/desk")
    page(side, told("put", 11, "/desk/a", ROOT, "two"))
    page(side, told("move", ROOT, "/old/desk", 99))
    assert side.path(RemoteId(11)) == "/old/desk/a"


def test_the_end_of_the_chosen_folder_deletes_nothing(store: Store) -> None:
    side = side_of(store, "/desk")
    page(side, told("put", 11, "/desk/a", ROOT, "two"))
    absorbed = side.absorb(ChangesAnswer(changes=[told("delete", ROOT, "/desk", 1)], cursor="d", has_more=False))
    assert absorbed.root_gone
    assert names(store) == {"a": 11}


def test_a_child_without_its_parent_leads_to_a_new_listing(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/a", text="one"))
    page(side, told("put", 12, "/f/b", 11, "two"))
    assert side.is_listing
    assert side.cursor is None
    assert names(store) == {"a": 10}, "nothing of the contradictory page is kept"


def test_a_folder_inside_itself_leads_to_a_new_listing(store: Store) -> None:
    side = side_of(store)
    page(side, told("folder", 10, "/f"), told("folder", 11, "/f/g", 10))
    page(side, told("move", 10, "/f/g/f", 11))
    assert side.is_listing


def test_names_that_cannot_be_local_are_left_out_with_what_is_below(store: Store) -> None:
    side = side_of(store)
    page(side, told("folder", 10, "/.holdfast"), told("put", 11, "/.holdfast/a", 10, "one"))
    bad = told("put", 12, "/x", text="one")
    page(side, Change(**{**{name: getattr(bad, name) for name in bad.__struct_fields__}, "name": "../x"}))
    found = {node: store.remote(RemoteId(node)) for node in (10, 11, 12)}
    assert all(node is not None and node.skipped for node in found.values())
    assert not store.is_dirty()


def test_a_new_rule_leaves_out_and_takes_in(store: Store) -> None:
    side = side_of(store)
    page(side, told("folder", 10, "/f"), told("put", 11, "/f/a.log", 10, "one"), told("put", 12, "/b", text="x"))
    side.reselect(Selection("*.log\n"))
    assert [bool((node := store.remote(RemoteId(number))) and node.skipped) for number in (10, 11, 12)] == [
        False,
        True,
        False,
    ]
    side.reselect(Selection("", [("F",)]))
    assert [bool((node := store.remote(RemoteId(number))) and node.skipped) for number in (10, 11, 12)] == [
        True,
        True,
        False,
    ]
    side.reselect(Selection())
    assert not any(node.skipped for number in (10, 11) if (node := store.remote(RemoteId(number))))


def test_a_folder_moved_under_a_rule_is_left_out_as_a_whole(store: Store) -> None:
    side = side_of(store, selection=Selection("/out/*\n"))
    page(side, told("folder", 9, "/out"), told("folder", 10, "/f"), told("put", 11, "/f/a", 10, "one"))
    page(side, told("move", 10, "/out/f", 9))
    found = store.remote(RemoteId(11))
    assert found is not None
    assert found.skipped


def test_announced_versions_of_others_are_told(store: Store) -> None:
    side = side_of(store)
    absorbed = side.absorb(
        ChangesAnswer(
            changes=[
                told("pending", 10, "/a", text="one", device=2),
                told("pending", 11, "/b", text="two", device=1),
                told("pending", 12, "/c", text="three", device=3),
            ],
            cursor="c",
            has_more=False,
        )
    )
    assert [row.remote_id for row in absorbed.announced] == [10, 12], "not those of this device"


def test_what_was_announced_and_has_ended_by_now_is_not_waited_for(store: Store) -> None:
    """A device that was off fetches no old versions: what became of them is told in the same breath."""
    side = side_of(store)
    first = ChangesAnswer(
        changes=[
            told("pending", 10, "/a", text="one", device=2),
            told("put", 10, "/a", text="one"),
            told("delete", 10, "/a"),
            told("pending", 11, "/b", text="two", device=2),
            told("pending", 12, "/c", text="three", device=2),
        ],
        cursor="c",
        has_more=True,
    )
    assert side.absorb(first).announced == ()
    last = ChangesAnswer(changes=[told("withdrawn", 11, "/b")], cursor="d", has_more=False)
    assert [row.remote_id for row in side.absorb(last).announced] == [12]
    assert side.absorb(ChangesAnswer(changes=[], cursor="d", has_more=False)).announced == (), "only once"


def sent(node: int, name: str, version: int, upload_id: str, device: int = 2) -> Change:
    change = told("put", node, f"/{name}", text="x", version=version, device=device)
    change.upload_id = upload_id
    return change


def test_what_a_new_version_was_announced_as_is_known_until_it_is_here(store: Store) -> None:
    side = side_of(store)
    page(side, sent(5, "f", 1, "u1"), sent(6, "own", 2, "u2", device=1), sent(8, "g", 2, "u3"))
    assert [store.uploads.announced_as(RemoteId(node), version) for node, version in ((5, 1), (6, 2))] == [None, None]
    page(side, sent(5, "f", 2, "u4"), sent(5, "f", 3, "u5"))
    assert store.uploads.announced_as(RemoteId(5), 2) is None
    assert store.uploads.announced_as(RemoteId(5), 3) == "u5"
    with store.transaction():
        store.put_synced(SyncedNode(RemoteId(5), LocalId(9), RemoteId(ROOT), "f", Kind.FILE, 3, Content(digest("x"))))
    assert store.uploads.announced_as(RemoteId(5), 3) is None
    page(side, told("delete", 8, "/g"))
    assert store.uploads.announced_as(RemoteId(8), 2) is None


@pytest.mark.parametrize(
    ("folder", "rest", "path"), [("/", ("a",), "/a"), ("/w", ("a", "b"), "/w/a/b"), ("/", (), "/"), ("/w", (), "/w")]
)
def test_paths_are_joined(folder: str, rest: tuple[str, ...], path: str) -> None:
    assert join(folder, *rest) == path


def told_of_share(op: str, node: int, path: str, parent: int | None, text: str | None = None) -> Change:
    change = told(op, node, path, parent, text)
    change.namespace_id = 2
    return change


def test_a_share_that_ends_takes_its_tree_and_nothing_else(store: Store) -> None:
    side = side_of(store)
    page(
        side,
        told("put", 10, "/own", text="own"),
        told_of_share("folder", 20, "/Team", None),
        told_of_share("folder", 21, "/Team/folder", 20),
        told_of_share("put", 22, "/Team/folder/file", 21, text="theirs"),
    )
    assert names(store) == {"own": 10, "Team": 20}
    assert not side.absorb(
        ChangesAnswer(changes=[told_of_share("delete", 0, "", None)], cursor="d", has_more=False)
    ).root_gone
    assert names(store) == {"own": 10}
    assert store.remote(RemoteId(22)) is None


def test_the_end_of_a_share_that_was_never_told_changes_nothing(store: Store) -> None:
    side = side_of(store)
    page(side, told("put", 10, "/own", text="own"))
    assert not side.absorb(
        ChangesAnswer(changes=[told_of_share("delete", 0, "", None)], cursor="d", has_more=False)
    ).root_gone
    assert names(store) == {"own": 10}
