"""Which part of the tree this computer syncs: what is ignored, and what the person chose to leave out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from client.fs.base import Path
from client.sync.local.ignore import Ignore
from coordinator.protocol.names import name_key


class Selection(Ignore):
    """Immutable. `excluded` are folders or files below the synced root, as the person wrote them; spelling (case) is
    not told apart. `plain`: no rule looks at more than a name, so that what is in a moved folder stays what it was."""

    def __init__(self, rules: str = "", excluded: Iterable[Path] = ()) -> None:
        super().__init__(rules)
        self.rules = rules
        self.excluded = frozenset(_keys(path) for path in excluded)
        self.plain = not self.excluded and self._spec is None

    def is_entry_ignored(self, parent: Path, name: str, is_folder: bool) -> bool:
        if self.excluded and (*_keys(parent), name_key(name)) in self.excluded:
            return True
        return super().is_entry_ignored(parent, name, is_folder)


def _keys(path: Path) -> Path:
    return tuple(name_key(name) for name in path)
