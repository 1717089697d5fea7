"""Small stories for the planner's tests, told in paths: what both sides had, what each of them did, what comes of it.

scene = Scene("docs/", "docs/a.txt=x")
scene.local.edit("docs/a.txt", "y")
scene.remote.move("docs", "papers")
scene.settle()
assert scene.tree() == {"papers": None, "papers/a.txt": "y"}
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from client.sync.planner.conflicts import Naming
from client.sync.planner.plan import NOTHING, Busy, plan
from client.sync.tree import KEPT, DeleteLocal, LocalId, LocalNode, Operation, RemoteId, RemoteNode
from coordinator.protocol.types import Kind
from tests.kit.histories import mark_same_names
from tests.kit.trees import STAMP, MemoryTrees, apply, content

NAMING = Naming("Ann on laptop", "2026-11-22")
ROUNDS_MAX = 60


def copy_of(name: str, number: int = 1) -> str:
    """What a conflicted copy of `name` is called here (names with an extension only)."""
    stem, _, extension = name.rpartition(".")
    mark = "Ann on laptop's conflicted copy 2026-11-22" + (f" {number}" if number > 1 else "")
    return f"{stem} ({mark}).{extension}"


class Scene:
    """`path/` is a folder, `path=text` a file. Both sides agree on them at first; folders come before their content."""

    def __init__(self, *paths: str) -> None:
        self.trees = MemoryTrees()
        self.remote = RemoteSide(self.trees)
        self.local = LocalSide(self.trees)
        for written in paths:
            path, _, text = written.partition("=")
            self.agree(path.rstrip("/"), None if path.endswith("/") else text)

    def agree(self, path: str, text: str | None) -> None:
        self.trees.put_pair(self.remote.make(path, text), self.local.make(path, text))

    def plan(self, busy: Busy = NOTHING, *, limit: int | None = None) -> list[Operation]:
        return plan(self.trees, NAMING, busy, limit=limit)

    def settle(self, *, seed: int = 1) -> list[Operation]:
        """All that was done until nothing was left to do."""
        random = Random(seed)
        done: list[Operation] = []
        for _ in range(ROUNDS_MAX):
            planned = self.plan()
            if not planned:
                return done
            random.shuffle(planned)
            done += [operation for operation in planned if apply(self.trees, operation)]
            mark_same_names(self.trees)
        raise AssertionError(f"no end: {self.plan()}")

    def settle_until_kept(self, path: str) -> None:
        """As `settle`, where the folder at `path` on disk holds something that is not synced."""
        kept = self.local.at(path).id
        while operations := [one for one in self.plan() if not (isinstance(one, DeleteLocal) and one.local.id == kept)]:
            assert any(apply(self.trees, operation) for operation in operations)
        pair = self.trees.synced_local(kept)
        assert pair is not None
        self.trees.drop_pair(pair.id)
        self.local.hold(path, KEPT)

    def tree(self) -> dict[str, str | None]:
        """What both sides now have."""
        assert self.remote.tree() == self.local.tree()
        return self.remote.tree()


def kinds(operations: list[Operation]) -> list[str]:
    return sorted(type(operation).__name__ for operation in operations)


class RemoteSide:
    def __init__(self, trees: MemoryTrees) -> None:
        self._trees = trees

    def at(self, path: str) -> RemoteNode:
        return self._trees.remotes[self._id(path)]

    def make(self, path: str, text: str | None = None) -> RemoteNode:
        folder, _, name = path.rpartition("/")
        kind, what = (Kind.FOLDER, None) if text is None else (Kind.FILE, content(text))
        node_id = RemoteId(self._trees.new_id())
        return self._trees.put_remote(RemoteNode(node_id, self._id(folder), name, kind, 1, content=what))

    def edit(self, path: str, text: str, *, executable: bool = False) -> None:
        node = self.at(path)
        what = content(text, executable=executable)
        self._trees.put_remote(replace(node, content=what, version=node.version + 1))

    def move(self, path: str, to: str) -> None:
        folder, _, name = to.rpartition("/")
        self._trees.put_remote(replace(self.at(path), parent_id=self._id(folder), name=name))

    def delete(self, path: str) -> None:
        self._trees.drop_remote(self._id(path))

    def skip(self, path: str) -> None:
        for node in list(self._trees.remote_below(self._id(path))):
            self._trees.put_remote(replace(node, skipped=True))

    def tree(self) -> dict[str, str | None]:
        return {
            "/".join(path): found.digest.decode().rstrip() if found is not None else None
            for path, found in self._trees.remote_paths().items()
            if path
        }

    def _id(self, path: str) -> RemoteId:
        wanted = tuple(path.split("/")) if path else ()
        return next(node_id for node_id in self._trees.remotes if self._trees.remote_path(node_id) == wanted)


class LocalSide:
    def __init__(self, trees: MemoryTrees) -> None:
        self._trees = trees

    def at(self, path: str) -> LocalNode:
        return self._trees.locals[self._id(path)]

    def make(self, path: str, text: str | None = None) -> LocalNode:
        folder, _, name = path.rpartition("/")
        kind, what = (Kind.FOLDER, None) if text is None else (Kind.FILE, content(text))
        return self._trees.put_local(
            LocalNode(LocalId(self._trees.new_id()), self._id(folder), name, kind, STAMP, what),
        )

    def edit(self, path: str, text: str, *, executable: bool = False) -> None:
        self._trees.put_local(replace(self.at(path), content=content(text, executable=executable)))

    def move(self, path: str, to: str) -> None:
        folder, _, name = to.rpartition("/")
        self._trees.put_local(replace(self.at(path), parent_id=self._id(folder), name=name))

    def delete(self, path: str) -> None:
        self._trees.drop_local(self._id(path))

    def hold(self, path: str, problem: str | None = "it cannot be read") -> None:
        self._trees.put_local(replace(self.at(path), problem=problem))

    def tree(self) -> dict[str, str | None]:
        return {
            "/".join(path): found.digest.decode().rstrip() if found is not None else None
            for path, found in self._trees.local_paths().items()
            if path
        }

    def _id(self, path: str) -> LocalId:
        wanted = tuple(path.split("/")) if path else ()
        return next(node_id for node_id in self._trees.locals if self._trees.local_path(node_id) == wanted)
