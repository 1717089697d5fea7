"""How soon, and for how many bytes, is what one computer saves on another, and what does a client cost meanwhile?

Two continuous clients (real processes) on the same machine as the appliance with 4+2. Parts, chosen with --only:
`latency` 100 KB files saved on A until complete on B; `large` 1 GiB from A to B against the upload alone; `small` 2,000
files of 100 KB mean from A to B; `wire` the bytes on each client's connections, TLS included, for changes of a 1 GiB
file; `many` start, memory and idle CPU with 100,000 files (--full: 10^6 as well). Expected: a save costs an
announcement, a block and a commit there (30 ms), a woken long poll, a block and an fsync here (30 ms); a large file's
download overlaps its upload, so that it ends a block later; a change costs its own bytes and a few KB of talk.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench import corpus
from bench.processes import read_pss
from bench.result import MIB, Options, Outcome, Target, percentile
from bench.service import BenchFailed, Service, running_service
from bench.sync_client import Arrivals, SyncClient
from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.cluster import Session, wait_until
from tests.kit.proxy import TcpProxy

KIB: Final = 1024
SAVE_P50: Final = Target(high=150)
SAVE_P95: Final = Target(high=400)
LARGE_RATIO: Final = Target(high=1.3)
SMALL_S: Final = Target(high=10)
CHANGED_MIB: Final = Target(high=1.15)
INSERTED_KB: Final = Target(high=60)
INSERTED_S: Final = Target(high=10)
RENAMED_KIB: Final = Target(high=8)
SCAN_S: Final = Target(high=5)
MEMORY_MB: Final = Target(high=150)
MEMORY_MILLION_MB: Final = Target(high=300)
IDLE_PERCENT: Final = Target(high=0.5)

_SAVE_BYTES: Final = 100_000
_SAVE_PAUSE_S: Final = 0.2  # people do not save without a break, and B's own commit of the last one is over by then
_QUIET_S: Final = 1.5
_IDLE_S: Final = 60.0
_FILES_A_FOLDER: Final = 100
_COPIES: Final = 10
_COPY_TIMEOUT_S: Final = 600.0
_LOOK_S: Final = 5.0  # asking takes CPU from what is measured


def run(options: Options) -> Outcome:
    """The parts one after the other, each in an appliance of its own."""
    outcome = Outcome()
    parts: dict[str, Callable[[Service, Options, Outcome], None]] = {
        "latency": _latency, "large": _large, "small": _small, "wire": _wire, "many": _many
    }  # fmt: skip
    if options.only not in (None, *parts):
        raise BenchFailed(f"sync has the parts {', '.join(parts)}")
    for name, part in parts.items():
        if options.only in (None, name):
            corpus.flush_disks()
            with running_service(options.folder) as service:
                part(service, options, outcome)
    return outcome


@contextmanager
def _two(service: Service) -> Iterator[tuple[SyncClient, SyncClient]]:
    """Both clients run and are in sync."""
    first, second = SyncClient(service, "a"), SyncClient(service, "b")
    with first.running(), second.running():
        yield first, second


# --- latency ---------------------------------------------------------------------------------------------------------


def _latency(service: Service, options: Options, outcome: Outcome) -> None:
    """From the end of the save (close) until the file has its name on the other computer, whole."""
    count = max(100, options.number(200))
    with _two(service) as (first, second), Arrivals(second.root) as arrivals:
        for kind in ("new", "edited"):
            took = []
            for number in range(-5, count):  # the first are the warm-up
                name = "plan.bin" if kind == "edited" else f"new {number}.bin"
                data = corpus.make_block(7_000 + (kind == "edited"), number + 5, _SAVE_BYTES)
                (first.root / name).write_bytes(data)
                began = time.monotonic()
                ended = arrivals.wait_for(name, 60)
                if (second.root / name).read_bytes() != data:
                    raise BenchFailed(f"{name} arrived with other bytes")
                if number >= 0:
                    took.append((ended - began) * 1000)
                time.sleep(_SAVE_PAUSE_S)
                arrivals.forget()
            outcome.add(f"{kind}_save_p50", "ms", [percentile(took, 50)], SAVE_P50)
            outcome.add(f"{kind}_save_p95", "ms", [percentile(took, 95)], SAVE_P95)
            outcome.add(f"{kind}_save_max", "ms", [max(took)])


# --- one large file --------------------------------------------------------------------------------------------------


def _large(service: Service, options: Options, outcome: Outcome) -> None:
    """From the moment the file has its name on A until the service has it, B's client off; then until B has it."""
    size = options.size(1024 * MIB)
    session = service.session()
    alone: list[float] = []
    through: list[float] = []
    first, second = SyncClient(service, "a"), SyncClient(service, "b")
    with first.running():
        for number in range(2 * (options.repeats() + 1)):
            made = corpus.make_file(options.folder, size, 50 + number)
            name = f"large {number}.bin"
            copy = first.base / name
            shutil.copyfile(made, copy)
            made.unlink()
            corpus.flush_disks()
            if number % 2 == 0:
                began = time.monotonic()
                copy.rename(first.root / name)
                there = partial(_is_there, session, f"/{name}")
                wait_until(there, timeout_s=600, what=f"{name} in the service", every_s=0.02)
                took, kept = time.monotonic() - began, alone
            else:
                with second.running(), Arrivals(second.root) as arrivals:
                    began = time.monotonic()
                    copy.rename(first.root / name)
                    took, kept = arrivals.wait_for(name) - began, through
                    _check_equal(first.root / name, second.root / name)
                    (first.root / name).unlink()
                    wait_until(lambda: not list(second.root.glob("large*")), timeout_s=60, what="the deletes")
            if number >= 2:
                kept.append(took)
            (first.root / name).unlink(missing_ok=True)
            first.wait_in_sync()
            shutil.rmtree(second.root / ".holdfast" / "trash", ignore_errors=True)
    outcome.add("large_upload_alone", "s", alone)
    outcome.add("large_a_to_b", "s", through)
    outcome.add("large_a_to_b_ratio", "×", [statistics.median(through) / statistics.median(alone)], LARGE_RATIO)
    outcome.add("large_a_to_b_speed", "MB/s", [size / 1e6 / took for took in through])


