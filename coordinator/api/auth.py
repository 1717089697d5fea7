"""Log in, log out, and who is logged in."""

from __future__ import annotations

import math
import secrets
from typing import Final

from coordinator.api.base import ApiHandler, hash_token
from coordinator.api.routes import RouteSpec, operation
from coordinator.metadata import accounts, notifications
from coordinator.metadata.values import AccountId, Login
from coordinator.metrics import LOGINS_FAILED
from coordinator.passwords import hash_password, is_outdated, verify_password
from coordinator.protocol.errors import TooManyRequests, Unavailable, WrongPassword
from coordinator.protocol.types import Account, LoginAnswer, LoginBody

TOKEN_BYTES: Final = 32
# Each takes 32 MiB and a thread of the CPU pool for 60 ms; a crowd of guessers must not starve uploads of it.
PASSWORD_CHECKS_WAITING_MAX: Final = 16


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
        self.answer(LoginAnswer(token=token, device_id=device.id, user_id=user.id, email=user.email, name=user.name))

    async def _check(self, body: LoginBody) -> Login:
        """The user whose password this is. Raises WrongPassword, TooManyRequests, Unavailable."""
        account_key, address_key = body.email.casefold(), self.client_address
        self._count_guess(account_key, address_key)
        try:
            login = await self._find(body)
        except Unavailable:
            # Nothing was learned about the password, and an outage must not lock its owner out afterwards.
            self._take_back_guess(account_key, address_key)
            raise
        if login is None:
            LOGINS_FAILED.labels("wrong_password").inc()
            raise WrongPassword
        self._take_back_guess(account_key, address_key)
        return login

    async def _find(self, body: LoginBody) -> Login | None:
        """The user of this address, if the password is right."""
        if self.services.cpu.queued >= PASSWORD_CHECKS_WAITING_MAX:
            raise Unavailable
        login = await self.services.db.run(accounts.get_login, body.email)
        stored = None if login is None else login.password_hash
        right = await self.services.cpu.run(verify_password, stored, body.password)
        return login if right else None

    def _take_back_guess(self, account_key: str, address_key: str) -> None:
        self.services.guesses.by_account.take_back(account_key)
        self.services.guesses.by_address.take_back(address_key)

    def _count_guess(self, account_key: str, address_key: str) -> None:
        now, guesses = self.services.clock.monotonic(), self.services.guesses
        wait_s = max(guesses.by_account.guess(account_key, now), guesses.by_address.guess(address_key, now))
        if wait_s > 0:
            LOGINS_FAILED.labels("too_many_requests").inc()
            raise TooManyRequests(retry_after_s=math.ceil(wait_s))


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
