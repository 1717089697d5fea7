"""What a transfer may use of the line: bytes in a second each way, a bucket each.

Guarantees: over any time longer than a block takes, no more than the rate passes, however many threads send; nobody
waits for more than what was let through before him. Without a rate nothing waits.
Does not: smooth within a block, which travels as fast as the line goes: what follows waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from node.base.clock import Clock

_BURST_S: Final = 0.5  # what may be saved up while nothing travels, so that a small file never waits after a pause


class RateLimit:
    """Safe for any number of threads: `_lock` guards `_free_at`, when all that was let through so far has passed."""

    def __init__(self, bytes_per_s: int | None, clock: Clock, pause: Callable[[float], None]) -> None:
        """`pause` waits for some seconds."""
        assert bytes_per_s is None or bytes_per_s > 0
        self._rate = bytes_per_s
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = clock.monotonic() - _BURST_S

    def take(self, size_bytes: int) -> None:
        """Waits until `size_bytes` may travel."""
        if self._rate is None or size_bytes <= 0:
            return
        with self._lock:
            now = self._clock.monotonic()
            begin = max(self._free_at, now - _BURST_S)
            self._free_at = begin + size_bytes / self._rate
        if begin > now:
            self._pause(begin - now)
