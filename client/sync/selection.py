"""Which part of the tree this computer syncs: what is ignored, and what the person chose to leave out. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.fs.base import OWN_FOLDER
from client.sync.ignore import Ignore
from coordinator.protocol.names import name_key

Names = tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """`excluded` are folders or files below the synced root, as the person wrote them; spelling (case) is not told
    apart. `plain`: no rule looks at more than a name, so that a moved folder's contents stay what they were."""

    ignore: Ignore = field(default_factory=Ignore)
    excluded: frozenset[Names] = frozenset()
    plain: bool = True

    def leaves_out(self, names: Names, is_folder: bool) -> bool:
        """Whether what is at `names` is none of ours; what lies below something left out is left out as well."""
        if not names:
            return False
        if name_key(names[0]) == OWN_FOLDER:
            return True
        return self._is_excluded(names) or self.ignore.is_ignored(names, is_folder)

    def _is_excluded(self, names: Names) -> bool:
        if not self.excluded:
            return False
        keys = tuple(name_key(name) for name in names)
        return any(keys[: len(chosen)] == tuple(name_key(name) for name in chosen) for chosen in self.excluded)
