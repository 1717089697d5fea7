"""Which folders this computer syncs: one folder of state for each, under $HOLDFAST_HOME/sync.

    sync/ID/folder.json   what is synced with what, for which account
    sync/ID/state.db      the three trees (store/)
    sync/ID/status.json   what the running client said last
    sync/ID/lock          held while a client runs
    sync/ID/yes           somebody allows this client many deletes at once

Guarantees: `folder.json` is replaced as a whole; a folder is run by one client at a time; a folder inside another
synced folder is refused, since its files would travel twice.
Does not: look into the synced folder (root.py knows whether it is still the same one).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec

from client.errors import ClientError, ExitCode, LocalTrouble, UsageProblem
from client.fs.base import OWN_FOLDER
from client.state import Account, home, list_accounts, load_account
from node.base.durable import write_file_durably


class NotLoggedInFor(ClientError):
    code, exit_code = "not_logged_in", ExitCode.NOT_ALLOWED
    template = "{path} is synced for {email}, who is not logged in on this computer. Log in again as {email}."


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """`id` names the state's folder and stands in the root marker. `service_id` and `user_id` say for whom it is
    synced, as in client.state.Account. `excluded` are paths below the folder."""

    id: str
    path: str
    remote: str
    service_id: str
    user_id: int
    email: str
    excluded: list[str] = []

    @property
    def state(self) -> Path:
        return home() / "sync" / self.id


class _Marked(msgspec.Struct):
    folder_id: str


class ConflictLine(msgspec.Struct, frozen=True):
    path: str
    copy: str


class ProblemLine(msgspec.Struct, frozen=True):
    path: str
    reason: str


class FailureLine(msgspec.Struct, frozen=True):
    at: float
    path: str | None
    message: str


class StatusFile(msgspec.Struct, kw_only=True):
    """What a client says of its folder; `conflicts` counts all, `conflicted` names some."""

    state: str = "offline"
    reason: str | None = None
    queued: int = 0
    conflicts: int = 0
    conflicted: list[ConflictLine] = []
    problems: list[ProblemLine] = []
    errors: list[FailureLine] = []
    up_bytes_s: int = 0
    down_bytes_s: int = 0
    moved_bytes: int = 0
    cursor: str | None = None
    pid: int = 0
    ended: bool = False  # the client came to its end by itself: this is how it left the folder
    running: bool = False  # not written: whether a client runs now


def list_folders() -> list[Folder]:
    """All that were ever synced here, by path; what cannot be read is left out."""
    found = []
    for path in sorted((home() / "sync").glob("*/folder.json")):
        with suppress(OSError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Folder))
    return sorted(found, key=lambda folder: folder.path)


def existing(folder: Path) -> Path:
    """The absolute path without links of a folder on this computer. Raises LocalTrouble, UsageProblem."""
    try:
        path = folder.resolve(strict=True)
    except OSError as error:
        raise LocalTrouble(path=folder, reason=error.strerror) from error
    if not path.is_dir():
        raise UsageProblem(reason=f"{folder} is not a folder.")
    return path


def find(path: Path) -> Folder:
    """The synced folder at `path`. Raises UsageProblem."""
    known = list_folders()
    for folder in known:
        if folder.path == str(path.resolve()):
            return folder
    synced = ", ".join(folder.path for folder in known) or "none"
    raise UsageProblem(reason=f"{path} is not synced by this computer. Synced are: {synced}.")


def load(folder: Folder) -> Folder | None:
    """As it is chosen now; None when that cannot be read."""
    try:
        return msgspec.json.decode((folder.state / "folder.json").read_bytes(), type=Folder)
    except (OSError, msgspec.MsgspecError):
        return None


def choose(folder: Folder, excluded: list[str]) -> Folder:
    """Leave out these paths from now on. Raises LocalTrouble."""
    return _save(msgspec.structs.replace(folder, excluded=sorted(excluded)))


def register(path: Path, remote: str, account: Account, excluded: list[str] | None) -> Folder:
    """The folder at `path` (absolute, without links), new or as it is known. Raises UsageProblem, LocalTrouble.

    `excluded` None keeps what was chosen before.
    """
    known = _known(path)
    if known is not None:
        _check_same(known, remote, account)
        if known.path != str(path):
            known = _save(msgspec.structs.replace(known, path=str(path)))
        if excluded is None or sorted(excluded) == sorted(known.excluded):
            return known
        return choose(known, excluded)
    _check_apart(path)
    folder = Folder(
        id=_new_id(f"{account.service_id}\0{account.user_id}\0{path}"),
        path=str(path),
        remote=remote,
        service_id=account.service_id,
        user_id=account.user_id,
        email=account.email,
        excluded=sorted(excluded or []),
    )
    return _save(folder)


def account_for(path: Path, chosen: str | None) -> Account:
    """The login that the folder at `path` is synced with, or for a new folder the one that is `chosen`. Raises
    NotLoggedInHere, NotLoggedInFor, StateUnreadable, UsageProblem."""
    known = _known(path)
    return load_account(chosen) if known is None or chosen is not None else account_of(known)


def account_of(folder: Folder) -> Account:
    """The login of the person for whom the folder is synced. Raises NotLoggedInFor, StateUnreadable."""
    for account in list_accounts():
        if account.is_of(folder.service_id, folder.user_id):
            return account
    raise NotLoggedInFor(path=folder.path, email=folder.email)


def _known(path: Path) -> Folder | None:
    return next((folder for folder in list_folders() if folder.path == str(path)), None) or _moved_to(path)


def _moved_to(path: Path) -> Folder | None:
    """The folder that was synced elsewhere and lies here now: its marker is here, and at its old place it is not."""
    marked = _marked_id(path)
    if marked is None:
        return None
    moved = (folder for folder in list_folders() if folder.id == marked and _marked_id(Path(folder.path)) != marked)
    return next(moved, None)


def _marked_id(path: Path) -> str | None:
    """Only a hint: whether the marker is right is asked where the folder is opened (root.py)."""
    try:
        return msgspec.json.decode((path / OWN_FOLDER / "root.json").read_bytes(), type=_Marked).folder_id
    except (OSError, msgspec.MsgspecError):
        return None


def _new_id(seed: str) -> str:
    """Another one where a folder that was moved away has kept its id."""
    taken = {folder.id for folder in list_folders()}
    for number in count():
        text = f"{seed}\0{number}" if number else seed
        made = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        if made not in taken:
            break
    return made


def _save(folder: Folder) -> Folder:
    try:
        folder.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file_durably(folder.state / "folder.json", msgspec.json.encode(folder), mode=0o600)
    except OSError as error:
        raise LocalTrouble(path=folder.state, reason=error.strerror) from error
    return folder


def _check_same(known: Folder, remote: str, account: Account) -> None:
    if not account.is_of(known.service_id, known.user_id):
        raise UsageProblem(
            reason=f"{known.path} is synced for {known.email}, not for {account.email} at {account.url}."
            " Choose another folder."
        )
    if known.remote != remote:
        raise UsageProblem(
            reason=f"{known.path} is synced with {known.remote}, not with {remote}. Choose another folder for {remote}."
        )


def _check_apart(path: Path) -> None:
    for other in list_folders():
        if path.is_relative_to(other.path) or Path(other.path).is_relative_to(path):
            raise UsageProblem(reason=f"{path} and {other.path}, which is synced already, lie inside each other.")


@contextmanager
def running(folder: Folder) -> Iterator[None]:
    """Be the one client of this folder. Raises UsageProblem when one runs already."""
    descriptor = os.open(folder.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageProblem(reason=f"{folder.path} is being synced already by another process.") from None
        yield
    finally:
        os.close(descriptor)


def is_running(folder: Folder) -> bool:
    try:
        descriptor = os.open(folder.state / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def give_yes(folder: Folder) -> None:
    """Allow the running client the deletes that it asks about. Raises LocalTrouble."""
    try:
        (folder.state / "yes").touch(mode=0o600)
    except OSError as error:
        raise LocalTrouble(path=folder.state, reason=error.strerror) from error


def take_yes(folder: Folder) -> bool:
    """Whether somebody has given it since this was asked last."""
    try:
        (folder.state / "yes").unlink()
    except OSError:
        return False
    return True


def write_status(folder: Folder, status: StatusFile) -> None:
    """Not durable: after a power cut no client runs and nobody believes it."""
    target = folder.state / "status.json"
    beside = target.with_name("status.json.new")
    data = msgspec.json.encode(status)
    try:
        beside.write_bytes(data)
    except OSError:
        target.unlink(missing_ok=True)  # on a full disk it makes room for what is true now
        beside.write_bytes(data)
    beside.replace(target)


def read_status(folder: Folder) -> StatusFile:
    """What the client says, or said when it came to its end; a folder whose client was killed is offline."""
    try:
        status = msgspec.json.decode((folder.state / "status.json").read_bytes(), type=StatusFile)
    except (OSError, msgspec.MsgspecError):
        status = StatusFile(reason="It has not been synced yet.", ended=True)
    status.running = is_running(folder)
    if not status.running:
        status.up_bytes_s = status.down_bytes_s = 0
        if not status.ended:
            status.state = "offline"
            status.reason = "No client is running for this folder. Start one with: holdfast sync " + folder.path
    return status
