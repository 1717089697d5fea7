from __future__ import annotations

import pytest

from coordinator.metadata import accounts, files, trees
from coordinator.protocol.errors import BadRequest, IsAFolder, NotAFolder, NotFound
from coordinator.protocol.types import Kind, Role
from tests.kit.metadata import Person, block_hash, share


def test_an_entry_is_found_by_any_spelling_and_shows_the_stored_one(anna: Person) -> None:
    anna.put("/Straße/Ä.txt", "x")
    assert files.get_entry(anna.at("/STRASSE/a\u0308.TXT")).path == "/Straße/Ä.txt"


def test_the_root_is_a_folder(anna: Person) -> None:
    root = files.get_entry(anna.at("/"))
    assert (root.path, root.kind, root.name) == ("/", Kind.FOLDER, "")


def test_what_is_not_there_is_told_apart_from_a_file_in_the_way(anna: Person) -> None:
    anna.put("/a/f", "x")
    with pytest.raises(NotFound):
        files.get_entry(anna.at("/a/g"))
    with pytest.raises(NotFound):
        files.get_entry(anna.at("/b/c/d"))
    with pytest.raises(NotAFolder):
        files.get_entry(anna.at("/a/f/x"))
    with pytest.raises(NotAFolder):
        files.list_folder(anna.session, anna.at("/a/f"), 10)
    with pytest.raises(NotAFolder):
        files.list_tree(anna.at("/a/f"), 10)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_a_folder_hold_every_name_once_in_key_order(anna: Person, limit: int) -> None:
    names = ["b", "A", "ä", "c1", "C0", "zz", "Z"]
    for name in names:
        anna.put(f"/{name}", name)
    seen: list[str] = []
    page: str | None = None
    while True:
        found = files.list_folder(anna.session, anna.at("/"), limit, page)
        seen += [entry.name for entry in found.entries]
        assert len(found.entries) <= limit
        page = found.next_page
        if page is None:
            break
    assert seen == ["A", "b", "C0", "c1", "Z", "zz", "ä"]


def test_a_page_that_was_not_made_here_is_refused(anna: Person) -> None:
    for page in ("x", "äöü", "AAAA", "!!!!", "a" * 1000):
        with pytest.raises(BadRequest):
            files.list_folder(anna.session, anna.at("/"), 10, page)
        with pytest.raises(BadRequest):
            files.list_tree(anna.at("/"), 10, page)
        with pytest.raises(BadRequest):
            files.list_trash(anna.session, 10, page)


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_of_a_tree_are_depth_first_with_parents_before_children(anna: Person, limit: int) -> None:
    for path in ("/b/y", "/b/x/2", "/b/x/1", "/a", "/c/deep/er/f", "/b!"):
        anna.put(path, path)
    trees.create_folder(anna.session, anna.at("/empty"))
    seen: list[str] = []
    page: str | None = None
    while True:
        found = files.list_tree(anna.at("/"), limit, page)
        seen += [entry.path for entry in found.entries]
        page = found.next_page
        if page is None:
            break
    expected = ["/a", "/b", "/b/x", "/b/x/1", "/b/x/2", "/b/y", "/b!", "/c", "/c/deep", "/c/deep/er", "/c/deep/er/f"]
    assert seen == [*expected, "/empty"]


def test_a_tree_page_goes_on_though_its_last_entry_was_deleted(anna: Person) -> None:
    for path in ("/a/1", "/a/2", "/b/1", "/b/2"):
        anna.put(path, path)
    page = files.list_tree(anna.at("/"), 2)
    assert [entry.path for entry in page.entries] == ["/a", "/a/1"]
    trees.delete(anna.session, anna.at("/a"))
    rest = files.list_tree(anna.at("/"), 10, page.next_page)
    assert [entry.path for entry in rest.entries] == ["/b", "/b/1", "/b/2"]


def test_mounted_trees_stand_among_the_entries(anna: Person, ben: Person) -> None:
    anna.put("/Alpha", "x")
    anna.put("/Zeta", "x")
    share(ben, "Team", b=(ben, Role.OWNER), a=(anna, Role.VIEWER))
    ben.put("/Team/inside", "y")
    entries = files.list_folder(anna.session, anna.at("/", Role.VIEWER), 10).entries
    assert [entry.path for entry in entries] == ["/Alpha", "/Team", "/Zeta"]
    assert entries[1].kind is Kind.FOLDER
    pages = [files.list_folder(anna.session, anna.at("/"), 2)]
    pages.append(files.list_folder(anna.session, anna.at("/"), 2, pages[0].next_page))
    assert [entry.name for page in pages for entry in page.entries] == ["Alpha", "Team", "Zeta"]
    inside = files.list_folder(anna.session, anna.at("/team", Role.VIEWER), 10).entries
    assert [entry.path for entry in inside] == ["/Team/inside"]
    assert files.get_entry(anna.at("/team", Role.VIEWER)).name == "Team"


