"""How what the person leaves out on this computer leaves the disk, and what new rules mean for the trees.

Guarantees: what is newly left out by choice leaves the disk where it is stored in the service exactly as it is here
(into the local trash, as everything that we remove); what was changed or is new stays where it is, and is told. The
pairs are forgotten, durably, before the first file goes, so that no crash can make a removal look like a delete of the
person. What rules ignore newly stays on the disk. What is not left out any more is met as if it were new on both sides.
Does not: say when (rules.py does: nothing that is being removed may be met as new).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from client.fs.base import ChangedMeanwhile, FileSystem, Path
from client.sync.local.disk import shown
from client.sync.local.ignore import is_built_in
from client.sync.local.selection import Selection
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.tree import LocalNode, Stamp
from coordinator.protocol.names import name_key
from coordinator.protocol.types import Kind

SOURCE: Final = "selection"  # of the problems that this module tells
_STAYS: Final = "it is not selected on this computer, and stays here since it is not stored in the service as it is"
_LEFT: Final = "it is not selected on this computer; not all of it was removed before the client ended, and that stays"


class _Known(msgspec.Struct, frozen=True):
    """What both sides were last looked at with, and the folders and files that are leaving the disk since."""

    rules: str
    excluded: list[Path]
    leaving: list[str] = []


@dataclass
class Removal:
    """Files and then folders, the deepest first, that are to leave the disk; `stays` is or turned out to be different
    in the service. The control thread makes it and `stop`s it; in between it belongs to the worker."""

    files: deque[tuple[Path, Stamp]] = field(default_factory=deque)
    folders: deque[Path] = field(default_factory=deque)
    stays: list[Path] = field(default_factory=list)
    _stopped: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.folders or self.stays)

    def stop(self) -> None:
        """`carry_out` returns as soon as the file at hand is gone."""
        self._stopped = True

    def carry_out(self, fs: FileSystem) -> None:
        while self.files and not self._stopped:
            path, stamp = self.files.popleft()
            try:
                fs.trash(path, stamp)
            except (OSError, ChangedMeanwhile):
                self._look(fs, path)
        while self.folders and not self._stopped:
            path = self.folders.popleft()
            try:
                _remove_folder(fs, path)
            except (OSError, ChangedMeanwhile):
                self._look(fs, path)

    def _look(self, fs: FileSystem, path: Path) -> None:
        try:
            fs.stat(path)
        except OSError:
            return  # gone already
        self.stays.append(path)


def last_rules(store: Store) -> str | None:
    """The text of the ignore file that was last taken up; None in a folder that is synced for the first time."""
    known = _known(store)
    return None if known is None else known.rules


def take_up(store: Store, remote: RemoteSide, selection: Selection, rest: Removal | None = None) -> Removal:
    """Look at the trees with the selection. Returns what is to leave the disk; `rest` is what a removal that was
    stopped has left over."""
    before = _known(store)
    removal = _still_excluded(rest, selection)
    if before is not None and (before.rules, before.excluded) == (selection.rules, sorted(selection.excluded)):
        remote.selection = selection
        if rest is None:
            _tell_left(store, before.leaving)
        return removal
    leaving = [] if before is None else [path for path in before.leaving if _is_excluded(_path(path), selection)]
    with store.transaction(durable=True):
        store.told.drop_problems(SOURCE)
        if rest is None:
            _tell_left(store, leaving)
        for keys in sorted(selection.excluded.difference(before.excluded if before is not None else ())):
            for node in _find(store, keys):
                path = store.local_path(node.id)
                assert path is not None
                _collect(store, node, path, removal)
                leaving.append(shown(path))
                store.ignore_local(node.id)
        remote.reselect(selection)
        _put(store, _Known(selection.rules, sorted(selection.excluded), leaving))
    return removal


def has_left(store: Store, removal: Removal) -> None:
    """It is carried out."""
    known = _known(store)
    assert known is not None
    with store.transaction():
        _put(store, msgspec.structs.replace(known, leaving=[]))
        for path in removal.stays:
            store.told.set_problem(shown(path), _STAYS, SOURCE)


def _known(store: Store) -> _Known | None:
    text = store.fact("selected")
    return None if text is None else msgspec.json.decode(text, type=_Known)


def _put(store: Store, known: _Known) -> None:
    store.set_fact("selected", msgspec.json.encode(known).decode())


def _tell_left(store: Store, paths: Iterable[str]) -> None:
    with store.transaction():
        for path in paths:
            store.told.set_problem(path, _LEFT, SOURCE)


def _find(store: Store, keys: Path) -> list[LocalNode]:
    """What is at the path here, in whatever spelling."""
    found: list[LocalNode] = [node for node in (store.local(store.local_root),) if node is not None]
    for key in keys:
        found = [child for node in found for child in store.local_named(node.id, key)]
    return found


def _collect(store: Store, node: LocalNode, path: Path, removal: Removal) -> None:
    for child in store.local_children(node.id):
        _collect(store, child, (*path, child.name), removal)
    if node.kind is Kind.FOLDER:
        removal.folders.append(path)
        return
    pair = store.synced_local(node.id)
    if pair is None or node.problem is not None or node.content != pair.content:
        removal.stays.append(path)
    else:
        removal.files.append((path, node.stamp))


def _still_excluded(rest: Removal | None, selection: Selection) -> Removal:
    """What is selected again stays: it is met as new on both sides, and adopted."""
    if rest is None:
        return Removal()
    return Removal(
        deque((path, stamp) for path, stamp in rest.files if _is_excluded(path, selection)),
        deque(path for path in rest.folders if _is_excluded(path, selection)),
        [path for path in rest.stays if _is_excluded(path, selection)],
    )


def _is_excluded(path: Path, selection: Selection) -> bool:
    keys = tuple(map(name_key, path))
    return any(keys[:depth] in selection.excluded for depth in range(1, len(keys) + 1))


def _path(told: str) -> Path:
    return tuple(told.split("/"))


def _remove_folder(fs: FileSystem, path: Path) -> None:
    """With what systems leave in folders for themselves; not when there is anything else. Raises OSError."""
    found = [name for name, _ in fs.list_folder(path)]
    if all(map(is_built_in, found)):
        for name in found:
            fs.trash((*path, name), None)
    fs.remove_folder(path)
