"""Names that the service takes for one."""

from __future__ import annotations

from client.sync.local.clashes import find_clashes, is_clash
from client.sync.tree import LocalId, LocalNode, Stamp
from coordinator.protocol.types import Kind


def node(name: str, problem: str | None = None) -> LocalNode:
    return LocalNode(LocalId(5), LocalId(1), name, Kind.FILE, Stamp(1, 2, 3, 4, 5), problem=problem)


def test_the_first_by_name_is_taken_and_the_others_are_told() -> None:
    clashes = find_clashes(["A", "a", "b", "\u00e4", "a\u0308"], {}, lambda name: False)
    assert set(clashes) == {"a", "a\u0308"}
    assert clashes["a"] == "its name differs from that of 'A' only in case or Unicode form"
    assert all(is_clash(reason) for reason in clashes.values())


def test_the_one_that_is_synced_already_stays() -> None:
    assert set(find_clashes(["A", "a"], {"a": node("a")}, lambda name: False)) == {"A"}
    was_told = node("a", "its name differs from that of 'A' only in case or Unicode form")
    assert set(find_clashes(["A", "a"], {"a": was_told}, lambda name: False)) == {"a"}


def test_an_ignored_name_is_in_nobodys_way() -> None:
    assert find_clashes(["A", "a"], {}, lambda name: name == "A") == {}
