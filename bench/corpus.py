"""Files to measure with: half text that compresses about 3 : 1 with zstd-1, half bytes that do not compress.

The same seed gives the same bytes everywhere. Text and random data alternate by blocks of 4 MiB, so that every part of
a large file costs the same. Files are made once in a folder and used again; a different `number` gives a file that has
no block in common with the others, so that nothing is spared because the service has it already.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.protocol.hashing import BLOCK_BYTES

SEED: Final = 20_240_521
_VOCABULARY: Final = 6000
_PHRASES: Final = 30_000
_PHRASE_SHARE: Final = 0.25
_MIB: Final = 1 << 20

Generator = np.random.Generator


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One of many small files: a relative path in a tree and its contents."""

    path: str
    data: bytes


def make_file(folder: Path, size_bytes: int, number: int = 0) -> Path:
    """A file of exactly this size, made when it is not there yet. It is in the page cache or not, as it happens."""
    path = folder / f"mixed-{size_bytes}-{number}.bin"
    if path.exists() and path.stat().st_size == size_bytes:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        for start in range(0, size_bytes, BLOCK_BYTES):
            out.write(make_block(number, start // BLOCK_BYTES, min(BLOCK_BYTES, size_bytes - start)))
    part.rename(path)
    return path


def make_block(number: int, index: int, size_bytes: int = BLOCK_BYTES) -> bytes:
    """Block `index` of file `number`: text where the index is even, random bytes where it is odd."""
    random = np.random.default_rng((SEED, number, index))
    return _text(random, size_bytes) if index % 2 == 0 else random.bytes(size_bytes)


def make_small(count: int, mean_bytes: int, number: int = 0, *, spread: float = 1.0) -> list[SmallFile]:
    """`count` files in a tree of folders, sizes log-normal around `mean_bytes` (`spread` 0: all equal), half of each.

    Sizes are scaled so that their mean is `mean_bytes`, and none is above 32 times that.
    """
    random = np.random.default_rng((SEED, number, count, mean_bytes))
    drawn = np.minimum(np.exp(random.normal(0.0, spread, count) if spread else np.zeros(count)), 32.0)
    sizes = np.maximum(1, drawn * (mean_bytes / drawn.mean())).astype(int)
    files = []
    for index, size in enumerate(sizes):
        one = np.random.default_rng((SEED, number, 1 << 32, index))
        data = _text(one, int(size)) if index % 2 == 0 else one.bytes(int(size))
        files.append(SmallFile(f"folder {index // 50:03d}/file {index:05d}.{'txt' if index % 2 == 0 else 'bin'}", data))
    return files


def write_tree(folder: Path, files: list[SmallFile]) -> Path:
    """The files below `folder`, which must not be there yet."""
    folder.mkdir(parents=True)
    for file in files:
        path = folder / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.data)
    return folder


def warm(path: Path) -> None:
    """Read a file so that the page cache has it: a benchmark of the service is not one of the disk's first read."""
    with path.open("rb", buffering=0) as source:
        while source.read(4 * _MIB):
            pass


def flush_disks() -> None:
    """Write out what earlier steps left dirty, so that no measurement pays for the one before."""
    os.sync()


class _Words:
    """Words as rows of a matrix, so that numpy joins a million of them at once. Made once in a process."""

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        letters = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)
        weights = np.linspace(2.0, 0.2, len(letters))
        lengths = np.clip(random.poisson(5.2, _VOCABULARY) + 1, 2, 13)
        self.letters = random.choice(letters, (_VOCABULARY, 14), p=weights / weights.sum()).astype(np.uint8)
        self.letters[np.arange(_VOCABULARY), lengths] = ord(" ")
        ends = random.random(_VOCABULARY) < 0.02
        self.letters[ends, lengths[ends] - 1] = ord("\n")
        self.used = np.arange(14)[None, :] <= lengths[:, None]
        ranks = 1.0 / np.arange(1, _VOCABULARY + 1) ** 1.02
        # A draw is one look into this table: each word stands in it as often as it is likely.
        places = (np.arange(1 << 16) + 0.5) / (1 << 16)
        self.drawn = np.searchsorted(np.cumsum(ranks / ranks.sum()), places).astype(np.uint16)
        # People repeat themselves: some stretches of four words come from a stock.
        self.phrases = self.draw(random, _PHRASES)

    def draw(self, random: Generator, groups: int) -> npt.NDArray[np.uint16]:
        """Four words for each group."""
        return self.drawn[random.integers(0, 1 << 16, (groups, 4), dtype=np.uint16)]


_words: _Words | None = None


def _text(random: Generator, size_bytes: int) -> bytes:
    global _words  # noqa: PLW0603 - made once, when text is first wanted
    words = _words = _words or _Words()
    joined = b""
    while len(joined) < size_bytes:
        groups = max(64, (size_bytes - len(joined)) // 20)
        fresh = words.draw(random, groups)
        repeated = random.random(groups) < _PHRASE_SHARE
        fresh[repeated] = words.phrases[random.integers(0, _PHRASES, int(repeated.sum()))]
        chosen = fresh.ravel()
        joined += words.letters[chosen][words.used[chosen]].tobytes()
    return joined[:size_bytes]
