"""What the headers of tus say, and how they are written. Pure; whatever is sent is understood or refused."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
from typing import Any, Final

from coordinator.metadata.values import Upload
from coordinator.protocol.errors import BadRequest, SizeMismatch

ALGORITHMS: Final = ("sha1", "sha256", "md5")
METADATA_CHARS_MAX: Final = 64 * 1024

_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def parse_metadata(text: str) -> dict[str, str]:
    """The pairs of an Upload-Metadata header: "key base64,key base64"; a value may be absent. Raises BadRequest."""
    if len(text) > METADATA_CHARS_MAX:
        raise BadRequest(reason="Upload-Metadata is too long")
    found: dict[str, str] = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        key, _, value = pair.partition(" ")
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError:  # not base64, not ASCII, or not UTF-8
            raise BadRequest(reason="Upload-Metadata holds a value that is not UTF-8 in base64") from None
        if key in found:
            raise BadRequest(reason="Upload-Metadata holds a key twice")
        found[key] = decoded
    return found


def check_fits(end: int | None, size: int | None) -> None:
    """Raises SizeMismatch when a body reaches beyond the upload's announced size."""
    if end is not None and size is not None and end > size:
        raise SizeMismatch(received=end, expected=size)


def expiry_header(upload: Upload) -> str:
    return email.utils.format_datetime(upload.expires_at, usegmt=True)


def parse_checksum(header: str | None) -> tuple[Any, bytes] | None:
    """A running hash and what it must come to."""
    if header is None:
        return None
    algorithm, _, value = header.partition(" ")
    try:
        expected = base64.b64decode(value, validate=True)
    except ValueError:
        raise BadRequest(reason="Upload-Checksum is not base64") from None
    if algorithm not in ALGORITHMS:
        raise BadRequest(reason=f"the checksum algorithm is none of {', '.join(ALGORITHMS)}")
    # The client's choice guards its own transfer; what is stored is named by SHA-256.
    return hashlib.new(algorithm, usedforsecurity=False), expected


def parse_number(text: str | None, name: str, high: int = 10**18) -> int | None:
    """A count of at most `high`; None for None. Raises BadRequest, which tells of it as `name`."""
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or int(text) > high:
        raise BadRequest(reason=f"{name} must be a number up to {high}")
    return int(text)