def _is_there(session: Session, path: str) -> bool:
    answer = session.call("GET", "/api/v1/files/metadata", query={"path": path})
    return bool(answer.status == 200 and answer.document["state"] == "complete")


def _check_equal(one: Path, other: Path) -> None:
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(BLOCK_BYTES):
            if right.read(BLOCK_BYTES) != block:
                raise BenchFailed(f"{other} differs from {one}")
        if right.read(1):
            raise BenchFailed(f"{other} is longer than {one}")


# --- many small files at once ----------------------------------------------------------------------------------------


def _small(service: Service, options: Options, outcome: Outcome) -> None:
    """A tree gets its name on A; until B has every file of it."""
    count = options.number(2000)
    took = []
    with _two(service) as (first, second):
        for number in range(options.repeats() + 1):
            files = corpus.make_small(count, 100_000, 3000 + number)
            tree = corpus.write_tree(first.base / "tree", files)
            name = f"tree {number}"
            corpus.flush_disks()
            began = time.monotonic()
            tree.rename(first.root / name)
            _wait_for_all([second.root / name / file.path for file in files])
            if number > 0:
                took.append(time.monotonic() - began)
            if any((second.root / name / file.path).read_bytes() != file.data for file in files):
                raise BenchFailed("a file arrived with other bytes")
            first.wait_in_sync()
            second.wait_in_sync()
    outcome.add("small_a_to_b", "s", took, SMALL_S if count == 2000 else None)
    outcome.add("small_a_to_b_rate", "files/s", [count / one for one in took])


def _wait_for_all(paths: Sequence[Path], timeout_s: float = 600.0) -> None:
    """Asks only for the first that is missing, every few milliseconds."""
    deadline = time.monotonic() + timeout_s
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise BenchFailed(f"{path} did not arrive")
            time.sleep(0.005)


