from __future__ import annotations

import pytest

from client.sync.planner import conflicts
from client.sync.planner.conflicts import ConflictName, Naming, make, parse, temporary, who
from coordinator.protocol.names import check_name

ANN = Naming("Ann on laptop", "2026-11-22")
MARK = " (Ann on laptop's conflicted copy 2026-11-22)"


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("report.pdf", f"report{MARK}.pdf"),
        ("README", f"README{MARK}"),
        ("archive.tar.gz", f"archive.tar{MARK}.gz"),
        (".bashrc", f".bashrc{MARK}"),
        (".config.toml", f".config{MARK}.toml"),
        ("ends with a dot.", f"ends with a dot.{MARK}"),
        ("Mr. Smith wrote", f"Mr. Smith wrote{MARK}"),
        ("naïve 🙂.txt", f"naïve 🙂{MARK}.txt"),
        ("two\nlines.txt", f"two\nlines{MARK}.txt"),
        (f"report{MARK}.pdf", f"report{MARK}{MARK}.pdf"),
    ],
)
def test_the_marker_stands_before_the_last_extension(name: str, copy: str) -> None:
    assert make(name, ANN) == copy
    assert parse(copy) == ConflictName(name, "Ann on laptop", "2026-11-22", 1)


def test_a_folder_has_no_extension() -> None:
    assert make("v1.2", ANN, is_folder=True) == f"v1.2{MARK}"


def test_a_second_copy_of_the_day_carries_a_number() -> None:
    copy = make("a.txt", ANN, 2)
    assert copy == "a (Ann on laptop's conflicted copy 2026-11-22 2).txt"
    assert parse(copy) == ConflictName("a.txt", "Ann on laptop", "2026-11-22", 2)


def test_nested_markers_are_read_from_the_right() -> None:
    first = make("a.txt", Naming("Bo on pc", "2026-01-01"))
    second = make(first, ANN)
    outer = parse(second)
    assert outer is not None
    assert (outer.who, outer.original) == ("Ann on laptop", first)
    inner = parse(outer.original)
    assert inner is not None
    assert (inner.who, inner.original) == ("Bo on pc", "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a (1).txt", "a's conflicted copy.txt", "a (x's conflicted copy).txt", ""])
def test_other_names_are_not_taken_for_copies(name: str) -> None:
    assert parse(name) is None
    assert not conflicts.is_conflict_name(name)


@pytest.mark.parametrize("letter", ["x", "é", "€", "🙂"])
@pytest.mark.parametrize("length_bytes", range(240, 256))
def test_a_copy_of_a_long_name_fits_and_is_cut_between_characters(letter: str, length_bytes: int) -> None:
    size = len(letter.encode())
    name = letter * ((length_bytes - 4) // size) + ".txt"
    copy = make(name, ANN, 12)
    check_name(copy)
    parsed = parse(copy)
    assert parsed is not None
    assert parsed.counter == 12
    assert name.startswith(parsed.original.removesuffix(".txt"))
    assert copy.endswith(".txt")
    assert 255 - size < len(copy.encode()) <= 255


@pytest.mark.parametrize(
    ("user", "device", "expected"),
    [
        ("Ann", "laptop", "Ann on laptop"),
        ("Ann (work)", 'C:\\a/b"<>|?*\n\0', "Ann work on C a b"),
        ("", "laptop", "laptop"),
        ("(", ")", "someone"),
        ("🙂" * 100, "pc", "🙂" * 20),
    ],
)
def test_who_holds_nothing_that_a_name_cannot(user: str, device: str, expected: str) -> None:
    assert who(user, device) == expected
    copy = make("a.txt", Naming(who(user, device), "2026-11-22"))
    check_name(copy)
    assert conflicts.is_conflict_name(copy)


def test_temporary_names_of_this_device_are_known_again() -> None:
    assert conflicts.is_own_temporary(temporary("a.txt", 7, ANN), ANN)
    assert conflicts.is_own_temporary(temporary("a.txt", 7, ANN, 3), Naming("Ann on laptop", "2030-01-01"))
    assert conflicts.is_own_temporary(temporary("v1.2", 7, ANN, is_folder=True), ANN)
    assert not conflicts.is_own_temporary(temporary("a.txt", 7, ANN), Naming("Bo on pc", "2026-11-22"))
    assert not conflicts.is_own_temporary("a.txt", ANN)


@pytest.mark.parametrize("name", ["a.txt", ".hidden", "x" * 255, "🙂" * 60 + ".jpeg"])
def test_temporary_names_fit_and_keep_what_rules_look_at(name: str) -> None:
    given = temporary(name, 2**62, ANN, 12)
    check_name(given)
    assert given.startswith(name[:1])
    assert given.endswith(name[name.rindex(".") :] if name[1:].count(".") else ")")
