"""How much slower is a download when two of the six nodes are dead?

The same download as `download`, first with all nodes, then with two of them killed and left dead: each block lacks up
to two data shards, which the code computes from parity. Expected: 4+2 decoding is below 5 % of a download's CPU, so
nearly the same speed. The first download after the kill is told by itself: it has to find out.
"""

from __future__ import annotations

import statistics
from typing import Final

from bench.bulk import put
from bench.download import get
from bench.result import GB, MIB, Options, Outcome, Target
from bench.roofline import floor
from bench.service import running_service

AGAINST_HEALTHY: Final = Target(low=0.8)
SPEED: Final = Target(low=160)
DEAD: Final = 2


def run(options: Options) -> Outcome:
    """Healthy and degraded in the same appliance, so that they compare."""
    size = options.size(1024 * MIB)
    repeats = options.repeats()
    outcome, roofline = floor(options.folder)
    with running_service(options.folder, "--no-restart") as service:
        put(service, options, size, 1)
        get(service, options, size)
        healthy = [get(service, options, size) for _ in range(repeats)]
        for node in service.appliance.processes("node")[:DEAD]:
            service.appliance.kill_child(node.name)
            service.appliance.wait_until_gone(node)
        first = get(service, options, size)
        degraded = [get(service, options, size) for _ in range(repeats)]
    megabytes = size / 1e6
    normal = statistics.median(megabytes / one.seconds for one in healthy)
    best = roofline.download_cpu_s_per_gb
    outcome.add("healthy", "MB/s", [megabytes / one.seconds for one in healthy])
    outcome.add("degraded", "MB/s", [megabytes / one.seconds for one in degraded], SPEED, roofline.ceiling_mb_s(best))
    outcome.add("first_degraded", "MB/s", [megabytes / first.seconds])
    outcome.add("against_healthy", "×", [megabytes / one.seconds / normal for one in degraded], AGAINST_HEALTHY)
    outcome.add("degraded_cpu", "CPU-s/GB", [one.cpu_total_s * GB / size for one in degraded], None, best)
    outcome.add_cpu("healthy CPU-s/GB", healthy, size / GB)
    outcome.add_cpu("degraded CPU-s/GB", degraded, size / GB)
    outcome.add_memory("degraded", degraded)
    return outcome
