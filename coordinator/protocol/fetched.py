"""The answer of POST /files/fetch: small files one after the other, each behind its length. Pure.

For each file asked for, in order: 4 bytes length (big endian) and its contents, or LEFT_OUT and nothing: ask for that
one by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

LEFT_OUT: Final = 0xFFFF_FFFF
_LENGTH_BYTES: Final = 4


class BadFetched(ValueError):
    """The bytes are no such answer."""


def join_fetched(contents: Iterable[bytes | bytearray | None]) -> bytes:
    """None: left out."""
    return b"".join(part for plain in contents for part in _framed(plain))


def _framed(plain: bytes | bytearray | None) -> tuple[bytes | bytearray, ...]:
    if plain is None:
        return (LEFT_OUT.to_bytes(_LENGTH_BYTES, "big"),)
    return (len(plain).to_bytes(_LENGTH_BYTES, "big"), plain)


def split_fetched(body: bytes) -> Iterator[memoryview | None]:
    """The contents in order, without a copy. Raises BadFetched where the bytes end within one."""
    rest = memoryview(body)
    while rest:
        length = int.from_bytes(rest[:_LENGTH_BYTES], "big")
        if len(rest) < _LENGTH_BYTES:
            raise BadFetched
        rest = rest[_LENGTH_BYTES:]
        if length == LEFT_OUT:
            yield None
            continue
        if length > len(rest):
            raise BadFetched
        yield rest[:length]
        rest = rest[length:]