def test_a_mount_below_a_folder_shows_there_and_hides_what_has_its_name(anna: Person, ben: Person) -> None:
    anna.put("/Office/Plans/own", "x")
    team = accounts.add_namespace(ben.user.account_id, "Plans of ben")
    accounts.add_member(team, anna.user.id, Role.EDITOR, "/office/Plans")
    anna.refresh()
    assert [entry.path for entry in files.list_folder(anna.session, anna.at("/Office"), 10).entries] == [
        "/Office/Plans"
    ]
    assert files.list_folder(anna.session, anna.at("/Office/Plans"), 10).entries == ()
    anna.put("/Office/Plans/new", "y")
    assert [entry.path for entry in files.list_folder(anna.session, anna.at("/Office/Plans"), 10).entries] == [
        "/office/Plans/new"
    ]


def test_versions_come_newest_first_in_pages(anna: Person) -> None:
    anna.put("/f", "0")
    for base in range(1, 5):
        anna.put("/f", str(base), base=base)
    assert [version.version for version in files.list_versions(anna.at("/f"), 3)] == [5, 4, 3]
    assert [version.version for version in files.list_versions(anna.at("/f"), 3, 3)] == [2, 1]
    trees.delete(anna.session, anna.at("/f"))
    assert [version.version for version in files.list_versions(anna.at("/f"), 1)] == [5]
    with pytest.raises(NotFound):
        files.list_versions(anna.at("/g"), 1)


def test_folders_have_no_versions_and_no_recipe(anna: Person) -> None:
    trees.create_folder(anna.session, anna.at("/a"))
    with pytest.raises(IsAFolder):
        files.list_versions(anna.at("/a"), 1)
    with pytest.raises(IsAFolder):
        files.get_recipe(anna.at("/a"), None, 0, 1)
    with pytest.raises(IsAFolder):
        files.list_hashes(anna.at("/a"), None)


def test_a_recipe_gives_the_blocks_that_are_asked_for(anna: Person) -> None:
    labels = [f"b{number}" for number in range(10)]
    entry = anna.put("/f", *labels)
    recipe = files.get_recipe(anna.at("/f"), None, 3, 4)
    assert (recipe.entry, recipe.version.version, recipe.first_block) == (entry, 1, 3)
    assert [row.hash for row in recipe.blocks] == [block_hash(label, 4 * 1024 * 1024) for label in labels[3:7]]
    more = files.get_more_recipe(entry.namespace_id, entry.id, 1, 7, 100)
    assert [row.hash for row in more.blocks] == list(anna.write("/f", *labels).hashes[7:])
    assert files.get_recipe(anna.at("/f"), None, 50, 10).blocks == ()
    with pytest.raises(NotFound):
        files.get_more_recipe(entry.namespace_id, entry.id, 2, 0, 1)


def test_a_recipe_of_a_named_version_is_found_in_the_trash_too(anna: Person) -> None:
    anna.put("/a/f", "one")
    anna.put("/a/f", "two", base=1)
    trees.delete(anna.session, anna.at("/a"))
    assert files.get_recipe(anna.at("/a/f"), 1, 0, 1).blocks[0].hash == block_hash("one", 100)
    with pytest.raises(NotFound):
        files.get_recipe(anna.at("/a/f"), 3, 0, 1)
    with pytest.raises(NotFound):
        files.get_recipe(anna.at("/a/f"), None, 0, 1)


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_the_trash_is_listed_newest_first_with_the_old_paths(anna: Person, limit: int) -> None:
    for path in ("/a/f", "/b/g", "/c"):
        anna.put(path, path)
    for path in ("/a/f", "/c", "/b"):
        trees.delete(anna.session, anna.at(path))
    seen = []
    page: str | None = None
    while True:
        found = files.list_trash(anna.session, limit, page)
        seen += [(entry.path, entry.kind.value, entry.deleted_by) for entry in found.entries]
        page = found.next_page
        if page is None:
            break
    assert seen == [
        ("/b", "folder", "anna@example.org"),
        ("/c", "file", "anna@example.org"),
        ("/a/f", "file", "anna@example.org"),
    ]


def test_the_trash_shows_nothing_of_trees_that_one_may_only_read(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    anna.put("/Team/f", "x")
    trees.delete(anna.session, anna.at("/Team/f"))
    assert [entry.path for entry in files.list_trash(anna.session, 10).entries] == ["/Team/f"]
    assert files.list_trash(ben.session, 10).entries == ()
