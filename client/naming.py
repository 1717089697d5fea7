"""Names in the remote tree, as a person writes them at the command line. Pure: no I/O.

The rules are those of `cp -r`: an existing folder as target takes the source inside it, otherwise the target is the
new name. What a name may be is `coordinator.protocol.names`' business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from client.errors import BadRemotePath, UsageProblem
from coordinator.protocol.errors import BadPath
from coordinator.protocol.names import name_key, split_path


def remote_path(text: str) -> str:
    """The absolute path that `text` means: the leading slash may be left out, a trailing one is dropped.

    Raises BadRemotePath with what is wrong.
    """
    if not text:
        # An empty shell variable must not mean everything.
        raise BadRemotePath(path=text, reason="it is empty; the root is written /")
    absolute = text if text.startswith("/") else "/" + text
    try:
        return "/" + "/".join(split_path(absolute))
    except BadPath as error:
        raise BadRemotePath(path=text, reason=error.facts["reason"]) from None


def join(folder: str, *names: str) -> str:
    return "/".join((folder.rstrip("/"), *names)) if names else folder


def base_name(path: str) -> str:
    """The last name of an absolute remote path; "" for the root."""
    return path.rpartition("/")[2]


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def path_key(path: str) -> str:
    """Two paths name the same thing when their keys are equal."""
    return "/".join(name_key(name) for name in path.split("/"))


@dataclass(frozen=True)
class Target:
    """Where something goes: what was written, and whether a folder of that name exists or was asked for by a slash."""

    path: str
    is_folder: bool
    says_folder: bool


def local_name(text: str) -> str:
    """The name that the local source `text` has at its target; "." where the contents are meant (`.`, `dir/.`, `/`)."""
    name = text.rstrip("/").rpartition("/")[2]
    return "." if name in ("", ".", "..") else name


def says_folder(text: str) -> bool:
    """Whether a path as it was written can only mean a folder (`docs/`, `/`)."""
    return text.endswith("/")


def place(source_name: str, target: Target, *, source_is_folder: bool) -> str:
    """The path that a source called `source_name` gets at `target`, as `cp -r` would decide.

    `source_name` "." means the source's contents (`cp -r dir/. target`). Raises BadRemotePath when a file's target was
    written as a folder and there is none.
    """
    if source_name == ".":
        return target.path
    if target.is_folder:
        return remote_path(join(target.path, source_name))
    if target.says_folder and not source_is_folder:
        raise BadRemotePath(path=target.path + "/", reason="there is no such folder")
    return target.path


@dataclass(frozen=True)
class ByteRange:
    """A range as HTTP writes it, both ends included; `last` None: to the end; `first` None: the last `last` bytes."""

    first: int | None
    last: int | None

    def header(self) -> str:
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"

    def resolve(self, size_bytes: int) -> tuple[int, int]:
        """(offset, length in bytes) in a file of `size_bytes`; a length of 0 when nothing of it lies inside."""
        if self.first is None:
            assert self.last is not None
            length = min(self.last, size_bytes)
            return size_bytes - length, length
        end = size_bytes if self.last is None else min(self.last + 1, size_bytes)
        return self.first, max(0, end - self.first)


_RANGE: Final = re.compile(r"^([0-9]{0,18})-([0-9]{0,18})$", re.ASCII)


def parse_range(text: str) -> ByteRange:
    """`A-B` (both inclusive), `A-` (from A on) or `-N` (the last N bytes). Raises UsageProblem."""
    match = _RANGE.match(text)
    if match is None or not any(match.groups()):
        raise UsageProblem(reason=f"{text!r} is not a range; write A-B, A- or -N (bytes, both ends included).")
    first, last = (int(part) if part else None for part in match.groups())
    if first is not None and last is not None and last < first:
        raise UsageProblem(reason=f"The range {text!r} ends before it begins.")
    return ByteRange(first, last)
