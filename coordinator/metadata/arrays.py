"""Arrays as PostgreSQL takes them on the wire (binary format), for the calls that carry a whole batch.

psycopg writes lists as text, escaping each element by regular expressions: 5 ms for a batch of a hundred files, more
than the server needs for committing it. These are packed at once, and always of one type, so that a statement stays
prepared. None is NULL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

_NULL: Final = struct.pack(">i", -1)
_LENGTH: Final = struct.Struct(">i")
_INT4: Final = struct.Struct(">ii")
_INT8: Final = struct.Struct(">iq")
_TRUE: Final = b"\0\0\0\1\1"
_FALSE: Final = b"\0\0\0\1\0"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Array:
    """A packed array; a subclass for each element type."""

    element_oid: ClassVar[int]
    array_oid: ClassVar[int]
    __slots__ = ("packed",)

    def __init__(self, elements: Sequence[bytes]) -> None:
        has_null = _NULL in elements
        head = struct.pack(">iiIii", 1 if elements else 0, has_null, self.element_oid, len(elements), 1)
        self.packed = (head if elements else head[:12]) + b"".join(elements)


class Bytes(Array):
    element_oid, array_oid = 17, 1001

    def __init__(self, values: Iterable[bytes | None]) -> None:
        super().__init__([_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values])


class Texts(Array):
    element_oid, array_oid = 25, 1009

    def __init__(self, values: Iterable[str | None]) -> None:
        raw = (None if value is None else value.encode() for value in values)
        super().__init__([_NULL if value is None else _LENGTH.pack(len(value)) + value for value in raw])


class Ints(Array):
    element_oid, array_oid = 23, 1007

    def __init__(self, values: Iterable[int | None]) -> None:
        super().__init__([_NULL if value is None else _INT4.pack(4, value) for value in values])


class Bigints(Array):
    element_oid, array_oid = 20, 1016

    def __init__(self, values: Iterable[int | None]) -> None:
        super().__init__([_NULL if value is None else _INT8.pack(8, value) for value in values])


class Booleans(Array):
    element_oid, array_oid = 16, 1000

    def __init__(self, values: Iterable[bool]) -> None:
        super().__init__([_TRUE if value else _FALSE for value in values])


class Times(Array):
    """timestamptz[] from aware datetimes."""

    element_oid, array_oid = 1184, 1185

    def __init__(self, values: Iterable[datetime | None]) -> None:
        super().__init__(
            [_NULL if value is None else _INT8.pack(8, (value - _EPOCH) // _MICROSECOND) for value in values]
        )


def _register(kind: type[Array]) -> None:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.array_oid

        def dump(self, obj: Array) -> bytes:
            return obj.packed

    adapters.register_dumper(kind, ArrayDumper)


for _kind in (Bytes, Texts, Ints, Bigints, Booleans, Times):
    _register(_kind)
