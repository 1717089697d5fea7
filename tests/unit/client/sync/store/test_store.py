"""The store: what is written is there after opening again, differences are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.sync.store.lookups import LOCAL_ROOT
from client.sync.store.store import Store, open_store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.types import Kind

ROOT = RemoteId(7)
STAMP = Stamp(5, 1_000, 2_000, (1 << 64) - 3, 66)
TEXT = Content(b"t" * 32)
OTHER = Content(b"o" * 32, executable=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state.db")
    store.set_remote_root(ROOT, STAMP)
    return store


def remote_file(
    node_id: int, name: str, parent: RemoteId = ROOT, content: Content = TEXT, version: int = 1
) -> RemoteNode:
    return RemoteNode(RemoteId(node_id), parent, name, Kind.FILE, version, 5, content, 17)


def local_file(node_id: int, name: str, parent: LocalId = LOCAL_ROOT, content: Content = TEXT) -> LocalNode:
    return LocalNode(LocalId(node_id), parent, name, Kind.FILE, STAMP, content)


def pair_of(remote: RemoteNode, local: LocalNode) -> SyncedNode:
    assert remote.parent_id is not None
    return SyncedNode(remote.id, local.id, remote.parent_id, remote.name, remote.kind, remote.version, remote.content)


def reopened(store: Store) -> Store:
    store.close()
    assert store.path is not None
    return Store(store.path)


def test_nodes_come_back_as_they_were_put_after_opening_again(store: Store) -> None:
    remote, local = remote_file(10, "Ä.txt", content=OTHER), local_file(20, "Ä.txt", content=OTHER)
    with store.transaction():
        store.put_remote(remote)
        store.put_local(local)
        store.put_synced(pair_of(remote, local))
    store = reopened(store)
    assert store.remote(remote.id) == remote
    assert store.local(local.id) == local
    assert store.synced(remote.id) == store.synced_local(local.id) == pair_of(remote, local)
    assert store.remote_child(ROOT, "ä.txt") == remote
    assert store.local_with_inode(STAMP.inode) == [store.local(LOCAL_ROOT), local]
    assert store.local_at(("Ä.txt",)) == local
    assert store.local_at(("ä.txt",)) is None


def test_a_pair_is_dirty_only_while_a_side_differs(store: Store) -> None:
    remote, local = remote_file(10, "a"), local_file(20, "a")
    with store.transaction():
        store.put_remote(remote)
        store.put_local(local)
    assert (list(store.dirty_remote()), list(store.dirty_local())) == ([10], [20])
    with store.transaction():
        store.put_synced(pair_of(remote, local))
    assert not store.is_dirty()
    with store.transaction():
        store.put_local(local_file(20, "a", content=OTHER))
    assert (list(store.dirty_remote()), list(store.dirty_local())) == ([], [20])
    with store.transaction():
        store.put_local(local)
        store.put_remote(remote_file(10, "a", version=2))
    assert (list(store.dirty_remote()), list(store.dirty_local())) == ([10], [])


def test_children_are_dirty_when_their_folder_is_forgotten(store: Store) -> None:
    folder, inner = RemoteNode(RemoteId(10), ROOT, "f", Kind.FOLDER), remote_file(11, "a", RemoteId(10))
    near, within = LocalNode(LocalId(20), LOCAL_ROOT, "f", Kind.FOLDER, STAMP), local_file(21, "a", LocalId(20))
    with store.transaction():
        for node in (folder, inner):
            store.put_remote(node)
        for own in (near, within):
            store.put_local(own)
        store.put_synced(pair_of(folder, near))
        store.put_synced(pair_of(inner, within))
    assert not store.is_dirty()
    with store.transaction():
        store.drop_synced(folder.id)
    assert list(store.dirty_local()) == [20, 21]


def test_a_folder_goes_with_everything_below(store: Store) -> None:
    with store.transaction():
        store.put_remote(RemoteNode(RemoteId(10), ROOT, "f", Kind.FOLDER))
        store.put_remote(RemoteNode(RemoteId(11), RemoteId(10), "g", Kind.FOLDER))
        store.put_remote(remote_file(12, "a", RemoteId(11)))
        store.drop_remote(RemoteId(10))
    assert [store.remote(RemoteId(node_id)) for node_id in (10, 11, 12)] == [None] * 3
    assert not store.is_dirty()


def test_a_skipped_node_is_clean_without_a_pair_and_dirty_with_one(store: Store) -> None:
    remote, local = remote_file(10, "a"), local_file(20, "a")
    skipped = RemoteNode(RemoteId(10), ROOT, "a", Kind.FILE, 1, 5, TEXT, 17, skipped=True)
    with store.transaction():
        store.put_remote(skipped)
    assert not store.is_dirty()
    with store.transaction():
        store.put_local(local)
        store.put_synced(pair_of(remote, local))
    assert list(store.dirty_remote()) == [10]


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put_remote(remote_file(10, "a"))
        raise ZeroDivisionError
    assert store.remote(RemoteId(10)) is None
    assert not store.is_dirty()


def test_a_local_file_has_one_pair(store: Store) -> None:
    local = local_file(20, "a")
    with store.transaction():
        for node_id in (10, 11):
            store.put_remote(remote_file(node_id, f"n{node_id}"))
        store.put_local(local)
        store.put_synced(pair_of(remote_file(10, "n10"), local))
        store.put_synced(pair_of(remote_file(11, "n11"), local))
    assert store.synced(RemoteId(10)) is None
    assert store.synced_local(local.id) == pair_of(remote_file(11, "n11"), local)
    assert list(store.dirty_remote()) == [10]


def test_a_listing_forgets_what_it_did_not_tell_and_keeps_local_nodes(store: Store) -> None:
    kept, changed, gone = remote_file(10, "kept"), remote_file(11, "changed"), remote_file(12, "gone")
    with store.transaction():
        for remote, local_id in ((kept, 20), (changed, 21), (gone, 22)):
            local = local_file(local_id, remote.name)
            store.put_remote(remote)
            store.put_local(local)
            store.put_synced(pair_of(remote, local))
    with store.transaction():
        store.begin_listing()
        for node in (kept, remote_file(11, "changed", content=OTHER)):
            store.put_remote(node)
            store.note_listed(node.id)
        store.end_listing()
    assert store.synced(kept.id) is not None
    assert store.synced(changed.id) is None, "which of the two is newer cannot be told after a restore"
    assert (store.synced(gone.id), store.remote(gone.id)) == (None, None)
    assert [store.local(LocalId(node_id)) is not None for node_id in (20, 21, 22)] == [True] * 3
    assert store.synced(ROOT) is not None


def test_local_ids_are_never_given_twice(store: Store) -> None:
    first = store.new_local_id()
    with store.transaction():
        store.put_local(local_file(first + 5, "a"))
    assert store.new_local_id() > first + 5
    assert reopened(store).new_local_id() > first + 5


def test_a_damaged_file_is_set_aside_and_replaced_by_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    path.write_bytes(b"this is no database" * 1000)
    store, aside = open_store(path)
    assert aside is not None
    assert aside.read_bytes().startswith(b"this is no database")
    assert store.remote_root == 0


def test_times_beyond_64_bits_do_not_stop_the_store(store: Store) -> None:
    odd = Stamp(5, 1 << 80, -(1 << 80), 3, 4)
    with store.transaction():
        store.put_local(LocalNode(LocalId(20), LOCAL_ROOT, "a", Kind.FILE, odd, TEXT))
    found = store.local(LocalId(20))
    assert found is not None
    assert (found.stamp.mtime_ns, found.stamp.ctime_ns) == ((1 << 63) - 1, -((1 << 63) - 1))


def test_an_upload_of_a_file_that_is_gone_stays_unsettled_and_its_id_is_not_given_again(store: Store) -> None:
    """The service may have stored it: the delete is then to follow."""
    with store.transaction():
        local_id = store.new_local_id()
        store.put_local(local_file(local_id, "a"))
        store.uploads.begin(local_id, None, TEXT)
        store.drop_local(local_id)
    store = reopened(store)
    assert store.uploads.begun_new(TEXT) == [local_id]
    assert store.new_local_id() > local_id
