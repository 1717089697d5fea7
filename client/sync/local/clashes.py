"""Names in one folder that are one name to the service: it ignores case and Unicode form, this disk does not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from client.sync.tree import LocalNode
from coordinator.protocol.names import name_key

_CLASH: Final = "its name differs from that of"
_CLASH_END: Final = "only in case or Unicode form"


def find_clashes(
    names: Iterable[str], known: Mapping[str, LocalNode], is_ignored: Callable[[str], bool]
) -> dict[str, str]:
    """Which of the names are left alone, and why. The one that is synced already stays; among new ones the first by
    name is taken."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name_key(name), []).append(name)
    clashes = {}
    for group in groups.values():
        if len(group) > 1:
            usable = [name for name in group if not is_ignored(name)]
            old = [name for name in usable if name in known and not is_clash(known[name].problem)]
            first = (old or usable or group)[0]
            clashes.update({name: f"{_CLASH} {first!r} {_CLASH_END}" for name in usable if name != first})
    return clashes


def is_clash(problem: str | None) -> bool:
    """Whether this problem of a node is that its name is taken, except for case or Unicode form."""
    return problem is not None and problem.startswith(_CLASH)
