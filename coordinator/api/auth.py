"""Log in, log out, and who is logged in."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from coordinator.api.base import ApiHandler, hash_token
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import accounts, notifications
from coordinator.metadata.values import AccountId, Login
from coordinator.metrics import LOGINS_FAILED
from coordinator.passwords import hash_password, is_outdated
from coordinator.protocol.errors import ApiError, WrongPassword
from coordinator.protocol.types import Account, LoginAnswer, LoginBody

log = logging.getLogger("coordinator.api")

TOKEN_BYTES: Final = 32


class LogIn(ApiHandler):
    login_required = False
    body_bytes_max = 16 * 1024

    @operation("Log in and register this device", body=LoginBody, answer=LoginAnswer)
    async def post(self) -> None:
        body = self.body(LoginBody)
        login = await self._check(body)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        db, user = self.services.db, login.user
        device = await db.run(accounts.add_device, user.id, body.device_name, hash_token(token))
        await db.run(notifications.audit, user.id, device.id, "login", {"address": self.client_address})
        if is_outdated(login.password_hash):
            await db.run(accounts.set_password, user.id, await self.services.cpu.run(hash_password, body.password))
        self.answer(
            LoginAnswer(
                token=token,
                service_id=self.services.config.cluster_id,
                device_id=device.id,
                user_id=user.id,
                email=user.email,
                name=user.name,
            )
        )

    async def _check(self, body: LoginBody) -> Login:
        """The user whose password this is. Raises WrongPassword, TooManyRequests, Unavailable."""
        login = await self.services.db.run(accounts.get_login, body.email)
        stored = None if login is None else login.password_hash
        try:
            right = await self.services.logins.check(body.email, self.client_address, stored, body.password)
            if login is None or not right:
                raise WrongPassword
        except ApiError as error:
            LOGINS_FAILED.labels(error.code).inc()
            log.warning("login.refused", extra={"code": error.code, "address": self.client_address})
            raise
        return login


class LogOut(ApiHandler):
    @operation("Sign this device out", status=204)
    async def post(self) -> None:
        session = self.session
        await self.services.db.run(accounts.revoke_device, session.user_id, session.device_id)
        self.services.hub.sign_out(session.device_id)
        self.answer_nothing()


class WhoAmI(ApiHandler):
    @operation("The account and how much of it is used", answer=Account)
    async def get(self) -> None:
        session = self.session
        usage = await self.services.db.run(accounts.get_usage, AccountId(session.user_id))
        self.answer(
            Account(
                user_id=session.user_id,
                device_id=session.device_id,
                email=session.email,
                name=session.name,
                is_admin=session.is_admin,
                quota=usage.quota_bytes,
                used=usage.used_bytes,
                pending=usage.pending_bytes,
            )
        )


ROUTES: Final = (
    RouteSpec("auth.login", "/api/v1/auth/login", LogIn),
    RouteSpec("auth.logout", "/api/v1/auth/logout", LogOut),
    RouteSpec("auth.whoami", "/api/v1/auth/whoami", WhoAmI),
)
