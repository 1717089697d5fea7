"""How long does one file of 100 KB take, in and out, when nothing else is going on?

One kept-alive connection of a plain HTTP client, one request after the other, each file new. Expected for a PUT: two
database commits and one fsync on each of five or six disks at once, so a few milliseconds above the slowest fsync; for
a GET one database read and one round trip to a node.
"""

from __future__ import annotations

from typing import Final

from bench.load import GetFiles, PutFiles
from bench.result import Options, Outcome, Target, percentile
from bench.roofline import floor
from bench.service import combine, running_service

PUT_P50: Final = Target(high=30)
GET_P50: Final = Target(high=12)
SIZE_BYTES: Final = 100_000


def run(options: Options) -> Outcome:
    """`count` files in and out for each repeat."""
    count, size = options.number(200), options.size_bytes or SIZE_BYTES
    outcome, _ = floor(options.folder)
    puts, gets, put_usages, get_usages = [], [], [], []
    with running_service(options.folder) as service:
        for number in range(options.repeats() + 1):
            folder = f"/latency-{number}"
            service.make_folder(folder)
            put_usage, put_reports = service.measured_load(
                PutFiles(service.account, folder, count, size, 1, number, spread=0.0)
            )
            paths = [f"{folder}/{index:05d}" for index in range(count)]
            get_usage, get_reports = service.measured_load(GetFiles(service.account, paths, 1))
            if number > 0:  # the first is the warm-up
                puts.append(combine(put_reports))
                gets.append(combine(get_reports))
                put_usages.append(put_usage)
                get_usages.append(get_usage)
    for name, runs, target in (("put", puts, PUT_P50), ("get", gets, GET_P50)):
        outcome.add(f"{name}_p50", "ms", [percentile(one, 50) * 1000 for one in runs], target)
        outcome.add(f"{name}_p95", "ms", [percentile(one, 95) * 1000 for one in runs])
        outcome.add(f"{name}_p99", "ms", [percentile(one, 99) * 1000 for one in runs])
    outcome.add_cpu("put CPU-ms/file", put_usages, count / 1000)
    outcome.add_cpu("get CPU-ms/file", get_usages, count / 1000)
    return outcome
