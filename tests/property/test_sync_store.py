"""The store against three dictionaries: after any history of writes both hold the same trees and differences."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from client.sync.store.lookups import LOCAL_ROOT
from client.sync.store.store import Store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, Stamp, SyncedNode
from coordinator.protocol.types import Kind

ROOT = RemoteId(1000)
STAMP = Stamp(1, 2, 3, 4, 5)
IDS = st.integers(2, 7)
NAMES = st.sampled_from(["a", "A", "b", "ä"])
CONTENTS = st.sampled_from([None, Content(b"x" * 32), Content(b"x" * 32, executable=True), Content(b"y" * 32)])


class Model:
    """What the store promises, the slow way."""

    def __init__(self) -> None:
        self.remote: dict[RemoteId, RemoteNode] = {ROOT: RemoteNode(ROOT, None, "", Kind.FOLDER)}
        self.local: dict[LocalId, LocalNode] = {LOCAL_ROOT: LocalNode(LOCAL_ROOT, None, "", Kind.FOLDER, STAMP)}
        self.synced: dict[RemoteId, SyncedNode] = {ROOT: SyncedNode(ROOT, LOCAL_ROOT, None, "", Kind.FOLDER)}

    def drop_remote(self, node_id: RemoteId) -> None:
        self.remote.pop(node_id, None)
        for child in [node.id for node in self.remote.values() if node.parent_id == node_id]:
            self.drop_remote(child)

    def drop_local(self, node_id: LocalId) -> None:
        self.local.pop(node_id, None)
        for child in [node.id for node in self.local.values() if node.parent_id == node_id]:
            self.drop_local(child)

    def put_synced(self, node: SyncedNode) -> None:
        self.synced = {key: pair for key, pair in self.synced.items() if pair.local_id != node.local_id}
        self.synced[node.id] = node

    def dirty_remote(self) -> list[RemoteId]:
        return [key for key in sorted({*self.remote, *self.synced}) if key != ROOT and self._remote_differs(key)]

    def _remote_differs(self, key: RemoteId) -> bool:
        remote, synced = self.remote.get(key), self.synced.get(key)
        if remote is None or remote.skipped:
            return synced is not None
        return synced is None or (
            (remote.parent_id, remote.name, remote.kind, remote.version, remote.content)
            != (synced.parent_id, synced.name, synced.kind, synced.version, synced.content)
        )

    def dirty_local(self) -> list[LocalId]:
        pairs = {pair.local_id: pair for pair in self.synced.values()}
        return [key for key in sorted({*self.local, *pairs}) if key != LOCAL_ROOT and self._local_differs(key, pairs)]

    def _local_differs(self, key: LocalId, pairs: dict[LocalId, SyncedNode]) -> bool:
        local, synced = self.local.get(key), pairs.get(key)
        if local is None or synced is None:
            return local is not None or synced is not None
        above = None if synced.parent_id is None else self.synced.get(synced.parent_id)
        parent = above.local_id if above is not None else None
        return (local.parent_id, local.name, local.kind, local.content) != (
            *(parent, synced.name, synced.kind, synced.content),
        )


def kind_of(content: Content | None) -> Kind:
    return Kind.FOLDER if content is None else Kind.FILE


def below(ids: st.SearchStrategy[int], root: int) -> st.SearchStrategy[tuple[int, int]]:
    """An id and a parent with a smaller one, or the root: never a cycle."""
    return ids.flatmap(lambda node: st.tuples(st.just(node), st.sampled_from([root, *range(2, node)])))


STEPS = st.one_of(
    st.tuples(st.just("put remote"), below(IDS, ROOT), NAMES, CONTENTS, st.integers(0, 2), st.booleans()),
    st.tuples(st.just("put local"), below(IDS, LOCAL_ROOT), NAMES, CONTENTS),
    st.tuples(st.just("put synced"), below(IDS, ROOT), NAMES, CONTENTS, st.integers(0, 2), IDS),
    st.tuples(st.just("drop remote"), IDS),
    st.tuples(st.just("drop local"), IDS),
    st.tuples(st.just("drop synced"), IDS),
    st.tuples(st.just("fail"), IDS),
)


def apply(store: Store, model: Model, step: tuple[Any, ...]) -> None:
    match step:
        case "put remote", (node, parent), name, content, version, skipped:
            remote = RemoteNode(node, parent, name, kind_of(content), version, 1, content, None, skipped)
            store.put_remote(remote)
            model.remote[remote.id] = remote
        case "put local", (node, parent), name, content:
            local = LocalNode(node, parent, name, kind_of(content), STAMP, content)
            store.put_local(local)
            model.local[local.id] = local
        case "put synced", (node, parent), name, content, version, local_id:
            pair = SyncedNode(node, local_id, parent, name, kind_of(content), version, content)
            store.put_synced(pair)
            model.put_synced(pair)
        case "drop remote", node:
            store.drop_remote(node)
            model.drop_remote(node)
        case "drop local", node:
            store.drop_local(node)
            model.drop_local(node)
        case "drop synced", node:
            store.drop_synced(node)
            model.synced.pop(node, None)


@given(st.lists(st.lists(STEPS, max_size=4), max_size=12))
def test_the_store_holds_what_the_model_holds(history: list[list[tuple[Any, ...]]]) -> None:
    store, model = Store(None), Model()
    store.set_remote_root(ROOT, STAMP)
    try:
        for batch in history:
            failing = any(step[0] == "fail" for step in batch)
            try:
                with store.transaction():
                    for step in batch:
                        if failing:
                            apply(store, Model(), step)
                        else:
                            apply(store, model, step)
                    if failing:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            compare(store, model)
    finally:
        store.close()


def compare(store: Store, model: Model) -> None:
    ids = [*range(2, 8)]
    assert {key: store.remote(key) for key in ids} == {key: model.remote.get(key) for key in ids}
    assert {key: store.local(key) for key in ids} == {key: model.local.get(key) for key in ids}
    assert {key: store.synced(key) for key in ids} == {key: model.synced.get(key) for key in ids}
    pairs = {pair.local_id: pair for pair in model.synced.values()}
    assert {key: store.synced_local(key) for key in ids} == {key: pairs.get(key) for key in ids}
    assert list(store.dirty_remote()) == model.dirty_remote()
    assert list(store.dirty_local()) == model.dirty_local()
    for parent in [ROOT, *ids]:
        children = [node for node in model.remote.values() if node.parent_id == parent]
        assert sorted(store.remote_children(parent), key=lambda node: node.id) == sorted(
            children, key=lambda node: node.id
        )
        for node in children:
            assert store.remote_child(parent, node.key) == min(
                (other for other in children if other.key == node.key), key=lambda other: other.id
            )
    for parent in [LOCAL_ROOT, *ids]:
        near = [node for node in model.local.values() if node.parent_id == parent]
        assert sorted(store.local_children(parent), key=lambda node: node.id) == sorted(near, key=lambda node: node.id)
        for own in near:
            assert store.local_named(parent, own.key) == sorted(
                (other for other in near if other.key == own.key), key=lambda other: (other.name, other.id)
            )
