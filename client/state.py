"""Which service this computer is logged in to: one file under $HOLDFAST_HOME (default: the platform's own place).

Guarantees: the file is replaced as a whole and durably, and only its owner can read it from its first byte on, since
it holds the device's token. The service's CA travels inside it, so that moving the original file breaks nothing.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path

import msgspec

from client.errors import LocalTrouble, NotLoggedInHere, StateUnreadable
from node.base.durable import sync_directory, write_file_durably


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A login. `ca_pem` None trusts the computer's own certificate store."""

    url: str
    email: str
    name: str
    user_id: int
    device_id: int
    device_name: str
    token: str
    ca_pem: str | None = None


def home() -> Path:
    """The folder of this client's state; it need not exist yet."""
    if chosen := os.environ.get("HOLDFAST_HOME"):
        return Path(chosen)
    import platformdirs  # noqa: PLC0415  # 20 ms at every start that most users never need

    return platformdirs.user_data_path("holdfast", appauthor=False)


def load_account() -> Account:
    """Raises NotLoggedInHere or StateUnreadable."""
    path = home() / "account.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Account)
    except FileNotFoundError:
        raise NotLoggedInHere from None
    except OSError as error:
        raise StateUnreadable(path=path, reason=error.strerror) from error
    except msgspec.MsgspecError as error:
        raise StateUnreadable(path=path, reason="it is damaged") from error


def save_account(account: Account) -> None:
    """Durable when it returns. Raises LocalTrouble."""
    folder = home()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file_durably(folder / "account.json", msgspec.json.encode(account), mode=0o600)
    except OSError as error:
        raise LocalTrouble(path=folder, reason=error.strerror) from error


def forget_account() -> None:
    """Raises LocalTrouble."""
    path = home() / "account.json"
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise LocalTrouble(path=path, reason=error.strerror) from error


def record_bug(error: BaseException) -> Path:
    """Append the traceback of a bug to this client's log and tell where that is. Raises OSError."""
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "holdfast.log"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a") as log:
        log.write(stamp + "\n" + "".join(traceback.format_exception(error)) + "\n")
    return path
