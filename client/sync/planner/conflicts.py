"""Names that sync gives: of conflicted copies, and of what stands aside for a moment while names change hands. Pure.

`report.pdf` becomes `report (Ann on laptop's conflicted copy 2026-11-22).pdf`: the marker stands before the last
extension, a second copy of the same day carries a number, and the copy of a copy nests. Markers are therefore read
from the right.

Guarantees: a made name fits `NAME_BYTES_MAX`, is parsed again as a conflicted copy, and what a platform's rules forbid
in names does not enter through a person's or a device's name.
Does not: know which names are free (plan.py), read a clock.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from coordinator.protocol.names import NAME_BYTES_MAX

_WHO_BYTES_MAX: Final = 80
_EXTENSION = r"\.[^.\s/]{1,16}"
_NOT_IN_WHO: Final = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*()\ud800-\udfff]+")
_LAST_EXTENSION: Final = re.compile(rf"(?<=[^.]){_EXTENSION}\Z")
_CONFLICT: Final = re.compile(
    r"(?P<stem>.+) \((?P<who>[^()]+)'s conflicted copy (?P<date>\d{4}-\d{2}-\d{2})(?: (?P<counter>[1-9]\d{0,8}))?\)"
    rf"(?P<extension>{_EXTENSION})?",
    re.DOTALL,
)
_TEMPORARY: Final = re.compile(rf" \(moving (?P<id>\d+)-(?P<token>[0-9a-f]{{8}})(-\d+)?\)({_EXTENSION})?\Z")


@dataclass(frozen=True)
class Naming:
    """What names made now consist of: `who` (see `who`) and the date as `YYYY-MM-DD`."""

    who: str
    date: str

    @cached_property
    def token(self) -> str:
        """Tells this device's temporary names from those of others."""
        return hashlib.sha256(self.who.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@dataclass(frozen=True)
class ConflictName:
    """What the last marker says; `original` is the name without it (shortened if that was needed)."""

    original: str
    who: str
    date: str
    counter: int


def who(user: str, device: str) -> str:
    """The name of a person on a device, as it can stand in a file's name."""
    cleaned = " on ".join(part for part in (_clean(user), _clean(device)) if part)
    return _shorten(cleaned, _WHO_BYTES_MAX).strip() or "someone"


def make(name: str, naming: Naming, counter: int = 1, *, is_folder: bool = False) -> str:
    """The name of a conflicted copy of `name`; a number stands in it when `counter` is above 1. A folder has no
    extension, whatever dots are in its name."""
    stem, extension = (name, "") if is_folder else _split(name)
    number = f" {counter}" if counter > 1 else ""
    marker = f" ({naming.who}'s conflicted copy {naming.date}{number}){extension}"
    return _shorten(stem, NAME_BYTES_MAX - _bytes(marker)) + marker


def parse(name: str) -> ConflictName | None:
    """What the rightmost marker says; None when `name` is not a conflicted copy's."""
    match = _CONFLICT.fullmatch(name)
    if match is None:
        return None
    original = match["stem"] + (match["extension"] or "")
    return ConflictName(original, match["who"], match["date"], int(match["counter"] or 1))


def is_conflict_name(name: str) -> bool:
    return parse(name) is not None


def temporary(name: str, remote_id: int, naming: Naming, counter: int = 1, *, is_folder: bool = False) -> str:
    """Where a node waits while `name`, which it has, is given to another one. Stem and extension stay, so that a rule
    of what is not synced says the same about both names."""
    stem, extension = (name, "") if is_folder else _split(name)
    number = f"-{counter}" if counter > 1 else ""
    marker = f" (moving {remote_id}-{naming.token}{number}){extension}"
    return _shorten(stem, NAME_BYTES_MAX - _bytes(marker)) + marker


def is_own_temporary(name: str, naming: Naming, remote_id: int | None = None) -> bool:
    """Whether this device gave the name for a moment (to the node of this id), so that it says nothing about where the
    node belongs."""
    match = _TEMPORARY.search(name)
    return match is not None and match["token"] == naming.token and remote_id in (None, int(match["id"]))


def is_temporary(name: str) -> bool:
    """Whether any device gave the name for a moment."""
    return _TEMPORARY.search(name) is not None


def _split(name: str) -> tuple[str, str]:
    match = _LAST_EXTENSION.search(name)
    return (name, "") if match is None else (name[: match.start()], match[0])


def _clean(text: str) -> str:
    return " ".join(_NOT_IN_WHO.sub(" ", text).split())


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _shorten(text: str, bytes_max: int) -> str:
    """The longest beginning that fits: cut between characters, since half of one is no text."""
    while _bytes(text) > bytes_max:
        text = text[:-1]
    return text
