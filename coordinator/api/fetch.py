"""Many small files in one answer: what a computer that syncs a tree of them asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from coordinator.api.base import ApiHandler
from coordinator.api.routes import RouteSpec, operation
from coordinator.blocks.recent import Plain
from coordinator.metadata import files
from coordinator.metadata.values import BlockRow
from coordinator.protocol.errors import ApiError
from coordinator.protocol.fetched import join_fetched
from coordinator.protocol.types import BATCH_BYTES_MAX, FetchBody

READS_AT_ONCE: Final = 8


class FetchHandler(ApiHandler):
    """What cannot be told this way (gone, larger than a block, unreadable now, beyond the answer's bound) is left out:
    asked for by itself, it gets its own answer or error."""

    @operation("Many small files in one answer (protocol/fetched.py)", body=FetchBody)
    async def post(self) -> None:
        wanted = [(one.id, one.version) for one in self.body(FetchBody).files]
        found = await self.services.db.run(files.find_small, self.session, wanted)
        rows = _within([found.get(one) for one in wanted], BATCH_BYTES_MAX)
        async with self.services.store.outgoing.hold(sum(row.plain_size for row in rows if row is not None)):
            content = join_fetched(await self._read_all(rows))
            self._headers["Content-Type"] = "application/octet-stream"
            self._headers["Content-Length"] = str(len(content))
            await self.flush()  # tornado would copy the contents to put them behind the headers
            await self.finish(content)

    async def _read_all(self, rows: Sequence[BlockRow | None]) -> list[Plain | None]:
        slots = asyncio.Semaphore(READS_AT_ONCE)

        async def read(row: BlockRow | None) -> Plain | None:
            if row is None:
                return None
            async with slots:
                try:
                    return await self.services.store.read(row)
                except ApiError:
                    return None  # asked for by itself, it tells what is wrong

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(row)) for row in rows]
        return [task.result() for task in tasks]


def _within(rows: Sequence[BlockRow | None], bytes_max: int) -> list[BlockRow | None]:
    """The rows, with None from the one on that would make them too much together."""
    kept: list[BlockRow | None] = []
    size = 0
    for row in rows:
        size += row.plain_size if row is not None else 0
        kept.append(row if size <= bytes_max else None)
    return kept


ROUTES: Final = (RouteSpec("files.fetch", "/api/v1/files/fetch", FetchHandler),)
