"""The three trees in memory, and a model of carrying operations out on them.

`MemoryTrees` answers the look-ups of `client.sync.tree.Trees`; its dirty sets are computed, never stored, so that they
cannot be wrong. `apply` does to the trees what the service and the disk would: each operation checks again what it
expects to find, the service refuses a taken name key, a circle and a delete of what changed, the disk a taken name, a
move of a folder into itself and the removal of a folder that is not empty. What is refused changes nothing. It asserts
that no operation loses an edit or something that this device never had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from client.sync.tree import (
    Content,
    DeleteLocal,
    DeleteRemote,
    Download,
    Forget,
    LocalId,
    LocalNode,
    MakeLocalFolder,
    MakeRemoteFolder,
    MoveLocal,
    MoveRemote,
    Operation,
    Record,
    RemoteId,
    RemoteNode,
    Stamp,
    SyncedNode,
    Upload,
)
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

REMOTE_ROOT = RemoteId(1)
LOCAL_ROOT = LocalId(1)
STAMP = Stamp(0, 0, 0, 0, 0)


def content(text: str, *, executable: bool = False) -> Content:
    """A content that a person can tell in a failing test's output, as long as a hash."""
    return Content(text.encode().ljust(32), executable)


@dataclass
class MemoryTrees:
    """`only_remote` and `only_local`, when given, say which of the dirty nodes the planner gets to see."""

    remotes: dict[RemoteId, RemoteNode] = field(default_factory=dict)
    locals: dict[LocalId, LocalNode] = field(default_factory=dict)
    pairs: dict[RemoteId, SyncedNode] = field(default_factory=dict)
    remote_root: RemoteId = REMOTE_ROOT
    local_root: LocalId = LOCAL_ROOT
    last_id: int = 1000
    only_remote: Callable[[RemoteId], bool] | None = None
    only_local: Callable[[LocalId], bool] | None = None

    def __post_init__(self) -> None:
        self.remotes.setdefault(REMOTE_ROOT, RemoteNode(REMOTE_ROOT, None, "", Kind.FOLDER))
        self.locals.setdefault(LOCAL_ROOT, LocalNode(LOCAL_ROOT, None, "", Kind.FOLDER, STAMP))
        self.pairs.setdefault(REMOTE_ROOT, SyncedNode(REMOTE_ROOT, LOCAL_ROOT, None, "", Kind.FOLDER))

    def copy(self) -> MemoryTrees:
        return replace(self, remotes=dict(self.remotes), locals=dict(self.locals), pairs=dict(self.pairs))

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    # --- Trees --------------------------------------------------------------------------------------------------

    def remote(self, node_id: RemoteId) -> RemoteNode | None:
        return self.remotes.get(node_id)

    def remote_child(self, parent_id: RemoteId, key: str) -> RemoteNode | None:
        return next((node for node in self.remote_children(parent_id) if node.key == key), None)

    def remote_children(self, parent_id: RemoteId) -> list[RemoteNode]:
        return sorted((node for node in self.remotes.values() if node.parent_id == parent_id), key=lambda n: n.key)

    def local(self, node_id: LocalId) -> LocalNode | None:
        return self.locals.get(node_id)

    def local_named(self, parent_id: LocalId, key: str) -> list[LocalNode]:
        return [node for node in self.local_children(parent_id) if node.key == key]

    def local_children(self, parent_id: LocalId) -> list[LocalNode]:
        return sorted((node for node in self.locals.values() if node.parent_id == parent_id), key=lambda n: n.name)

    def synced(self, node_id: RemoteId) -> SyncedNode | None:
        return self.pairs.get(node_id)

    def synced_local(self, node_id: LocalId) -> SyncedNode | None:
        return next((pair for pair in self.pairs.values() if pair.local_id == node_id), None)

    def dirty_remote(self) -> list[RemoteId]:
        dirty = {node_id for node_id in self.remotes.keys() | self.pairs.keys() if self._differs_remotely(node_id)}
        return sorted(node_id for node_id in dirty if self.only_remote is None or self.only_remote(node_id))

    def dirty_local(self) -> list[LocalId]:
        known = self.locals.keys() | {pair.local_id for pair in self.pairs.values()}
        dirty = {node_id for node_id in known if self._differs_locally(node_id)}
        return sorted(node_id for node_id in dirty if self.only_local is None or self.only_local(node_id))

    def _differs_remotely(self, node_id: RemoteId) -> bool:
        remote, pair = self.remotes.get(node_id), self.pairs.get(node_id)
        if remote is None or remote.skipped:
            return pair is not None
        return pair is None or (remote.parent_id, remote.name, remote.kind, remote.version, remote.content) != (
            *(pair.parent_id, pair.name, pair.kind, pair.version, pair.content),
        )

    def _differs_locally(self, node_id: LocalId) -> bool:
        local, pair = self.locals.get(node_id), self.synced_local(node_id)
        if local is None or pair is None:
            return local is not None or pair is not None
        above = self.pairs.get(pair.parent_id) if pair.parent_id is not None else None
        return (local.parent_id, local.name, local.kind, local.content) != (
            *(above.local_id if above else None, pair.name, pair.kind, pair.content),
        )

    # --- what happens to the trees from outside ---------------------------------------------------------------------

    def put_remote(self, node: RemoteNode) -> RemoteNode:
        self.remotes[node.id] = node
        return node

    def put_local(self, node: LocalNode) -> LocalNode:
        self.locals[node.id] = node
        return node

    def put_pair(self, remote: RemoteNode, local: LocalNode) -> None:
        self.pairs = {key: pair for key, pair in self.pairs.items() if pair.local_id != local.id}
        self.pairs[remote.id] = SyncedNode(
            *(remote.id, local.id, remote.parent_id, remote.name, remote.kind, remote.version, remote.content),
        )

    def drop_remote(self, node_id: RemoteId) -> None:
        for node in list(self.remote_below(node_id)):
            del self.remotes[node.id]

    def drop_local(self, node_id: LocalId) -> None:
        for node in list(self.local_below(node_id)):
            del self.locals[node.id]

    def drop_pair(self, node_id: RemoteId) -> None:
        del self.pairs[node_id]

    # --- paths ------------------------------------------------------------------------------------------------------

    def remote_below(self, node_id: RemoteId) -> Iterator[RemoteNode]:
        """The node, then everything below it."""
        yield self.remotes[node_id]
        for child in self.remote_children(node_id):
            yield from self.remote_below(child.id)

    def local_below(self, node_id: LocalId) -> Iterator[LocalNode]:
        yield self.locals[node_id]
        for child in self.local_children(node_id):
            yield from self.local_below(child.id)

    def remote_path(self, node_id: RemoteId) -> tuple[str, ...]:
        return _path(self.remotes, node_id)

    def local_path(self, node_id: LocalId) -> tuple[str, ...]:
        return _path(self.locals, node_id)

    def remote_paths(self) -> dict[tuple[str, ...], Content | None]:
        return {self.remote_path(node.id): node.content for node in self.remotes.values()}

    def local_paths(self) -> dict[tuple[str, ...], Content | None]:
        return {self.local_path(node.id): node.content for node in self.locals.values()}


