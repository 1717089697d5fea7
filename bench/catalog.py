"""All benchmarks by name, in the order in which the whole table is measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, cast

from bench.result import Options, Outcome

NAMES: Final = (
    *(
        "roofline",
        "bulk",
        "download",
        "degraded",
        "small",
        "latency",
        "ranges",
        "metadata",
        "longpoll",
        "memory",
        "sync",
        "delta",
    ),
)

Run = Callable[[Options], Outcome]


def load_run(name: str) -> Run:
    """The function that measures."""
    return cast(Run, importlib.import_module(f"bench.{name}").run)


def question(name: str) -> str:
    """The first line of its docstring: what it answers."""
    return (importlib.import_module(f"bench.{name}").__doc__ or "").partition("\n")[0]
