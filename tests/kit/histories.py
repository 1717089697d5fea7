"""Random histories for the planner: one tree that both sides agreed on, then changes on each side.

A history is data (small numbers, so hypothesis can shrink it); `build` plays it. An action that makes no sense where it
is played (a move into itself, a taken name) does nothing. The names hold pairs that are one name to the service (case,
composed and decomposed accents), and there are few contents, so that equal files meet.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind
from tests.kit.trees import LOCAL_ROOT, REMOTE_ROOT, STAMP, MemoryTrees, content

NAMES: Final = ("a", "b", "A", "c.txt", "\u00e9", "e\u0301", "CON", "a (Bo on pc's conflicted copy 2026-01-01)")
CONTENTS: Final = tuple(content(text) for text in "xyz")
SAME_NAME: Final = "another file has the same name"
UNREADABLE: Final = "it cannot be read"

PLAIN: Final = ("edit", "touch", "create", "create_folder", "delete")
MOVES: Final = ("move", "rename", "swap", "retype", "respell", "invert")
ACTIONS: Final = (*PLAIN, *MOVES, "executable")
OBSTACLES: Final = ("hold",)


class Action(NamedTuple):
    """`node`, `folder`, `name` and `content` choose among what there is when it is played."""

    what: str
    node: int
    folder: int
    name: int
    content: int


@dataclass(frozen=True)
class History:
    """`before`: creations that both sides have seen. `forgotten`: pairs that the database lost."""

    before: Sequence[Action]
    remote: Sequence[Action]
    local: Sequence[Action]
    forgotten: Sequence[int] = ()


def decode(data: bytes, kinds: Sequence[str], names: int = len(NAMES)) -> list[Action]:
    """Five bytes an action: what hypothesis draws quickest, and shrinks by leaving bytes out."""
    chunks = (data[at : at + 5] for at in range(0, len(data) - 4, 5))
    return [
        Action(kinds[what % len(kinds)], node, folder, name % names, last % 6)
        for what, node, folder, name, last in chunks
    ]


def build(history: History) -> MemoryTrees:
    trees = MemoryTrees()
    for action in history.before:
        _create_on_both(trees, action)
    for action in history.remote:
        RemoteSide(trees).play(action)
    for action in history.local:
        LocalSide(trees).play(action)
    for number in history.forgotten:
        candidates = sorted(trees.pairs.keys() - {REMOTE_ROOT})
        if candidates:
            trees.drop_pair(candidates[number % len(candidates)])
    mark_same_names(trees)
    return trees


def mark_same_names(trees: MemoryTrees) -> None:
    """As the scan does: of several names that are one to the service, the first is synced."""
    for node in list(trees.locals.values()):
        if node.parent_id is None or node.problem == UNREADABLE or node.is_kept:
            continue
        first = trees.local_named(node.parent_id, node.key)[0]
        trees.put_local(replace(node, problem=None if first.id == node.id else SAME_NAME))


def lift_obstacles(trees: MemoryTrees) -> None:
    """The person helps: whatever could not be synced now can be."""
    for remote in list(trees.remotes.values()):
        trees.put_remote(replace(remote, skipped=False))
    for local in list(trees.locals.values()):
        trees.put_local(replace(local, problem=None))
    mark_same_names(trees)
    for local in [node for node in trees.locals.values() if node.problem is not None]:
        trees.put_local(replace(local, name=f"{local.name} renamed {local.id}", problem=None))


def _create_on_both(trees: MemoryTrees, action: Action) -> None:
    folders = [node for node in trees.remotes.values() if node.kind is Kind.FOLDER]
    parent = folders[action.folder % len(folders)]
    name = NAMES[action.name % len(NAMES)]
    if trees.remote_child(parent.id, name_key(name)) is not None:
        return
    kind, what = (Kind.FOLDER, None) if action.what == "create_folder" else (Kind.FILE, _content(action.content))
    remote = trees.put_remote(RemoteNode(RemoteId(trees.new_id()), parent.id, name, kind, 1, content=what))
    local_parent = trees.pairs[parent.id].local_id
    local = trees.put_local(LocalNode(LocalId(trees.new_id()), local_parent, name, kind, STAMP, content=what))
    trees.put_pair(remote, local)


def _content(number: int) -> Content:
    """A few that are met often, and any number that are met once."""
    return CONTENTS[number] if number < len(CONTENTS) else content(f"only {number}")


class Side(ABC):
    """One side's changes, in terms of its own nodes and ids: `Any` here, exact in the two subclasses."""

    def __init__(self, trees: MemoryTrees) -> None:
        self.trees = trees

    @abstractmethod
    def nodes(self) -> list[Any]: ...

    @abstractmethod
    def make(self, parent_id: Any, name: str, what: Content | None) -> None: ...

    @abstractmethod
    def is_free(self, parent_id: Any, name: str, mover: Any) -> bool: ...

    @abstractmethod
    def holds(self, node: Any, other: Any) -> bool:
        """Whether `other` is it or below it."""

    @abstractmethod
    def edit(self, node: Any, what: Content) -> None: ...

    @abstractmethod
    def drop(self, node: Any) -> None: ...

    @abstractmethod
    def place(self, node: Any, parent_id: Any, name: str) -> None: ...

    @abstractmethod
    def above(self, node: Any) -> Any:
        """Its folder, unless that is the root."""

    @abstractmethod
    def clear(self, parent_id: Any, keeper: Any) -> None:
        """Drop what has the keeper's name in the folder."""

    @abstractmethod
    def hold(self, node: Any) -> None:
        """Make it a node that the planner leaves alone."""

    def play(self, action: Action) -> None:
        nodes = [node for node in self.nodes() if node.parent_id is not None]
        folders = [node for node in self.nodes() if node.kind is Kind.FOLDER]
        folder = folders[action.folder % len(folders)]
        name = NAMES[action.name % len(NAMES)]
        if action.what in ("create", "create_folder"):
            self.make(folder.id, name, None if action.what == "create_folder" else _content(action.content))
        elif nodes:
            self._change(action, nodes[action.node % len(nodes)], folder, name, nodes)

    def _change(self, action: Action, node: Any, folder: Any, name: str, nodes: list[Any]) -> None:
        other = nodes[action.folder % len(nodes)]
        match action.what:
            case "edit" if node.kind is Kind.FILE:
                self.edit(node, _content(action.content))
            case "touch" if node.kind is Kind.FILE:
                self.edit(node, node.content)
            case "executable" if node.kind is Kind.FILE:
                self.edit(node, replace(node.content, executable=not node.content.executable))
            case "delete":
                self.drop(node)
            case "move":
                self.put_at(node, folder.id, node.name)
            case "rename":
                self.put_at(node, node.parent_id, name)
            case "respell":
                self.put_at(node, node.parent_id, _respelled(node.name))
            case "retype":
                self.drop(node)
                self.make(node.parent_id, node.name, None if node.kind is Kind.FILE else _content(action.content))
            case "swap" if not self.holds(node, other.id) and not self.holds(other, node.id):
                place, name = other.parent_id, other.name
                self.place(other, node.parent_id, node.name)
                self.place(node, place, name)
            case "invert" if node.kind is Kind.FOLDER and self.above(node) is not None:
                above = self.above(node)
                self.place(node, above.parent_id, above.name)
                self.place(above, node.id, node.name)
                self.clear(node.id, above)
            case "hold":
                self.hold(node)

    def put_at(self, node: Any, parent_id: Any, name: str) -> None:
        if not self.holds(node, parent_id) and self.is_free(parent_id, name, node.id):
            self.place(node, parent_id, name)


