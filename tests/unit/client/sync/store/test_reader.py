"""What workers read: where contents and blocks lie, as of what was written last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.sync.store.reader import Reader, SyncedContent
from client.sync.store.store import Store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, Stamp, SyncedNode
from coordinator.protocol.types import Kind

ROOT, FOLDER, FILE = RemoteId(7), LocalId(20), LocalId(21)
STAMP = Stamp(5, 1_000, 2_000, 3, 66)
TEXT, OTHER = Content(b"t" * 32), Content(b"o" * 32)
FIRST, SECOND = b"1" * 32, b"2" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state.db")
    store.set_remote_root(ROOT, STAMP)
    with store.transaction():
        store.put_local(LocalNode(FOLDER, store.local_root, "f", Kind.FOLDER, STAMP))
        store.put_local(LocalNode(FILE, FOLDER, "a", Kind.FILE, STAMP, TEXT))
        store.blocks.put(FILE, TEXT.digest, [FIRST, SECOND, FIRST])
        store.blocks.put_signature(FILE, TEXT.digest, b"signature")
    return store


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    reader = Reader(store)
    yield reader
    reader.close()


def test_blocks_are_found_until_the_file_changes(store: Store, reader: Reader) -> None:
    assert sorted(reader.find_block(FIRST)) == [(("f", "a"), 0), (("f", "a"), 2)]
    assert reader.find_block(SECOND) == [(("f", "a"), 1)]
    assert reader.blocks_of(FILE) == (TEXT.digest, [FIRST, SECOND, FIRST])
    with store.transaction():
        store.blocks.put(FILE, OTHER.digest, [SECOND])
    assert (reader.find_block(FIRST), reader.find_block(SECOND)) == ([], [(("f", "a"), 0)])
    with store.transaction():
        store.drop_local(FILE)
    assert (reader.find_block(SECOND), reader.blocks_of(FILE)) == ([], None)


def test_a_signature_outlives_the_content_it_is_of_but_not_the_file(store: Store, reader: Reader) -> None:
    with store.transaction():
        store.blocks.put(FILE, OTHER.digest, [SECOND])
    assert reader.signature(FILE) == (TEXT.digest, b"signature"), "the next upload is told against what was synced last"
    with store.transaction():
        store.drop_local(FILE)
    assert reader.signature(FILE) is None


def test_a_content_is_found_where_both_sides_last_agreed_on_it(store: Store, reader: Reader) -> None:
    with store.transaction():
        store.put_synced(SyncedNode(RemoteId(10), FILE, ROOT, "a", Kind.FILE, 3, TEXT))
    assert reader.find_content(TEXT.digest) == [SyncedContent(RemoteId(10), 3, FILE, ("f", "a"))]
    assert reader.find_content(OTHER.digest) == []
