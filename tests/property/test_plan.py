"""The planner against random histories: one tree that both sides agreed on, changed twice, brought together again.

Each round plans, shuffles and carries out; the model of the service and the disk (tests/kit/trees.py) refuses what they
would refuse. The letters are those of the list that the client's design follows: a plan (a) ends, (b) breaks no
invariant, (c) makes the trees equal, (d) loses no content, (e) does at each path what was wished, (f) is the same for
the same trees, (g) never makes an orphan or a circle, and (h) stops when so many deletes are hardly meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.sync.planner import conflicts
from client.sync.planner.conflicts import Naming
from client.sync.planner.plan import Breaker, Busy, count_deletions, count_planned_deletions, plan, subjects
from client.sync.store.store import Store
from client.sync.tree import Content, Operation, RemoteId, SyncedNode
from coordinator.protocol.types import Kind
from tests.kit import histories
from tests.kit.histories import ACTIONS, MOVES, OBSTACLES, PLAIN, History, build, decode
from tests.kit.trees import STAMP, MemoryTrees, apply

K = TypeVar("K")
V = TypeVar("V")

NAMING = Naming("Ann on laptop", "2026-11-22")
KINDS = (ACTIONS, ACTIONS + OBSTACLES, MOVES, (*MOVES, "delete", "create_folder", "edit"), (*MOVES, *OBSTACLES))
EXAMPLES = 500
DEEP_EXAMPLES = 20_000  # for each of the checks: 300,000 in all


# --- what is drawn --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    history: History
    seed: int


def _cases(kinds: Sequence[tuple[str, ...]], names: Sequence[int]) -> st.SearchStrategy[Case]:
    """Drawn as three lengths and bytes enough for the longest, which is quick and shrinks to short histories: lists of
    actions would be drawn nearly empty."""

    def case(style: int, lengths: tuple[int, int, int, int], data: bytes, seed: int) -> Case:
        chosen, names_max = kinds[style % len(kinds)], names[style // len(kinds)]
        start = decode(data[: lengths[0] * 5], ("create_folder", "create", "create_folder"), names_max)
        remote = decode(data[70 : 70 + lengths[1] * 5], chosen, names_max)
        local = decode(data[120 : 120 + lengths[2] * 5], chosen, names_max)
        return Case(History(start, remote, local, tuple(data[170 : 170 + lengths[3]])), seed)

    styles, seeds = st.integers(0, len(kinds) * len(names) - 1), st.integers(0, 2**32 - 1)
    forgotten = st.sampled_from([0, 0, 0, 1, 3]) if len(kinds) > 1 else st.just(0)
    lengths = st.tuples(st.integers(0, 14), st.integers(0, 10), st.integers(0, 10), forgotten)
    return st.builds(case, styles, lengths, st.binary(min_size=173, max_size=173), seeds)


ANY_CASE = _cases(KINDS, names=(2, 3, 6, 8))
PLAIN_CASE = _cases([PLAIN], names=(2,))  # the names a and b, which stay two names for the service


def examples(strategy: st.SearchStrategy[Case], check: Callable[[Case], None], count: int) -> None:
    drawn = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    drawn(given(strategy)(check))()


# --- rounds ---------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """The trees, and what brings them together. `planned` is everything that any round held, `seen`
    what the last plan was made from where others change the trees meanwhile."""

    trees: MemoryTrees
    random: Random
    planned: list[Operation] = field(default_factory=list)
    seen: MemoryTrees | None = None

    @classmethod
    def of(cls, case: Case) -> World:
        return cls(build(case.history), Random(case.seed))

    def settle(self, *, plan_round: Callable[[], list[Operation]] | None = None, noted: float = 1.0) -> int:
        """Rounds until a plan is empty. `noted`: the share of operations after which no crash came."""
        rounds_max = 4 * (len(self.trees.remotes) + len(self.trees.locals) + len(self.trees.pairs)) + 10
        for rounds in range(rounds_max):
            planned = (plan_round or self.plan)()
            if not planned and not self.plan():
                return rounds
            self.random.shuffle(planned)
            self.planned += planned
            for operation in planned:
                apply(self.trees, operation, noted=self.random.random() < noted, seen=self.seen)
                check_shape(self.trees)
            histories.mark_same_names(self.trees)
        raise AssertionError(f"after {rounds_max} rounds still: {self.plan()}")

    def plan(self) -> list[Operation]:
        return plan(self.trees, NAMING)

    def settle_wholly(self) -> None:
        """Also what could not be synced, once it can be."""
        self.settle()
        histories.lift_obstacles(self.trees)
        self.settle()


def check_shape(trees: MemoryTrees) -> None:
    """Every node is in one place, below the root; no name is taken twice; no local node has two pairs."""
    remote_names = [(node.parent_id, node.key) for node in trees.remotes.values()]
    local_names = [(node.parent_id, node.name) for node in trees.locals.values()]
    assert len(set(remote_names)) == len(remote_names)
    assert len(set(local_names)) == len(local_names)
    assert len({pair.local_id for pair in trees.pairs.values()}) == len(trees.pairs)
    for remote in trees.remotes.values():
        trees.remote_path(remote.id)
    for local in trees.locals.values():
        trees.local_path(local.id)


def check_equal(trees: MemoryTrees) -> None:
    assert trees.remote_paths() == trees.local_paths()
    assert trees.dirty_remote() == []
    assert trees.dirty_local() == []
    assert plan(trees, NAMING) == []
    assert len(trees.pairs) == len(trees.remotes) == len(trees.locals)


def contents(trees: MemoryTrees) -> tuple[set[Content], set[Content]]:
    remote = {node.content for node in trees.remotes.values() if node.content is not None}
    return remote, {node.content for node in trees.locals.values() if node.content is not None}


def must_survive(trees: MemoryTrees) -> set[Content]:
    """Contents that nobody agreed to lose: all but unchanged ones that the other side replaced or deleted. A node that
    was moved on one side and deleted on the other counts as changed."""
    kept: set[Content] = set()
    for remote in trees.remotes.values():
        pair = trees.synced(remote.id)
        local = trees.local(pair.local_id) if pair else None
        moved = pair is not None and (remote.parent_id, remote.name) != (pair.parent_id, pair.name)
        if remote.content is not None and _survives(
            remote.content, pair, None if local is None else local.content, moved
        ):
            kept.add(remote.content)
    for local in trees.locals.values():
        pair = trees.synced_local(local.id)
        known = trees.remote(pair.id) if pair else None
        above = trees.synced_local(local.parent_id) if pair and local.parent_id else None
        moved = pair is not None and above is not None and above.id != pair.parent_id
        if local.content is not None and _survives(
            local.content, pair, None if known is None else known.content, moved
        ):
            kept.add(local.content)
    return kept


def _survives(content: Content, pair: SyncedNode | None, other: Content | None, moved: bool) -> bool:
    return pair is None or content != pair.content or (moved if other is None else other == content)


# --- the checks -----------------------------------------------------------------------------------------------------


def check_ends(case: Case) -> None:
    world = World.of(case)
    world.settle()
    histories.lift_obstacles(world.trees)
    world.settle()


def check_breaks_no_invariant(case: Case) -> None:
    """Also when answers are lost and what was done is not noted."""
    World.of(case).settle(noted=0.5)


def check_converges(case: Case) -> None:
    world = World.of(case)
    world.settle_wholly()
    check_equal(world.trees)
    names = [node.name for node in world.trees.remotes.values()]
    assert not any(conflicts.is_own_temporary(name, NAMING) for name in names)


def check_loses_nothing(case: Case) -> None:
    world = World.of(case)
    kept = must_survive(world.trees)
    world.settle(noted=world.random.choice([0.5, 1]))
    remote, local = contents(world.trees)
    assert kept <= remote | local
    histories.lift_obstacles(world.trees)
    world.settle()
    remote, local = contents(world.trees)
    assert remote == local
    assert kept <= remote


def check_paths(case: Case) -> None:
    """Without moves it can be said for each path what has to be there."""
    world = World.of(case)
    trees = world.trees
    before = paths_before(trees)
    remote, local = trees.remote_paths(), trees.local_paths()
    new_remotely = [node for node in trees.remotes.values() if trees.synced(node.id) is None]
    new_locally = [node for node in trees.locals.values() if trees.synced_local(node.id) is None]
    wanted = {trees.remote_path(node.id): node.content for node in new_remotely}
    wanted |= {path: node.content for node in new_locally if _is_free(remote, path := trees.local_path(node.id))}
    world.settle()
    check_equal(trees)
    after = trees.remote_paths()
    for path in before - remote.keys() - local.keys():
        assert path not in after
    for path, content in wanted.items():
        assert after[path] == content


def _is_free(remote: dict[tuple[str, ...], Content | None], path: tuple[str, ...]) -> bool:
    """Neither taken on the service, nor in a folder whose name a file has there."""
    return path not in remote and all(remote.get(path[:depth]) is None for depth in range(len(path)))


def paths_before(trees: MemoryTrees) -> set[tuple[str, ...]]:
    """Where the pairs were; no pair was moved."""

    def path(node_id: RemoteId) -> tuple[str, ...]:
        pair = trees.pairs[node_id]
        return () if pair.parent_id is None else (*path(pair.parent_id), pair.name)

    return {path(node_id) for node_id in trees.pairs}


def check_makes_no_equal_copies(case: Case) -> None:
    world = World.of(case)
    had = {node.name for node in world.trees.remotes.values()} | {node.name for node in world.trees.locals.values()}
    world.settle()
    for node in world.trees.remotes.values():
        made = conflicts.parse(node.name) if node.name not in had and node.content is not None else None
        if made is not None and made.who == NAMING.who:
            other = world.trees.remote_paths().get((*world.trees.remote_path(node.id)[:-1], made.original))
            assert other != node.content


def shuffle(tree: dict[K, V], random: Random) -> None:
    items = list(tree.items())
    random.shuffle(items)
    tree.clear()
    tree.update(items)


def check_same_input_same_plan(case: Case) -> None:
    one, other = build(case.history), build(case.history)
    random = Random(case.seed)
    shuffle(other.remotes, random)
    shuffle(other.locals, random)
    shuffle(other.pairs, random)
    planned = plan(one, NAMING)
    assert plan(other, NAMING) == planned == plan(one, NAMING)
    for limit in range(1, len(planned)):
        assert plan(one, NAMING, limit=limit) == planned[:limit]


def check_keeps_shape(case: Case) -> None:
    """`settle` looks after every single operation; here they also come in any order and some never."""
    world = World.of(case)
    world.settle(plan_round=lambda: [step for step in world.plan() if world.random.random() < 0.7])
    check_shape(world.trees)


def check_breaker(case: Case) -> None:
    world = World.of(case)
    breaker = Breaker(files_synced=_files(world.trees), count_max=1)
    count = count_planned_deletions(world.trees, NAMING)
    planned = plan(world.trees, NAMING, breaker=breaker)
    if count.total > 1 and count.total * 2 > breaker.files_synced:
        assert planned == []
    else:
        assert planned == world.plan()
        deleted = count_deletions(world.trees, planned)
        assert deleted.remote <= count.remote
        assert deleted.local <= count.local


def check_counts_deletions(case: Case) -> None:
    """What was foreseen is what is deleted, when nothing else happens."""
    world = World.of(case)
    foreseen = count_planned_deletions(world.trees, NAMING)
    seen = [0, 0]

    def plan_round() -> list[Operation]:
        planned = world.plan()
        count = count_deletions(world.trees, planned)
        seen[0] += count.remote
        seen[1] += count.local
        return planned

    world.settle(plan_round=plan_round)
    assert (foreseen.remote, foreseen.local) == tuple(seen)


def _files(trees: MemoryTrees) -> int:
    return sum(pair.kind is Kind.FILE for pair in trees.pairs.values())


def check_meanwhile(case: Case) -> None:
    """People go on while their trees are brought together: between the plan and the work, and between rounds."""
    world = World.of(case)
    meanwhile = 10

    def plan_round() -> list[Operation]:
        nonlocal meanwhile
        planned, world.seen = world.plan(), world.trees.copy()
        while meanwhile and world.random.random() < 0.6:
            meanwhile -= 1
            action = decode(world.random.randbytes(5), ACTIONS)[0]
            side = world.random.choice([histories.RemoteSide, histories.LocalSide])
            side(world.trees).play(action)
            histories.mark_same_names(world.trees)
        return planned

    world.settle(plan_round=plan_round, noted=0.8)
    world.seen = None
    histories.lift_obstacles(world.trees)
    world.settle()
    check_equal(world.trees)


def check_batches(case: Case) -> None:
    """The planner may see any part of what differs, and be asked for a few operations at a time."""
    world = World.of(case)
    histories.lift_obstacles(world.trees)

    def plan_round() -> list[Operation]:
        part, limit = world.random.random(), world.random.choice([None, None, 1, 2, 5])
        chosen = world.random.getrandbits(64)
        world.trees.only_remote = lambda node_id: Random(chosen ^ node_id).random() < part
        world.trees.only_local = lambda node_id: Random(~chosen ^ node_id).random() < part
        planned = plan(world.trees, NAMING, limit=limit)
        world.trees.only_remote = world.trees.only_local = None
        return planned or plan(world.trees, NAMING, limit=1)

    _settle_slowly(world, plan_round)
    check_equal(world.trees)


def check_busy(case: Case) -> None:
    """No operation touches a busy node or deletes a folder around one; once they are free the trees become equal."""
    world = World.of(case)
    histories.lift_obstacles(world.trees)

    def plan_round() -> list[Operation]:
        busy = Busy(
            frozenset(node_id for node_id in world.trees.remotes if world.random.random() < 0.3),
            frozenset(node_id for node_id in world.trees.locals if world.random.random() < 0.3),
        )
        planned = plan(world.trees, NAMING, busy)
        for operation in planned:
            touched = _touched(world.trees, operation)
            assert not touched.remote & busy.remote
            assert not touched.local & busy.local
        return planned or world.plan()

    _settle_slowly(world, plan_round)
    check_equal(world.trees)


def _settle_slowly(world: World, plan_round: Callable[[], list[Operation]]) -> None:
    for _ in range(1000):
        planned = plan_round()
        if not planned:
            return
        for operation in planned:
            apply(world.trees, operation)
        check_shape(world.trees)
        histories.mark_same_names(world.trees)
    raise AssertionError("no end")


def _touched(trees: MemoryTrees, operation: Operation) -> Busy:
    """The subjects with the other side of each pair, and everything below a folder that is deleted."""
    named = subjects(operation)
    remote, local = set(named.remote), set(named.local)
    if count_deletions(trees, [operation]).remote:
        remote |= {node.id for node_id in named.remote for node in trees.remote_below(node_id)}
    remote |= {pair.id for node_id in local if (pair := trees.synced_local(node_id))}
    local |= {pair.local_id for node_id in remote if (pair := trees.synced(node_id))}
    return Busy(frozenset(remote), frozenset(local))


def check_store(case: Case) -> None:
    """The trees in SQLite know what differs, and give the plan that the ones in memory give, after every step."""
    world = World.of(case)
    store = Store(None)
    store.set_remote_root(world.trees.remote_root, STAMP)
    shown = MemoryTrees()

    def plan_round() -> list[Operation]:
        _show(store, shown, world.trees)
        assert list(store.dirty_remote()) == world.trees.dirty_remote()
        assert list(store.dirty_local()) == world.trees.dirty_local()
        planned = world.plan()
        assert plan(store, NAMING) == planned
        return planned

    world.settle(plan_round=plan_round, noted=0.8)
    store.close()


def _show(store: Store, shown: MemoryTrees, now: MemoryTrees) -> None:
    """Writes to the store what has changed since the last time."""
    with store.transaction():
        for pair in [pair for pair in shown.pairs.values() if pair.id not in now.pairs]:
            store.drop_synced(pair.id)
        for node_id in shown.remotes.keys() - now.remotes.keys():
            store.drop_remote(node_id)
        for local_id in shown.locals.keys() - now.locals.keys():
            store.drop_local(local_id)
        for remote in now.remotes.values():
            if remote != shown.remotes.get(remote.id):
                store.put_remote(remote)
        for local in now.locals.values():
            if local != shown.locals.get(local.id):
                store.put_local(local)
        for pair in now.pairs.values():
            if pair != shown.pairs.get(pair.id):
                store.put_synced(pair)
    shown.remotes, shown.locals, shown.pairs = dict(now.remotes), dict(now.locals), dict(now.pairs)


def check_leaves_held_nodes_alone(case: Case) -> None:
    world = World.of(case)
    skipped = {node.id: node for node in world.trees.remotes.values() if node.skipped}
    unreadable = {node.id: node for node in world.trees.locals.values() if node.problem == histories.UNREADABLE}
    world.settle()
    for remote in skipped.values():
        assert world.trees.remotes[remote.id] == remote
    for local in unreadable.values():
        assert world.trees.locals[local.id] == local


# --- the tests ------------------------------------------------------------------------------------------------------


def test_a_a_plan_ends_after_a_bounded_number_of_rounds() -> None:
    examples(ANY_CASE, check_ends, EXAMPLES)


def test_b_no_invariant_breaks_even_when_nothing_is_noted() -> None:
    examples(ANY_CASE, check_breaks_no_invariant, EXAMPLES)


def test_c_the_trees_become_equal() -> None:
    examples(ANY_CASE, check_converges, EXAMPLES)


def test_d_no_content_is_lost() -> None:
    examples(ANY_CASE, check_loses_nothing, EXAMPLES)


def test_e_deleted_on_both_sides_is_nowhere_and_created_on_one_is_everywhere() -> None:
    examples(PLAIN_CASE, check_paths, EXAMPLES)


def test_f_the_same_trees_give_the_same_plan() -> None:
    examples(ANY_CASE, check_same_input_same_plan, EXAMPLES)


def test_g_every_node_stays_in_one_place() -> None:
    examples(ANY_CASE, check_keeps_shape, EXAMPLES)


def test_h_the_breaker_leaves_an_empty_plan() -> None:
    examples(ANY_CASE, check_breaker, EXAMPLES)


def test_deletions_are_counted_before_they_are_planned() -> None:
    examples(PLAIN_CASE, check_counts_deletions, EXAMPLES)


def test_equal_contents_never_make_a_conflicted_copy() -> None:
    examples(PLAIN_CASE, check_makes_no_equal_copies, EXAMPLES)


def test_any_part_of_what_differs_can_be_planned_at_a_time() -> None:
    examples(ANY_CASE, check_batches, EXAMPLES)


def test_busy_nodes_are_left_alone() -> None:
    examples(ANY_CASE, check_busy, EXAMPLES)


def test_skipped_and_unreadable_nodes_are_left_alone() -> None:
    examples(ANY_CASE, check_leaves_held_nodes_alone, EXAMPLES)


def test_changes_may_go_on_meanwhile() -> None:
    examples(ANY_CASE, check_meanwhile, EXAMPLES)


def test_the_trees_in_sqlite_give_the_same_plans() -> None:
    examples(ANY_CASE, check_store, EXAMPLES // 5)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("strategy", "check"),
    [
        pytest.param(ANY_CASE, check_ends, id="a"),
        pytest.param(ANY_CASE, check_breaks_no_invariant, id="b"),
        pytest.param(ANY_CASE, check_converges, id="c"),
        pytest.param(ANY_CASE, check_loses_nothing, id="d"),
        pytest.param(PLAIN_CASE, check_paths, id="e"),
        pytest.param(ANY_CASE, check_same_input_same_plan, id="f"),
        pytest.param(ANY_CASE, check_keeps_shape, id="g"),
        pytest.param(ANY_CASE, check_breaker, id="h"),
        pytest.param(PLAIN_CASE, check_counts_deletions, id="count"),
        pytest.param(PLAIN_CASE, check_makes_no_equal_copies, id="copies"),
        pytest.param(ANY_CASE, check_batches, id="batches"),
        pytest.param(ANY_CASE, check_busy, id="busy"),
        pytest.param(ANY_CASE, check_leaves_held_nodes_alone, id="held"),
        pytest.param(ANY_CASE, check_meanwhile, id="meanwhile"),
        pytest.param(ANY_CASE, check_store, id="store"),
    ],
)
def test_all_of_it_for_long(strategy: st.SearchStrategy[Case], check: Callable[[Case], None]) -> None:
    examples(strategy, check, DEEP_EXAMPLES)
