"""How many small files a second go in, one request each and in batches?

400 files of 500 KB by eight connections at once (simple uploads by a plain HTTP client), then a tree of 2,000 files
with log-normal sizes averaging 100 KB through `holdfast put`. Half of the files are text. Expected: a file of 500 KB
costs its bytes (about 5 ms at the roofline), one request, one transaction and an fsync on six disks.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import corpus
from bench.load import PutFiles
from bench.processes import Usage
from bench.result import GB, Options, Outcome, Target, percentile
from bench.roofline import Roofline, floor
from bench.service import Service, combine, running_service

SINGLE_RATE: Final = Target(low=60)
SINGLE_CPU: Final = Target(high=15)
BATCHED_RATE: Final = Target(low=200)
BATCHED_CPU: Final = Target(high=8)
SINGLE_BYTES: Final = 500_000
BATCHED_BYTES: Final = 100_000
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class _Sent:
    """What one repeat sent."""

    name: str
    count: int
    mean_bytes: int
    rate: Target
    cpu: Target


def run(options: Options) -> Outcome:
    """Both ways of sending, in one appliance; every repeat sends new contents."""
    outcome, roofline = floor(options.folder)
    with running_service(options.folder) as service:
        _single(service, options, outcome, roofline)
        _batched(service, options, outcome, roofline)
    return outcome


def _single(service: Service, options: Options, outcome: Outcome, roofline: Roofline) -> None:
    count = options.number(400)
    usages: list[Usage] = []
    latencies: list[float] = []
    for number in range(options.repeats() + 1):
        corpus.flush_disks()
        job = PutFiles(service.account, f"/single-{number}", count, SINGLE_BYTES, AT_ONCE, number)
        service.make_folder(job.folder)
        usage, reports = service.measured_load(job)
        if number > 0:  # the first is the warm-up
            usages.append(usage)
            latencies += combine(reports)
    _tell(outcome, roofline, usages, _Sent("single", count, SINGLE_BYTES, SINGLE_RATE, SINGLE_CPU))
    outcome.add("single_p50", "ms", [percentile(latencies, 50) * 1000])
    outcome.add("single_p99", "ms", [percentile(latencies, 99) * 1000])


def _batched(service: Service, options: Options, outcome: Outcome, roofline: Roofline) -> None:
    count = options.number(2000)
    usages = []
    for number in range(options.repeats() + 1):
        files = corpus.make_small(count, BATCHED_BYTES, 1000 + number)
        tree = corpus.write_tree(service.folder / "tree", files)
        corpus.flush_disks()
        usage = service.measured_cli("put", str(tree), f"/tree-{number}")
        shutil.rmtree(tree)
        if number > 0:
            usages.append(usage)
    _tell(outcome, roofline, usages, _Sent("batched", count, BATCHED_BYTES, BATCHED_RATE, BATCHED_CPU))


def _tell(outcome: Outcome, roofline: Roofline, usages: Sequence[Usage], sent: _Sent) -> None:
    best_ms = roofline.upload_cpu_s_per_gb * sent.mean_bytes / GB * 1000
    outcome.add(f"{sent.name}_rate", "files/s", [sent.count / usage.seconds for usage in usages], sent.rate)
    cpu_ms = [usage.cpu_total_s * 1000 / sent.count for usage in usages]
    outcome.add(f"{sent.name}_cpu", "CPU-ms/file", cpu_ms, sent.cpu, best_ms)
    outcome.add_cpu(f"{sent.name} CPU-ms/file", usages, sent.count / 1000)
    outcome.add_memory(sent.name, usages)
