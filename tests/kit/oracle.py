"""The published model of a file synchroniser (Hughes et al., "Mysteries of Dropbox") as an oracle: one file, n nodes.

A state holds the service's value G, the set C of conflict values, and for each node its value L and whether it is
*fresh* (has the latest G) and *clean* (has no unsent write). Three things can be seen: READ, WRITE (which tells what it
overwrote) and STABILIZE (everybody is done). UP and DOWN happen unseen. `Oracle` keeps the set of all states that
explain what was seen so far; when the set becomes empty, no run of the model does what the system did.

ABSENT stands for "no file"; a deletion is a write of it. Give every write a value of its own: equal contents never
conflict, and explanations stay few.

A fourth thing to be seen is KILL: what a process had just placed, and not noted, is taken for a write by hand after it.

Guarantees: pure; the same history gives the same answer. With `PUBLISHED` exactly the published rules. Two rules that a
real service needs on top of them are switched by `Rules`:

- `edit_revives`: a stale write against a deleted file makes the file again instead of becoming a conflict copy of
  nothing (an edit beats a delete; the published text leaves G absent).
- `in_flight`: UP and DOWN take time. What is sent was the node's value when sending began, and is dropped when it is
  too late; what arrives was the service's value when fetching began; a file that became a conflict copy is absent under
  its old name until the service's value is there. At STABILIZE nothing is in flight, so both variants ask the same of
  the end; in the middle the published one takes a slow transfer for a lost write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

Value = str | None
ABSENT: Final = None
STATES_MAX: Final = 200_000


@dataclass(frozen=True)
class Rules:
    edit_revives: bool = False
    in_flight: bool = False


PUBLISHED: Final = Rules()
HOLDFAST: Final = Rules(edit_revives=True, in_flight=True)


class Unexplained(AssertionError):
    """No state of the model does what was observed: `history` is what led there, the last element is the culprit."""

    def __init__(self, history: Sequence[Observation]) -> None:
        self.history = tuple(history)
        super().__init__("no run of the model explains:\n  " + "\n  ".join(map(str, history)))


class Read(NamedTuple):
    node: int
    value: Value

    def __str__(self) -> str:
        return f"node {self.node} reads {_shown(self.value)}"


class Write(NamedTuple):
    node: int
    value: Value
    overwrote: Value

    def __str__(self) -> str:
        return f"node {self.node} writes {_shown(self.value)} over {_shown(self.overwrote)}"


class Stabilize(NamedTuple):
    """What every node shows at rest: its value and its conflict copies' values."""

    values: tuple[Value, ...]
    conflicts: tuple[frozenset[str], ...]

    def __str__(self) -> str:
        shown = zip(self.values, self.conflicts, strict=True)
        return "at rest: " + "; ".join(f"{_shown(value)} and copies {sorted(copies)}" for value, copies in shown)


class Kill(NamedTuple):
    node: int

    def __str__(self) -> str:
        return f"node {self.node} is killed"


Observation = Read | Write | Stabilize | Kill


class _NoValue:
    def __repr__(self) -> str:
        return "-"


_NOTHING: Final = _NoValue()  # nothing is in flight; ABSENT can be


class Node(NamedTuple):
    value: Value = ABSENT
    fresh: bool = True
    clean: bool = True
    sent: Value | _NoValue = _NOTHING
    got: Value | _NoValue = _NOTHING
    got_fresh: bool = False


class State(NamedTuple):
    service: Value
    conflicts: frozenset[str]
    nodes: tuple[Node, ...]


def start(nodes: int) -> State:
    return State(ABSENT, frozenset(), (Node(),) * nodes)


def hidden_steps(state: State, rules: Rules) -> Iterator[State]:
    """The states one unseen step away."""
    for at, node in enumerate(state.nodes):
        if node.clean and not node.fresh:
            yield _with(state, at, node._replace(value=state.service, fresh=True, got=_NOTHING, got_fresh=False))
        if not node.clean:
            after = _up(state, at, rules)
            yield after
            if rules.in_flight and after.conflicts != state.conflicts:
                # The file has taken its conflict name, and the service's value is not there yet.
                yield _with(after, at, after.nodes[at]._replace(value=ABSENT))
        if rules.in_flight:
            yield from _transfers(state, at, node)


def _up(state: State, at: int, rules: Rules) -> State:
    """The whole of UP at once."""
    node = state.nodes[at]
    sent = node._replace(clean=True, sent=_NOTHING)
    if node.value == state.service:
        return _with(state, at, sent)
    if node.fresh:
        return _served(_with(state, at, sent), at, node.value)
    if node.value is ABSENT:
        return _with(state, at, sent)
    if rules.edit_revives and state.service is ABSENT:
        return _served(_with(state, at, sent._replace(fresh=True)), at, node.value)
    return _with(state, at, sent)._replace(conflicts=state.conflicts | {node.value})