def _path(nodes: dict[Any, RemoteNode] | dict[Any, LocalNode], node_id: RemoteId | LocalId) -> tuple[str, ...]:
    """Raises AssertionError where there is an orphan or a circle."""
    names: list[str] = []
    at = nodes.get(node_id)
    while at is not None and at.parent_id is not None:
        names.append(at.name)
        assert len(names) <= len(nodes), "a circle"
        at = nodes.get(at.parent_id)
    assert at is not None, "an orphan"
    return tuple(reversed(names))


# --- carrying out -----------------------------------------------------------------------------------------------------


def apply_all(trees: MemoryTrees, planned: Iterable[Operation]) -> list[Operation]:
    """Carries them out one after the other; the ones that were refused."""
    return [operation for operation in planned if not apply(trees, operation)]


def apply(trees: MemoryTrees, operation: Operation, *, noted: bool = True, seen: MemoryTrees | None = None) -> bool:
    """Whether it was done. `noted` False: a crash came before the synced node was written. `seen`: the trees that the
    plan was made from, where they have changed since."""
    before = dict(trees.pairs)
    done = _carry_out(trees, operation, seen or trees)
    if done and not noted and not isinstance(operation, Record | Forget):
        trees.pairs = {key: pair for key, pair in before.items() if key in trees.pairs}
    return done