# --- bytes on the wire -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wire:
    """What a change cost: bytes both ways on A's and on B's connections, and seconds until B had it."""

    sender: int
    receiver: int
    seconds: float


class _Counted:
    """Two clients, each behind a proxy of its own that counts; `name` is the large file."""

    def __init__(self, first: SyncClient, second: SyncClient, proxies: Sequence[TcpProxy]) -> None:
        self.first, self.second, self._proxies = first, second, proxies

    def counts(self) -> tuple[int, ...]:
        return tuple(proxy.forwarded_bytes + proxy.answered_bytes for proxy in self._proxies)

    def wait_until_quiet(self) -> None:
        """Until nothing has gone over any line for a while."""
        last, since = self.counts(), time.monotonic()
        while time.monotonic() - since < _QUIET_S:
            time.sleep(0.1)
            if (now := self.counts()) != last:
                last, since = now, time.monotonic()

    def measure(self, change: Callable[[], object], arrived: str, gone: str | None = None) -> _Wire:
        """Do it on A; until `arrived` has appeared on B (and `gone` has gone), and all is quiet again."""
        corpus.flush_disks()
        self.wait_until_quiet()
        before = self.counts()
        with Arrivals(self.second.root) as arrivals:
            began = time.monotonic()
            change()
            seconds = arrivals.wait_for(arrived) - began
        self.wait_until_quiet()
        if gone is not None and (self.second.root / gone).exists():
            raise BenchFailed(f"{gone} is still there")
        sender, receiver = (now - then for now, then in zip(self.counts(), before, strict=True))
        _check_equal(self.first.root / arrived, self.second.root / arrived)
        return _Wire(sender, receiver, seconds)


def _wire(service: Service, options: Options, outcome: Outcome) -> None:
    """One change after the other; each is in the file that the one before left."""
    size = options.size(1024 * MIB)
    rng = random.Random("wire")
    port = urlsplit(service.account.url).port or 443
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(TcpProxy(port)) for _ in range(2)]
        first, second = (
            SyncClient(service, name, url=f"https://127.0.0.1:{proxy.port}")
            for name, proxy in zip(("a", "b"), proxies, strict=True)
        )
        stack.enter_context(first.running())
        stack.enter_context(second.running())
        counted = _Counted(first, second, proxies)
        large, aside = first.root / "large", first.base / "aside"
        shutil.copyfile(corpus.make_file(options.folder, size, 90), aside)
        whole = counted.measure(lambda: aside.rename(large), "large")
        outcome.add("whole_sender", "MB", [whole.sender / 1e6])
        outcome.add("whole_receiver", "MB", [whole.receiver / 1e6])

        at = size // 2 - size // 2 % BLOCK_BYTES + BLOCK_BYTES // 4  # inside one block
        _tell(outcome, "overwritten", counted.measure(lambda: _write_at(large, at, rng.randbytes(MIB)), "large"))
        _tell(outcome, "appended", counted.measure(lambda: _write_at(large, None, rng.randbytes(MIB)), "large"))
        _insert_first(large, aside)
        inserted = counted.measure(lambda: aside.rename(large), "large")
        for side, count in (("sender", inserted.sender), ("receiver", inserted.receiver)):
            outcome.add(f"inserted_{side}", "KB", [count / 1000], INSERTED_KB)
        outcome.add("inserted_time", "s", [inserted.seconds], INSERTED_S)
        renamed = counted.measure(lambda: large.rename(first.root / "renamed"), "renamed", gone="large")
        shutil.copyfile(first.root / "renamed", aside)
        copied = counted.measure(lambda: aside.rename(first.root / "copied"), "copied")
        for name, wire in (("renamed", renamed), ("copied", copied)):
            for side, count in (("sender", wire.sender), ("receiver", wire.receiver)):
                outcome.add(f"{name}_{side}", "KiB", [count / KIB], RENAMED_KIB)
            outcome.add(f"{name}_time", "s", [wire.seconds])


