"""What is told to people: conflicted copies, why a path is not synced, the last errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from client.sync.store.database import Database

CONFLICTS_KEPT: Final = 1000
FAILURES_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class ConflictRow:
    path: str
    copy_path: str
    at: float


@dataclass(frozen=True, slots=True)
class FailureRow:
    at: float
    path: str | None
    message: str


class Told:
    """Belongs to the control thread. Paths are relative to the folder, as people read them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_conflict(self, path: str, copy_path: str, at: float) -> None:
        """The last CONFLICTS_KEPT are known."""
        self.drop_conflicts([copy_path])  # an earlier copy of this name
        self._database.write("INSERT INTO conflict (path, copy_path, at) VALUES (?, ?, ?)", (path, copy_path, at))
        self._database.write("DELETE FROM conflict WHERE id <= (SELECT max(id) FROM conflict) - ?", (CONFLICTS_KEPT,))

    def drop_conflicts(self, copy_paths: Iterable[str]) -> None:
        self._database.write_many("DELETE FROM conflict WHERE copy_path = ?", ((path,) for path in copy_paths))

    def conflicts(self) -> list[ConflictRow]:
        """Oldest first, also of copies that are gone by now."""
        return [
            ConflictRow(*row) for row in self._database.rows("SELECT path, copy_path, at FROM conflict ORDER BY id")
        ]

    def set_problem(self, path: str, reason: str | None, source: str) -> None:
        """`source` is which part of the client says so and may take it back: with `reason` None."""
        if reason is None:
            self._database.write("DELETE FROM problem WHERE path = ? AND source = ?", (path, source))
        else:
            self._database.write(
                "INSERT OR REPLACE INTO problem (path, reason, source) VALUES (?, ?, ?)", (path, reason, source)
            )

    def drop_problems(self, source: str) -> None:
        self._database.write("DELETE FROM problem WHERE source = ?", (source,))

    def drop_problems_in(self, folder: str, source: str) -> None:
        """Of the entries that lie directly in the folder ("" is the root)."""
        prefix = folder + "/" if folder else ""
        found = self._database.rows(
            "SELECT path FROM problem WHERE source = ? AND path >= ? AND path < ?",
            (source, prefix, prefix + "\U0010ffff"),
        )
        self._database.write_many(
            "DELETE FROM problem WHERE path = ? AND source = ?",
            ((path, source) for (path,) in found if "/" not in path[len(prefix) :]),
        )

    def problems(self, limit: int = 1000) -> list[tuple[str, str]]:
        """(path, reason), by path."""
        found = self._database.rows("SELECT path, reason FROM problem ORDER BY path LIMIT ?", (limit,))
        return [(path, reason) for path, reason in found]

    def add_failure(self, at: float, path: str | None, message: str) -> None:
        """Into the list of the last errors."""
        self._database.write("INSERT INTO failure (at, path, message) VALUES (?, ?, ?)", (at, path, message))
        self._database.write("DELETE FROM failure WHERE id <= (SELECT max(id) FROM failure) - ?", (FAILURES_KEPT,))

    def failures(self, limit: int = 10) -> list[FailureRow]:
        """Newest first."""
        found = self._database.rows("SELECT at, path, message FROM failure ORDER BY id DESC LIMIT ?", (limit,))
        return [FailureRow(*row) for row in found]
