"""Folders that were deleted in the service and stay on disk for what is not synced in them; and what waits for such."""

from __future__ import annotations

from tests.kit.engine_rig import Rig


def keep(rig: Rig, *folders: str) -> None:
    """Each of `folders` is synced; the last one gets a symbolic link, then the first is deleted in the service."""
    for folder in folders:
        rig.disk.user.mkdir(tuple(folder.split("/")))
    rig.settle()
    rig.disk.user.symlink((*folders[-1].split("/"), "link"))
    rig.settle()
    rig.others.delete(f"/{folders[0]}")
    rig.settle()


def folders(rig: Rig) -> set[str]:
    return {"/".join(path) for path in rig.disk.user.folders()}


def told(rig: Rig) -> set[str]:
    return {path for path, _ in rig.store.told.problems()}


def test_a_folder_with_a_link_in_it_stays_and_is_told(rig: Rig) -> None:
    keep(rig, "docs")
    assert folders(rig) == {"docs"}
    assert rig.remote() == set()
    assert told(rig) == {"docs", "docs/link"}


def test_the_folders_around_it_stay_as_well(rig: Rig) -> None:
    keep(rig, "a", "a/b", "a/b/c")
    assert folders(rig) == {"a", "a/b", "a/b/c"}
    assert told(rig) == {"a", "a/b", "a/b/c", "a/b/c/link"}


def test_it_takes_in_what_the_service_has_under_its_name_later(rig: Rig) -> None:
    keep(rig, "docs")
    rig.others.create_folder("/docs")
    rig.upload("/docs/new.txt", b"new")
    rig.settle()
    assert rig.files() == {"docs/new.txt": b"new"}
    assert told(rig) == {"docs/link"}


def test_it_makes_way_for_a_file_of_its_name(rig: Rig) -> None:
    keep(rig, "a", "a/docs")
    rig.upload("/a", b"now a file")
    rig.settle()
    assert rig.files() == {"a": b"now a file"}
    [copy] = [name for name in folders(rig) if "/" not in name]
    assert "conflicted copy" in copy
    assert f"{copy}/docs" in folders(rig)
    assert rig.remote() == {"/a"}


def test_something_new_in_it_brings_it_back(rig: Rig) -> None:
    keep(rig, "docs")
    rig.write("docs/new.txt", b"new")
    rig.settle()
    assert rig.remote() == {"/docs", "/docs/new.txt"}
    assert told(rig) == {"docs/link"}


def test_a_folder_waits_for_what_was_moved_out_of_it_to_where_its_name_clashes(rig: Rig) -> None:
    for folder in ("d", "a", "a/D"):
        rig.disk.user.mkdir(tuple(folder.split("/")))
    rig.settle()
    rig.disk.user.rename(("a", "D"), ("D",))
    rig.disk.user.delete(("a",))
    rig.settle()
    assert rig.remote() == {"/d", "/a", "/a/D"}, "nothing is deleted that is still on disk"
    assert told(rig) == {"D", "a"}
    rig.disk.user.rename(("D",), ("E",))
    rig.settle()
    assert rig.remote() == {"/d", "/E"}
    assert told(rig) == set()
