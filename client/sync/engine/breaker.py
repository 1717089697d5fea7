"""Many deletes at once wait for a yes: a disk that went away in parts, or a mistake, looks just like them.

Guarantees: where more than `count_max` files that are more than `share_max` of all would go, or have gone within
`WINDOW_S`, deletes on both sides are held back until somebody says yes or what was gone is there again.
Does not: decide how many are too many or count them (planner.plan does); hold back anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from client.sync.local.disk import Disk
from client.sync.planner.conflicts import Naming
from client.sync.planner.plan import Breaker, DeletionCount, count_deletions, count_planned_deletions
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.tree import DeleteLocal, DeleteRemote, Operation
from node.base.clock import Clock

WINDOW_S: Final = 60.0


@dataclass
class DeleteBreaker:
    """`allowed`: somebody has said yes. `held` is the sentence that asks for it. `_done` are the deletes carried out
    lately: a person who deletes one thing after the other may still delete everything by mistake."""

    store: Store
    disk: Disk
    remote: RemoteSide
    clock: Clock
    naming: Callable[[], Naming]
    count_max: int
    share_max: float
    allowed: bool
    held: str | None = None
    _done: deque[tuple[float, int]] = field(default_factory=deque)
    _gone_checked: tuple[int, int] = (0, 0)  # what `_gone_seen` said when this was decided last

    def check(self) -> None:
        """Decide anew whether deletes wait: before each plan."""
        self._gone_checked = self._gone_seen()
        self.held = None
        if self.allowed:
            return
        now = self.clock.monotonic()
        while self._done and self._done[0][0] < now - WINDOW_S:
            self._done.popleft()
        if not self.store.is_dirty():
            return
        wanted = count_planned_deletions(self.store, self.naming()).total
        done = sum(count for _, count in self._done)
        if wanted == 0 or wanted + done <= self.count_max:
            return  # so it is most often, and counting the trees takes long
        total = self.store.counts().synced + done
        breaker = Breaker(files_synced=total, count_max=self.count_max, share_max=self.share_max)
        if breaker.trips(DeletionCount(wanted + done)):
            self.held = _ask(wanted, done, total)

    def check_again(self) -> None:
        """The same in the midst of a plan, which may be a long one and plans what has gone since it began as well."""
        if self._gone_seen() != self._gone_checked:
            self.check()

    def holds_back(self, operation: Operation) -> bool:
        match operation:
            case DeleteRemote() if self.disk.is_scanning_all and not self.allowed:
                return True  # the scan tells bit by bit what has gone, so how much that is shows at its end
            case DeleteRemote() | DeleteLocal():
                return self.held is not None
        return False

    def count(self, operation: Operation) -> None:
        """It is done, and not yet written in the trees."""
        if (count := count_deletions(self.store, [operation]).total) > 0:
            self._done.append((self.clock.monotonic(), count))

    def _gone_seen(self) -> tuple[int, int]:
        """Changes whenever something turned out to be gone on one of the sides."""
        return self.disk.gone_seen, self.remote.gone_seen


def _ask(wanted: int, done: int, total: int) -> str:
    if done:
        what = f"Of {total} files {done} were deleted in the last minute, and this would delete {wanted} more."
    else:
        what = f"This would delete {wanted} of {total} files."
    return f"{what} If that is meant, run: holdfast sync DIR --allow-deletes; if not, put the files back."
