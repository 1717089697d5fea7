"""How long does a small range of a large file take, and how much is read for it?

Random ranges of 64 KiB and 1 MiB of a 256 MiB file, one after the other. A block is verified as a whole before a byte
of it leaves, so a range costs the blocks that it touches: about 66 bytes read for each byte of 64 KiB, 5 for 1 MiB
where nothing shrinks, a third less on this half-text file. Expected: reading and opening 4 MiB, some 15 ms.
"""

from __future__ import annotations

from random import Random
from typing import Final

from bench import corpus
from bench.bulk import put
from bench.load import GetRanges
from bench.processes import read_bytes_read
from bench.result import MIB, Options, Outcome, percentile
from bench.roofline import floor
from bench.service import Service, combine, running_service

Range = tuple[int, int]  # where it starts, how long it is
LENGTHS: Final = {"64KiB": 64 * 1024, "1MiB": MIB}


def run(options: Options) -> Outcome:
    """`count` ranges of each length for each repeat."""
    size, count = options.size(256 * MIB), options.number(100)
    outcome, _ = floor(options.folder)
    with running_service(options.folder) as service:
        put(service, options, size, 1)
        for name, length in LENGTHS.items():
            asked = [_draw(number, count, length, size) for number in range(options.repeats() + 1)]
            _measure(service, outcome, f"/file-{size}-1", name, asked)
    return outcome


def _draw(number: int, count: int, length: int, size: int) -> list[Range]:
    random = Random(corpus.SEED + number)
    return [(random.randrange(size - length), length) for _ in range(count)]


def _measure(service: Service, outcome: Outcome, path: str, name: str, repeats: list[list[Range]]) -> None:
    """Ask for each list of ranges; the first is the warm-up."""
    runs, read_per_byte, usages = [], [], []
    for number, asked in enumerate(repeats):
        before = _node_bytes_read(service)
        usage, reports = service.measured_load(GetRanges(service.account, path, asked))
        if number > 0:
            runs.append(combine(reports))
            read_per_byte.append((_node_bytes_read(service) - before) / sum(length for _, length in asked))
            usages.append(usage)
    for percent in (50, 95, 99):
        outcome.add(f"{name}_p{percent}", "ms", [percentile(one, percent) * 1000 for one in runs])
    outcome.add(f"{name}_read", "bytes/byte", read_per_byte)
    outcome.add_cpu(f"{name} CPU-ms/range", usages, len(repeats[0]) / 1000)


def _node_bytes_read(service: Service) -> int:
    return sum(map(read_bytes_read, service.pids("node")))
