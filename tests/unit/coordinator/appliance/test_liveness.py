"""When a process that leaves questions unanswered is to be killed."""

from __future__ import annotations

from coordinator.appliance.liveness import MISSES_MAX, Patience


def misses(patience: Patience, life: int, count: int) -> list[bool]:
    return [patience.is_over(life, answered=False) for _ in range(count)]


def test_it_ends_with_the_last_of_several_misses_in_a_row() -> None:
    patience = Patience()
    assert not patience.is_over(7, answered=True)
    assert misses(patience, 7, MISSES_MAX) == [False] * (MISSES_MAX - 1) + [True]


def test_one_answer_makes_it_new() -> None:
    patience = Patience()
    for _ in range(3):
        assert not patience.is_over(7, answered=True)
        assert not any(misses(patience, 7, MISSES_MAX - 1))


def test_who_has_never_answered_in_this_life_may_take_its_time() -> None:
    patience = Patience()
    assert not any(misses(patience, 7, 5 * MISSES_MAX))
    patience.is_over(7, answered=True)
    assert not any(misses(patience, 8, 5 * MISSES_MAX))


def test_what_was_killed_and_does_not_die_is_not_killed_again() -> None:
    patience = Patience()
    patience.is_over(7, answered=True)
    assert misses(patience, 7, 5 * MISSES_MAX).count(True) == 1
