"""When a failed call is made again. Pure: time and randomness are passed in.

Every call of this client may be repeated: blocks are named by their hash, commits carry a request key, and the few
others are checked afterwards (client.api). So the question is only how long a person should wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Failure(Enum):
    """Why a call failed."""

    REFUSED = "nobody listens there"  # nothing was sent
    BROKEN = "the connection broke"  # a dying coordinator worker; another one takes over
    SILENT = "no answer came in time"
    BUSY = "the service is busy"  # 429, 502, 503, 504
    INTERNAL = "the service failed inside"  # 500


@dataclass(frozen=True)
class RetryPolicy:
    """Patience in seconds from the first attempt on, by failure."""

    refused_at_first_s: float = 2.0  # nothing has answered yet: probably a wrong address, or the service is down
    refused_later_s: float = 30.0  # it was there a moment ago: probably a restart
    broken_s: float = 60.0
    busy_s: float = 15.0
    silent_attempts_max: int = 2
    internal_attempts_max: int = 3
    delay_first_s: float = 0.1
    delay_max_s: float = 5.0

    def next_delay(
        self,
        failure: Failure,
        *,
        attempts: int,
        elapsed_s: float,
        reached_before: bool,
        jitter: float,
        retry_after_s: float | None = None,
    ) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        `attempts` have been made (>= 1) in `elapsed_s`; `jitter` is a random number in [0, 1). A `retry_after_s` beyond
        the patience gives up at once: the person learns more from the sentence than from waiting.
        """
        if failure is Failure.SILENT and attempts >= self.silent_attempts_max:
            return None
        if failure is Failure.INTERNAL and attempts >= self.internal_attempts_max:
            return None
        backoff = min(self.delay_max_s, self.delay_first_s * 2 ** (attempts - 1)) * (0.5 + jitter / 2)
        # The first repeat after a broken connection goes out at once: other workers are there.
        delay = 0.0 if failure is Failure.BROKEN and attempts == 1 else max(backoff, retry_after_s or 0.0)
        if elapsed_s + delay > self._patience_s(failure, reached_before):
            return None
        return delay

    def _patience_s(self, failure: Failure, reached_before: bool) -> float:
        match failure:
            case Failure.REFUSED:
                return self.refused_later_s if reached_before else self.refused_at_first_s
            case Failure.BROKEN:
                return self.broken_s
            case Failure.BUSY:
                return self.busy_s
            case Failure.SILENT | Failure.INTERNAL:
                return float("inf")
