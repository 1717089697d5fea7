"""What the service refuses: one class per decision that a caller can make, with its code, HTTP status and sentence.

The sentence says what happened, what it means for the person's files, and what happens next. `facts` go to the log and,
where they help a program (`current_version`, `expected_offset`, …), into the error's JSON object.
"""

from __future__ import annotations

from typing import ClassVar


class ApiError(Exception):
    """`code` for programs, `message` for people, `facts` for both and for the log."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    template: ClassVar[str] = "The request failed."

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        self.message = self.template.format(**facts)
        super().__init__(self.message)


class BadRequest(ApiError):
    code, status = "bad_request", 400
    template = "The request is not understood: {reason}."


class BadPath(ApiError):
    code, status = "bad_path", 400
    template = "This path cannot be used: {reason}."


class BadCursor(ApiError):
    code, status = "bad_cursor", 400
    template = "This cursor was not made by this service. Start again without one."


class HashMismatch(ApiError):
    code, status = "hash_mismatch", 400
    template = "The bytes that arrived are not those that were announced. Nothing was stored; send them again."


class SizeMismatch(ApiError):
    code, status = "size_mismatch", 400
    template = "{received} bytes arrived where {expected} were announced. Nothing was stored."


class NotLoggedIn(ApiError):
    code, status = "not_logged_in", 401
    template = "You are not logged in, or this device was signed out. Log in again."


class WrongPassword(ApiError):
    code, status = "wrong_password", 401
    template = "The e-mail address or the password is wrong."


class NotAllowed(ApiError):
    code, status = "not_allowed", 403
    template = "You may not do this here."


class NotFound(ApiError):
    code, status = "not_found", 404
    template = "There is no such {what}."


class MethodNotAllowed(ApiError):
    code, status = "method_not_allowed", 405
    template = "This address does not take {method}."


class VersionConflict(ApiError):
    """The file has another version than the caller's base. `current_version` (int or None) says which."""

    code, status = "version_conflict", 409
    template = "Somebody else changed this file first. Nothing was overwritten; your change can be kept as a copy."


class NameTaken(ApiError):
    code, status = "name_taken", 409
    template = "There is already a file or folder of this name."


class NotAFolder(ApiError):
    code, status = "not_a_folder", 409
    template = "A part of this path is a file, not a folder."


class IsAFolder(ApiError):
    code, status = "is_a_folder", 409
    template = "This is a folder, not a file."


class MoveIntoItself(ApiError):
    code, status = "move_into_itself", 409
    template = "A folder cannot be moved or copied into itself."


class BlocksMissing(ApiError):
    """The commit names blocks that the service does not hold for this caller: `missing` lists their hashes (hex)."""

    code, status = "blocks_missing", 409
    template = "Some of the file's blocks have not arrived. Send them and commit again."


class OffsetMismatch(ApiError):
    code, status = "offset_mismatch", 409
    template = "This upload continues at byte {expected_offset}. Nothing was stored."


class UploadSuperseded(ApiError):
    code, status = "upload_superseded", 409
    template = "A newer request continues this upload."


class UploadGone(ApiError):
    code, status = "upload_gone", 410
    template = "This upload has expired or was cancelled. Start it again."


class TusVersion(ApiError):
    code, status = "tus_version", 412
    template = "This service speaks tus 1.0.0."


class TooLarge(ApiError):
    code, status = "too_large", 413
    template = "This is larger than the service takes ({limit} bytes)."


class UnsupportedMedia(ApiError):
    code, status = "unsupported_media", 415
    template = "This address takes {expected}."


class RangeNotSatisfiable(ApiError):
    code, status = "range_not_satisfiable", 416
    template = "The file has {size} bytes; the range lies outside."


class TooManyRequests(ApiError):
    code, status = "too_many_requests", 429
    template = "Too many attempts. Wait {retry_after_s} seconds and try again."


class ChecksumMismatch(ApiError):
    """tus checksum extension: the chunk was thrown away."""

    code, status = "checksum_mismatch", 460
    template = "The chunk's checksum does not match. It was thrown away; send it again."


class InternalError(ApiError):
    code, status = "internal_error", 500
    template = "Something went wrong inside the service. Your files are as they were; the log holds the cause."


class CannotTakeWrite(ApiError):
    code, status = "cannot_take_write", 503
    template = "Too few storage nodes answer to keep this safely. Nothing was stored; your file stays where it is."


class CannotRead(ApiError):
    code, status = "cannot_read", 503
    template = "Too few storage nodes answer to read this now. Nothing is lost by waiting; try again later."


class BlockDamaged(ApiError):
    code, status = "block_damaged", 500
    template = "A part of this file is damaged and cannot be rebuilt now. The operator has been told."


class Unavailable(ApiError):
    code, status = "unavailable", 503
    template = "The service cannot take this request now. Try again in a moment."


class QuotaExceeded(ApiError):
    """`quota` and `used` in bytes."""

    code, status = "quota_exceeded", 507
    template = "There is not enough space left in this account ({used} of {quota} bytes are used). Nothing was stored."


class ClusterFull(ApiError):
    code, status = "cluster_full", 507
    template = "The storage cluster is full. Nothing was stored; the operator has been told."


def _all(kind: type[ApiError]) -> list[type[ApiError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all(child))]


ERRORS: dict[str, type[ApiError]] = {kind.code: kind for kind in _all(ApiError)}
