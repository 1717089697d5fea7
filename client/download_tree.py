"""Fetching a folder tree: small files several at a time, large ones one after the other by blocks.

An entry that cannot be written is told and left out; the rest goes on. Run again, it fetches what is missing or
differs. Guarantees: nothing is written outside the target folder, whatever names the service answers and whatever
symbolic links lie in it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from client.download import SMALL_BYTES_MAX, TRANSFERS, Wanted, get_file, wanted_from
from client.errors import BadAnswer, ClientError, LocalConflict, LocalTrouble
from client.parallel import for_each
from client.problems import Problems
from client.source import local_error
from client.transfer import Transfer
from coordinator.protocol.errors import BadPath
from coordinator.protocol.names import split_path
from coordinator.protocol.types import Kind, Metadata
from node.base.durable import sync_directory


def get_tree(transfer: Transfer, root: Metadata, target: Path, problems: Problems) -> None:
    """Fetch everything below the remote folder `root` into the local folder `target`, which is made where missing.

    Local files of the same names are replaced; nothing is deleted. Raises what concerns the whole tree; what concerns
    single entries goes to `problems`.
    """
    _make_folder(target, follow=True)
    _TreeDownload(transfer, root, target, problems).run()


class _TreeDownload:
    """One run. `_large` and `_folders` belong to the feeding thread until it ends."""

    def __init__(self, transfer: Transfer, root: Metadata, target: Path, problems: Problems) -> None:
        self._transfer = transfer
        self._root = split_path(root.path)
        self._root_path = root.path
        self._target = target
        self._problems = problems
        self._large: list[tuple[Wanted, Path]] = []
        self._folders: set[Path] = {target, target.parent}

    def run(self) -> None:
        for_each(self._small_files(), self._get, workers=TRANSFERS, ahead=TRANSFERS)
        for item in self._large:
            self._get(item)
        for folder in self._folders:
            # Once for each folder, not for each file: all names in it become durable together.
            try:
                sync_directory(folder)
            except OSError as error:
                raise local_error(folder, error) from error

    def _small_files(self) -> Iterator[tuple[Wanted, Path]]:
        for entry in self._transfer.api.list_folder(self._root_path, recursive=True):
            try:
                local = self._target.joinpath(*self._names(entry))
                if entry.kind is Kind.FOLDER:
                    _make_folder(local, follow=False)
                    self._folders.add(local)
                    continue
                if entry.content_hash is None:
                    continue  # announced for the first time: there is no version to fetch yet
                _check_parents(self._target, local)
            except ClientError as error:
                self._problems.failed(entry.path, error)
                continue
            item = wanted_from(entry.path, entry), local
            if entry.size > SMALL_BYTES_MAX:
                self._large.append(item)
            else:
                yield item

    def _get(self, item: tuple[Wanted, Path]) -> None:
        wanted, local = item
        try:
            get_file(self._transfer, wanted, local, sync_folder=False)
        except ClientError as error:
            self._problems.failed(wanted.path, error)

    def _names(self, entry: Metadata) -> tuple[str, ...]:
        """The entry's names below the root, each checked: what the service says is not trusted with local paths."""
        try:
            names = split_path(entry.path)
        except BadPath as error:
            raise BadAnswer(url=self._transfer.api.url, reason=str(error.facts["reason"])) from error
        depth = len(self._root)
        if names[:depth] != self._root or len(names) == depth:
            raise BadAnswer(url=self._transfer.api.url, reason="it listed something outside of the folder")
        return names[depth:]


def _make_folder(path: Path, *, follow: bool) -> None:
    """Accepts a folder that is there; a symbolic link to one only where `follow` (the target that the person named)."""
    try:
        path.mkdir(exist_ok=True)
        if path.is_symlink() and not follow:
            raise LocalConflict(path=path, reason="it is a symbolic link")
    except FileExistsError:
        raise LocalConflict(path=path, reason="it is a file, not a folder") from None
    except OSError as error:
        raise local_error(path, error) from error


def _check_parents(target: Path, local: Path) -> None:
    """Refuses to write a file through a link, or where its folder could not be made."""
    folder = local.parent
    if folder == target:
        return
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise LocalConflict(path=folder, reason="it is not a folder")
    except OSError as error:
        raise LocalTrouble(path=folder, reason="the folder could not be made") from error
