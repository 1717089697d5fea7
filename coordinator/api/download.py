"""Whole files and ranges out: GET and HEAD /files/download.

Only the blocks that a range touches are read, a few ahead of the client. Every block is verified before its first byte
leaves; when a later one cannot be read the connection is cut, so that nobody takes half an answer for the whole.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from coordinator.access import resolve
from coordinator.api.files import FileHandler
from coordinator.api.routes import RouteSpec, operation
from coordinator.blocks.recent import Plain
from coordinator.metadata import files
from coordinator.metadata.values import BlockRow, Recipe
from coordinator.protocol.errors import ApiError, RangeNotSatisfiable
from coordinator.protocol.hashing import BLOCK_BYTES, count_blocks
from coordinator.protocol.types import VERSION_MAX, Role

BLOCKS_AHEAD: Final = 3
RECIPE_ROWS: Final = 64
# A client that takes less than a block in this time is gone or attacks us; the memory is needed for others.
STALL_S: Final = 120.0

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` up to but not including `stop`."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """What a Range header asks of a file of `size` bytes; None for the whole (no header, or one that is not ours).

    Several ranges in one request are answered with the whole file, as RFC 9110 allows. Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if first and last and int(first) > int(last):
        return None  # not a valid range, so the header counts as absent
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or (not first and int(last) == 0):
        raise RangeNotSatisfiable(size=size)
    return ByteRange(start, stop)


class DownloadHandler(FileHandler):
    @operation("A file's size and ETag", query={"path": str, "version": int | None})
    async def head(self) -> None:
        recipe = await self._recipe(0, 0)
        if not self._not_modified(recipe):
            self._describe(recipe, self._asked(recipe))
        self.finish()

    @operation("A file's bytes", query={"path": str, "version": int | None})
    async def get(self) -> None:
        # Most downloads begin at the start: one round trip brings the version and its first blocks.
        recipe = await self._recipe(0, RECIPE_ROWS)
        if self._not_modified(recipe):
            self.finish()
            return
        asked = self._asked(recipe)
        self._describe(recipe, asked)
        wanted = asked or ByteRange(0, recipe.version.size_bytes)
        if wanted.stop > wanted.start:
            await self._send(recipe, wanted)
        self.finish()

    async def _recipe(self, first: int, count: int) -> Recipe:
        target = resolve(self.session, self.text("path"), Role.VIEWER)
        version = self.optional_integer("version", low=1, high=VERSION_MAX)
        return await self.services.db.run(files.get_recipe, target, version, first, count)

    def _asked(self, recipe: Recipe) -> ByteRange | None:
        only_if = self.request.headers.get("If-Range")
        if only_if is not None and only_if != _etag(recipe):
            return None
        return parse_range(self.request.headers.get("Range"), recipe.version.size_bytes)

    def _not_modified(self, recipe: Recipe) -> bool:
        known = self.request.headers.get("If-None-Match")
        tags = [] if known is None else [tag.strip().removeprefix("W/") for tag in known.split(",")]
        if "*" not in tags and _etag(recipe) not in tags:
            return False
        self.set_status(304)
        self._headers["ETag"] = _etag(recipe)
        return True

    def add_error_headers(self, error: ApiError) -> None:
        if isinstance(error, RangeNotSatisfiable):
            self._headers["Content-Range"] = f"bytes */{error.facts['size']}"

    def _describe(self, recipe: Recipe, asked: ByteRange | None) -> None:
        size = recipe.version.size_bytes
        headers = self._headers
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(recipe.entry.name, safe='')}"
        headers["ETag"] = _etag(recipe)
        headers["Accept-Ranges"] = "bytes"
        headers["Holdfast-Version"] = str(recipe.version.version)
        headers["Content-Length"] = str(size)
        if asked is not None:
            self.set_status(206)
            headers["Content-Range"] = f"bytes {asked.start}-{asked.stop - 1}/{size}"
            headers["Content-Length"] = str(asked.stop - asked.start)

    async def _send(self, recipe: Recipe, wanted: ByteRange) -> None:
        async with AsyncExitStack() as held:
            ahead: deque[asyncio.Task[Plain]] = deque()
            held.push_async_callback(_cancel, ahead)
            at = wanted.start - wanted.start % BLOCK_BYTES
            async for row in self._rows(recipe, wanted):
                ahead.append(asyncio.create_task(self.services.store.read(row)))
                if len(ahead) > BLOCKS_AHEAD:
                    at = await self._send_block(ahead, at, wanted)
            while ahead:
                at = await self._send_block(ahead, at, wanted)

    async def _rows(self, recipe: Recipe, wanted: ByteRange) -> AsyncIterator[BlockRow]:
        """The rows of the blocks that the range touches, in order, fetched as they are needed."""
        index, last = wanted.start // BLOCK_BYTES, count_blocks(wanted.stop)
        while index < last:
            at = index - recipe.first_block
            if not 0 <= at < len(recipe.blocks):
                entry, version = recipe.entry, recipe.version.version
                recipe = await self.services.db.run(
                    files.get_more_recipe,
                    entry.namespace_id,
                    entry.id,
                    version,
                    index,
                    min(RECIPE_ROWS, last - index),
                )
                at = 0
            yield recipe.blocks[at]
            index += 1

    async def _send_block(self, ahead: deque[asyncio.Task[Plain]], at: int, wanted: ByteRange) -> int:
        """Send what the range wants of the next block, which begins at `at`; where the one after it begins."""
        plain = await ahead.popleft()
        first, last = max(0, wanted.start - at), min(len(plain), wanted.stop - at)
        async with asyncio.timeout(STALL_S):
            await self.send(memoryview(plain)[first:last])
        return at + len(plain)


async def _cancel(tasks: deque[asyncio.Task[Plain]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _etag(recipe: Recipe) -> str:
    return f'"{recipe.version.content_hash.hex()}"'


ROUTES: Final = (RouteSpec("files.download", "/api/v1/files/download", DownloadHandler),)
