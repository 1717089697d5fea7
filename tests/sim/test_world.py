"""The whole engine in a simulated world: hundreds of random histories, each run twice, each judged at its end.

A failing one prints how to run it again; see tests/kit/replay.py.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kit.cluster import ROOT, child_environment
from tests.kit.replay import complaints

SEEDS = 500
SEEDS_DEEP = 50_000
CHUNK = 25
CHUNK_DEEP = 500


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_history_ends_well(first: int) -> None:
    told = list(complaints(range(first, first + CHUNK)))
    assert not told, "\n" + "\n".join(told)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS_DEEP, CHUNK_DEEP))
def test_many_more_histories_end_well(first: int) -> None:
    told = list(complaints(range(first, first + CHUNK_DEEP)))
    assert not told, "\n" + "\n".join(told)


@pytest.mark.parametrize("seed", [3, 17, 99])
def test_a_history_does_not_depend_on_the_process(seed: int) -> None:
    """Python orders sets of text differently in every process: a decision that follows such an order shows here."""
    digests = {
        subprocess.run(
            [sys.executable, "-m", "tests.kit.replay", str(seed), "--digest"],
            cwd=ROOT,
            env=child_environment(PYTHONHASHSEED=str(number)),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in (1, 2, 3)
    }
    assert len(digests) == 1
