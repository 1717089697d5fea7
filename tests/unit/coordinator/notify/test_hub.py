"""The hub: who is woken, why, and exactly once. No database: the test answers for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from coordinator.notify.hub import RECENT_MAX, Hub, Waiter, Why


class Listener(Waiter):
    __slots__ = ("heard",)

    def __init__(self, positions: Mapping[int, int], *, device_id: int = 1, in_s: float = 60.0) -> None:
        super().__init__(
            tuple(part for pair in positions.items() for part in pair),
            device_id,
            asyncio.get_running_loop().time() + in_s,
        )
        self.heard: list[Why] = []

    def woken(self, why: Why) -> None:
        self.heard.append(why)


class Cluster:
    """What the hub asks the database."""

    def __init__(self) -> None:
        self.heads: dict[int, int] = {}
        self.signed_out: set[int] = set()
        self.seen: list[set[int]] = []
        self.asked: list[list[int]] = []

    async def read_heads(self, namespace_ids: Collection[int]) -> Mapping[int, int]:
        self.asked.append(list(namespace_ids))
        return {namespace_id: self.heads[namespace_id] for namespace_id in namespace_ids if namespace_id in self.heads}

    async def mark_seen(self, device_ids: Collection[int]) -> Collection[int]:
        self.seen.append(set(device_ids))
        return self.signed_out & set(device_ids)


def with_hub(act: Callable[[Hub, Cluster], Awaitable[None]], **settings: float) -> None:
    async def main() -> None:
        cluster = Cluster()
        hub = Hub(
            "", name="test", read_heads=cluster.read_heads, mark_seen=cluster.mark_seen, waiters_max=100, **settings
        )
        await act(hub, cluster)

    asyncio.run(main())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_commit_wakes_those_behind_it_and_nobody_else() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        behind, level, elsewhere = Listener({1: 4}), Listener({1: 5}), Listener({2: 4})
        both = Listener({2: 9, 1: 4})
        for waiter in (behind, level, elsewhere, both):
            hub.park(waiter)
        hub.published(1, 5)
        await settle()
        assert [w.heard for w in (behind, level, elsewhere, both)] == [[Why.MOVED], [], [], [Why.MOVED]]
        assert hub.waiting == 2
        hub.published(1, 6)
        hub.published(2, 7)
        await settle()
        assert [w.heard for w in (behind, level, elsewhere, both)] == [[Why.MOVED]] * 4
        assert hub.waiting == 0

    with_hub(act)


def test_move_between_reading_the_position_and_parking_wakes_at_once() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        hub.published(1, 5)
        late, current = Listener({1: 4}), Listener({1: 5})
        hub.park(late)
        hub.park(current)
        await settle()
        assert (late.heard, current.heard) == ([Why.MOVED], [])

    with_hub(act)


def test_who_left_is_never_woken() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        waiter = Listener({1: 4})
        hub.park(waiter)
        assert hub.leave(waiter) is True
        assert hub.leave(waiter) is False
        hub.published(1, 5)
        await settle()
        assert waiter.heard == []

    with_hub(act)


def test_waiter_that_is_about_to_be_woken_cannot_leave_and_is_woken_once() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        waiter = Listener({1: 4, 2: 4})
        hub.park(waiter)
        hub.published(1, 5)
        hub.published(2, 5)
        assert hub.leave(waiter) is False
        await settle()
        assert waiter.heard == [Why.MOVED]

    with_hub(act)


def test_drain_wakes_all_and_takes_nobody_more() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        waiters = [Listener({n: 1}, device_id=n) for n in range(90)]
        for waiter in waiters:
            hub.park(waiter)
        assert not hub.full
        await hub.drain(5.0)
        assert [waiter.heard for waiter in waiters] == [[Why.DRAIN]] * 90
        assert hub.full and hub.waiting == 0

    with_hub(act)


def test_hub_is_full_at_its_bound() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        for n in range(100):
            assert not hub.full
            hub.park(Listener({n: 1}))
        assert hub.full

    with_hub(act)


def test_poll_finds_what_no_notice_told() -> None:
    async def act(hub: Hub, cluster: Cluster) -> None:
        waiter, level = Listener({1: 4}), Listener({2: 4})
        hub.park(waiter)
        hub.park(level)
        cluster.heads = {1: 5, 2: 4}
        await hub._poll()
        await settle()
        assert (waiter.heard, level.heard) == ([Why.MOVED], [])

    with_hub(act)


def test_poll_asks_in_bounded_queries_and_gets_round_to_everyone() -> None:
    async def act(hub: Hub, cluster: Cluster) -> None:
        hub._waiters_max = 10_000
        for n in range(2500):
            hub.park(Listener({n: 1}))
        hub._notices.up = True
        for _ in range(5):
            await hub._poll()
        assert max(map(len, cluster.asked)) <= 500
        assert {n for batch in cluster.asked for n in batch} == set(range(2500))
        cluster.asked.clear()
        hub._notices.up = False  # no notices come: every poll looks at all
        await hub._poll()
        assert {n for batch in cluster.asked for n in batch} == set(range(2500))
        assert max(map(len, cluster.asked)) <= 1000

    with_hub(act)


def test_device_check_ends_the_polls_of_signed_out_devices_and_reports_the_others() -> None:
    async def act(hub: Hub, cluster: Cluster) -> None:
        mine, lost, lost_too = (Listener({1: 1}, device_id=n) for n in (7, 8, 8))
        for waiter in (mine, lost, lost_too):
            hub.park(waiter)
        hub.seen(9)
        cluster.signed_out = {8}
        await hub._check_devices()
        await settle()
        assert cluster.seen == [{7, 8, 9}]
        assert [w.heard for w in (mine, lost, lost_too)] == [[], [Why.SIGNED_OUT], [Why.SIGNED_OUT]]

    with_hub(act)


def test_sign_out_ends_the_polls_of_that_device_at_once() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        mine, lost = Listener({1: 1}, device_id=7), Listener({1: 1}, device_id=8)
        hub.park(mine)
        hub.park(lost)
        hub.sign_out(8)
        await settle()
        assert (mine.heard, lost.heard) == ([], [Why.SIGNED_OUT])

    with_hub(act)


def test_messages_reach_subscribers_of_their_topic_until_they_end_it() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        heard: list[str] = []
        end = hub.subscribe("upload:1", heard.append)
        hub.publish("upload:1", "5")
        hub.publish("upload:2", "6")
        end()
        hub.publish("upload:1", "7")
        assert heard == ["5"]

    with_hub(act)


def test_remembered_moves_are_bounded() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        for n in range(2 * RECENT_MAX + 10):
            hub.published(n, 1)
        assert len(hub._recent) + len(hub._older) <= 2 * RECENT_MAX

    with_hub(act)


def test_timeouts_wake_with_their_own_reason() -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        soon, later = Listener({1: 1}, in_s=-2.0), Listener({1: 1}, in_s=60.0)
        hub.park(soon)
        hub.park(later)
        task = asyncio.create_task(hub._end_waits())
        await asyncio.wait([task], timeout=1.5)  # it looks once a second
        task.cancel()
        assert (soon.heard, later.heard) == ([Why.TIMEOUT], [])

    with_hub(act)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("park"), st.integers(0, 3), st.integers(0, 5)),
            st.tuples(st.just("move"), st.integers(0, 3), st.integers(0, 5)),
            st.tuples(st.just("leave"), st.integers(0, 20), st.just(0)),
        ),
        max_size=40,
    )
)
def test_a_waiter_is_woken_exactly_when_its_namespace_passed_its_position(steps: list[tuple[str, int, int]]) -> None:
    async def act(hub: Hub, _: Cluster) -> None:
        heads: dict[int, int] = {}
        waiters: list[tuple[Listener, int, int]] = []
        left: set[Listener] = set()
        expected: set[Listener] = set()
        for kind, first, second in steps:
            if kind == "park":
                waiter = Listener({first: second})
                hub.park(waiter)
                waiters.append((waiter, first, second))
            elif kind == "move":
                hub.published(first, second)
                heads[first] = max(second, heads.get(first, 0))
            elif first < len(waiters):
                waiter = waiters[first][0]
                if hub.leave(waiter):
                    left.add(waiter)
            for waiter, namespace_id, position in waiters:
                if waiter not in left and heads.get(namespace_id, 0) > position:
                    expected.add(waiter)
        await settle()
        for waiter, _namespace_id, _position in waiters:
            assert waiter.heard == ([Why.MOVED] if waiter in expected else [])
        assert hub.waiting == len(waiters) - len(expected) - len(left)

    with_hub(act)
