from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.metadata.batches import check_write, refusal, split_into_runs
from coordinator.metadata.values import AccountId, FileId, FileWrite, NamespaceId, Target
from coordinator.protocol.errors import BlocksMissing, InternalError, IsAFolder
from coordinator.protocol.types import Role


def write(path: str, namespace: int = 1) -> FileWrite:
    names = tuple(path.split("/")[1:]) if path != "/" else ()
    target = Target(NamespaceId(namespace), AccountId(1), Role.OWNER, names, "", FileId(1))
    return FileWrite(target, 0, ())


def runs(*paths: str) -> list[list[int]]:
    return [run.at for run in split_into_runs(list(enumerate(write(path) for path in paths)))]


def test_independent_writes_go_together() -> None:
    assert runs("/a", "/b/c", "/b/d", "/e/f/g") == [[0, 1, 2, 3]]


def test_a_write_that_depends_on_an_earlier_one_begins_a_new_run() -> None:
    assert runs("/a", "/A") == [[0], [1]]
    assert runs("/a", "/a/b") == [[0], [1]]
    assert runs("/a/b", "/a") == [[0], [1]]
    assert runs("/a/b/c", "/x", "/A/B") == [[0, 1], [2]]


def test_trees_are_written_apart() -> None:
    writes = [write("/a", 1), write("/a", 2), write("/b", 1)]
    assert [run.at for run in split_into_runs(list(enumerate(writes)))] == [[0, 2], [1]]


@given(st.lists(st.lists(st.sampled_from("aAb"), min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))))
def test_every_write_is_in_one_run_and_none_meets_another_there(paths: list[str]) -> None:
    found = list(split_into_runs(list(enumerate(write(path) for path in paths))))
    assert [at for run in found for at in run.at] == list(range(len(paths)))
    for run in found:
        for one in run.keys:
            assert sum(other[: len(one)] == one for other in run.keys) == 1


def test_folders_are_named_once() -> None:
    [run] = split_into_runs(list(enumerate([write("/a/x"), write("/A/y"), write("/z")])))
    assert run.folders() == (["a", ""], ["a", ""], [1, 1, 2])


def test_what_is_wrong_at_first_sight_is_refused() -> None:
    assert isinstance(check_write(write("/")), IsAFolder)
    assert check_write(write("/a")) is None


def test_refusals_carry_what_a_program_needs() -> None:
    error = refusal("blocks_missing", None, None, b"a" * 32 + b"b" * 32 + b"a" * 32)
    assert isinstance(error, BlocksMissing)
    assert error.facts["missing"] == [(b"a" * 32).hex(), (b"b" * 32).hex()]
    assert isinstance(refusal("never heard of", None, None), InternalError)
