"""Streamed uploads: bytes come in, become blocks, and count as soon as they are durable.

Guarantees: the upload's offset in the database only ever covers bytes that are durable in the cluster; whatever has
arrived when a request ends is kept, the unfilled last block as a segment; a request that was taken over changes nothing
after the takeover. Nothing of an upload lives here between requests.
Does not: parse HTTP (api/upload.py, api/tus.py), commit the version (metadata.commits.commit_upload).

A block is stored while the next ones arrive; they are recorded in order, each as soon as it is durable, so that a line
that stalls before its worker dies has lost nothing of them. A segment is what one request left of a block
that was not full yet: when the block fills up, its segments are read back, joined and replaced by the whole block.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from coordinator.blocks.write import PlainBlock
from coordinator.metadata import blocks, uploads
from coordinator.metadata.values import Claim, Part, PartRow, Session, Upload
from coordinator.protocol.errors import SizeMismatch, TooLarge, UploadSuperseded
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from coordinator.services import Services

# A block in the making has at most this many segments; then they are merged into one, so that a client that sends
# a few bytes a request makes us rewrite its block 64 times less often than it could.
SEGMENTS_MAX: Final = 64
BLOCKS_AT_ONCE: Final = 4
TAKEOVER_S: Final = 3.0
# A request whose checksum must match before anything counts holds its parts back; 4 GiB of them are enough.
PARTS_HELD_MAX: Final = 1024


async def claim_upload(services: Services, session: Session, upload_id: str) -> tuple[Upload, int]:
    """Become the one request that may append: the older one is told, may store what it has, and is then shut out.

    The upload as it stands then (its offset is where to go on) and the claim's epoch.
    """
    claimed = await services.db.run(uploads.claim, session, upload_id)
    try:
        if claimed.previous_active:
            services.hub.publish(_topic(upload_id), str(claimed.epoch))
            await _await_release(services, session, claimed)
        return await services.db.run(uploads.force, session, upload_id, claimed.epoch), claimed.epoch
    except BaseException:
        # A newer claim came between the two, and waits for this one.
        await services.db.run(uploads.release, upload_id, claimed.epoch)
        raise


async def _await_release(services: Services, session: Session, claimed: Claim) -> None:
    """Until the previous holder has stored its tail, at most TAKEOVER_S: it may belong to a process that is dead."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TAKEOVER_S
    pause = 0.01
    while loop.time() < deadline:
        await asyncio.sleep(pause)
        pause = min(0.2, pause * 2)
        if (await services.db.run(uploads.get, session, claimed.upload.id)).active_epoch is None:
            return


def _topic(upload_id: str) -> str:
    return f"upload:{upload_id}"


