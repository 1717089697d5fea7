"""Takes up what the person chose to leave out on this computer, and other rules of what is ignored.

Guarantees: what is newly left out by choice leaves the disk where it is stored in the service exactly as it is here
(into the local trash, as everything that we remove); what was changed or is new stays where it is, and is told. The
pairs are forgotten, durably, before the first file goes, so that no crash can make a removal look like a delete of the
person. What rules ignore newly stays on the disk. What is not left out any more is met as if it were new on both sides.
Does not: run beside other use of the store: it belongs to the control thread, and is slow where much is to be removed.
"""

from __future__ import annotations

import hashlib
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
from coordinator.protocol.types import Kind

SOURCE: Final = "selection"  # of the problems that this module tells
_STAYS: Final = "it is not selected on this computer, and stays here since it is not stored in the service as it is"


class _Known(msgspec.Struct, frozen=True):
    """What both sides were last looked at with."""

    rules: str
    excluded: list[Path]


@dataclass
class _Removal:
    """`files` and then `folders`, the deepest first; `stays` is known to be different in the service."""

    files: list[tuple[Path, Stamp]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    stays: list[Path] = field(default_factory=list)


def take_up(store: Store, fs: FileSystem, remote: RemoteSide, selection: Selection) -> None:
    """Does nothing to the trees when the last call was about the same."""
    text = store.fact("selection")
    before = _Known("", []) if text is None else msgspec.json.decode(text, type=_Known)
    now = _Known(
        hashlib.sha256(selection.rules.encode("utf-8", "surrogatepass")).hexdigest(), sorted(selection.excluded)
    )
    if text is not None and before == now:
        remote.selection = selection
        return
    removal = _Removal()
    with store.transaction(durable=True):
        for keys in now.excluded:
            if keys not in before.excluded:
                _leave_out(store, _find(store, keys), removal)
        remote.reselect(selection)
        store.set_fact("selection", msgspec.json.encode(now).decode())
        store.told.drop_problems(SOURCE)
    _carry_out(fs, removal)
    with store.transaction():
        for path in removal.stays:
            store.told.set_problem(shown(path), _STAYS, SOURCE)


def _find(store: Store, keys: Path) -> list[LocalNode]:
    """What is at the path here, in whatever spelling."""
    found: list[LocalNode] = [node for node in (store.local(store.local_root),) if node is not None]
    for key in keys:
        found = [child for node in found for child in store.local_named(node.id, key)]
    return found


def _leave_out(store: Store, found: Iterable[LocalNode], removal: _Removal) -> None:
    for node in found:
        path = store.local_path(node.id)
        if path is not None:
            _collect(store, node, path, removal)
        store.ignore_local(node.id)


def _collect(store: Store, node: LocalNode, path: Path, removal: _Removal) -> None:
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


def _carry_out(fs: FileSystem, removal: _Removal) -> None:
    for path, stamp in removal.files:
        try:
            fs.trash(path, stamp)
        except (OSError, ChangedMeanwhile):
            if _is_there(fs, path):
                removal.stays.append(path)
    for path in removal.folders:
        try:
            found = fs.list_folder(path)
            if all(is_built_in(name) for name, _ in found):
                for name, _ in found:
                    fs.trash((*path, name), None)
            fs.remove_folder(path)
        except (OSError, ChangedMeanwhile):
            if _is_there(fs, path):
                removal.stays.append(path)


def _is_there(fs: FileSystem, path: Path) -> bool:
    try:
        fs.stat(path)
    except OSError:
        return False
    return True
