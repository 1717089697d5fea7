"""What a user is told: listing and marking as read."""

from __future__ import annotations

from typing import Final

from coordinator.api.base import ApiHandler
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import notifications
from coordinator.protocol.types import Notification, NotificationList, ReadBody

PAGE_MAX: Final = 500


class Notifications(ApiHandler):
    @operation(
        "Those after the id `after`, oldest first, and how many are unread in all",
        answer=NotificationList,
        query={"after": int | None, "limit": int | None},
    )
    async def get(self) -> None:
        after = self.integer("after", 0)
        limit = self.integer("limit", 100, low=1, high=PAGE_MAX)
        rows, unread = await self.services.db.run(notifications.list_after, self.session.user_id, after, limit)
        told = [
            Notification(
                id=row.id,
                created_at=row.created_at,
                kind=row.kind,
                message=row.message,
                path=row.path,
                read=row.read,
            )
            for row in rows
        ]
        self.answer(NotificationList(notifications=told, unread=unread))


class MarkRead(ApiHandler):
    @operation("Mark all up to an id as read", body=ReadBody, status=204)
    async def post(self) -> None:
        body = self.body(ReadBody)
        await self.services.db.run(notifications.mark_read, self.session.user_id, body.up_to)
        self.answer_nothing()


ROUTES: Final = (
    RouteSpec("notifications", "/api/v1/notifications", Notifications),
    RouteSpec("notifications.read", "/api/v1/notifications/read", MarkRead),
)
