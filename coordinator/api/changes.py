"""The change feed: what changed after a cursor, and waiting until something does."""

from __future__ import annotations

from typing import Final

from coordinator.api.base import ApiHandler
from coordinator.api.render import metadata_body
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import journal
from coordinator.metadata.values import ChangeRow, Head, NamespaceId
from coordinator.notify.longpoll import TIMEOUT_S_MAX, TIMEOUT_S_MIN, ParkedPoll, draw_backoff, draw_timeout
from coordinator.protocol.errors import BadCursor
from coordinator.protocol.types import PAGE_ENTRIES_MAX, Change, ChangesAnswer, LongpollAnswer


class Changes(ApiHandler):
    @operation(
        "What changed after the cursor; without one the whole tree",
        answer=ChangesAnswer,
        query={"cursor": str | None, "limit": int | None},
    )
    async def get(self) -> None:
        limit = self.integer("limit", 1000, low=1, high=PAGE_ENTRIES_MAX)
        cursor = self.optional_text("cursor")
        if cursor == "":  # a client that lost its cursor must not take the whole tree for the changes
            raise BadCursor
        page = await self.services.db.run(journal.changes, self.session, cursor, limit)
        changes = [_change_body(row) for row in page.changes]
        await self.answer_large(
            ChangesAnswer(changes=changes, cursor=page.cursor, has_more=page.has_more, reset=page.reset)
        )


class Longpoll(ApiHandler):
    """Answers that something moved, never what: the client then fetches the changes."""

    @operation(
        "Wait until something changes after the cursor, or the timeout (seconds) is over",
        answer=LongpollAnswer,
        query={"cursor": str, "timeout": int | None},
    )
    async def get(self) -> None:
        cursor = self.text("cursor")
        timeout_s = self.integer("timeout", 30, low=TIMEOUT_S_MIN, high=TIMEOUT_S_MAX)
        heads = await self.services.db.run(journal.heads, self.session.namespace_ids)
        if journal.is_behind(self.session, cursor, heads):
            self.answer(LongpollAnswer(changes=True, backoff=0.0))
        elif self.services.hub.full:
            self.answer(LongpollAnswer(changes=False, backoff=draw_backoff()))
        else:
            self._park(heads, draw_timeout(timeout_s))

    def _park(self, heads: dict[NamespaceId, Head], timeout_s: float) -> None:
        """Take the socket out of the HTTP server and keep only what waiting needs."""
        keep_alive = self.request.version == "HTTP/1.1" and self.request.headers.get("Connection", "") != "close"
        socket = self.detach_socket()
        if socket is None:
            self.answer(LongpollAnswer(changes=False, backoff=0.0))
            return
        lot = self.running.lot
        lot.park(
            ParkedPoll(
                lot,
                socket,
                positions=tuple(part for head in heads.values() for part in (head.namespace_id, head.seq)),
                device_id=self.session.device_id,
                user_id=self.session.user_id,
                timeout_s=timeout_s,
                request_id=self.request_id,
                route=self.route,
                keep_alive=keep_alive,
            )
        )


def _change_body(row: ChangeRow) -> Change:
    return Change(
        seq=row.seq,
        namespace_id=row.namespace_id,
        op=row.op.value,
        id=row.file_id,
        parent_id=row.parent_id,
        name=row.name,
        path=row.path,
        metadata=None if row.entry is None else metadata_body(row.entry),
        upload_id=row.upload_id,
        device_id=row.by_device,
    )


ROUTES: Final = (
    RouteSpec("changes", "/api/v1/changes", Changes),
    RouteSpec("changes.longpoll", "/api/v1/changes/longpoll", Longpoll),
)
