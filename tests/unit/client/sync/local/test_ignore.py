"""What is ignored, what cannot be stored, and what another platform cannot hold."""

from __future__ import annotations

import pytest

from client.fs.base import Path
from client.sync.local.ignore import Ignore, is_built_in, platform_warning, unusable

FILE, FOLDER = False, True


@pytest.mark.parametrize(
    "name",
    [
        ".holdfast", ".HOLDFAST", ".x.holdfast-part", ".DS_Store", "._photo.jpg", "Thumbs.db", "thumbs.db",
        "desktop.ini", "Icon\r", "~$letter.docx", ".~lock.table.ods#", "text~", ".text.swp", ".text.swx",
        "film.mkv.part", "film.crdownload", ".fuse_hidden0001", ".nfs0001", ".Trashes", ".fseventsd", ".TemporaryItems",
    ],
)  # fmt: skip
def test_built_in_names_are_ignored_at_any_depth_whatever_the_rules_say(name: str) -> None:
    ignore = Ignore(f"!{name}\n!*\n")
    assert ignore.is_ignored((name,), FILE)
    assert ignore.is_ignored(("a", "b", name), FOLDER)
    assert ignore.is_ignored((name, "below"), FILE)
    assert is_built_in(name)


@pytest.mark.parametrize(
    "name", ["holdfast", ".holdfastignore", "a.partial", "Icon", "DS_Store", ".swp", ".holdfast-moving-5", "~", "x~y"]
)
def test_names_that_only_look_alike_are_synced(name: str) -> None:
    assert Ignore().is_ignored((name,), FILE) == (name == "~")


@pytest.mark.parametrize(
    ("rules", "path", "is_folder", "ignored"),
    [
        ("*.log", ("a.log",), FILE, True),
        ("*.log", ("deep", "er", "a.log"), FILE, True),
        ("/a.log", ("deep", "a.log"), FILE, False),
        ("*.log\n!keep.log", ("keep.log",), FILE, False),
        ("build/", ("build",), FOLDER, True),
        ("build/", ("build",), FILE, False),
        ("build/", ("x", "build", "deep", "file"), FILE, True),
        ("build/\n!build/keep", ("build", "keep"), FILE, True),  # what is in an ignored folder stays ignored
        ("build/*\n!build/keep", ("build", "keep"), FILE, False),
        ("doc/**/x", ("doc", "a", "b", "x"), FILE, True),
        ("# *.log", ("a.log",), FILE, False),
        ("\\#x", ("#x",), FILE, True),
        ("x\\ ", ("x ",), FILE, True),
        ("[ab]?.txt", ("a1.txt",), FILE, True),
        (".*", (".holdfastignore",), FILE, False),  # it always travels
        (".*", ("sub", ".holdfastignore"), FILE, True),
        ("*.LOG", ("a.log",), FILE, False),
        ("", ("a",), FILE, False),
        ("*", ("bad\udcff",), FILE, True),
    ],
)
def test_rules_are_those_of_gitignore(rules: str, path: Path, is_folder: bool, ignored: bool) -> None:
    assert Ignore(rules).is_ignored(path, is_folder) == ignored


def test_a_line_that_is_no_rule_is_told_and_passed_over() -> None:
    ignore = Ignore("*.log\n!\n[z-a]\n*.tmp\n")
    assert len(ignore.problems) == 2
    assert ignore.problems[0].startswith("line 2 ")
    assert ignore.is_ignored(("a.tmp",), FILE)


def test_the_root_is_never_ignored() -> None:
    assert not Ignore("*\n").is_ignored((), FOLDER)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("bad\udcff",), "UTF-8"),
        (("x" * 256,), "255 bytes"),
        (("é" * 128,), "255 bytes"),
        (("a",) * 257, "256 folders"),
        (("x" * 250,) * 70, "path is longer"),
    ],
)
def test_what_the_service_cannot_store_has_a_reason(names: Path, reason: str) -> None:
    told = unusable(names)
    assert told is not None
    assert reason in told


@pytest.mark.parametrize("names", [("x" * 255,), ("a",) * 256, ("name with\nnewline",), ("עברית",), ("😀",), ("-",)])
def test_what_the_service_can_store_has_none(names: Path) -> None:
    assert unusable(names) is None


@pytest.mark.parametrize(
    "name",
    ["a:b", "a?b", 'a"b', "a\\b", "a|b", "<a>", "a*", "a\tb", "a\n", "dot.", "space ", "CON", "con.txt", "Aux",
     "lpt1.tar.gz", "COM9", "nul .txt", "😀" * 63 + "x" * 130],
)  # fmt: skip
def test_names_that_another_platform_cannot_hold_have_a_warning(name: str) -> None:
    warning = platform_warning(name)
    assert warning is not None
    assert "hold" in warning or "reserves" in warning


@pytest.mark.parametrize("name", ["console", "com", "com10", "a.b", ".hidden", "x con", "lpt", "日本語", "x" * 255])
def test_ordinary_names_have_none(name: str) -> None:
    assert platform_warning(name) is None