def _respelled(name: str) -> str:
    """Another spelling of the same name: the accent composed or not, else the case."""
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for form in forms:
        if (other := unicodedata.normalize(form, name)) != name:
            return other
    return name.swapcase()


class RemoteSide(Side):
    def nodes(self) -> list[RemoteNode]:
        return list(self.trees.remotes.values())

    def make(self, parent_id: RemoteId, name: str, what: Content | None) -> None:
        if not self.is_free(parent_id, name, None):
            return
        kind = Kind.FOLDER if what is None else Kind.FILE
        skipped = self.trees.remotes[parent_id].skipped
        node_id = RemoteId(self.trees.new_id())
        self.trees.put_remote(RemoteNode(node_id, parent_id, name, kind, 1, content=what, skipped=skipped))

    def is_free(self, parent_id: RemoteId, name: str, mover: RemoteId | None) -> bool:
        taken = self.trees.remote_child(parent_id, name_key(name))
        return taken is None or taken.id == mover

    def holds(self, node: RemoteNode, other: RemoteId) -> bool:
        return any(below.id == other for below in self.trees.remote_below(node.id))

    def edit(self, node: RemoteNode, what: Content) -> None:
        self.trees.put_remote(replace(node, content=what, version=node.version + 1))

    def drop(self, node: RemoteNode) -> None:
        self.trees.drop_remote(node.id)

    def place(self, node: RemoteNode, parent_id: RemoteId, name: str) -> None:
        self.trees.put_remote(replace(node, parent_id=parent_id, name=name))
        if self.trees.remotes[parent_id].skipped:
            self.hold(node)

    def above(self, node: RemoteNode) -> RemoteNode | None:
        return None if node.parent_id in (None, REMOTE_ROOT) else self.trees.remotes[node.parent_id]

    def clear(self, parent_id: RemoteId, keeper: RemoteNode) -> None:
        for child in self.trees.remote_children(parent_id):
            if child.key == name_key(self.trees.remotes[keeper.id].name) and child.id != keeper.id:
                self.trees.drop_remote(child.id)

    def hold(self, node: RemoteNode) -> None:
        for below in list(self.trees.remote_below(node.id)):
            self.trees.put_remote(replace(below, skipped=True))


class LocalSide(Side):
    def nodes(self) -> list[LocalNode]:
        return list(self.trees.locals.values())

    def make(self, parent_id: LocalId, name: str, what: Content | None) -> None:
        if self.is_free(parent_id, name, None):
            kind = Kind.FOLDER if what is None else Kind.FILE
            self.trees.put_local(LocalNode(LocalId(self.trees.new_id()), parent_id, name, kind, STAMP, what))

    def is_free(self, parent_id: LocalId, name: str, mover: LocalId | None) -> bool:
        return all(child.name != name or child.id == mover for child in self.trees.local_children(parent_id))

    def holds(self, node: LocalNode, other: LocalId) -> bool:
        return any(below.id == other for below in self.trees.local_below(node.id))

    def edit(self, node: LocalNode, what: Content) -> None:
        self.trees.put_local(replace(node, content=what))

    def drop(self, node: LocalNode) -> None:
        self.trees.drop_local(node.id)

    def place(self, node: LocalNode, parent_id: LocalId, name: str) -> None:
        self.trees.put_local(replace(node, parent_id=parent_id, name=name))

    def above(self, node: LocalNode) -> LocalNode | None:
        return None if node.parent_id in (None, LOCAL_ROOT) else self.trees.locals[node.parent_id]

    def clear(self, parent_id: LocalId, keeper: LocalNode) -> None:
        for child in self.trees.local_children(parent_id):
            if child.name == self.trees.locals[keeper.id].name and child.id != keeper.id:
                self.trees.drop_local(child.id)

    def hold(self, node: LocalNode) -> None:
        self.trees.put_local(replace(node, problem=UNREADABLE))
