"""What does it cost to find what a changed file shares with its old version?

No service: signatures and the rolling search alone, on random bytes in memory, as CPU seconds for 1 GiB beside the
SHA-256 that every change costs anyway. Expected: a strong hash of every byte at some 15 GB/s and little else, so below
0.3 s where the old content only moved; a tenth of the hashing where nothing is shared, since only a sample is looked
at; some ten times the hashing for what was made to defeat the search, of which there must be no worse.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from bench.result import MIB, Options, Outcome, Target
from client.sync.transfer.delta import PIECE_BYTES, Base, Search, sign
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block

MOVED: Final = Target(high=1.5)
NEW_OVER_HASHING: Final = Target(high=0.2)
ONE_INSERTION: Final = Target(high=8192)
_GIB: Final = 1024 * MIB


def run(options: Options) -> Outcome:
    """CPU of one thread, scaled to 1 GiB."""
    size = options.size(1024 * MIB)
    repeats = options.repeats()
    old = bytes(PIECE_BYTES) + _noise(size - PIECE_BYTES, 1)  # the zeros are what the hostile change aims at
    blocks = [memoryview(old)[start : start + BLOCK_BYTES] for start in range(0, size, BLOCK_BYTES)]
    hashes = [hash_block(block) for block in blocks]
    outcome = Outcome()
    hashing = [_cpu_s(lambda: [hash_block(block) for block in blocks]) * _GIB / size for _ in range(repeats)]
    outcome.add("sha256", "CPU-s/GiB", hashing)
    signing = [
        _cpu_s(lambda: [sign(block, named) for block, named in zip(blocks, hashes, strict=True)]) * _GIB / size
        for _ in range(repeats)
    ]
    outcome.add("sign", "CPU-s/GiB", signing)
    base = Base(size, [sign(block, named) for block, named in zip(blocks, hashes, strict=True)])
    for name, change in _changes(size).items():
        new = change(old)
        found = [_search(base, new) for _ in range(repeats)]
        seconds = [cpu * _GIB / size for cpu, _ in found]
        outcome.add(f"{name}.cpu", "CPU-s/GiB", seconds, MOVED if name in ("byte_first", "swapped") else None)
        outcome.add(f"{name}.literals", "B", [float(found[-1][1])], ONE_INSERTION if name == "byte_first" else None)
        if name == "new":
            ratios = [one / hashed for one, hashed in zip(seconds, hashing, strict=True)]
            outcome.add("new_over_hashing", "×", ratios, NEW_OVER_HASHING)
    return outcome


def _changes(size: int) -> dict[str, Callable[[bytes], bytes]]:
    middle = size // 2
    return {
        "byte_first": lambda old: b"x" + old,
        "byte_middle": lambda old: old[:middle] + b"x" + old[middle:],
        "overwritten_1MiB": lambda old: old[:middle] + _noise(MIB, 2) + old[middle + MIB :],
        "swapped": lambda old: old[middle:] + old[:middle],
        "byte_each_100KB": lambda old: b"".join(old[at : at + 100_000] + b"x" for at in range(0, size, 100_000)),
        "new": lambda old: _noise(size, 2),
        "hostile": lambda old: (bytes(5000) + old[-3:]) * (size // 5003),
    }


def _search(base: Base, new: bytes) -> tuple[float, int]:
    """(CPU seconds, literal bytes)"""
    view = memoryview(new)
    copied = 0

    def search() -> None:
        nonlocal copied
        found = Search(base, lambda offset, count: view[offset : offset + count], len(new)).find(0, len(new))
        copied = sum(copy.size for copy in found)

    seconds = _cpu_s(search)
    return seconds, len(new) - copied


def _noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
