"""The bounded pipeline of transfers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from client.parallel import Buffers, for_each, in_order
from coordinator.protocol.hashing import BLOCK_BYTES


def test_every_item_is_done_once() -> None:
    done: list[int] = []
    for_each(range(200), done.append, workers=4, ahead=8)
    assert sorted(done) == list(range(200))


def test_the_first_error_of_the_work_ends_everything_and_is_raised() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        for_each(range(10_000), work, workers=2)
    assert len(begun) < 10_000


def test_an_error_of_the_producer_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        for_each(items(), lambda item: None, workers=3)


def test_the_producer_runs_ahead_only_as_far_as_allowed() -> None:
    produced: list[int] = []
    most_ahead = 0
    taken = threading.Semaphore(0)
    done = 0

    def items() -> Iterator[int]:
        for item in range(50):
            produced.append(item)
            yield item

    def work(item: int) -> None:
        nonlocal most_ahead, done
        most_ahead = max(most_ahead, len(produced) - done)
        done += 1
        taken.release()

    for_each(items(), work, workers=1, ahead=3)
    assert done == 50
    assert most_ahead <= 3 + 2  # waiting, the one being done, the one just produced


def test_no_thread_outlives_the_call() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        for_each([1, 0, 2], lambda item: 1 / item, workers=3)
    assert threading.active_count() == before


def test_in_order_keeps_the_order_whoever_is_first() -> None:
    second_is_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(10)
        if item == 1:
            second_is_done.set()
        return item * item

    assert list(in_order(range(20), work, 4)) == [item * item for item in range(20)]


def test_in_order_raises_where_the_failed_item_stands() -> None:
    results = in_order([2, 1, 0, 5], lambda item: 10 // item, 4)
    assert [next(results), next(results)] == [5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_buffers_are_bounded_and_used_again() -> None:
    buffers = Buffers(2)
    with buffers.take() as first, buffers.take():
        assert len(first) == BLOCK_BYTES
        waiting = threading.Thread(target=lambda: buffers.take().__enter__(), daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    with buffers.take() as again:
        assert again is first or len(again) == BLOCK_BYTES
