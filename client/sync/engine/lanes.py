"""The work that is queued or running: so much of each kind at once, small transfers together.

Guarantees: what is added is begun in the order of its lane, as slots become free; of one content only one is fetched at
a time, since all fetches of it share a part file. Outcomes are told batch by batch, in the control thread.
Does not: bound what is queued (the engine asks `active`), look at outcomes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from client.sync.engine.apply import Outcome
from client.sync.engine.work import Lane, Work
from client.sync.transfer.carry import Carrier, ToDownload, ToUpload
from client.sync.workers import Result, Workers
from coordinator.protocol.types import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX

SLOTS: Final = {
    Lane.DISK: 2,
    Lane.CALLS: 4,
    Lane.UPLOADS: 3,
    Lane.DOWNLOADS: 4,
    Lane.LARGE_UPLOADS: 2,
    Lane.LARGE_DOWNLOADS: 2,
}
_TOGETHER: Final = frozenset({Lane.UPLOADS, Lane.DOWNLOADS})


class Lanes:
    """`active` counts the operations queued or running. `_fetching` are the contents that downloads are at work on."""

    def __init__(
        self, workers: Workers, carrier: Carrier, on_done: Callable[[list[tuple[Work, Outcome]]], None]
    ) -> None:
        self._workers = workers
        self._carrier = carrier
        self._on_done = on_done
        self._waiting: dict[Lane, deque[Work]] = {lane: deque() for lane in Lane}
        self._running = dict.fromkeys(Lane, 0)
        self._fetching: set[bytes] = set()
        self.active = 0

    def add(self, work: Work) -> None:
        self._waiting[work.lane].append(work)
        self.active += 1

    def start(self) -> None:
        """Begin what there are slots for."""
        for lane, waiting in self._waiting.items():
            while waiting and self._running[lane] < SLOTS[lane]:
                batch = self._take(waiting, together=lane in _TOGETHER)
                if not batch:
                    break
                self._running[lane] += 1
                self._workers.submit(partial(self._carry_out, lane, batch), partial(self._done, lane, batch))

    def _take(self, waiting: deque[Work], *, together: bool) -> list[Work]:
        """The next ones, as many as may go together; those whose content is being fetched keep their turn."""
        batch: list[Work] = []
        own: set[bytes] = set()
        passed: list[Work] = []
        size = 0
        while waiting:
            work = waiting[0]
            if batch and (not together or len(batch) == BATCH_BLOCKS_MAX or size + work.size > BATCH_BYTES_MAX):
                break
            waiting.popleft()
            digest = work.digest
            if digest is not None and digest in self._fetching and digest not in own:
                passed.append(work)
                continue
            if digest is not None:
                own.add(digest)
                self._fetching.add(digest)
            batch.append(work)
            size += work.size
        waiting.extendleft(reversed(passed))
        return batch

    def _carry_out(self, lane: Lane, batch: list[Work]) -> list[Outcome]:
        """Runs in a worker."""
        tasks = [work.task for work in batch]
        if lane in (Lane.UPLOADS, Lane.LARGE_UPLOADS):
            return self._carrier.upload([task for task in tasks if isinstance(task, ToUpload)])
        if lane in (Lane.DOWNLOADS, Lane.LARGE_DOWNLOADS):
            return self._carrier.download([task for task in tasks if isinstance(task, ToDownload)])
        return [task() for task in tasks if not isinstance(task, ToUpload | ToDownload)]

    def _done(self, lane: Lane, batch: list[Work], result: Result[list[Outcome]]) -> None:
        self._running[lane] -= 1
        self.active -= len(batch)
        self._fetching.difference_update(work.digest for work in batch if work.digest is not None)
        outcomes = result.get()
        assert len(outcomes) == len(batch)
        self._on_done(list(zip(batch, outcomes, strict=True)))
