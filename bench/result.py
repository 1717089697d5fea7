"""What a benchmark hands back: named measures with their repeats, judged against a target and the roofline.

Pure values; `__main__.py` adds machine, versions and commit, `table.py` prints.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.processes import Usage

MIB = 1 << 20
GB = 1_000_000_000


class Target(msgspec.Struct, frozen=True):
    """What a measure is to reach: at least `low` or at most `high`."""

    low: float | None = None
    high: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether `value` is good enough."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f"≥ {self.low:g}" if self.low is not None else f"≤ {self.high:g}"


class Measure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One number of a benchmark: `values` are its repeats, in order; `roofline` is what the machine allows."""

    name: str
    unit: str
    values: list[float]
    median: float
    min: float
    max: float
    target: Target | None = None
    met: bool | None = None
    roofline: float | None = None
    ratio_to_roofline: float | None = None


def measure(
    name: str, unit: str, values: Sequence[float], *, target: Target | None = None, roofline: float | None = None
) -> Measure:
    """A measure from its repeats."""
    median = statistics.median(values)
    return Measure(
        name=name,
        unit=unit,
        values=[rounded(value) for value in values],
        median=rounded(median),
        min=rounded(min(values)),
        max=rounded(max(values)),
        target=target,
        met=None if target is None else target.is_met(median),
        roofline=None if roofline is None else rounded(roofline),
        ratio_to_roofline=None if not roofline else rounded(median / roofline),
    )


@dataclass
class Outcome:
    """Everything a benchmark found. `roofline` holds the stages of the roofline that ran just before."""

    measures: list[Measure] = field(default_factory=list)
    cpu: dict[str, dict[str, float]] = field(default_factory=dict)
    memory_mb: dict[str, dict[str, float]] = field(default_factory=dict)
    roofline: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self, name: str, unit: str, values: Sequence[float], target: Target | None = None, roofline: float | None = None
    ) -> None:
        """One more measure."""
        self.measures.append(measure(name, unit, values, target=target, roofline=roofline))

    def add_cpu(self, name: str, usages: Sequence[Usage], per: float) -> None:
        """CPU by kind as the median of the repeats, in seconds (or whatever `per` divides seconds into)."""
        kinds = usages[0].cpu_s
        self.cpu[name] = {
            **{str(kind): rounded(statistics.median(usage.cpu_s[kind] / per for usage in usages)) for kind in kinds},
            "all": rounded(statistics.median(usage.cpu_total_s / per for usage in usages)),
        }

    def add_memory(self, name: str, usages: Sequence[Usage]) -> None:
        """Peaks over all repeats, in MB, by kind: sums of each process's own peak, and sampled proportional sizes."""
        for label, peaks in (
            ("peak_rss", [usage.peak_rss for usage in usages]),
            ("peak_pss", [usage.peak_pss for usage in usages]),
        ):
            kinds = {kind for peak in peaks for kind in peak}
            largest = {str(kind): max(peak.get(kind, 0) for peak in peaks) / 1e6 for kind in sorted(kinds)}
            self.memory_mb[f"{name}.{label}"] = {kind: round(size, 1) for kind, size in largest.items() if size}


@dataclass(frozen=True)
class Options:
    """What the command line asked of a benchmark. None: the benchmark's own default.

    `folder` is on the disk that is to be measured; corpora stay in it, everything else is removed.
    """

    folder: Path
    size_bytes: int | None = None
    count: int | None = None
    repeat: int | None = None
    full: bool = False
    quick: bool = False
    only: str | None = None

    def size(self, usual: int) -> int:
        """Bytes to move: as asked, else `usual`, an eighth of it with --quick."""
        return self.size_bytes or (max(usual // 8, 8 * MIB) if self.quick else usual)

    def number(self, usual: int) -> int:
        """How many: as asked, else `usual`, an eighth of it with --quick."""
        return self.count or (max(usual // 8, 8) if self.quick else usual)

    def repeats(self, usual: int = 3) -> int:
        """How often, after the warm-up."""
        return self.repeat or (1 if self.quick else usual)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` % of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def rounded(value: float) -> float:
    """Four digits: more would claim a precision that a busy machine does not give."""
    return float(f"{value:.4g}")


def parse_size(text: str) -> int:
    """Bytes from "64MB", "1GiB", "500KB", "4096". Raises ValueError."""
    units: Mapping[str, int] = {
        "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30
    }  # fmt: skip
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().lower()
    if unit not in units:
        raise ValueError(f"{text!r} is no size; write 64MB or 1GiB")
    return int(float(digits) * units[unit])
