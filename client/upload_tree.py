"""Sending a folder tree: small files in batches, a few of them on the way at once; large files one after the other.

A batch is three calls: an announcement that tells which blocks are missing, one body with those, and one commit. One
thread reads and hashes the next batches meanwhile. An entry that cannot be stored is told and left out; the rest goes
on. Run again, it sends what is missing: what is there already costs only its hashing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from client.api import refused_entry
from client.batches import SMALL_BYTES_MAX, group
from client.errors import ClientError, FileChanged
from client.naming import join, path_key
from client.parallel import for_each
from client.problems import Problems
from client.source import SourceFile, Unsettled
from client.transfer import Transfer
from client.upload import ATTEMPTS_MAX, commit_entries, is_same, put_file
from client.walk import LocalFile, LocalFolder, Skipped, printable, walk
from coordinator.protocol.hashing import hash_block
from coordinator.protocol.types import CommitEntry, Kind, Metadata

# Two on the way, one waiting, one being read: with BATCH_BYTES_MAX each that is the memory of eight blocks.
BATCHES_IN_FLIGHT: Final = 2


@dataclass(frozen=True)
class _Small:
    """A small file, read and hashed."""

    local: Path
    remote: str
    plain: bytes
    digest: bytes
    mtime: datetime
    executable: bool
    base_version: int

    @property
    def size(self) -> int:
        return len(self.plain)

    def entry(self) -> CommitEntry:
        return CommitEntry(
            path=self.remote,
            size=self.size,
            blocks=[self.digest.hex()] if self.plain else [],
            base_version=self.base_version,
            mtime=self.mtime,
            executable=self.executable,
        )


def put_tree(transfer: Transfer, local: Path, remote: str, problems: Problems) -> Metadata:
    """Store everything below the folder `local` in the folder `remote`, which is made where it is missing.

    Files that are there are replaced; nothing is deleted. Raises what concerns the whole tree; what concerns single
    entries goes to `problems`.
    """
    root = transfer.api.create_folder(remote, parents=True)
    return _TreeUpload(transfer, local, root, problems).run()


class _TreeUpload:
    """One run. `_there` is read-only after the listing; `_large` belongs to the feeding thread until it ends."""

    def __init__(self, transfer: Transfer, local: Path, root: Metadata, problems: Problems) -> None:
        self._transfer = transfer
        self._api = transfer.api
        self._local = local
        self._root = root
        self._tally = transfer.tally
        self._problems = problems
        self._there: dict[str, Metadata] = {}
        self._large: list[tuple[LocalFile, str]] = []
        self._failed = False

    def run(self) -> Metadata:
        self._there = {path_key(entry.path): entry for entry in self._api.list_folder(self._root.path, recursive=True)}
        for_each(group(self._small_files()), self._send_batch, workers=BATCHES_IN_FLIGHT)
        for found, remote in self._large:
            self._put_alone(found.path, remote)
        return self._root

    def _small_files(self) -> Iterator[_Small]:
        """Runs in the feeding thread: makes empty folders, sets large files aside, reads and hashes small ones."""
        for found in walk(self._local):
            if self._failed:
                return  # otherwise the rest of the tree could be hashed before the error is told
            match found:
                case Skipped(path, reason):
                    self._problems.skipped(path, reason)
                case LocalFolder(names, empty):
                    if empty and names:
                        self._make_folder(join(self._root.path, *names))
                case LocalFile(names, _, size):
                    self._tally.expect(size)
                    remote = join(self._root.path, *names)
                    if size > SMALL_BYTES_MAX:
                        self._large.append((found, remote))
                    elif (small := self._read(found, remote)) is not None and not self._is_there(small):
                        yield small

    def _make_folder(self, remote: str) -> None:
        there = self._there.get(path_key(remote))
        if there is not None and there.kind is Kind.FOLDER:
            return
        try:
            self._api.create_folder(remote, parents=True)
        except ClientError as error:
            self._problems.failed(remote, error)

    def _read(self, found: LocalFile, remote: str) -> _Small | None:
        try:
            return self._read_settled(found, remote)
        except ClientError as error:
            self._problems.failed(printable(str(found.path)), error)
            return None

    def _read_settled(self, found: LocalFile, remote: str) -> _Small | None:
        """None when the file has grown beyond small meanwhile and was set aside."""
        there = self._there.get(path_key(remote))
        for _ in range(ATTEMPTS_MAX):
            try:
                with SourceFile.open(found.path) as source:
                    if source.size > SMALL_BYTES_MAX:
                        self._large.append((found, remote))
                        return None
                    plain = source.read_whole()
                    source.check_unchanged()
            except Unsettled:
                continue
            base_version = there.version if there is not None else 0
            return _Small(found.path, remote, plain, hash_block(plain), source.mtime, source.executable, base_version)
        raise FileChanged(path=printable(str(found.path)))

    def _is_there(self, small: _Small) -> bool:
        if not is_same(self._there.get(path_key(small.remote)), small.entry()):
            return False
        self._tally.spared(small.size)
        self._tally.finished_file()
        return True

    def _send_batch(self, batch: list[_Small]) -> None:
        try:
            self._store(batch)
        except BaseException:
            self._failed = True
            raise

    def _store(self, batch: list[_Small]) -> None:
        announced = self._api.announce([small.entry() for small in batch])
        going: list[_Small] = []
        missing: set[str] = set()
        for small, answer in zip(batch, announced, strict=True):
            if answer.error is not None:
                self._problems.failed(small.remote, refused_entry(answer.error))
            else:
                going.append(small)
                missing.update(answer.missing)
        self._send_blocks(going, missing)
        if going:
            self._commit(going)

    def _send_blocks(self, going: Sequence[_Small], missing: set[str]) -> None:
        blocks: dict[bytes, bytes] = {}
        for small in going:
            if small.digest.hex() in missing and small.digest not in blocks:
                blocks[small.digest] = small.plain
            else:
                self._tally.spared(small.size)
        if blocks:
            self._api.put_batch(self._root.path, list(blocks.items()))
            self._tally.moved(sum(map(len, blocks.values())), len(blocks))

    def _commit(self, going: Sequence[_Small]) -> None:
        results = commit_entries(self._api, [small.entry() for small in going])
        for small, result in zip(going, results, strict=True):
            if result.metadata is not None:
                self._tally.finished_file()
                continue
            refusal = refused_entry(result.error or {})
            if refusal.code == "blocks_missing":
                # A mounted folder inside the tree is another namespace, which the batch's path did not name.
                self._put_alone(small.local, small.remote)
            else:
                self._problems.failed(small.remote, refusal)

    def _put_alone(self, local: Path, remote: str) -> None:
        there = self._there.get(path_key(remote))
        try:
            put_file(self._transfer, local, remote, there)
        except ClientError as error:
            self._problems.failed(remote, error)
