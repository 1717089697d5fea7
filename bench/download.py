"""How fast does one large file come out, and what does it cost?

1 GiB, half text and half random bytes, `holdfast get` to a new file on disk, fsynced. The shards are in the page cache
of the machine, as just written ones are; a cold disk adds its own time. Expected: the roofline's CPU over the cores.
"""

from __future__ import annotations

from typing import Final

from bench import corpus
from bench.bulk import put
from bench.processes import Usage
from bench.result import GB, MIB, Options, Outcome, Target
from bench.roofline import floor
from bench.service import BenchFailed, Service, running_service

SPEED: Final = Target(low=200)
CPU: Final = Target(high=7)


def run(options: Options) -> Outcome:
    """One file, fetched again for each repeat."""
    size = options.size(1024 * MIB)
    outcome, roofline = floor(options.folder)
    with running_service(options.folder) as service:
        put(service, options, size, 1)
        get(service, options, size)
        usages = [get(service, options, size) for _ in range(options.repeats())]
    best = roofline.download_cpu_s_per_gb
    outcome.add("download", "MB/s", [size / 1e6 / one.seconds for one in usages], SPEED, roofline.ceiling_mb_s(best))
    outcome.add("download_cpu", "CPU-s/GB", [one.cpu_total_s * GB / size for one in usages], CPU, best)
    outcome.add_cpu("download CPU-s/GB", usages, size / GB)
    outcome.add_memory("download", usages)
    return outcome


def get(service: Service, options: Options, size_bytes: int, number: int = 1) -> Usage:
    """Fetch what `bulk.put` stored; compares sizes, for the client itself compares hashes."""
    target = service.folder / "fetched"
    corpus.flush_disks()
    target.unlink(missing_ok=True)
    usage = service.measured_cli("get", f"/file-{size_bytes}-{number}", str(target))
    if target.stat().st_size != size_bytes:
        raise BenchFailed(f"{target.stat().st_size} bytes came back instead of {size_bytes}")
    return usage
