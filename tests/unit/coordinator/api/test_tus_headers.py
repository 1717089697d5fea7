"""The headers of tus: whatever is sent, it is understood or refused."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.api.tus_headers import check_fits, parse_metadata
from coordinator.protocol.errors import ApiError, BadRequest, SizeMismatch

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=20)


@given(st.dictionaries(KEYS, st.text(max_size=50), max_size=5))
def test_metadata_round_trip(pairs: dict[str, str]) -> None:
    header = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
    assert parse_metadata(header) == pairs


def test_values_may_be_absent() -> None:
    assert parse_metadata("is_confidential, path L2E=") == {"is_confidential": "", "path": "/a"}
    assert parse_metadata("") == {}


@pytest.mark.parametrize("header", ["path !!!", "path L2E=,path L2E=", "path /w==", "a " + "A" * 70_000])
def test_what_is_not_understood_is_refused(header: str) -> None:
    with pytest.raises(BadRequest):
        parse_metadata(header)


@given(st.text(max_size=200))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(ApiError):
        parse_metadata(text)


def test_a_body_must_fit_the_announced_size() -> None:
    check_fits(10, 10)
    check_fits(None, 10)
    check_fits(10, None)
    with pytest.raises(SizeMismatch):
        check_fits(11, 10)
