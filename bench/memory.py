"""How much memory do the coordinators take while 32 large files come in at once?

32 connections, each streaming one file in a simple upload, all at the same time. A coordinator bounds the bytes in
flight, so the answer should not depend on the files' size: 128 MiB each by default, 1 GiB each with --full. Expected:
the budget of 48 MiB of blocks for each of two workers, their sealed copies and shards, and what Python itself takes.
"""

from __future__ import annotations

from typing import Final

from bench.load import Stream
from bench.processes import Kind
from bench.result import MIB, Options, Outcome, Target
from bench.roofline import floor
from bench.service import running_service

COORDINATORS_MB: Final = Target(high=500)


def run(options: Options) -> Outcome:
    """One stretch of uploads; the peak is exact, so it is not repeated unless asked."""
    size = options.size_bytes or (1024 * MIB if options.full else options.size(128 * MIB))
    count = options.count or 32
    outcome, _ = floor(options.folder)
    usages = []
    with running_service(options.folder) as service:
        idle = service.idle_memory()
        for number in range(options.repeat or 1):
            service.make_folder(f"/memory-{number}")
            usages.append(service.measured_load(Stream(service.account, f"/memory-{number}", count, size, number))[0])
    peaks = [usage.peak_rss[Kind.COORDINATOR] / 1e6 for usage in usages]
    outcome.add("coordinators_peak", "MB", peaks, COORDINATORS_MB)
    outcome.add("upload", "MB/s", [count * size / 1e6 / usage.seconds for usage in usages])
    outcome.add("idle_all", "MB", [sum(idle.values()) / 1e6], Target(high=600))
    outcome.add_cpu("upload CPU-s/GB", usages, count * size / 1e9)
    outcome.add_memory("32 uploads", usages)
    outcome.memory_mb["idle.pss"] = {str(kind): round(size / 1e6, 1) for kind, size in idle.items()}
    return outcome
