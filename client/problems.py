"""What went wrong with single entries of a folder tree, while the rest went on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from client.errors import ClientError, ExitCode, RestIncomplete


@dataclass(frozen=True)
class Problem:
    path: str
    code: str
    message: str
    exit_code: ExitCode

    def sentence(self) -> str:
        return f"{self.path}: {self.message}"


class Problems:
    """Collects problems and tells each at once. Safe for any number of threads."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._all: list[Problem] = []

    def skipped(self, path: str, reason: str) -> None:
        self._add(Problem(path, "skipped", f"It was left out: {reason}.", ExitCode.FAILED))

    def failed(self, path: str, error: ClientError) -> None:
        """Note an error that concerns one entry; raises it again where it concerns everything."""
        if concerns_all(error):
            raise error
        self._add(Problem(path, error.code, error.message, error.exit_code))

    def _add(self, problem: Problem) -> None:
        with self._lock:
            self._all.append(problem)
            self._tell(problem.sentence())

    def report(self) -> list[dict[str, str]]:
        """The "problems" list of JSON output."""
        return [{"path": one.path, "code": one.code, "message": one.message} for one in self._all]

    def outcome(self, done: int) -> RestIncomplete | None:
        """None when all went well beside `done` files. The exit code is the problems' own where they agree, else 1."""
        if not self._all:
            return None
        codes = {one.exit_code for one in self._all}
        exit_code = codes.pop() if len(codes) == 1 else ExitCode.FAILED
        return RestIncomplete(exit_code=exit_code, failed=len(self._all), total=done + len(self._all))


def concerns_all(error: ClientError) -> bool:
    """Whether going on with other entries is pointless: nobody answers, nothing is allowed, or nothing fits."""
    return error.exit_code in (ExitCode.UNAVAILABLE, ExitCode.NOT_ALLOWED) or error.code == "quota_exceeded"
