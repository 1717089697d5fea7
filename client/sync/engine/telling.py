"""What a person is told of the trees: conflicted copies that are still there, and what waits for what is not synced.

Guarantees: looked up only when something has changed; what is over is forgotten when both sides come to rest.
Does not: tell failures (failures.py), or what a scan cannot sync (local/disk.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from client.fs.base import Path
from client.sync.local.disk import shown
from client.sync.planner.conflicts import Naming
from client.sync.planner.merge import Node
from client.sync.planner.plan import held
from client.sync.store.store import Store

SOURCE: Final = "names"  # of the problems that this module tells


@dataclass
class Telling:
    """`_conflicts` None: to be looked up; `_waiting` None: nothing was told since the start."""

    store: Store
    naming: Callable[[], Naming]
    _conflicts: list[tuple[str, str]] | None = None
    _waiting: dict[str, str] | None = None

    def note_change(self) -> None:
        self._conflicts = None

    def conflicts(self) -> list[tuple[str, str]]:
        """(path, copy) of the conflicted copies that are still there."""
        if self._conflicts is None:
            self._conflicts, _ = self._look_for_copies()
        return self._conflicts

    def come_to_rest(self) -> None:
        self._tell_waiting()
        self._conflicts, gone = self._look_for_copies()
        if gone:
            with self.store.transaction():
                self.store.told.drop_conflicts(gone)

    def _look_for_copies(self) -> tuple[list[tuple[str, str]], list[str]]:
        """The conflicts whose copies are there, and the copies that are not."""
        there, gone = [], []
        for row in self.store.told.conflicts():
            if self.store.local_at(tuple(row.copy_path.split("/"))) is not None:
                there.append((row.path, row.copy_path))
            else:
                gone.append(row.copy_path)
        return there, gone

    def _tell_waiting(self) -> None:
        waiting = {}
        for node, end in held(self.store, self.naming()):
            path, other = self._path(node), self._path(end)
            if path is not None and other is not None:
                waiting[shown(path)] = _waits(node, end, shown(other))
        if waiting != self._waiting:
            with self.store.transaction():
                self.store.told.drop_problems(SOURCE)
                for told, reason in waiting.items():
                    self.store.told.set_problem(told, reason, SOURCE)
            self._waiting = waiting

    def _path(self, node: Node) -> Path | None:
        """Where a person finds it: here, or else in the service."""
        if node.local is not None:
            return self.store.local_path(node.local.id)
        return None if node.remote is None else self.store.remote_path(node.remote.id)


def _waits(node: Node, end: Node, path: str) -> str:
    if end.remote is not None and end.remote.skipped and end.local is None:
        if node.local is not None and node.local.key == end.remote.key:
            return f"the service has {end.remote.name} in its place, which is not synced to this computer"
        return f"it waits for {path}, which is not synced to this computer"
    return f"it waits for {path}, which cannot be synced now"
