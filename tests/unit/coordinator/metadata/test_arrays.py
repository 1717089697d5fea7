from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest

from coordinator.metadata import db
from coordinator.metadata.arrays import Array, Bigints, Booleans, Bytes, Ints, Texts, Times

AT = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=timezone(timedelta(hours=5, minutes=30)))
CASES: list[tuple[Array, str, Sequence[object]]] = [
    (Bytes([b"", b"\0\xff", None]), "bytea", [b"", b"\0\xff", None]),
    (Texts(["", 'ä\u0308{},"\\', "NULL"]), "text", ["", 'ä\u0308{},"\\', "NULL"]),
    (Ints([0, -1, 2**31 - 1, None]), "integer", [0, -1, 2**31 - 1, None]),
    (Bigints([0, -1, 2**63 - 1, None]), "bigint", [0, -1, 2**63 - 1, None]),
    (Booleans([True, False]), "boolean", [True, False]),
    (Times([AT, datetime(1969, 1, 1, tzinfo=UTC), None]), "timestamptz", [AT, datetime(1969, 1, 1, tzinfo=UTC), None]),
    (Bytes([]), "bytea", []),
    (Texts([]), "text", []),
]


@pytest.mark.parametrize(("array", "element", "values"), CASES, ids=[f"{e}-{len(v)}" for _, e, v in CASES])
def test_postgresql_reads_the_values_that_were_packed(
    database: str, array: Array, element: str, values: Sequence[object]
) -> None:
    assert db.rows(f"SELECT e FROM unnest(%s::{element}[]) WITH ORDINALITY AS u(e, n) ORDER BY n", (array,)) == [
        (value,) for value in values
    ]
