"""CPU seconds and memory of an appliance's processes by kind, read from /proc.

Every process of the tree below `holdfast up` belongs to the kind of its nearest ancestor in appliance.json, so the
backends of PostgreSQL count as `postgres`. CPU of children that have ended is in their parents' figures. A tick is
10 ms for each process: measure for a second or more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_STATUS_EVERY_S: Final = 0.1
_PSS_EVERY_S: Final = 1.0  # adding up a process's pages takes the kernel a millisecond or more


class Kind(StrEnum):
    CLIENT = "client"
    COORDINATOR = "coordinator"
    POSTGRES = "postgres"
    NODE = "node"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    cpu_s: float


@dataclass(frozen=True)
class Usage:
    """What passed in a window. CPU in seconds, memory in bytes, each by kind.

    `peak_rss` is the sum of each process's own peak (exact, but shared pages count for everybody); `peak_pss` is the
    highest sampled sum of proportional sizes.
    """

    seconds: float
    cpu_s: dict[Kind, float]
    peak_rss: dict[Kind, int]
    peak_pss: dict[Kind, int]

    @property
    def cpu_total_s(self) -> float:
        """CPU seconds of all kinds together."""
        return sum(self.cpu_s.values())


@dataclass
class Meter:
    """Watches the processes of one appliance (`known`: pid to kind, as of now) and the clients of a benchmark.

    `with meter.window() as window: …` then `window.usage()`. Clients report themselves with `add_client`, since they
    come and go inside of a window.
    """

    known: Mapping[int, Kind]
    _clients: set[int] = field(default_factory=set)

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Measure what happens inside."""
        with Window(self) as window:
            yield window

    def add_client(self, pid: int) -> None:
        """From now on count this process as a client's."""
        self._clients.add(pid)

    def drop_client(self, pid: int) -> None:
        """It has ended."""
        self._clients.discard(pid)

    def members(self) -> dict[int, Kind]:
        """Every living process that counts."""
        stats = _read_all()
        anchors = {**self.known, **dict.fromkeys(self._clients, Kind.CLIENT)}
        found: dict[int, Kind] = {}
        for pid in stats:
            at: int | None = pid
            while at is not None and at not in anchors:
                at = stats[at].parent if at in stats else None
            if at is not None:
                found[pid] = anchors[at]
        return found


class Window:
    """One measured stretch of time. A sampling thread of its own looks at memory; it takes about 2 % of a core."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._client_cpu_s = 0.0
        self._peak_rss: dict[int, tuple[Kind, int]] = {}
        self._peak_pss: dict[Kind, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._ended: tuple[float, dict[Kind, float]] | None = None

    def __enter__(self) -> Self:
        for pid in self._meter.members():
            reset_peak(pid)
        self._before = _cpu_by_process(self._meter.members())
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        seconds = time.monotonic() - self._began
        members = self._meter.members()
        after = _cpu_by_process(members)
        self._stop.set()
        self._thread.join()
        self._note_peaks(members)
        spent: dict[Kind, float] = dict.fromkeys(Kind, 0.0)
        for pid, cpu_s in after.items():
            if members[pid] is not Kind.CLIENT:  # those tell exactly, by add_client_cpu
                spent[members[pid]] += cpu_s - self._before.get(pid, 0.0)
        spent[Kind.CLIENT] = self._client_cpu_s
        self._ended = (seconds, spent)

    def add_client_cpu(self, cpu_s: float) -> None:
        """CPU of a client process, as it told itself or as wait4 gave it."""
        with self._lock:
            self._client_cpu_s += cpu_s

    def usage(self, seconds: float | None = None) -> Usage:
        """After the window; `seconds` replaces its length where the work inside was timed better."""
        assert self._ended is not None, "the window is still open"
        whole_s, cpu_s = self._ended
        peak_rss: dict[Kind, int] = dict.fromkeys(Kind, 0)
        for kind, peak in self._peak_rss.values():
            peak_rss[kind] += peak
        return Usage(whole_s if seconds is None else seconds, cpu_s, peak_rss, dict(self._peak_pss))

    def _sample(self) -> None:
        next_pss = 0.0
        while not self._stop.wait(_STATUS_EVERY_S):
            # Clients end inside of the window, so only they have to be asked often.
            self._note_peaks(dict.fromkeys(tuple(self._meter._clients), Kind.CLIENT))
            if time.monotonic() >= next_pss:
                self._note_pss(self._meter.members())
                next_pss = time.monotonic() + _PSS_EVERY_S

    def _note_peaks(self, members: Mapping[int, Kind]) -> None:
        for pid, kind in members.items():
            peak = status_bytes(pid, "VmHWM")
            if peak > self._peak_rss.get(pid, (kind, 0))[1]:
                self._peak_rss[pid] = (kind, peak)

    def _note_pss(self, members: Mapping[int, Kind]) -> None:
        now: dict[Kind, int] = defaultdict(int)
        for pid, kind in members.items():
            now[kind] += read_pss(pid)
        for kind, size in now.items():
            self._peak_pss[kind] = max(self._peak_pss[kind], size)


def read_pss(pid: int) -> int:
    """Bytes of memory that this process accounts for, shared pages divided among their users; 0 when it is gone."""
    return _field_bytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def read_rss(pid: int) -> int:
    """Resident bytes; 0 when it is gone."""
    return status_bytes(pid, "VmRSS")


def read_bytes_read(pid: int) -> int:
    """Bytes that the process has got through read calls on files (not from sockets by recv); 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def _read_all() -> dict[int, _Stat]:
    found: dict[int, _Stat] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            fields = text[text.rindex(")") + 2 :].split()
            # From proc(5): ppid is field 4; utime, stime, cutime, cstime are 14 to 17. `fields` begins with field 3.
            found[int(name)] = _Stat(int(fields[1]), sum(map(int, fields[11:15])) / _TICKS_PER_S)
    return found


def _cpu_by_process(members: Mapping[int, Kind]) -> dict[int, float]:
    stats = _read_all()
    return {pid: stats[pid].cpu_s for pid in members if pid in stats}


def status_bytes(pid: int, name: str) -> int:
    """A size of /proc/PID/status, as VmHWM; 0 when the process is gone."""
    return _field_bytes(Path(f"/proc/{pid}/status"), name)


def _field_bytes(path: Path, name: str) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(pid: int) -> None:
    """Begin VmHWM anew (proc(5), clear_refs 5). Without the right to do so the peak since the start stays."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return
