"""Which services this computer is logged in to: one file under $HOLDFAST_HOME (default: the platform's own place).

Guarantees: the file is replaced as a whole and durably, and only its owner can read it from its first byte on, since
it holds the devices' tokens. A service's CA travels inside it, so that moving the original file breaks nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from client.errors import LocalTrouble, NotLoggedInHere, StateUnreadable, UsageProblem
from node.base.durable import write_file_durably


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A login. `service_id` and `user_id` together say whose files these are, whatever address the service has by now.
    `ca_pem` None trusts the computer's own certificate store."""

    url: str
    service_id: str
    email: str
    name: str
    user_id: int
    device_id: int
    device_name: str
    token: str
    ca_pem: str | None = None

    def is_of(self, service_id: str, user_id: int) -> bool:
        return (self.service_id, self.user_id) == (service_id, user_id)


def home() -> Path:
    """The folder of this client's state; it need not exist yet."""
    if chosen := os.environ.get("HOLDFAST_HOME"):
        return Path(chosen)
    import platformdirs  # noqa: PLC0415  # 20 ms at every start that most users never need

    return platformdirs.user_data_path("holdfast", appauthor=False)


def list_accounts() -> list[Account]:
    """All logins of this computer; commands use the first where nobody says otherwise. Raises StateUnreadable."""
    path = _path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Account])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateUnreadable(path=path, reason=error.strerror) from error
    except msgspec.MsgspecError as error:
        raise StateUnreadable(path=path, reason="it is damaged") from error


def load_account(chosen: str | None = None) -> Account:
    """The login with the e-mail address `chosen`, or with `EMAIL URL` where that is at several services; without one
    the first. Raises NotLoggedInHere, StateUnreadable or UsageProblem."""
    accounts = list_accounts()
    if not accounts:
        raise NotLoggedInHere
    if chosen is None:
        return accounts[0]
    fitting = [one for one in accounts if chosen in (one.email, f"{one.email} {one.url}")]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        known = ", ".join(one.email for one in accounts)
        raise UsageProblem(reason=f"{chosen} is not logged in on this computer; logged in are: {known}.")
    several = ", ".join(f'"{one.email} {one.url}"' for one in fitting)
    raise UsageProblem(reason=f"{chosen} is logged in at several services; say which: {several}.")


def save_account(account: Account) -> None:
    """Make this login the first; it replaces one of the same person at the same service. Durable when it returns.
    Raises LocalTrouble."""
    _change(lambda accounts: [account, *_others(accounts, account)])


def forget_account(account: Account) -> None:
    """Raises LocalTrouble."""
    _change(lambda accounts: _others(accounts, account))


def forget_all_accounts() -> None:
    """Raises LocalTrouble."""
    _change(lambda accounts: [])


def _others(accounts: list[Account], account: Account) -> list[Account]:
    return [one for one in accounts if not one.is_of(account.service_id, account.user_id)]


def _path() -> Path:
    return home() / "accounts.json"


def _change(change: Callable[[list[Account]], list[Account]]) -> None:
    """Two commands that log in at the same time follow each other, so that neither loses the other's token."""
    folder = home()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                accounts = list_accounts()
            except StateUnreadable:
                accounts = []  # whoever logs in again replaces a damaged file, as its message says
            write_file_durably(_path(), msgspec.json.encode(change(accounts)), mode=0o600)
        finally:
            os.close(lock)
    except OSError as error:
        raise LocalTrouble(path=folder, reason=error.strerror) from error


def record_bug(error: BaseException) -> Path:
    """Append the traceback of a bug to this client's log and tell where that is. Raises OSError."""
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "holdfast.log"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a") as log:
        log.write(stamp + "\n" + "".join(traceback.format_exception(error)) + "\n")
    return path
