"""What is not synced: the rules of `.holdfastignore`, the names that are never synced, and what cannot be stored."""

from __future__ import annotations

from client.fs.base import Path


class Ignore:
    """`rules` is the text of `.holdfastignore`: gitignore syntax."""

    def __init__(self, rules: str = "") -> None: ...

    def is_ignored(self, names: Path, is_folder: bool) -> bool:
        raise NotImplementedError
