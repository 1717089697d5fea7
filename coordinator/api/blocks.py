"""Blocks by their hash: the data path of clients that cut files themselves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import ClassVar, Final

from coordinator.access import resolve
from coordinator.api.arrivals import hold_room
from coordinator.api.base import ApiHandler, parse_upload_id
from coordinator.api.download import parse_range
from coordinator.api.routes import RouteSpec, operation
from coordinator.blocks.write import PlainBlock, batches
from coordinator.following import follow
from coordinator.metadata import blocks, pending
from coordinator.metadata.values import BlockRow, Target
from coordinator.protocol.errors import ApiError, BadRequest, NotFound, RangeNotSatisfiable, Unavailable
from coordinator.protocol.hashing import BLOCK_BYTES, HASH_BYTES
from coordinator.protocol.types import (
    BATCH_BLOCKS_MAX,
    BATCH_BYTES_MAX,
    BLOCK_WAIT_S_MAX,
    BatchAnswer,
    MissingAnswer,
    MissingBody,
    Role,
)
from coordinator.staging import stage_blocks

_SIZE_BYTES: Final = 4
_LOOK_AGAIN_S: Final = 1.0  # while waiting for a block: whether its upload has ended
_EMPTY: Final = "a block has at least one byte"
_HASH: Final = re.compile("[0-9a-f]{64}")


class MissingHandler(ApiHandler):
    @operation("Which blocks must be sent", body=MissingBody, answer=MissingAnswer)
    async def post(self) -> None:
        body = self.body(MissingBody)
        target = resolve(self.session, body.path, Role.EDITOR)
        hashes = [bytes.fromhex(text) for text in body.hashes]
        missing = await self.services.db.run(
            blocks.find_missing, self.session, target.account_id, target.namespace_id, hashes
        )
        self.answer(MissingAnswer(missing=[digest.hex() for digest in missing]))


class _BlockReceiver(ApiHandler):
    """Takes a body into memory, within the store's budget for what is on its way in."""

    takes_packed: ClassVar[bool] = False

    target: Target

    async def begin(self) -> None:
        self.target = resolve(self.session, self.text("path"), Role.EDITOR)
        size = self.content_length
        if size == 0:
            raise BadRequest(reason=_EMPTY)
        self._held = AsyncExitStack()
        # Made at its full size: growing with every chunk would copy it, and scatter the heap, several times over.
        self._plain = bytearray(size or 0)
        self._filled = 0
        await hold_room(self, self._held, size if size is not None else self.body_bytes_max)

    async def receive(self, chunk: bytes) -> None:
        end = self._filled + len(chunk)
        self._plain[self._filled : end] = chunk  # a body whose length was not told grows here
        self._filled = end

    async def end(self) -> None:
        if hasattr(self, "_held"):
            await self._held.aclose()

    async def store(self, plain: Sequence[PlainBlock]) -> None:
        """Make the blocks durable and record them for the caller, in one transaction a run."""
        for run in batches(plain):
            await stage_blocks(self.services, self.session, self.target, run)
        self.answer(BatchAnswer(stored=len(plain)), 201)


class BlockHandler(_BlockReceiver):
    body_bytes_max: ClassVar[int] = BLOCK_BYTES

    async def begin(self) -> None:
        if self.request.method == "PUT":
            await super().begin()

    @operation("Store one block", answer=BatchAnswer, status=201, query={"path": str})
    async def put(self, block: str) -> None:
        wanted = _parse_hash(block)
        if not self._plain:  # its length was not told, or `begin` would have refused it
            raise BadRequest(reason=_EMPTY)
        await self.store([PlainBlock(self._plain, claimed=wanted)])

    @operation(
        "One block's bytes, or a range of them; one of an announced version also before its commit, waited for",
        query={"path": str, "upload": str | None, "wait": int | None},
    )
    async def get(self, block: str) -> None:
        target = resolve(self.session, self.text("path"), Role.VIEWER)
        row = await self._find(target, _parse_hash(block))
        if row is None:
            raise NotFound(what="block")
        asked = parse_range(self.request.headers.get("Range"), row.plain_size)
        async with self.services.store.outgoing.hold(row.plain_size):
            if asked is None:
                plain = memoryview(await self.services.store.read(row))
            else:
                # Ranges are asked for by who makes a block out of another one: there will be more of the same block.
                plain = memoryview(await self.services.store.read_again(row))[asked.start : asked.stop]
                self.set_status(206)
                self._headers["Content-Range"] = f"bytes {asked.start}-{asked.stop - 1}/{row.plain_size}"
            self._headers["Content-Type"] = "application/octet-stream"
            self._headers["Content-Length"] = str(len(plain))
            await self.send(plain)
            await self.finish()

    def add_error_headers(self, error: ApiError) -> None:
        if isinstance(error, RangeNotSatisfiable):
            self._headers["Content-Range"] = f"bytes */{error.facts['size']}"

    async def _find(self, target: Target, wanted: bytes) -> BlockRow | None:
        upload_id = self.optional_text("upload")
        wait_s = self.integer("wait", 0, high=BLOCK_WAIT_S_MAX)
        if upload_id is None:
            return await self.services.db.run(blocks.find_readable, self.session, target.namespace_id, wanted)
        upload_id = parse_upload_id(upload_id)
        follow(self.services, target.account_id)
        awaited, loop = self.services.awaited, asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        with awaited.expect(target.account_id, wanted) as place:
            while True:
                row = await self.services.db.run(pending.find_block, target.namespace_id, upload_id, wanted)
                left = deadline - loop.time()
                if row is not None or left <= 0:
                    return row
                if awaited.full:
                    raise Unavailable
                self.waited = True
                await place.wait(min(left, _LOOK_AGAIN_S))


class BatchHandler(_BlockReceiver):
    """Many small blocks in one body: for each 32 bytes SHA-256, 4 bytes size (big endian), and the bytes."""

    body_bytes_max: ClassVar[int] = BATCH_BYTES_MAX + BATCH_BLOCKS_MAX * (HASH_BYTES + _SIZE_BYTES)

    @operation("Store many small blocks", answer=BatchAnswer, status=201, query={"path": str})
    async def post(self) -> None:
        await self.store(_cut_batch(self._plain))


def _cut_batch(body: bytearray) -> list[PlainBlock]:
    """The blocks of a batch's body, with the hashes that it claims for them. Raises BadRequest."""
    found: list[PlainBlock] = []
    at = 0
    while at < len(body):
        start = at + HASH_BYTES + _SIZE_BYTES
        size = int.from_bytes(body[at + HASH_BYTES : start], "big")
        if start > len(body) or not 0 < size <= min(BLOCK_BYTES, len(body) - start):
            raise BadRequest(reason="the batch ends within a block")
        if len(found) == BATCH_BLOCKS_MAX:
            raise BadRequest(reason=f"a batch has at most {BATCH_BLOCKS_MAX} blocks")
        plain = body[start : start + size]
        found.append(PlainBlock(plain, claimed=bytes(body[at : at + HASH_BYTES])))
        at = start + size
    if not found:
        raise BadRequest(reason="a batch has at least one block")
    return found


def _parse_hash(text: str) -> bytes:
    """The hash in an address. Raises BadRequest."""
    if not _HASH.fullmatch(text):
        raise BadRequest(reason="a block is named by its SHA-256 in 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)


ROUTES: Final = (
    RouteSpec("blocks.missing", "/api/v1/blocks/missing", MissingHandler),
    RouteSpec("blocks.batch", "/api/v1/blocks/batch", BatchHandler),
    RouteSpec("blocks.one", "/api/v1/blocks/{block}", BlockHandler),
)
