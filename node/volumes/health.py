"""How one disk is: thresholds of fullness, and failure that sticks until an operator clears it.

Guarantees: after `fail` the disk is never written to again, in this process or (when the marker could still be written)
in a later one. Decisions are the pure function `judge`; the rest remembers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from node.base.clock import Clock
from node.base.durable import sync_directory, write_file_durably
from node.volumes.identity import FAILED_FILE, INDEX_FOLDER, INDEX_STATE_FILE

USAGE_KEPT_S: Final = 1.0
# A write hit the end of the device although the file system claims room: try again after this long at the latest.
NO_SPACE_RETRY_S: Final = 30.0

_log = logging.getLogger(__name__)


class DiskState(StrEnum):
    """As DiskStatus tells it."""

    OK = "ok"
    READ_ONLY = "read_only"
    FAILED = "failed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the disk's file system, in bytes; `size` is what an ordinary process could fill, reserved blocks left out."""

    size: int
    used: int

    @property
    def free(self) -> int:
        return self.size - self.used

    @property
    def percent(self) -> float:
        return 100.0 * self.used / self.size if self.size else 100.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percent of the file system in use: warn; take no repair; take no writes."""

    warn: float = 85.0
    no_repair: float = 90.0
    no_writes: float = 95.0


def judge(usage: Usage, thresholds: Thresholds, *, hit_the_end: bool) -> tuple[DiskState, str]:
    """The state of a disk that has not failed, with the reason for a person ("" when there is nothing to say)."""
    if hit_the_end:
        return DiskState.READ_ONLY, "a write found no space left"
    if usage.percent >= thresholds.no_writes:
        return DiskState.READ_ONLY, f"{usage.percent:.1f} % in use; no writes from {thresholds.no_writes:g} % on"
    if usage.percent >= thresholds.no_repair:
        return DiskState.OK, f"{usage.percent:.1f} % in use; no repair from {thresholds.no_repair:g} % on"
    if usage.percent >= thresholds.warn:
        return DiskState.OK, f"{usage.percent:.1f} % in use; add disks"
    return DiskState.OK, ""


def read_usage(path: Path) -> Usage:
    """Ask the file system. Raises OSError; may hang with the disk, so only the disk's own threads call it."""
    facts = os.statvfs(path)
    used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return Usage(used + facts.f_bavail * facts.f_frsize, used)


class Health:
    """State of one disk. Fields are plain values replaced whole: the disk's threads write, anyone reads."""

    def __init__(
        self,
        path: Path,
        thresholds: Thresholds,
        clock: Clock,
        read_usage: Callable[[Path], Usage] = read_usage,
    ) -> None:
        self._path = path
        self._thresholds = thresholds
        self._clock = clock
        self._read_usage = read_usage
        self._full_since: tuple[float, int] | None = None  # when a write hit the end, and the free bytes claimed then
        self.usage = Usage(0, 0)
        self.usage_read_at = float("-inf")
        self.state = DiskState.OK
        self.reason = ""
        if (marker := read_failure(path)) is not None:
            self.state, self.reason = DiskState.FAILED, marker

    def refresh(self) -> None:
        """Look at the file system again unless that was just done."""
        now = self._clock.monotonic()
        if now - self.usage_read_at < USAGE_KEPT_S:
            return
        try:
            self.usage = self._read_usage(self._path)
        except OSError as error:
            self.fail(f"the file system does not answer: {error}")
            return
        self.usage_read_at = now
        self._judge(now)

    def note_no_space(self) -> None:
        """A write hit the end of the device."""
        self.usage_read_at = float("-inf")
        self._full_since = (self._clock.monotonic(), -1)
        self.refresh()
        if self._full_since is not None:
            self._full_since = (self._full_since[0], self.usage.free)

    def fail(self, reason: str) -> None:
        """The disk did something that a disk must not do. Sticky, on the disk too where that still works."""
        if self.state is DiskState.FAILED:
            return
        self.state, self.reason = DiskState.FAILED, reason
        _log.error("disk.failed", extra={"path": str(self._path), "reason": reason})
        try:
            write_file_durably(self._path / FAILED_FILE, reason.encode() + b"\n")
        except OSError as error:
            _log.error("disk.failure_not_recorded", extra={"path": str(self._path), "reason": str(error)})

    def _judge(self, now: float) -> None:
        if self.state is DiskState.FAILED:
            return
        if self._full_since is not None:
            since, free = self._full_since
            if now - since > NO_SPACE_RETRY_S or (free >= 0 and self.usage.free > free + self.usage.size // 100):
                self._full_since = None
        state, reason = judge(self.usage, self._thresholds, hit_the_end=self._full_since is not None)
        if (state, reason == "") != (self.state, self.reason == ""):
            _log.warning("disk.state", extra={"path": str(self._path), "state": str(state), "reason": reason})
        self.state, self.reason = state, reason


def read_failure(path: Path) -> str | None:
    """Why the disk failed earlier, None when it did not."""
    try:
        return (path / FAILED_FILE).read_text("utf-8", errors="replace").strip() or "failed"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"the disk cannot be read: {error}"


def clear_failure(path: Path) -> None:
    """An operator has looked at the disk and wants it back. Its index is rebuilt from the volumes at the next start."""
    (path / INDEX_FOLDER / INDEX_STATE_FILE).unlink(missing_ok=True)
    (path / FAILED_FILE).unlink(missing_ok=True)
    sync_directory(path)
