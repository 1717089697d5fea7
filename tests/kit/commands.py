"""Running `holdfast` commands inside the test's own process, against the fake service or a real appliance.

And what a process of its own needs that is to be interrupted.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.cli.main import run


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def document(self) -> Any:
        """stdout as exactly one JSON document."""
        lines = self.out.decode("utf-8").splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])


class Device:
    """One computer: a HOLDFAST_HOME that is logged in, and a folder of its own in the remote tree."""

    def __init__(
        self, home: Path, remote: str, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]
    ) -> None:
        self.home = home
        self.remote = remote
        self._monkeypatch = monkeypatch
        self._capture = capture

    def __call__(self, *args: str | Path, expect: int = 0) -> Ran:
        """Run `holdfast ARGS`; fails the test when it does not end with the exit code `expect`."""
        self._monkeypatch.setenv("HOLDFAST_HOME", str(self.home))
        self._capture.readouterr()
        code = run([str(arg) for arg in args])
        told = self._capture.readouterr()
        ran = Ran(code, told.out, told.err.decode("utf-8", "replace"))
        assert code == expect, ran
        assert "Traceback" not in ran.err, ran
        return ran

    def json(self, *args: str | Path, expect: int = 0) -> Any:
        """The same with --json: the document."""
        return self(*args, "--json", expect=expect).document

    def path(self, name: str = "") -> str:
        """A path in this device's own remote folder."""
        return f"{self.remote}/{name}" if name else self.remote


@contextlib.contextmanager
def signals_for_children(*numbers: signal.Signals, ignored: bool) -> Iterator[None]:
    """What these signals do to processes that are started in this block: nothing, or what they do by default.

    Without this they inherit it, and a test run that a shell started in the background ignores SIGINT.
    """
    # A program that is executed starts with the default in place of a handler of ours; SIG_IGN it keeps.
    before = {number: signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
