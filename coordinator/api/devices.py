"""A user's devices: which there are, when they were last seen, and signing one out."""

from __future__ import annotations

from typing import Final

from coordinator.api.base import ApiHandler, parse_id
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import accounts
from coordinator.metadata.values import DeviceId
from coordinator.protocol.errors import NotFound
from coordinator.protocol.types import Device, DeviceList


class Devices(ApiHandler):
    @operation("The devices that are signed in, newest first", answer=DeviceList)
    async def get(self) -> None:
        rows = await self.services.db.run(accounts.list_devices, self.session.user_id)
        devices = [
            Device(
                id=row.id,
                name=row.name,
                created_at=row.created_at,
                last_seen_at=row.last_seen_at,
                online=row.online,
                current=row.id == self.session.device_id,
            )
            for row in rows
        ]
        self.answer(DeviceList(devices=devices))


class OneDevice(ApiHandler):
    @operation("Sign the device out", status=204)
    async def delete(self, device: str) -> None:
        device_id = DeviceId(parse_id(device, "device"))
        if not await self.services.db.run(accounts.revoke_device, self.session.user_id, device_id):
            raise NotFound(what="device")
        self.services.hub.sign_out(device_id)
        self.answer_nothing()


ROUTES: Final = (
    RouteSpec("devices", "/api/v1/devices", Devices),
    RouteSpec("devices.one", "/api/v1/devices/{device}", OneDevice),
)
