"""Runs histories of the simulated world from the command line: a campaign, one again, one with fewer steps.

python -m tests.kit.replay 0 500                what the tests run; prints what fails
python -m tests.kit.replay 17                   one seed, with its steps
python -m tests.kit.replay 17 --trace           and everything that happened
python -m tests.kit.replay 17 --shrink          the fewest steps that still fail, and how to run just those
python -m tests.kit.replay 17 --steps "0:create:5:0 1:edit:9:0.2"
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Iterator, Sequence

from tests.kit.scheduler import Event
from tests.kit.workload import Step, Workload, draw_workload, shrink
from tests.kit.world import play


def first_difference(one: Sequence[Event], other: Sequence[Event]) -> str | None:
    """Where two traces part."""
    for number, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return f"event {number} is {left} and then {right}"
    return None if len(one) == len(other) else f"the traces have {len(one)} and {len(other)} events"


def complaint(seed: int, *, twice: bool = True) -> str | None:
    """What is wrong with this seed's history, with how to run it again; None when all is well."""
    workload = draw_workload(seed)
    outcome = play(workload, seed)
    wrong = list(outcome.wrong)
    if twice and not wrong:
        again = play(workload, seed)
        if (difference := first_difference(outcome.trace, again.trace)) is not None:
            wrong.append(f"the same seed gave another history: {difference}")
    if not wrong:
        return None
    lines = "\n  ".join(wrong)
    return f"seed {seed}:\n  {lines}\n  again: python -m tests.kit.replay {seed} --shrink"


def complaints(seeds: Sequence[int], *, twice: bool = True) -> Iterator[str]:
    for seed in seeds:
        if (told := complaint(seed, twice=twice)) is not None:
            yield told


def _shrunk(workload: Workload, schedule: int, kind: str) -> Workload:
    """`kind`: the first word of what is wrong, so that shrinking does not end at another fault."""

    def fails(steps: tuple[Step, ...]) -> bool:
        wrong = play(Workload(workload.clients, steps), schedule).wrong
        return any(kind_of(line) == kind for line in wrong)

    return Workload(workload.clients, shrink(workload.steps, fails))


def kind_of(line: str) -> str:
    """What sort of wrong: the line without names and contents."""
    for mark in (
        "let go by nobody",
        "differs",
        "nobody wrote",
        "not settled",
        "and then changed",
        "copy of the same",
        " tree",
    ):
        if mark in line:
            return mark
    return line.partition(":")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int, nargs="?")
    parser.add_argument("--steps", help="run these instead of the seed's own")
    parser.add_argument("--workload", type=int, help="the seed of the steps where it is another one")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--once", action="store_true", help="do not run each history twice")
    options = parser.parse_args()
    if options.end is not None:
        _campaign(range(options.first, options.end), twice=not options.once)
        return
    workload = draw_workload(options.first if options.workload is None else options.workload)
    if options.steps is not None:
        workload = Workload(workload.clients, tuple(map(Step.parse, options.steps.split())))
    outcome = play(workload, options.first)
    if options.shrink and outcome.wrong:
        workload = _shrunk(workload, options.first, kind_of(outcome.wrong[0]))
        outcome = play(workload, options.first)
    if options.digest:
        print(f"{zlib.crc32(repr(outcome.trace).encode()):08x}")
        return
    if options.trace:
        for at, task, what, about in outcome.trace:
            print(f"{at:10.3f} {task:14} {what}{'' if about is None else f'  {about!r:.150}'}")
    steps = " ".join(map(str, workload.steps))
    print(f"{workload.clients} clients, {outcome.steps} switch points, settled at {outcome.settled_at:.1f} s")
    print(f'python -m tests.kit.replay {options.first} --steps "{steps}"')
    print("\n".join(outcome.wrong) or "all is well")
    sys.exit(bool(outcome.wrong))


def _campaign(seeds: range, *, twice: bool) -> None:
    began, failed = time.monotonic(), 0
    for told in complaints(seeds, twice=twice):
        failed += 1
        print(told, flush=True)
    print(f"{len(seeds)} histories in {time.monotonic() - began:.1f} s, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
