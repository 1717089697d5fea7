"""What is left out, while it changes: the rules of the ignore file, which is synced like any other and may be edited,
and the person's choice.

Guarantees: nothing is planned with another selection than both sides were looked at with. An ignore file that cannot be
read changes nothing: what was read last holds, and it is told and tried again. What is being removed from the disk is
never met as new: another selection is taken up when the removal has stopped.
Does not: apply them (the scans, RemoteSide, unselect.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from client.errors import LocalTrouble
from client.fs.base import FileSystem
from client.sync.engine import unselect
from client.sync.engine.unselect import Removal
from client.sync.local.disk import Disk
from client.sync.local.ignore import IGNORE_FILE
from client.sync.local.selection import Selection
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.workers import Result, Workers
from node.base.clock import Clock

BYTES_MAX: Final = 1 << 20
RETRY_S: Final = 10.0
SOURCE: Final = "rules"  # of the problems that this module tells
_NO_FILE: Final = (errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENOTDIR)  # a folder or a link is none


class RulesUnreadable(LocalTrouble):
    """Without its rules, what the ignore file leaves out would be sent."""


@dataclass
class Rules:
    """`load` None: they never change. `_digest` is the ignore file that was loaded last, `_seen` what both sides were
    last looked at with. `_removal` is what is leaving the disk, `_next` the selection that waits for it to stop."""

    store: Store
    fs: FileSystem
    disk: Disk
    remote: RemoteSide
    workers: Workers
    clock: Clock
    load: Callable[[], Selection] | None
    on_change: Callable[[], None]
    _digest: bytes | None = field(init=False)
    _loading: bool = False
    _wanted: bool = False
    _retry_at: float | None = None
    _next: Selection | None = None
    _removal: Removal | None = None
    _seen: Selection | None = None

    def __post_init__(self) -> None:
        self._digest = self._current()
        self._take_up(self.disk.selection)

    def reload(self) -> None:
        """What is left out was chosen anew, or the ignore file could not be read the last time."""
        self._wanted = True
        self.on_change()

    def check(self) -> bool:
        """Load them when that is due. Whether the trees are what they say."""
        digest = self._current()
        due = self._retry_at is not None and self._retry_at <= self.clock.monotonic()
        if self.load is not None and not self._is_changing and (digest != self._digest or self._wanted or due):
            self._loading, self._wanted, self._retry_at = True, False, None
            self.workers.submit(self.load, partial(self._loaded, digest))
        if self._is_changing or (self.disk.is_scanning_all and self.disk.selection is not self._seen):
            return False
        self._seen = self.disk.selection
        return True

    @property
    def next_due(self) -> float | None:
        return self._retry_at

    @property
    def is_removing(self) -> bool:
        return self._removal is not None

    @property
    def _is_changing(self) -> bool:
        return self._loading or self._next is not None

    def _current(self) -> bytes | None:
        node = self.store.local_at((IGNORE_FILE,))
        return None if node is None or node.content is None else node.content.digest

    def _loaded(self, digest: bytes | None, result: Result[Selection]) -> None:
        self._loading, self._digest = False, digest
        try:
            selection = result.get()
        except RulesUnreadable as error:
            self._retry_at = self.clock.monotonic() + RETRY_S
            self._tell(f"{error.facts['reason']}; until it can be read, the rules that were read last hold")
        else:
            self._next = selection
            if self._removal is None:
                self._take_up_next(None)
            else:
                self._removal.stop()
            self.on_change()

    def _tell(self, reason: str | None) -> None:
        with self.store.transaction():
            self.store.told.set_problem(IGNORE_FILE, reason, SOURCE)

    # --- what is left out leaves the disk -----------------------------------------------------------------------

    def _take_up_next(self, rest: Removal | None) -> None:
        assert self._next is not None
        self.disk.selection, self._next = self._next, None
        self._take_up(self.disk.selection, rest)
        self.disk.want_all()

    def _take_up(self, selection: Selection, rest: Removal | None = None) -> None:
        self._tell("; ".join(selection.problems) or None)
        removal = unselect.take_up(self.store, self.remote, selection, rest)
        if not removal.is_empty:
            self._removal = removal
            self.workers.submit(partial(removal.carry_out, self.fs), self._removed)
        elif rest is not None:
            unselect.has_left(self.store, removal)

    def _removed(self, result: Result[None]) -> None:
        result.get()
        assert self._removal is not None
        removal, self._removal = self._removal, None
        if self._next is not None:
            self._take_up_next(removal)
        else:
            unselect.has_left(self.store, removal)
        self.on_change()


def read_rules(fs: FileSystem) -> str:
    """The text of the ignore file, "" where there is none. Raises RulesUnreadable."""
    try:
        with fs.open((IGNORE_FILE,)) as file:
            if (size := file.stat().size) > BYTES_MAX:
                raise RulesUnreadable(path=IGNORE_FILE, reason=f"it is larger than {BYTES_MAX >> 20} MiB")
            buffer = bytearray(size)
            count = file.read_at(0, memoryview(buffer))
        return buffer[:count].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = buffer.count(b"\n", 0, error.start) + 1
        raise RulesUnreadable(path=IGNORE_FILE, reason=f"its line {line} is not UTF-8") from error
    except OSError as error:
        if error.errno in _NO_FILE:
            return ""
        raise RulesUnreadable(path=IGNORE_FILE, reason=error.strerror or str(error)) from error