class UploadStream:
    """Takes the bytes of one request into one upload. Owned by that request's task.

    The block in the making begins at `_base`; `_buffer` holds its bytes from `_start` on, those before are segments.
    `_storing` are the blocks on their way, in order: each task waits for the one before it, then records its own.
    With `hold_back` nothing is recorded before `finish`.
    """

    def __init__(
        self,
        services: Services,
        session: Session,
        upload: Upload,
        epoch: int,
        *,
        superseded: Callable[[], None],
        hold_back: bool = False,
    ) -> None:
        """`epoch` is a claim of `claim_upload`; `superseded` is called when a newer request wants to take over."""
        self._services = services
        self._session = session
        self.upload = upload  # replaced by its caller when a deferred length becomes known
        self._epoch = epoch
        self._hold_back = hold_back
        self._held: list[Part] = []
        self._base = upload.offset - upload.offset % BLOCK_BYTES
        self._start = upload.offset
        self._buffer = bytearray()
        self._storing: deque[asyncio.Task[None]] = deque()
        self._superseded = False
        self._tell = superseded
        self._unsubscribe = services.hub.subscribe(_topic(upload.id), self._taken_over)
        self.offset = upload.offset  # durable and recorded

    @property
    def received(self) -> int:
        """Where the next byte belongs."""
        return self._start + len(self._buffer)

    async def feed(self, chunk: bytes) -> None:
        """Take bytes; waits while enough blocks are on their way.

        Raises UploadSuperseded (a newer request waits), SizeMismatch (more than announced), TooLarge, and what storing
        raises.
        """
        if self._superseded:
            raise UploadSuperseded
        size, limit, reached = (
            self.upload.size_bytes,
            self._services.config.upload_bytes_max,
            self.received + len(chunk),
        )
        if size is not None and reached > size:
            raise SizeMismatch(received=reached, expected=size)
        if reached > limit:
            raise TooLarge(limit=limit)
        view = memoryview(chunk)
        while view:
            room = self._base + BLOCK_BYTES - self.received
            self._buffer += view[:room]
            view = view[room:]
            if self.received == self._base + BLOCK_BYTES:
                await self._close_block()

    async def finish(self) -> int:
        """Make everything that was fed durable and recorded; the offset. The upload's last block is closed as well."""
        if self.received == self.upload.size_bytes and self.received > self._base:
            await self._close_block()
        elif self._buffer:
            await self._keep_segment()
        await self._drain(0)
        if self._held:
            held, self._held = self._held, []
            await self._record(held)
        return self.offset

    async def close(self) -> None:
        """End the request's claim and whatever is still on its way. Call once, after everything else."""
        self._unsubscribe()
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)
        await self._services.db.run(uploads.release, self.upload.id, self._epoch)

    def _taken_over(self, epoch: str) -> None:
        if int(epoch) > self._epoch and not self._superseded:
            self._superseded = True
            self._tell()

    async def _close_block(self) -> None:
        """The block in the making has all its bytes: store it beside the others and begin the next."""
        segments = await self._segments()
        plain, start = self._buffer, self._base
        self._start, self._buffer = self.received, bytearray()
        self._base += BLOCK_BYTES
        if not plain and len(segments) == 1:
            return  # one segment holds the whole last block already
        await self._begin_storing(start, segments, plain)
        await self._drain(BLOCKS_AT_ONCE - 1)

    async def _keep_segment(self) -> None:
        """Store what there is of the block in the making, since the request ends here."""
        segments = await self._segments()
        plain, start = self._buffer, self._start
        self._start, self._buffer = self.received, bytearray()
        if len(segments) < SEGMENTS_MAX - 1:
            await self._begin_storing(start, (), plain)
        else:
            await self._begin_storing(self._base, segments, plain)

    async def _begin_storing(self, start: int, segments: Sequence[PartRow], rest: bytearray) -> None:
        """Store a block in a task of its own, once there is room for it among all that is on its way in."""
        await self._services.store.incoming.acquire(BLOCK_BYTES)
        before = self._storing[-1] if self._storing else None
        task = asyncio.create_task(self._store_in_turn(before, start, segments, rest))
        task.add_done_callback(lambda _: self._services.store.incoming.release(BLOCK_BYTES))
        self._storing.append(task)

    async def _segments(self) -> Sequence[PartRow]:
        if self._start == self._base:
            return ()
        await self._drain(0)
        return await self._services.db.run(uploads.list_parts, self.upload.id, self._base)

    async def _store_in_turn(
        self, before: asyncio.Task[None] | None, start: int, segments: Sequence[PartRow], rest: bytearray
    ) -> None:
        part = await self._store(start, segments, rest)
        if before is not None:
            await before  # its failure is this one's too: an offset has no gaps
        if not self._hold_back:
            await self._record([part])
            return
        self._held.append(part)
        if len(self._held) > PARTS_HELD_MAX:
            raise TooLarge(limit=PARTS_HELD_MAX * BLOCK_BYTES)

    async def _store(self, start: int, segments: Sequence[PartRow], rest: bytearray) -> Part:
        """One block (or segment) of `segments` and then `rest`, durable and with its row; not yet in the upload."""
        store, db, target = self._services.store, self._services.db, self.upload.target
        plain: bytes | bytearray = rest
        if segments:
            plain = b"".join([*(await asyncio.gather(*(store.read(part.block) for part in segments))), rest])
        digest = await self._services.cpu.run(hash_block, plain)
        place = (target.account_id, target.namespace_id)
        [row] = await db.run(blocks.stage_existing, self._session, *place, self.upload.id, [digest])
        if row is None:
            written = await store.write(target.account_id, [PlainBlock(plain, digest)])
            [row] = await db.run(blocks.record, *place, self._session.user_id, self.upload.id, written)
        return Part(start, len(plain), row.block_id)

    async def _drain(self, left: int) -> None:
        """Wait until at most `left` blocks are on their way."""
        while self._storing and (len(self._storing) > left or self._storing[0].done()):
            await self._storing[0]
            self._storing.popleft()

    async def _record(self, parts: Sequence[Part]) -> None:
        appended = await self._services.db.run(uploads.append, self.upload.id, self._epoch, self.offset, parts)
        self.offset = appended.offset
        if appended.superseded:
            self._taken_over(str(self._epoch + 1))