def _carry_out(trees: MemoryTrees, operation: Operation, seen: MemoryTrees) -> bool:
    match operation:
        case MakeRemoteFolder(local, parent_id):
            return _make_remote(trees, local, parent_id, local.name)
        case Upload(local, parent_id, name, base):
            return _upload(trees, local, parent_id, name, base)
        case MoveRemote(remote, parent_id, name):
            return _move_remote(trees, remote, parent_id, name)
        case DeleteRemote(remote):
            return _delete_remote(trees, remote, seen)
        case MakeLocalFolder(remote, parent_id):
            return _make_local(trees, remote, parent_id, remote.name)
        case Download(remote, parent_id, name, None):
            return _make_local(trees, remote, parent_id, name)
        case Download(remote, _, _, LocalNode() as replaced):
            return _replace_local(trees, remote, replaced, seen)
        case MoveLocal(local, parent_id, name, detach):
            return _move_local(trees, local, parent_id, name, detach=detach)
        case DeleteLocal(local):
            return _delete_local(trees, local)
        case Record(pair):
            return _record(trees, pair)
        case Forget(pair):
            if trees.pairs.get(pair.id) != pair:
                return False
            trees.drop_pair(pair.id)
            return True
        case _:
            raise AssertionError(operation)


def _make_remote(trees: MemoryTrees, local: LocalNode, parent_id: RemoteId, name: str) -> bool:
    if not _is_there(trees.locals, local) or not _takes_remote(trees, parent_id, name):
        return False
    version = 0 if local.kind is Kind.FOLDER else 1
    node_id = RemoteId(trees.new_id())
    made = trees.put_remote(RemoteNode(node_id, parent_id, name, local.kind, version, content=local.content))
    trees.put_pair(made, local)
    return True


def _upload(trees: MemoryTrees, local: LocalNode, parent_id: RemoteId, name: str, base: RemoteNode | None) -> bool:
    if base is None:
        return _make_remote(trees, local, parent_id, name)
    if not _is_there(trees.locals, local) or not _is_there(trees.remotes, base):
        return False
    pair = trees.pairs[base.id]
    assert base.content == pair.content, f"{base} would be overwritten with an edit in it"
    stored = trees.put_remote(replace(base, version=base.version + 1, content=local.content))
    trees.pairs[base.id] = replace(pair, version=stored.version, content=stored.content)
    return True


def _move_remote(trees: MemoryTrees, remote: RemoteNode, parent_id: RemoteId, name: str) -> bool:
    if not _is_there(trees.remotes, remote) or not _takes_remote(trees, parent_id, name, remote.id):
        return False
    if any(node.id == parent_id for node in trees.remote_below(remote.id)):
        return False
    trees.put_remote(replace(remote, parent_id=parent_id, name=name))
    return True


def _delete_remote(trees: MemoryTrees, remote: RemoteNode, seen: MemoryTrees) -> bool:
    if not _is_there(trees.remotes, remote):
        return False
    below = list(seen.remote_below(remote.id))
    for node in below:
        pair = seen.pairs.get(node.id)
        assert pair is not None, f"{node} would be deleted, which this device never had"
        assert pair.local_id not in seen.locals, f"{node} would be deleted, but is on this disk"
        assert pair.content == node.content, f"{node} would be deleted with an edit in it"
        assert not node.skipped
    if list(trees.remote_below(remote.id)) != below:
        return False  # the service refuses when something in it changed
    trees.drop_remote(remote.id)
    return True


