"""The oracle itself: it accepts every run of the model, and rejects what loses, invents or duplicates a value."""

from __future__ import annotations

import random

import pytest

from tests.kit.oracle import (
    ABSENT,
    HOLDFAST,
    PUBLISHED,
    Kill,
    Observation,
    Oracle,
    Read,
    Rules,
    Stabilize,
    State,
    Unexplained,
    Write,
    close,
    hidden_steps,
    replay,
    start,
)

NO_COPIES: list[set[str]] = [set(), set(), set()]
BOTH = pytest.mark.parametrize("rules", [PUBLISHED, HOLDFAST], ids=["published", "holdfast"])


def all_see(value: str | None, *copies: str) -> Stabilize:
    return Stabilize((value,) * 3, (frozenset(copies),) * 3)


# --- histories that must be accepted ----------------------------------------------------------------------------


@BOTH
def test_a_write_arrives_everywhere(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.read(1, ABSENT)
    oracle.read(1, "a")
    oracle.read(2, ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)


@BOTH
def test_of_two_writes_at_once_either_may_win_and_the_other_becomes_a_copy(rules: Rules) -> None:
    for winner, copy in (("a", "b"), ("b", "a")):
        oracle = Oracle(3, rules)
        oracle.write(0, "a", overwrote=ABSENT)
        oracle.write(1, "b", overwrote=ABSENT)
        oracle.stabilize([winner] * 3, [{copy}] * 3)


@BOTH
def test_a_write_over_a_seen_value_replaces_it(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.write(1, "b", overwrote="a")
    oracle.stabilize(["b"] * 3, NO_COPIES)


@BOTH
def test_a_stale_delete_is_dropped(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(0, "b", overwrote="a")
    oracle.write(1, ABSENT, overwrote="a")
    oracle.stabilize(["b"] * 3, NO_COPIES)


@BOTH
def test_a_delete_may_be_served_before_a_write_that_had_not_seen_it(rules: Rules) -> None:
    """The published rules make a copy of the write, Holdfast makes the file again."""
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(1, ABSENT, overwrote="a")
    oracle.read(2, ABSENT)
    oracle.write(0, "b", overwrote="a")
    if rules.edit_revives:
        oracle.stabilize(["b"] * 3, NO_COPIES)
    else:
        oracle.stabilize([ABSENT] * 3, [{"b"}] * 3)


def test_equal_values_do_not_conflict() -> None:
    oracle = Oracle(3, PUBLISHED)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.write(1, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)


def test_a_value_that_was_on_its_way_may_arrive_after_the_next_write() -> None:
    """Node 0 sends "a", writes "b" meanwhile; node 1 sees the older value first although "b" was written before."""
    history: list[Observation] = [
        Write(0, "z", ABSENT),
        all_see("z"),
        Write(0, "a", "z"),
        Write(0, "b", "a"),
        Write(1, "c", "z"),
        Write(1, "d", "c"),
    ]
    oracle = replay(3, history)
    oracle.read(2, "z")
    oracle.read(2, "a")
    oracle.read(2, "b")
    oracle.stabilize(["b"] * 3, [{"d"}] * 3)


def test_an_old_value_may_be_placed_after_the_service_has_moved_on() -> None:
    history = [Write(0, "a", ABSENT), Write(1, "b", "a"), Write(0, "c", "b")]
    slow = replay(3, history)
    slow.read(2, ABSENT)
    slow.read(2, "a")
    slow.read(2, "c")
    with pytest.raises(Unexplained):
        at_once = replay(3, history, PUBLISHED)
        at_once.read(1, "c")  # so "c" is the service's value by now
        at_once.read(2, ABSENT)
        at_once.read(2, "b")


# --- histories that must be rejected ----------------------------------------------------------------------------


@BOTH
def test_a_lost_write_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.write(1, "b", overwrote=ABSENT)
    with pytest.raises(Unexplained):
        oracle.stabilize(["a"] * 3, NO_COPIES)


@BOTH
def test_an_overwritten_value_that_its_writer_had_not_seen_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(0, "b", overwrote="a")
    oracle.write(1, "c", overwrote="a")
    with pytest.raises(Unexplained, match="node 1 writes 'c' over 'a'"):
        oracle.stabilize(["c"] * 3, NO_COPIES)


@BOTH
def test_a_delete_that_beats_an_edit_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(0, "b", overwrote="a")
    oracle.write(1, ABSENT, overwrote="a")
    with pytest.raises(Unexplained):
        oracle.stabilize([ABSENT] * 3, NO_COPIES)


@BOTH
def test_a_needless_copy_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.write(0, "b", overwrote="a")
    with pytest.raises(Unexplained):
        oracle.stabilize(["b"] * 3, [{"a"}] * 3)


@BOTH
def test_a_copy_of_the_winner_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    with pytest.raises(Unexplained):
        oracle.stabilize(["a"] * 3, [{"a"}] * 3)


@BOTH
def test_nodes_that_disagree_at_rest_are_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    with pytest.raises(Unexplained):
        oracle.stabilize(["a", "a", ABSENT], NO_COPIES)


@BOTH
def test_copies_that_are_missing_on_one_node_are_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.write(1, "b", overwrote=ABSENT)
    with pytest.raises(Unexplained):
        oracle.stabilize(["a"] * 3, [{"b"}, {"b"}, set()])


@BOTH
def test_a_value_from_nowhere_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    with pytest.raises(Unexplained):
        oracle.read(0, "a")


@BOTH
def test_going_back_to_an_old_value_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(0, "b", overwrote="a")
    oracle.read(1, "b")
    with pytest.raises(Unexplained):
        oracle.read(1, "a")


@BOTH
def test_a_write_that_vanishes_under_its_writer_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(0, "b", overwrote="a")
    with pytest.raises(Unexplained):
        oracle.write(0, "c", overwrote="a")


@BOTH
def test_a_file_that_comes_back_after_all_have_seen_it_go_is_rejected(rules: Rules) -> None:
    oracle = Oracle(3, rules)
    oracle.write(0, "a", overwrote=ABSENT)
    oracle.stabilize(["a"] * 3, NO_COPIES)
    oracle.write(2, ABSENT, overwrote="a")
    oracle.stabilize([ABSENT] * 3, NO_COPIES)
    with pytest.raises(Unexplained):
        oracle.stabilize(["a"] * 3, NO_COPIES)


# --- random runs ------------------------------------------------------------------------------------------------


def _run(tape: random.Random, rules: Rules, steps: int) -> list[Observation]:
    """A history of the model itself."""
    state, value = start(3), 0
    history: list[Observation] = []
    for _ in range(steps):
        for _ in range(tape.randrange(4)):
            if following := list(hidden_steps(state, rules)):
                state = tape.choice(following)
        node = tape.randrange(3)
        kind = tape.random()
        if kind < 0.4:
            value += 1
            oracle_value = None if tape.random() < 0.25 else f"v{value}"
            before = state.nodes[node]
            history.append(Write(node, oracle_value, before.value))
            after = before._replace(value=oracle_value, clean=False, got=start(1).nodes[0].got, got_fresh=False)
            state = state._replace(nodes=(*state.nodes[:node], after, *state.nodes[node + 1 :]))
        elif kind < 0.9:
            history.append(Read(node, state.nodes[node].value))
        else:
            state = _settle(state, rules, tape)
            history.append(
                Stabilize(tuple(one.value for one in state.nodes), (state.conflicts,) * 3),
            )
    state = _settle(state, rules, tape)
    history.append(Stabilize(tuple(one.value for one in state.nodes), (state.conflicts,) * 3))
    return history


def _settle(state: State, rules: Rules, tape: random.Random) -> State:
    """Whole transfers until all are fresh and clean."""
    while not all(node.fresh and node.clean for node in state.nodes):
        state = tape.choice(list(hidden_steps(state, Rules(rules.edit_revives))))
    nothing = start(1).nodes[0]
    nodes = (one._replace(sent=nothing.sent, got=nothing.got, got_fresh=False) for one in state.nodes)
    return state._replace(nodes=tuple(nodes))


PLACED_AND_NOT_NOTED: list[Observation] = [
    Write(0, "a", ABSENT),
    all_see("a"),
    Write(0, "b", "a"),
    Kill(1),
    Write(0, "c", "b"),
]


def test_what_a_killed_node_had_just_placed_may_become_a_copy() -> None:
    """ "b" was on its way to node 1; after its restart nobody knows that it was not written there by hand."""
    replay(3, [*PLACED_AND_NOT_NOTED, all_see("c", "b")])
    replay(3, [*PLACED_AND_NOT_NOTED, all_see("c")])


def test_what_no_killed_node_had_placed_becomes_no_copy() -> None:
    without = [seen for seen in PLACED_AND_NOT_NOTED if not isinstance(seen, Kill)]
    with pytest.raises(Unexplained):
        replay(3, [*without, all_see("c", "b")])


@BOTH
@pytest.mark.parametrize("seed", range(150))
def test_every_run_of_the_model_is_accepted(rules: Rules, seed: int) -> None:
    replay(3, _run(random.Random(seed), rules, steps=8), rules)


@pytest.mark.parametrize("seed", range(60))
def test_what_the_published_rules_allow_the_slower_ones_allow_too(seed: int) -> None:
    history = _run(random.Random(seed), PUBLISHED, steps=8)
    replay(3, history, Rules(in_flight=True))


@BOTH
@pytest.mark.parametrize("seed", range(100))
def test_a_value_missing_at_the_end_is_noticed(rules: Rules, seed: int) -> None:
    """Take a value that nobody overwrote out of the last observation of a run of the model."""
    tape = random.Random(seed)
    history = _run(tape, rules, steps=8)
    end = history[-1]
    assert isinstance(end, Stabilize)
    overwritten = {seen.overwrote for seen in history if isinstance(seen, Write)}
    kept = sorted(end.conflicts[0] - overwritten)
    if not kept:
        return  # nobody's last word is among this run's copies
    lost = tape.choice(kept)
    history[-1] = Stabilize(end.values, (end.conflicts[0] - {lost},) * 3)
    with pytest.raises(Unexplained):
        replay(3, history, rules)


def test_closing_is_idempotent() -> None:
    states = replay(3, [Write(0, "a", ABSENT), Write(1, "b", ABSENT), Write(2, "c", ABSENT)]).states
    closed = close(states, HOLDFAST)
    assert close(closed, HOLDFAST) == closed
