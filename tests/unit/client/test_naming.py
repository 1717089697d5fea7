"""Names in the remote tree as a person writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import BadRemotePath, UsageProblem
from client.naming import (
    ByteRange,
    Target,
    base_name,
    join,
    local_name,
    parent,
    parse_range,
    path_key,
    place,
    remote_path,
)


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("docs", "/docs"), ("/docs/", "/docs"), ("/a/b c/ü", "/a/b c/ü"), ("docs/a", "/docs/a")],
)
def test_remote_path_is_made_absolute(text: str, path: str) -> None:
    assert remote_path(text) == path


@pytest.mark.parametrize("text", ["", "..", "/a/../b", "/a/./b", "/a//b", "/a\0b", "/" + "x" * 256, "/\udcff"])
def test_remote_path_refuses_what_the_service_would_refuse(text: str) -> None:
    with pytest.raises(BadRemotePath):
        remote_path(text)


def test_paths_are_joined_and_taken_apart() -> None:
    assert join("/", "a") == "/a"
    assert join("/a", "b", "c") == "/a/b/c"
    assert join("/a") == "/a"
    assert (base_name("/a/b"), base_name("/")) == ("b", "")
    assert (parent("/a/b"), parent("/a"), parent("/")) == ("/a", "/", "/")


def test_path_key_ignores_case_and_unicode_form() -> None:
    assert path_key("/Straße/É") == path_key("/STRASSE/e\u0301")
    assert path_key("/a") != path_key("/b")


EXISTING = Target("/docs", is_folder=True, says_folder=False)
NEW = Target("/new", is_folder=False, says_folder=False)
NEW_SLASH = Target("/new", is_folder=False, says_folder=True)


@pytest.mark.parametrize(
    ("source", "is_folder", "target", "expected"),
    [
        ("a.txt", False, EXISTING, "/docs/a.txt"),
        ("dir", True, EXISTING, "/docs/dir"),
        ("a.txt", False, NEW, "/new"),
        ("dir", True, NEW, "/new"),
        ("dir", True, NEW_SLASH, "/new"),
        (".", True, EXISTING, "/docs"),
        (".", True, NEW, "/new"),
        ("a.txt", False, Target("/", is_folder=True, says_folder=True), "/a.txt"),
    ],
)
def test_place_follows_cp_r(source: str, is_folder: bool, target: Target, expected: str) -> None:
    assert place(source, target, source_is_folder=is_folder) == expected


def test_place_refuses_a_file_for_a_folder_that_is_not_there() -> None:
    with pytest.raises(BadRemotePath, match="no such folder"):
        place("a.txt", NEW_SLASH, source_is_folder=False)


@pytest.mark.parametrize(
    ("text", "name"),
    [("a", "a"), ("x/a/", "a"), (".", "."), ("x/.", "."), ("./", "."), ("..", "."), ("/", "."), ("x/..a", "..a")],
)
def test_local_name_knows_what_means_the_contents(text: str, name: str) -> None:
    assert local_name(text) == name


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("0-0", 10, (0, 1)),
        ("2-5", 10, (2, 4)),
        ("2-500", 10, (2, 8)),
        ("7-", 10, (7, 3)),
        ("-3", 10, (7, 3)),
        ("-30", 10, (0, 10)),
        ("10-", 10, (10, 0)),
        ("12-15", 10, (12, 0)),
        ("-0", 10, (10, 0)),
    ],
)
def test_ranges_are_read_as_http_does(text: str, size: int, expected: tuple[int, int]) -> None:
    assert parse_range(text).resolve(size) == expected


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5-4", "a-b", "1-2-3", " 1-2", "1-2,4-5", "+1-2", "٣-٤", "1" * 19 + "-"]
)
def test_what_is_no_range_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_range(text)


@given(first=st.integers(0, 99), length=st.integers(1, 50), size=st.integers(0, 100))
def test_a_resolved_range_selects_what_slicing_selects(first: int, length: int, size: int) -> None:
    whole = bytes(range(size))
    wanted = parse_range(f"{first}-{first + length - 1}")
    offset, count = wanted.resolve(size)
    assert whole[offset : offset + count] == whole[first : first + length]
    assert wanted.header() == f"bytes={first}-{first + length - 1}"


def test_headers_of_open_ranges() -> None:
    assert ByteRange(5, None).header() == "bytes=5-"
    assert ByteRange(None, 5).header() == "bytes=-5"
