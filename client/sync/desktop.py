"""A note on the person's desktop, where there is one: for what a person should see though no terminal is open.

Does not: wait for it, or fail: without a desktop nothing happens. Bounded: at most one note every few seconds, what
comes in between is counted in the next one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.base.clock import Clock

QUIET_S: Final = 10.0
_TEXT_MAX: Final = 300


def find_command(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The program that shows notes (freedesktop.org's notify-send), None where no session bus would carry them."""
    bus = environment.get("DBUS_SESSION_BUS_ADDRESS") or environment.get("XDG_RUNTIME_DIR")
    shown = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    program = shutil.which("notify-send", path=environment.get("PATH"))
    return [program, "--app-name=Holdfast", "--icon=folder-remote"] if bus and shown and program else None


def _start(command: Sequence[str]) -> None:
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@dataclass
class Desktop:
    """Owned by the control thread."""

    clock: Clock
    command: list[str] | None = field(default_factory=find_command)
    start: Callable[[Sequence[str]], None] = _start
    _not_before: float = 0.0
    _held_back: int = 0

    def tell(self, title: str, text: str) -> None:
        if self.command is None:
            return
        now = self.clock.monotonic()
        if now < self._not_before:
            self._held_back += 1
            return
        self._not_before = now + QUIET_S
        more = f" (and {self._held_back} more)" if self._held_back else ""
        self._held_back = 0
        try:
            self.start([*self.command, "--", title, text[:_TEXT_MAX] + more])
        except OSError:
            self.command = None  # a desktop that cannot be reached once is not tried at every conflict