def _tell(outcome: Outcome, name: str, wire: _Wire) -> None:
    for side, count in (("sender", wire.sender), ("receiver", wire.receiver)):
        outcome.add(f"{name}_{side}", "MiB", [count / MIB], CHANGED_MIB)
    outcome.add(f"{name}_time", "s", [wire.seconds])


def _write_at(path: Path, at: int | None, data: bytes) -> None:
    """Overwrite in place, or append where `at` is None."""
    with path.open("r+b" if at is not None else "ab", buffering=0) as file:
        if at is not None:
            file.seek(at)
        file.write(data)


def _insert_first(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        new.write(b"!")
        shutil.copyfileobj(old, new, 4 * MIB)


# --- many files ------------------------------------------------------------------------------------------------------


def _many(service: Service, options: Options, outcome: Outcome) -> None:
    """One client with so many files: the first sync, a start with nothing changed, memory, CPU at rest.

    The first hundred thousand are sent by the client. With --full the service copies them nine times and the same files
    are made here meanwhile, so that the client meets 900,000 files that are new on both sides, and equal.
    """
    count = options.number(100_000)
    client = SyncClient(service, "a")
    _make_files(client.root / "0", count)
    _measure_many(f"{count // 1000}k", MEMORY_MB, client, options, outcome)
    if options.full:
        for copy in range(1, _COPIES):
            _make_files(client.root / f"{copy}", count)
            body = {"from_path": "/0", "to_path": f"/{copy}"}
            answer = service.session().call("POST", "/api/v1/files/copy", document=body, timeout_s=_COPY_TIMEOUT_S)
            if answer.status != 200:
                raise BenchFailed(f"the copy was answered with {answer.status}: {answer.body[:500]!r}")
        _measure_many("million", MEMORY_MILLION_MB, client, options, outcome)


def _measure_many(label: str, memory: Target, client: SyncClient, options: Options, outcome: Outcome) -> None:
    client.start()
    try:
        began = time.monotonic()
        client.wait_in_sync(every_s=_LOOK_S)
        outcome.add(f"{label}_first_sync", "s", [time.monotonic() - began])
        outcome.add(f"{label}_first_sync_cpu", "s", [client.cpu_s()])
        outcome.add(f"{label}_first_sync_memory", "MB", [client.peak_rss() / 1e6], memory)
    finally:
        client.stop()
    client.once()
    runs = [_once(client) for _ in range(options.repeats())]
    outcome.add(f"{label}_start_unchanged", "s", [run[0] for run in runs], SCAN_S if memory is MEMORY_MB else None)
    outcome.add(f"{label}_start_unchanged_cpu", "s", [run[1] for run in runs])
    client.start()
    try:
        client.wait_in_sync(every_s=_LOOK_S)
        time.sleep(_LOOK_S)  # what the start still does afterwards is not idling
        before, began = client.cpu_s(), time.monotonic()
        time.sleep(_IDLE_S)
        idle = (client.cpu_s() - before) / (time.monotonic() - began) * 100
        outcome.add(f"{label}_idle_cpu", "% of a core", [idle], IDLE_PERCENT)
        outcome.add(f"{label}_memory", "MB", [client.peak_rss() / 1e6], memory)
        outcome.add(f"{label}_idle_rss", "MB", [client.rss() / 1e6])
        outcome.add(f"{label}_idle_pss", "MB", [read_pss(client.pid) / 1e6])
    finally:
        client.stop()


def _once(client: SyncClient) -> tuple[float, float]:
    """`sync --once`: seconds, and seconds of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = client.once()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _make_files(root: Path, count: int) -> None:
    """Small files, each with content of its own."""
    for number in range(count):
        folder = root / f"{number // 10_000:03d}" / f"{number // _FILES_A_FOLDER:05d}"
        if number % _FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"file {number:07d}.txt").write_bytes(b"%d\n" % number)
