"""Deltas over HTTP: blocks of an announced version as copies from a base version, and how a version was sent."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar, Final

from coordinator.api.arrivals import UNCOUNTED_BYTES_MAX, hold_room
from coordinator.api.base import ApiHandler, parse_upload_id
from coordinator.api.routes import RouteSpec, operation
from coordinator.deltas import apply_delta
from coordinator.metadata import pending
from coordinator.protocol.delta import DELTA_BODY_BYTES_MAX, join_kept
from coordinator.protocol.types import BatchAnswer


class DeltaHandler(ApiHandler):
    """The body is a delta with its literal bytes (protocol/delta.py), usually compressed."""

    body_bytes_max: ClassVar[int] = DELTA_BODY_BYTES_MAX

    async def begin(self) -> None:
        self._upload_id = parse_upload_id(self.text("upload"))
        self._held = AsyncExitStack()
        self._delta = bytearray()
        self._counted = False

    async def receive(self, chunk: bytes) -> None:
        # Most deltas are tiny. How long a packed one becomes shows only here, so room for the longest is taken then.
        if not self._counted and len(self._delta) + len(chunk) > UNCOUNTED_BYTES_MAX:
            self._counted = True
            await hold_room(self, self._held, self.body_bytes_max)
        self._delta += chunk

    async def end(self) -> None:
        if hasattr(self, "_held"):
            await self._held.aclose()

    @operation(
        "Store blocks of an announced version that are made of an older one",
        answer=BatchAnswer,
        status=201,
        query={"upload": str},
    )
    async def post(self) -> None:
        self.end_unpacking()
        stored = await apply_delta(self.services, self.session, self._upload_id, self._delta)
        self.answer(BatchAnswer(stored=stored), 201)


class KeptDeltaHandler(ApiHandler):
    @operation("How an announced version was sent as a delta, literals by their lengths", query={"upload": str})
    async def get(self) -> None:
        kept = await self.services.db.run(pending.get_delta, self.session, parse_upload_id(self.text("upload")))
        content = join_kept(kept.base_id, kept.base_version, kept.blocks)
        if self.is_to_be_packed(content):
            content = await self.pack(content)
        self._headers["Content-Type"] = "application/octet-stream"
        await self.finish(content)


ROUTES: Final = (
    RouteSpec("blocks.delta", "/api/v1/blocks/delta", DeltaHandler),
    RouteSpec("files.delta", "/api/v1/files/delta", KeptDeltaHandler),
)
