"""Fetching a version while another device still sends it, so that it is here soon after it is complete.

Only of use for what travels in whole blocks: a version that is sent as a delta is put together from the old file once
it is complete, which takes no time worth saving, so a prefetch ends where it sees one.
Guarantees: like fetch.py, whose part it fills. Does not: outlive the announcement: it ends when the version is
complete or withdrawn, or makes no progress for `PATIENCE_S`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from client.errors import Refused
from client.sync.transfer.contents import Tools
from client.sync.transfer.fetch import AT_ONCE, Part, check_part, fetch_block, find_in_other_files
from client.sync.tree import PendingUpload
from node.base.clock import Clock

WAIT_S: Final = 20  # one call's, for a block that has not arrived
PATIENCE_S: Final = 300.0


class Prefetch:
    """One announced version's. `wanted` turns False when the caller takes over. `_progress`: when a block last came."""

    def __init__(
        self,
        tools: Tools,
        row: PendingUpload,
        part: Part,
        *,
        remote_path: str,
        clock: Clock,
        wanted: Callable[[], bool],
    ) -> None:
        self._tools = tools
        self._row = row
        self._path = remote_path
        self._part = part
        self._clock = clock
        self._wanted = wanted
        self._progress = clock.monotonic()

    def run(self) -> None:
        """Fill the part as far as it goes. Raises ClientError (upload_gone), OSError."""
        tools, part = self._tools, self._part
        part.set_recipe(tools.service.upload_blocks(self._row.upload_id), tools.service.url, self._path)
        check_part(tools, part)
        for index in part.lacking:
            find_in_other_files(tools, part, index)
        first = next(iter(part.lacking), None)
        if first is None or (self._row.remote_id and self._comes_as_delta(first)):
            return
        self._progress = self._clock.monotonic()
        while part.lacking and self._goes_on():
            # All in one go: a block that is late is asked for once more in the end, and holds up no other.
            tools.parallel.run_all((partial(self._fetch, index) for index in part.lacking), AT_ONCE)

    def _goes_on(self) -> bool:
        return self._wanted() and self._clock.monotonic() - self._progress <= PATIENCE_S

    def _comes_as_delta(self, first: int) -> bool:
        """Waits for the first block to arrive: deltas are sent before whole blocks."""
        deadline = self._clock.monotonic() + PATIENCE_S
        while self._wanted() and self._clock.monotonic() < deadline:
            try:
                self._tools.service.get_block(
                    self._path,
                    self._part.blocks[first].hex(),
                    upload_id=self._row.upload_id,
                    wait_s=WAIT_S,
                    byte_range=(0, 1),
                )
            except Refused as refusal:
                if not _is_late(refusal):
                    raise
                continue
            return self._tools.service.get_delta(self._row.upload_id) is not None
        return True

    def _fetch(self, index: int) -> None:
        if not self._goes_on():
            return
        try:
            fetch_block(self._tools, self._part, index, self._path, upload_id=self._row.upload_id, wait_s=WAIT_S)
            self._progress = self._clock.monotonic()
        except Refused as refusal:
            if not _is_late(refusal):
                raise


def _is_late(refusal: Refused) -> bool:
    """Not here yet, so it can be asked for again."""
    return refusal.code == "not_found" and refusal.facts.get("what") == "block"
