"""Page tokens: where a listing goes on. Opaque to clients, checked on return; they carry no rights."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TypeVar

import msgspec

from coordinator.protocol.errors import BadRequest

_T = TypeVar("_T")


def encode_page(place: object) -> str:
    """A place in a listing (any msgpack-able value) as text for a URL."""
    return pack(place)


def decode_page(token: str, kind: type[_T]) -> _T:
    """Raises BadRequest when this service did not make the token for such a listing."""
    try:
        place = unpack(token, kind)
    except ValueError:
        raise BadRequest(reason="the page was not made by this listing") from None
    if not _can_be_asked(place):
        raise BadRequest(reason="the page was not made by this listing")
    return place


def _can_be_asked(place: object) -> bool:
    """Whether PostgreSQL takes it: a checksum is no signature, anybody can make a token."""
    match place:
        case str():
            return "\0" not in place
        case int():
            return -(1 << 63) <= place < 1 << 63
        case list() | tuple():
            return all(map(_can_be_asked, place))
    return True


def pack(value: object) -> str:
    body = msgspec.msgpack.encode(value)
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).rstrip(b"=").decode()


def unpack(token: str, kind: type[_T]) -> _T:
    """Raises ValueError for anything that `pack` did not make of such a value."""
    try:
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        body = raw[4:]
        if len(raw) < 5 or zlib.crc32(body) != int.from_bytes(raw[:4], "big"):
            raise ValueError("the checksum does not match")
        return msgspec.msgpack.decode(body, type=kind)
    except (UnicodeEncodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise ValueError("not a token of this kind") from error