def _make_local(trees: MemoryTrees, remote: RemoteNode, parent_id: LocalId, name: str) -> bool:
    if not _is_there(trees.remotes, remote) or not _takes_local(trees, parent_id, name):
        return False
    made = LocalNode(LocalId(trees.new_id()), parent_id, name, remote.kind, STAMP, content=remote.content)
    trees.put_pair(remote, trees.put_local(made))
    return True


def _replace_local(trees: MemoryTrees, remote: RemoteNode, old: LocalNode, seen: MemoryTrees) -> bool:
    if not _is_there(trees.remotes, remote) or not _is_there(trees.locals, old):
        return False
    pair = trees.pairs.get(remote.id)
    kept = any(node.content == old.content for node in seen.remotes.values())
    agreed = pair is not None and old.content == pair.content
    assert agreed or kept, f"{old} would be overwritten with an edit in it"
    placed = trees.put_local(replace(old, content=remote.content))
    if pair is None:
        trees.put_pair(remote, placed)
    else:
        trees.pairs[remote.id] = replace(pair, version=remote.version, content=remote.content)
    return True


def _move_local(trees: MemoryTrees, local: LocalNode, parent_id: LocalId, name: str, *, detach: bool) -> bool:
    if not _is_there(trees.locals, local):
        return False
    if detach and (pair := trees.synced_local(local.id)) is not None:
        trees.drop_pair(pair.id)  # durably before the move, so it stays done when the move is refused
    if not _takes_local(trees, parent_id, name, local.id):
        return False
    if any(node.id == parent_id for node in trees.local_below(local.id)):
        return False
    trees.put_local(replace(local, parent_id=parent_id, name=name))
    return True


def _delete_local(trees: MemoryTrees, local: LocalNode) -> bool:
    if not _is_there(trees.locals, local) or trees.local_children(local.id):
        return False
    pair = trees.synced_local(local.id)
    assert pair is not None, f"{local} would be deleted, which the service never had"
    assert pair.content == local.content, f"{local} would be deleted with an edit in it"
    del trees.locals[local.id]
    return True


def _record(trees: MemoryTrees, pair: SyncedNode) -> bool:
    remote, local = trees.remotes.get(pair.id), trees.locals.get(pair.local_id)
    if remote is None or local is None:
        return False
    folder = trees.pairs.get(pair.parent_id) if pair.parent_id is not None else None
    if folder is None or (folder.local_id, pair.name, pair.content) != (local.parent_id, local.name, local.content):
        return False
    trees.put_pair(remote, trees.put_local(replace(local, problem=None)))
    return trees.pairs[pair.id] == pair


def _is_there(nodes: dict[Any, RemoteNode] | dict[Any, LocalNode], node: RemoteNode | LocalNode) -> bool:
    return nodes.get(node.id) == node


def _takes_remote(trees: MemoryTrees, parent_id: RemoteId, name: str, mover: RemoteId | None = None) -> bool:
    """The service: there is such a folder, and nothing else in it has the name's key."""
    folder = trees.remotes.get(parent_id)
    taken = trees.remote_child(parent_id, name_key(name))
    return folder is not None and folder.kind is Kind.FOLDER and (taken is None or taken.id == mover)


def _takes_local(trees: MemoryTrees, parent_id: LocalId, name: str, mover: LocalId | None = None) -> bool:
    """The disk: there is such a folder, and nothing else in it has exactly this name."""
    folder = trees.locals.get(parent_id)
    taken = next((node for node in trees.local_children(parent_id) if node.name == name), None)
    return folder is not None and folder.kind is Kind.FOLDER and (taken is None or taken.id == mover)
