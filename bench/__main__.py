"""`python -m bench`: measure, print, store and compare.

    python -m bench                       measure everything and print the table of targets
    python -m bench NAME… [OPTIONS]       measure these
    python -m bench NAME --json [DIR]     one JSON document on stdout, or a file in DIR
    python -m bench --list                what there is
    python -m bench --compare A.json B.json

Exit code 1 when a benchmark could not be measured; a missed target alone is a result, not a failure (but see --strict).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench import catalog, table
from bench.machine import CpuTime, describe_commit, describe_machine, describe_versions
from bench.result import Options, parse_size
from bench.service import BenchFailed, check_folder

Document = dict[str, Any]


def main() -> int:
    """What `python -m bench` runs; the exit code."""
    arguments = _parser().parse_args()
    if arguments.list:
        for name in catalog.NAMES:
            print(f"{name:10} {catalog.question(name)}")
        return 0
    if arguments.compare:
        before, after = (_read(Path(path)) for path in arguments.compare)
        table.print_comparison(before, after)
        return 0
    options = Options(
        folder=Path(arguments.dir).absolute(),
        size_bytes=arguments.size,
        count=arguments.count,
        repeat=arguments.repeat,
        full=arguments.full,
        quick=arguments.quick,
        only=arguments.only,
    )
    names = arguments.names or catalog.NAMES
    try:
        check_folder(options.folder)
        documents = [_measure(name, options) for name in names]
    except BenchFailed as failure:
        print(f"Not measured: {failure}", file=sys.stderr)
        return 1
    if arguments.json is None:
        table.print_results(documents, only_targets=not arguments.names)
    else:
        _write(documents, arguments.json)
    missed = [row for document in documents for row in document["measures"] if row.get("met") is False]
    return 2 if arguments.strict and missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What Holdfast does in a second, and why.")
    parser.add_argument("names", nargs="*", choices=[*catalog.NAMES, []], metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="tell which benchmarks there are")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="DIR", help="JSON to stdout, or a file for each benchmark in DIR"
    )
    parser.add_argument("--compare", nargs=2, metavar=("A.json", "B.json"), help="two stored results side by side")
    parser.add_argument("--repeat", type=int, metavar="N", help="measured runs after the warm-up (default 3)")
    parser.add_argument("--size", type=parse_size, help="bytes to move, as 64MB or 1GiB (default: see the benchmark)")
    parser.add_argument("--count", type=int, metavar="N", help="files, requests or connections")
    parser.add_argument("--full", action="store_true", help="the largest sizes of metadata, memory and sync as well")
    parser.add_argument("--quick", action="store_true", help="an eighth of everything, once: is it still alive?")
    parser.add_argument("--only", metavar="PART", help="one part of a benchmark that has several (see its docstring)")
    parser.add_argument("--strict", action="store_true", help="exit code 2 when a target is missed")
    parser.add_argument(
        "--dir", default=str(Path(tempfile.gettempdir(), "holdfast-bench")), help="work folder on the disk to measure"
    )
    return parser


def _measure(name: str, options: Options) -> Document:
    """Run one benchmark and describe where it ran."""
    print(f"Measuring {name}: {catalog.question(name)}", file=sys.stderr)
    started, load_before = datetime.now(UTC), os.getloadavg()
    before, own_before, began = CpuTime.now(), _own_cpu_s(), time.monotonic()
    outcome = catalog.load_run(name)(options)
    seconds = time.monotonic() - began
    spent = CpuTime.now().since(before)
    cores = len(os.sched_getaffinity(0))
    others_s = max(0.0, spent.busy_s - (_own_cpu_s() - own_before))
    return {
        "bench": name,
        "question": catalog.question(name),
        "started_at": started.isoformat(timespec="seconds"),
        "took_s": round(seconds, 1),
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "machine": describe_machine(),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "load_before": load_before,
        # Of all cores' time: what programs that are not ours took, and what the hypervisor took.
        "others_cpu_share": round(others_s / seconds / cores, 3),
        "stolen_cpu_share": round(spent.stolen_s / seconds / cores, 3),
        "roofline": outcome.roofline,
        "measures": msgspec.to_builtins(outcome.measures),
        "cpu": outcome.cpu,
        "memory_mb": outcome.memory_mb,
        "notes": outcome.notes,
    }


def _own_cpu_s() -> float:
    """CPU of this process and of everything that it started and that has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read(path: Path) -> list[Document]:
    found = msgspec.json.decode(path.read_bytes())
    return found if isinstance(found, list) else [found]


def _write(documents: Sequence[Document], where: str) -> None:
    if where == "-":
        text = msgspec.json.encode(documents[0] if len(documents) == 1 else documents)
        sys.stdout.buffer.write(msgspec.json.format(text, indent=2) + b"\n")
        return
    folder = Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        stamp = document["started_at"].replace(":", "").replace("-", "")[:15]
        path = folder / f"{document['bench']}-{stamp}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
        print(path, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
