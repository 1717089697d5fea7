"""How fast does one large file go in, and what does it cost?

1 GiB, half text and half random bytes, `holdfast put` through TLS into six nodes with 4+2 and fsync, all on this
machine. Expected from the roofline's stages: their CPU seconds per GB over the number of cores.
"""

from __future__ import annotations

from typing import Final

from bench import corpus
from bench.processes import Usage
from bench.result import GB, MIB, Options, Outcome, Target
from bench.roofline import floor
from bench.service import Service, running_service

SPEED: Final = Target(low=100)
CPU: Final = Target(high=12)
OVER_ROOFLINE: Final = Target(high=2)
WARM_UP_BYTES: Final = 64 * MIB


def run(options: Options) -> Outcome:
    """Upload a new file for each repeat: no block of it is known to the service."""
    size = options.size(1024 * MIB)
    outcome, roofline = floor(options.folder)
    with running_service(options.folder) as service:
        put(service, options, WARM_UP_BYTES, 0)
        usages = [put(service, options, size, number) for number in range(1, options.repeats() + 1)]
    cpu = [usage.cpu_total_s * GB / size for usage in usages]
    best = roofline.upload_cpu_s_per_gb
    speed = [size / 1e6 / usage.seconds for usage in usages]
    outcome.add("upload", "MB/s", speed, SPEED, roofline.ceiling_mb_s(best))
    outcome.add("upload_cpu", "CPU-s/GB", cpu, CPU, best)
    outcome.add("upload_cpu_over_roofline", "×", [value / best for value in cpu], OVER_ROOFLINE)
    outcome.add_cpu("upload CPU-s/GB", usages, size / GB)
    outcome.add_memory("upload", usages)
    return outcome


def put(service: Service, options: Options, size_bytes: int, number: int) -> Usage:
    """Upload file `number` of this size with the command line, from the page cache."""
    path = corpus.make_file(options.folder / "corpus", size_bytes, number)
    corpus.warm(path)
    corpus.flush_disks()
    return service.measured_cli("put", str(path), f"/file-{size_bytes}-{number}")
