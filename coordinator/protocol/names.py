"""Names and paths as the service takes them: data, never filesystem paths.

A path is absolute in the caller's tree and separated by `/`; the root is `/`. A name keeps the spelling it was given;
two names are the same when their keys (NFC, case-folded) are.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from coordinator.protocol.errors import BadPath

NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 16 * 1024
DEPTH_MAX: Final = 256


def name_key(name: str) -> str:
    """The key under which a name is unique in its folder: NFC of the case-folded NFC form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def split_path(path: str) -> tuple[str, ...]:
    """The names on the way to `path`; () for the root. Raises BadPath with a sentence that says what is wrong."""
    if not path.startswith("/"):
        raise BadPath(reason="it must begin with a slash")
    if len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
        raise BadPath(reason=f"it is longer than {PATH_BYTES_MAX} bytes")
    trimmed = path[1:].removesuffix("/")
    if not trimmed:
        return ()
    names = tuple(trimmed.split("/"))
    if len(names) > DEPTH_MAX:
        raise BadPath(reason=f"it is deeper than {DEPTH_MAX} folders")
    for name in names:
        check_name(name)
    return names


def check_name(name: str) -> None:
    """Raises BadPath when `name` cannot be the name of a file or folder."""
    if name in ("", ".", ".."):
        raise BadPath(reason="it has an empty part or one of '.' and '..'")
    if "/" in name or "\0" in name:
        raise BadPath(reason="a name cannot hold a slash or a NUL")
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        raise BadPath(reason="a name must be valid Unicode") from None
    if len(encoded) > NAME_BYTES_MAX:
        raise BadPath(reason=f"a name is longer than {NAME_BYTES_MAX} bytes")
