"""What is found in a local folder tree."""

from __future__ import annotations

import os
from pathlib import Path

from client.walk import LocalFile, LocalFolder, Skipped, printable, walk


def test_folders_come_before_what_is_in_them_and_names_in_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    for name in ("b/2", "b/1", "b/deep/x", "z"):
        (tmp_path / name).write_bytes(b"12")
    found = [(type(item).__name__, "/".join(item.names)) for item in walk(tmp_path) if not isinstance(item, Skipped)]
    assert found == [
        ("LocalFolder", ""),
        ("LocalFile", "z"),
        ("LocalFolder", "a"),
        ("LocalFolder", "b"),
        ("LocalFile", "b/1"),
        ("LocalFile", "b/2"),
        ("LocalFolder", "b/deep"),
        ("LocalFile", "b/deep/x"),
    ]


def test_a_folder_with_nothing_to_store_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only_link").mkdir()
    (tmp_path / "only_link" / "l").symlink_to("nowhere")
    (tmp_path / "full" / "sub").mkdir(parents=True)
    empty = {item.names: item.empty for item in walk(tmp_path) if isinstance(item, LocalFolder)}
    assert empty == {
        (): False, ("empty",): True, ("only_link",): True, ("full",): False, ("full", "sub"): True
    }  # fmt: skip


def test_what_cannot_be_stored_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "README").write_bytes(b"1")
    (tmp_path / "readme").write_bytes(b"2")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).write_bytes(b"3")
    found = list(walk(tmp_path))
    skipped = {os.path.basename(item.path): item.reason for item in found if isinstance(item, Skipped)}
    assert skipped == {
        "link": "it is a symbolic link",
        "loop": "it is a symbolic link",
        "pipe": "it is neither a file nor a folder",
        "readme": "its name differs from that of 'README' only in case or Unicode form",
        "caf\\xe9": "its name is not valid UTF-8",
    }
    assert [item.names for item in found if isinstance(item, LocalFile)] == [("README",)]


def test_awkward_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = ["ü" * 100, "e\u0301", "a\nb", "  ", "-rf", "📁", "\u202etxt.exe", "con"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert sorted(item.names[0] for item in walk(tmp_path) if isinstance(item, LocalFile)) == sorted(names)


def test_a_deep_tree_needs_no_recursion(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(200):
        folder = folder / "d"
        folder.mkdir()
    assert sum(1 for _ in walk(tmp_path)) == 201


def test_printable_shows_any_local_name() -> None:
    assert printable("caf\udce9") == "caf\\xe9"
    assert printable("café") == "café"
