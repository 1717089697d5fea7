"""The rules of what is left out, while they change: the ignore file is synced like any other, and may be edited.

Guarantees: nothing is planned with other rules than both sides were looked at with.
Does not: read them (`load`, in a worker), apply them (unselect.py, the scans, RemoteSide).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from client.fs.base import FileSystem
from client.sync.engine.unselect import take_up
from client.sync.local.disk import Disk
from client.sync.local.ignore import IGNORE_FILE
from client.sync.local.selection import Selection
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.workers import Result, Workers


@dataclass
class Rules:
    """`load` None: they never change. `_digest` is the ignore file that was loaded last, `_seen` what both sides were
    last looked at with."""

    store: Store
    fs: FileSystem
    disk: Disk
    remote: RemoteSide
    workers: Workers
    load: Callable[[], Selection] | None
    on_change: Callable[[], None]
    _digest: bytes | None = field(init=False)
    _loading: bool = False
    _wanted: bool = False
    _seen: Selection | None = None

    def __post_init__(self) -> None:
        self._digest = self._current()

    def reload(self) -> None:
        """What is left out was chosen anew."""
        self._wanted = True
        self.on_change()

    def check(self) -> bool:
        """Load them when the ignore file is another one than was loaded. Whether the trees are what they say."""
        digest = self._current()
        if self.load is not None and not self._loading and (digest != self._digest or self._wanted):
            self._loading, self._wanted = True, False
            self.workers.submit(self.load, partial(self._loaded, digest))
        if self._loading or (self.disk.is_scanning_all and self.disk.selection is not self._seen):
            return False
        self._seen = self.disk.selection
        return True

    def _current(self) -> bytes | None:
        node = self.store.local_at((IGNORE_FILE,))
        return None if node is None or node.content is None else node.content.digest

    def _loaded(self, digest: bytes | None, result: Result[Selection]) -> None:
        self._loading = False
        self._digest = digest
        selection = result.get()
        self.disk.selection = selection
        take_up(self.store, self.fs, self.remote, selection)
        self.disk.want_all()
        self.on_change()
