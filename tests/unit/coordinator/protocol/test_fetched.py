"""Small files one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.fetched import BadFetched, join_fetched, split_fetched

Contents = st.lists(st.none() | st.binary(max_size=50), max_size=10)


@given(Contents)
def test_what_was_joined_is_split_again(contents: list[bytes | None]) -> None:
    told = [None if plain is None else bytes(plain) for plain in split_fetched(join_fetched(contents))]
    assert told == contents


@given(Contents, st.integers(min_value=1, max_value=60))
def test_a_body_that_breaks_off_is_told_or_gives_the_first_ones(contents: list[bytes | None], missing: int) -> None:
    whole = join_fetched(contents)
    try:
        told = [
            None if plain is None else bytes(plain) for plain in split_fetched(whole[: max(0, len(whole) - missing)])
        ]
    except BadFetched:
        return
    assert told == contents[: len(told)]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_taken_apart_or_refused(body: bytes) -> None:
    try:
        contents = list(split_fetched(body))
    except BadFetched:
        return
    assert sum(len(plain) for plain in contents if plain is not None) + 4 * len(contents) == len(body)


def test_the_bytes_on_the_wire_stay_as_they_are() -> None:
    assert join_fetched([b"ab", None, b""]) == bytes.fromhex("00000002616200000000".replace("6162", "6162ffffffff"))
    with pytest.raises(BadFetched):
        list(split_fetched(b"\0\0\0\2a"))
