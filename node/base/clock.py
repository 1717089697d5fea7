"""Time as a value that is passed in, so that tests decide what time it is."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the code may ask about time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps back. For durations and deadlines."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC; may step either way. For what people read, never for order."""


class SystemClock:
    """The computer's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()
