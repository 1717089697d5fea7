"""Numbers are summed up and judged correctly."""

from __future__ import annotations

import pytest

from bench.result import Target, measure, parse_size, percentile


def test_a_measure_tells_median_spread_and_whether_the_target_is_met() -> None:
    found = measure("speed", "MB/s", [90.0, 120.0, 110.0], target=Target(low=100), roofline=220)
    assert (found.median, found.min, found.max) == (110, 90, 120)
    assert found.met is True
    assert found.ratio_to_roofline == 0.5


def test_a_missed_upper_target_is_told() -> None:
    assert measure("cpu", "s", [13.0], target=Target(high=12)).met is False


@pytest.mark.parametrize(
    ("text", "size"), [("64MB", 64_000_000), ("1GiB", 1 << 30), ("500kb", 500_000), ("1.5 MiB", 1_572_864), ("7", 7)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "10 apples"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99)] == [50, 95, 99]
    assert percentile([3.0], 99) == 3.0
