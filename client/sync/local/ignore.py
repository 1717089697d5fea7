"""What is not synced: the rules of `.holdfastignore`, the names that are never synced, and what cannot be stored.

Pure. The rules are gitignore's: what is below an ignored folder is ignored, whatever later rules say.
"""

from __future__ import annotations

import re
from typing import Final

from pathspec import GitIgnoreSpec

from client.fs.base import OWN_FOLDER, Path
from client.part import PART_SUFFIX, RANGE_SUFFIX
from coordinator.protocol.errors import BadPath
from coordinator.protocol.names import DEPTH_MAX, PATH_BYTES_MAX, check_name

IGNORE_FILE: Final = ".holdfastignore"  # in the root, and synced like any file

# Names that no one wants on another computer, at any depth: what systems and programs leave for themselves.
_BUILT_IN: Final = (
    re.escape(OWN_FOLDER),
    r"\..*" + re.escape(PART_SUFFIX),
    r"\..*" + re.escape(RANGE_SUFFIX),
    r"\.DS_Store",
    r"\._.*",
    r"Thumbs\.db",
    r"desktop\.ini",
    r"Icon\r",
    r"~\$.*",
    r"\.~lock\..*#",
    r".*~",
    r"\..*\.sw.",
    r".*\.part",
    r".*\.crdownload",
    r"\.fuse_hidden.*",
    r"\.nfs.*",
    r"\.Trashes",
    r"\.fseventsd",
    r"\.TemporaryItems",
)
_is_built_in: Final = re.compile("|".join(_BUILT_IN), re.IGNORECASE | re.DOTALL).fullmatch
_has_foreign_trouble: Final = re.compile(
    r'[<>:"\\|?*\x00-\x1f]|[. ]\Z|\A(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?: *\..*)?\Z', re.IGNORECASE | re.DOTALL
).search
_UTF16_UNITS_MAX: Final = 255  # of a name on NTFS, APFS and exFAT


class Ignore:
    """Immutable. `problems` are the lines of the rules that mean nothing, as sentences; they are passed over."""

    def __init__(self, rules: str = "") -> None:
        """`rules` is the text of IGNORE_FILE."""
        good, bad = [], []
        for number, line in enumerate(rules.splitlines(), 1):
            try:
                GitIgnoreSpec.from_lines([line])
            except (ValueError, re.error):
                bad.append(f"line {number} of {IGNORE_FILE} is not a rule: {line}")
            else:
                good.append(line)
        self.problems = tuple(bad)
        spec = GitIgnoreSpec.from_lines(good)
        self._spec = spec if any(pattern.include is not None for pattern in spec.patterns) else None

    def is_ignored(self, names: Path, is_folder: bool) -> bool:
        """Whether the file or folder with this path is ignored, by itself or by a folder above it."""
        last = len(names) - 1
        return any(
            self.is_entry_ignored(names[:depth], name, is_folder or depth < last) for depth, name in enumerate(names)
        )

    def is_entry_ignored(self, parent: Path, name: str, is_folder: bool) -> bool:
        """The same for an entry of a folder that is known not to be ignored."""
        if _is_built_in(name):
            return True
        if self._spec is None or (not parent and name == IGNORE_FILE):
            return False
        path = "/".join((*parent, name))
        return self._spec.match_file(f"{path}/" if is_folder else path)


def is_built_in(name: str) -> bool:
    """Whether a name is never synced, whatever the rules say; such files may go with the folder that they are in."""
    return _is_built_in(name) is not None


def unusable(names: Path) -> str | None:
    """Why the service cannot store something under this path, as the end of a sentence."""
    try:
        names[-1].encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    try:
        check_name(names[-1])
    except BadPath as error:
        return str(error.facts["reason"])
    if len(names) > DEPTH_MAX:
        return f"it is deeper than {DEPTH_MAX} folders"
    if sum(len(name.encode("utf-8", "surrogatepass")) + 1 for name in names) > PATH_BYTES_MAX:
        return f"its path is longer than {PATH_BYTES_MAX} bytes"
    return None


def platform_warning(name: str) -> str | None:
    """Why another platform (Windows, above all) cannot hold this name, as the end of a sentence. It is synced."""
    trouble = _has_foreign_trouble(name)
    if trouble is not None:
        found = trouble.group()
        if found in (".", " ") and trouble.end() == len(name):
            return "Windows cannot hold a name that ends with a dot or a space"
        if len(found) == 1:
            return f"Windows cannot hold {found!r} in a name"
        return f"Windows reserves the name {found.split('.')[0].strip()}"
    if len(name) > _UTF16_UNITS_MAX // 2 and len(name.encode("utf-16-le", "surrogatepass")) // 2 > _UTF16_UNITS_MAX:
        return f"other systems cannot hold names of more than {_UTF16_UNITS_MAX} characters"
    return None
