"""What people read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from client.cli.admin import parse_size
from client.cli.output import human_size, human_time, plain, write_table
from client.errors import UsageProblem


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (123_456, "123 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (4_194_304, "4.19 MB"),
        (10**10, "10.0 GB"),
        (1 << 44, "17.6 TB"),
        (10**19, "10000 PB"),
    ],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10GB", 10**10),
        ("10g", 10**10),
        ("1.5 TB", 15 * 10**11),
        ("500MiB", 500 << 20),
        ("0.1k", 100),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1 2", "1.GB", "ten", "1I"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_size(text)


def test_a_name_cannot_drive_the_terminal() -> None:
    assert plain("a\x1b[31mb\nc\x07\u202ed") == "a\\x1b[31mb\\nc\\x07\\u202ed"
    assert plain("Übung 📁") == "Übung 📁"


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    write_table([("a", "1", "x"), ("bbb", "22", "")], right=frozenset({1}))
    assert capsys.readouterr().out == "a     1  x\nbbb  22\n"
    write_table([])
    assert capsys.readouterr().out == ""


def test_a_time_that_is_not_there_is_a_dash() -> None:
    assert human_time(None) == "-"
    assert len(human_time(datetime(2026, 1, 2, 3, 4, tzinfo=UTC))) == len("2026-01-02 03:04")
