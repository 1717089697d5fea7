"""What people do on their disks, on the web, and what befalls them: steps drawn from a tape of their own.

A step says who, what and when, and holds the seed of its own choices (which file, which name, which bytes); they are
made against the disk as it is then. So leaving out other steps does not change what a step is, and a failing run can
be shrunk by leaving out steps.

Does not: know how the steps are carried out (tests/kit/people.py) or interleaved (tests/kit/scheduler.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WEB: Final = "web"
FATE: Final = "fate"

# Few names, so that they collide; among them pairs that are one name to the service.
NAMES: Final = ("a.txt", "b.txt", "c", "A.TXT", "caf\u00e9", "cafe\u0301", "d", "e", "D", "plan (v1).md")
FOLDERS: Final = ("d", "e", "D", "f", "docs")
SHARED: Final = (b"", b"the same everywhere", b"also the same everywhere")

Weights = Mapping[str, float]

EDITS: Final[Weights] = {
    "create": 4,
    "edit": 6,
    "rewrite": 4,
    "save_by_rename": 5,
    "save_with_backup": 2,
    "append_slowly": 2,
    "delete": 3,
    "touch": 1,
    "rename": 2,
    "copy": 1,
    "set_executable": 1,
}
FOLDER_WORK: Final[Weights] = {
    "make_folder": 4,
    "create": 4,
    "move": 5,
    "move_folder": 6,
    "rename": 3,
    "delete": 2,
    "delete_folder": 3,
    "edit": 2,
    "invert": 1,
    "copy_folder": 1,
}
NAME_WORK: Final[Weights] = {
    "create": 4,
    "rename": 4,
    "respell": 4,
    "swap": 4,
    "rotate": 2,
    "change_type": 4,
    "move": 2,
    "delete": 3,
    "make_folder": 2,
    "edit": 2,
    "link": 1,
    "ignore": 1,
}
# The rules of what is ignored change again and again.
RULE_WORK: Final[Weights] = {
    "ignore": 3,
    "create": 4,
    "make_folder": 3,
    "move": 3,
    "move_folder": 3,
    "rename": 2,
    "edit": 3,
    "delete": 2,
    "delete_folder": 1,
    "link": 1,
}
ALL_WORK: Final[Weights] = {
    kind: max(table.get(kind, 0) for table in (EDITS, FOLDER_WORK, NAME_WORK))
    for kind in sorted({*EDITS, *FOLDER_WORK, *NAME_WORK})
}
# One file that everybody works at, and little else.
HOT_WORK: Final[Weights] = {"hot_create": 3, "hot_rewrite": 4, "hot_save": 5, "hot_delete": 2, "rename": 1, "edit": 2}
# Files of several blocks, of which parts travel as deltas and ahead of their versions. Costs a second, so it is rare.
LARGE_WORK: Final[Weights] = {"create_large": 3, "insert": 4, "overwrite": 3, "delete": 1, "rename": 1, "copy": 1}
LARGE_SHARE: Final = 0.02
TABLES: Final = (EDITS, FOLDER_WORK, NAME_WORK, ALL_WORK, HOT_WORK, RULE_WORK)

WEB_WORK: Final[Weights] = {"create": 3, "edit": 4, "move": 3, "delete": 2, "make_folder": 2, "restore": 1}

FATE_WORK: Final[Weights] = {
    "kill": 4,  # the client's process ends and is started again
    "power_cut": 3,  # what was not synced is lost as well
    "lose_database": 1,
    "old_database": 1,
    "cut_network": 3,
    "busy_service": 2,
    "reset_cursors": 1,
    "restore_service": 1,  # from a backup: what happened since is not known there any more
    "lose_events": 2,
    "select": 2,  # the person leaves something out on this computer, or wants it back
    "jump_clock": 1,
    "fail_disk": 2,
    "fill_disk": 1,
    "fill_quota": 1,
    "end_uploads": 1,
}


@dataclass(frozen=True)
class Step:
    """`actor`: "0", "1", … for the person at that client, WEB or FATE. `wait_s`: how long after the one before; below
    zero: after so many steps of the client's file system, in the midst of what it does."""

    actor: str
    kind: str
    seed: int
    wait_s: float

    def __str__(self) -> str:
        return f"{self.actor}:{self.kind}:{self.seed}:{self.wait_s:g}"

    @classmethod
    def parse(cls, text: str) -> Step:
        actor, kind, seed, wait_s = text.split(":")
        return cls(actor, kind, int(seed), float(wait_s))


@dataclass(frozen=True)
class Workload:
    clients: int
    steps: tuple[Step, ...]

    def of(self, actor: str) -> list[Step]:
        return [step for step in self.steps if step.actor == actor]


def draw_workload(seed: int, *, faults: bool = True, steps_max: int = 40) -> Workload:
    """The same seed gives the same steps."""
    tape = random.Random(f"workload {seed}")
    clients = tape.choice((2, 2, 2, 3))
    table = tape.choice(TABLES)
    if tape.random() < LARGE_SHARE:
        table, steps_max = LARGE_WORK, min(steps_max, 8)
    pace = tape.choice((0.02, 0.3, 3.0))  # in seconds: all at once, or with time to sync in between
    web = tape.random() < 0.5
    steps: list[Step] = []
    for _ in range(tape.randrange(3, steps_max)):
        drawn = tape.random()
        if web and drawn < 0.15:
            actor, kinds = WEB, WEB_WORK
        elif faults and drawn > 0.85:
            actor, kinds = FATE, FATE_WORK
        else:
            actor, kinds = str(tape.randrange(clients)), table
        drawn = tape.random()
        if drawn < 0.4:
            wait_s = round(pace * tape.expovariate(1.0), 3)
        elif drawn < 0.9:
            wait_s = float(-1 - int(tape.expovariate(0.1)))
        else:
            wait_s = 0.0
        steps.append(Step(actor, draw(tape, kinds), tape.getrandbits(32), wait_s))
    return Workload(clients, tuple(steps))


def draw(tape: random.Random, weights: Weights) -> str:
    return tape.choices(list(weights), list(weights.values()))[0]


def new_content(tape: random.Random, tag: str) -> bytes:
    """Mostly bytes that nobody else writes."""
    if tape.random() < 0.1:
        return tape.choice(SHARED)
    return f"{tag} {tape.getrandbits(40):x} ".encode() * tape.choice((1, 1, 1, 3, 40))


def shrink(
    steps: Sequence[Step], fails: Callable[[tuple[Step, ...]], bool], *, runs_max: int = 400
) -> tuple[Step, ...]:
    """Fewer steps with which `fails` is still true: halves, quarters, … and single steps are left out while it is."""
    kept, runs = tuple(steps), 0
    size = max(1, len(kept) // 2)
    while True:
        at, smaller = 0, False
        while at < len(kept):
            if runs >= runs_max:
                return kept
            runs += 1
            fewer = kept[:at] + kept[at + size :]
            if fails(fewer):
                kept, smaller = fewer, True
            else:
                at += size
        if size == 1 and not smaller:
            return kept
        size = max(1, size // 2)
