"""What the machine has: file systems (psutil) and network addresses (pyroute2). For people and metrics, not for I/O."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
from pyroute2 import IPRoute


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a disk directory lies."""

    device: str
    mount_point: str
    kind: str


def find_file_system(path: Path) -> FileSystem | None:
    """The file system that holds `path`; None for kinds that psutil does not know."""
    best: FileSystem | None = None
    real = os.path.realpath(path)
    for part in psutil.disk_partitions(all=True):
        inside = os.path.commonpath([real, part.mountpoint]) == part.mountpoint
        if inside and (best is None or len(part.mountpoint) >= len(best.mount_point)):
            best = FileSystem(part.device, part.mountpoint, part.fstype)
    return best


def list_addresses() -> list[str]:
    """The IP addresses of this machine's links that are up."""
    with IPRoute() as route:
        up = {link["index"] for link in route.get_links() if link["state"] == "up"}
        found = [row.get_attr("IFA_ADDRESS") for row in route.get_addr() if row["index"] in up]
    return sorted(address for address in found if address is not None)