def _transfers(state: State, at: int, node: Node) -> Iterator[State]:
    """UP and DOWN in two halves. Only what may differ from doing it at once is followed."""
    if not node.clean and node.fresh and node.sent is _NOTHING:
        yield _with(state, at, node._replace(sent=node.value))
    if not isinstance(node.sent, _NoValue) and node.fresh and node.sent != node.value:
        # What was read before the last write arrives now; that write is still unsent.
        done = _with(state, at, node._replace(sent=_NOTHING))
        yield _served(done, at, node.sent) if node.sent != state.service else done
    if node.clean and not node.fresh and node.got is _NOTHING:
        yield _with(state, at, node._replace(got=state.service, got_fresh=True))
    if node.clean and not isinstance(node.got, _NoValue) and not node.got_fresh:
        # The service has moved on meanwhile: an old value is placed, and the node is not fresh by that.
        yield _with(state, at, node._replace(value=node.got, got=_NOTHING))


def _served(state: State, by: int, value: Value) -> State:
    """The service's value is replaced by a node that knew the last one."""
    nodes = (
        node if at == by else node._replace(fresh=False, got_fresh=False, sent=_NOTHING)
        for at, node in enumerate(state.nodes)
    )
    return State(value, state.conflicts, tuple(nodes))


def _with(state: State, at: int, node: Node) -> State:
    return state._replace(nodes=(*state.nodes[:at], node, *state.nodes[at + 1 :]))


def close(states: Collection[State], rules: Rules) -> set[State]:
    """All states that unseen steps lead to, those given among them."""
    found, waiting = set(states), list(states)
    while waiting:
        for after in hidden_steps(waiting.pop(), rules):
            if after not in found:
                found.add(after)
                waiting.append(after)
        if len(found) > STATES_MAX:
            raise OverflowError(f"more than {STATES_MAX} states: stabilize more often")
    return found


class Oracle:
    """Feed it what is observed, in the order in which it happened; it raises Unexplained when that cannot be."""

    def __init__(self, nodes: int, rules: Rules = HOLDFAST) -> None:
        self.rules = rules
        self.history: list[Observation] = []
        self._nodes = nodes
        self._states: set[State] = {start(nodes)}

    @property
    def states(self) -> frozenset[State]:
        return frozenset(self._states)

    def read(self, node: int, value: Value) -> None:
        self._observe(Read(node, value), lambda state: state if state.nodes[node].value == value else None)

    def write(self, node: int, value: Value, overwrote: Value) -> None:
        def explain(state: State) -> State | None:
            before = state.nodes[node]
            if before.value != overwrote:
                return None
            # What was on its way to this node is compared with the file before it takes its place, so it is dropped.
            after = before._replace(value=value, clean=False, got=_NOTHING, got_fresh=False)
            return _with(state, node, after)

        self._observe(Write(node, value, overwrote), explain)

    def kill(self, node: int) -> None:
        """The process of this node ended. What it had just placed may not be noted, and looks like a write by hand:
        when the service moves on before that is found out, nobody knows better than to keep both."""

        def explain(state: State) -> Iterator[State]:
            yield state
            before = state.nodes[node]
            if not isinstance(before.got, _NoValue):
                placed = Node(before.got, fresh=False, clean=False, sent=before.sent)
                yield _with(state, node, placed)

        self._observe_any(Kill(node), explain)

    def stabilize(self, values: Sequence[Value], conflicts: Sequence[Collection[str]]) -> None:
        """Every node's value and conflict copies, when all say that they are done."""
        seen = Stabilize(tuple(values), tuple(map(frozenset, conflicts)))
        assert len(seen.values) == len(seen.conflicts) == self._nodes

        def explain(state: State) -> State | None:
            at_rest = all(node.fresh and node.clean for node in state.nodes)
            shown = all(value == state.service for value in seen.values)
            same = all(copies == state.conflicts for copies in seen.conflicts)
            if not (at_rest and shown and same):
                return None
            nodes = (node._replace(sent=_NOTHING, got=_NOTHING, got_fresh=False) for node in state.nodes)
            return state._replace(nodes=tuple(nodes))

        self._observe(seen, explain)

    def _observe(self, seen: Observation, explain: Callable[[State], State | None]) -> None:
        self._observe_any(seen, lambda state: [after] if (after := explain(state)) is not None else [])

    def _observe_any(self, seen: Observation, explain: Callable[[State], Iterable[State]]) -> None:
        self.history.append(seen)
        closed = close(self._states, self.rules)
        self._states = {after for state in closed for after in explain(state)}
        if not self._states:
            raise Unexplained(self.history)


def replay(nodes: int, history: Sequence[Observation], rules: Rules = HOLDFAST) -> Oracle:
    """An oracle that has seen `history`. Raises Unexplained."""
    oracle = Oracle(nodes, rules)
    for seen in history:
        if isinstance(seen, Read):
            oracle.read(*seen)
        elif isinstance(seen, Write):
            oracle.write(*seen)
        elif isinstance(seen, Kill):
            oracle.kill(*seen)
        else:
            oracle.stabilize(*seen)
    return oracle


def _shown(value: Value) -> str:
    return "nothing" if value is ABSENT else repr(value)
