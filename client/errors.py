"""What the client cannot do, as one class per decision that a caller can make, each with its exit code.

The service's own refusals arrive as `Refused`, whatever their code: a newer service may know codes that this client
does not. Every message is a sentence for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """What scripts hold on to; INTERRUPTED is the shell's number for Ctrl-C."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    NOT_ALLOWED = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


class ClientError(Exception):
    """`code` for programs, `message` for people, `exit_code` for the shell."""

    code: str = "failed"
    exit_code: ExitCode = ExitCode.FAILED
    template: ClassVar[str] = "This could not be done."
    told: ClassVar[bool] = False  # True: the command has printed its JSON document already, with this in it

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        self.message = self.template.format(**facts)
        super().__init__(self.message)


class UsageProblem(ClientError):
    code, exit_code = "usage", ExitCode.USAGE
    template = "{reason}"


class BadRemotePath(ClientError):
    code, exit_code = "bad_path", ExitCode.USAGE
    template = "The remote path {path!r} cannot be used: {reason}."


class NotLoggedInHere(ClientError):
    code, exit_code = "not_logged_in", ExitCode.NOT_ALLOWED
    template = "You are not logged in on this computer. Log in with: holdfast login URL --email YOUR-EMAIL"


class StateUnreadable(ClientError):
    code = "state_unreadable"
    template = "The account file {path} cannot be used ({reason}). Log in again to replace it."


class Unreachable(ClientError):
    code, exit_code = "unreachable", ExitCode.UNAVAILABLE
    template = "The service at {url} cannot be reached now: {reason}. Nothing was lost; try again later."


class Untrusted(ClientError):
    code, exit_code = "untrusted_certificate", ExitCode.UNAVAILABLE
    template = (
        "The service at {url} could not prove who it is ({reason}). Nothing was sent. Give its CA with --ca-file."
    )


class BadAnswer(ClientError):
    code = "bad_answer"
    template = "The service at {url} answered something that this client does not understand ({reason})."


class NotOffered(ClientError):
    code = "not_offered"
    template = "The service at {url} does not offer this yet. Nothing was changed."


class DamagedTransfer(ClientError):
    code = "damaged_transfer"
    template = "What arrived for {path} is not what the service announced. Nothing was written; try again."


class LocalMissing(ClientError):
    code, exit_code = "no_such_local_file", ExitCode.NOT_FOUND
    template = "There is no file or folder {path} on this computer."


class LocalTrouble(ClientError):
    code = "local_trouble"
    template = "{path} on this computer cannot be used: {reason}."


class LocalConflict(ClientError):
    code, exit_code = "local_conflict", ExitCode.CONFLICT
    template = "{path} on this computer is in the way: {reason}."


class FileChanged(ClientError):
    code = "file_changed"
    template = "{path} kept changing while it was read, so it was not stored. Run this again when it is at rest."


class RestIncomplete(ClientError):
    """Some entries of a folder tree were left out; their own sentences have been told already."""

    code, told = "incomplete", True
    template = "{failed} of {total} entries could not be handled; everything else is done."

    def __init__(self, *, exit_code: ExitCode, failed: int, total: int) -> None:
        super().__init__(failed=failed, total=total)
        self.exit_code = exit_code


# 409 codes that mean "this clashes with what is there" rather than "send something again".
_CONFLICTS: Final = frozenset(
    {"version_conflict", "name_taken", "not_a_folder", "is_a_folder", "move_into_itself", "upload_superseded"}
)
_UNAVAILABLE: Final = frozenset(
    {"cannot_take_write", "cannot_read", "unavailable", "cluster_full", "too_many_requests"}
)


class Refused(ClientError):
    """The service's own refusal: its code, sentence, HTTP status, request id and facts (`current_version`, …)."""

    def __init__(self, status: int, error: Mapping[str, object]) -> None:
        facts = {name: value for name, value in error.items() if name not in ("code", "message", "request_id")}
        super().__init__(**facts)
        self.code = str(error.get("code") or "refused")
        self.message = str(error.get("message") or f"The service refused this (HTTP status {status}).")
        self.request_id = str(error.get("request_id") or "")
        self.status = status
        self.path: str | None = None  # what the refused call was about, where that was one path
        self.exit_code = exit_code_of(self.code, status)
        self.args = (self.message,)


def exit_code_of(code: str, status: int) -> ExitCode:
    """The exit code for an error code of the API; `status` (HTTP, 0 where there is none) decides for unknown codes."""
    if code in _CONFLICTS:
        return ExitCode.CONFLICT
    if code in _UNAVAILABLE or status in (429, 502, 503, 504):
        return ExitCode.UNAVAILABLE
    if code == "not_found" or status in (404, 410):
        return ExitCode.NOT_FOUND
    if status in (401, 403) or code in ("not_logged_in", "wrong_password", "not_allowed"):
        return ExitCode.NOT_ALLOWED
    if code == "bad_path":
        return ExitCode.USAGE
    return ExitCode.FAILED


def sentence(error: ClientError) -> str:
    """What a person reads; a refusal names what it is about."""
    if isinstance(error, Refused) and error.path is not None and error.status in (404, 409):
        return f"{error.path}: {error.message}"
    return error.message


def error_object(error: ClientError) -> dict[str, object]:
    """The object under "error" in JSON output; a refusal brings its facts along."""
    # A local name that is not UTF-8 must not make the document unprintable.
    message = error.message.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(error, Refused):
        about = {"path": error.path} if error.path is not None else {}
        return {**error.facts, **about, "code": error.code, "message": message, "request_id": error.request_id}
    return {"code": error.code, "message": message, "request_id": ""}
