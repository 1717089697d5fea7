"""Fetching one file: by blocks into a part file, several at a time, each checked by its hash; or in order to a stream.

A second run after a kill checks the blocks in the part file and fetches the rest. Blocks that the replaced file has are
taken from it. Guarantees: what gets the target's name is exactly the version that was asked for.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from client.api import Api
from client.errors import BadAnswer, DamagedTransfer, LocalTrouble, Refused, Unreachable
from client.naming import ByteRange
from client.parallel import Buffers, for_each, in_order
from client.part import RANGE_SUFFIX, PartFile, with_executable
from client.retry import Failure, RetryPolicy
from client.source import SourceFile, Unsettled, local_error, mtime_ns_of
from client.transfer import Transfer
from coordinator.protocol.errors import NotFound
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block
from coordinator.protocol.types import VERSION_MAX, BlockList, Metadata, VersionRow

TRANSFERS: Final = 4
SMALL_BYTES_MAX: Final = BLOCK_BYTES  # one call instead of a recipe and a block
FLUSH_BLOCKS: Final = 8  # 32 MiB between two flushes: the last one is short, and the file takes little memory


@dataclass(frozen=True)
class Wanted:
    """One version of one file."""

    path: str
    version: int
    size: int
    content_hash: str
    mtime: datetime | None
    executable: bool


def wanted_from(path: str, row: Metadata | VersionRow) -> Wanted:
    return Wanted(path, row.version, row.size, row.content_hash or "", row.client_modified_at, row.executable)


def find_version(api: Api, path: str, version: int) -> Wanted:
    """A named version, also of a deleted file. Raises Refused (not_found)."""
    for row in api.versions(path, 1, before=min(version + 1, VERSION_MAX)):
        if row.version == version:
            return wanted_from(path, row)
    raise Refused(404, {"code": "not_found", "message": NotFound(what=f"version of {path}").message})


def get_file(transfer: Transfer, wanted: Wanted, target: Path, *, sync_folder: bool = True) -> None:
    """Make `target` this version. Raises Refused, LocalTrouble, LocalConflict, DamagedTransfer."""
    tally = transfer.tally
    tally.expect(wanted.size)
    if _has_already(wanted, target, transfer.buffers):
        tally.spared(wanted.size)
        _dress(target, wanted)
    else:
        with PartFile(target) as part:
            if wanted.size <= SMALL_BYTES_MAX:
                part.write(0, fetch_small(transfer.api, wanted))
                tally.moved(wanted.size)
            else:
                _BlockFetch(transfer, wanted, part).run()
            part.finish(wanted.size, wanted.mtime, executable=wanted.executable, sync_folder=sync_folder)
    tally.finished_file()


def get_range(transfer: Transfer, wanted: Wanted, byte_range: ByteRange, target: Path) -> None:
    """Make `target` a part of this version."""
    with PartFile(target, suffix=RANGE_SUFFIX) as part:
        offset = 0
        try:
            for piece in range_pieces(transfer, wanted, byte_range):
                part.write(offset, piece)
                offset += len(piece)
            part.finish(offset, None, executable=False)
        except BaseException:
            part.discard()
            raise


def copy_out(transfer: Transfer, wanted: Wanted, byte_range: ByteRange | None, out: BinaryIO) -> None:
    """Write this version, or a range of it, to a stream in order. OSErrors of `out` pass through."""
    if byte_range is not None:
        for piece in range_pieces(transfer, wanted, byte_range):
            out.write(piece)
        return
    api, tally = transfer.api, transfer.tally
    tally.expect(wanted.size)
    if wanted.size <= SMALL_BYTES_MAX:
        out.write(fetch_small(api, wanted))
        tally.moved(wanted.size)
        return
    recipe = fetch_recipe(api, wanted)
    for plain in in_order(range(len(recipe.blocks)), lambda index: fetch_block(api, recipe, wanted, index), TRANSFERS):
        out.write(plain)
        tally.moved(len(plain))


def fetch_small(api: Api, wanted: Wanted) -> bytes:
    """A file of at most one block, checked against its content hash."""
    plain = api.download(wanted.path, wanted.version)
    if content_hash([hash_block(plain)] if plain else []).hex() != wanted.content_hash or len(plain) != wanted.size:
        raise DamagedTransfer(path=wanted.path)
    return plain


def fetch_recipe(api: Api, wanted: Wanted) -> BlockList:
    """The version's block hashes, checked against its content hash."""
    recipe = api.blocks(wanted.path, wanted.version)
    try:
        named = content_hash(bytes.fromhex(digest) for digest in recipe.blocks).hex()
    except ValueError as error:
        raise BadAnswer(url=api.url, reason="a block hash is not hexadecimal") from error
    if (named, recipe.size, len(recipe.blocks)) != (wanted.content_hash, wanted.size, count_blocks(wanted.size)):
        raise DamagedTransfer(path=wanted.path)
    return recipe


def fetch_block(api: Api, recipe: BlockList, wanted: Wanted, index: int) -> bytes:
    """One block, checked. Bytes damaged on the way are asked for once more."""
    for _ in range(2):
        plain = api.get_block(wanted.path, recipe.blocks[index])
        if len(plain) == block_size(wanted.size, index) and hash_block(plain).hex() == recipe.blocks[index]:
            return plain
    raise DamagedTransfer(path=wanted.path)


def range_pieces(transfer: Transfer, wanted: Wanted, byte_range: ByteRange) -> Iterator[bytes]:
    """The bytes of a range in order; a broken connection is continued where it broke off."""
    api, tally = transfer.api, transfer.tally
    offset, rest = byte_range.resolve(wanted.size)
    tally.expect(rest)
    policy = RetryPolicy()
    attempts, started = 0, time.monotonic()
    while True:
        header = ByteRange(offset, offset + rest - 1).header() if rest else byte_range.header()
        try:
            with api.stream(wanted.path, wanted.version, header) as (status, pieces):
                if status != 206:
                    raise BadAnswer(url=api.url, reason="it ignored the range")
                for piece in pieces:
                    attempts, started = 0, time.monotonic()
                    offset, rest = offset + len(piece), rest - len(piece)
                    tally.moved(len(piece), 0)
                    yield piece
            if rest == 0:
                return
            raise ConnectionError(Failure.BROKEN.value)
        except ConnectionError as error:
            attempts += 1
            delay = policy.next_delay(
                Failure.BUSY,
                attempts=attempts,
                elapsed_s=time.monotonic() - started,
                reached_before=True,
                jitter=random.random(),  # noqa: S311  # spreads clients, guards nothing
            )
            if delay is None:
                raise Unreachable(url=api.url, reason=str(error)) from error
            time.sleep(delay)


class _BlockFetch:
    """Fills one part. `_lacking` is settled before the fetching threads start; they only count `_since_flush`."""

    def __init__(self, transfer: Transfer, wanted: Wanted, part: PartFile) -> None:
        self._api = transfer.api
        self._wanted = wanted
        self._part = part
        self._tally = transfer.tally
        self._buffers = transfer.buffers
        self._recipe = fetch_recipe(transfer.api, wanted)
        self._lacking = set(range(len(self._recipe.blocks)))
        self._written = 0

    def run(self) -> None:
        self._keep_what_the_part_has()
        self._take_from_the_old_file()
        _check_space(self._part.target, sum(block_size(self._wanted.size, index) for index in self._lacking))
        for_each(sorted(self._lacking), self._fetch, workers=TRANSFERS, ahead=TRANSFERS)

    def _keep_what_the_part_has(self) -> None:
        held = count_blocks(min(self._part.size_bytes(), self._wanted.size))
        for_each(range(held), self._check_part, workers=2)

    def _check_part(self, index: int) -> None:
        with self._buffers.take() as buffer:
            if self._part.hash_of(self._wanted.size, index, buffer) == self._recipe.blocks[index]:
                self._lacking.discard(index)
                self._tally.spared(block_size(self._wanted.size, index))

    def _take_from_the_old_file(self) -> None:
        """Blocks that the replaced file holds, wherever in it, need not travel."""
        if not self._lacking or not self._part.target.is_file():
            return
        wanted_at: dict[str, list[int]] = {}
        for index in self._lacking:
            wanted_at.setdefault(self._recipe.blocks[index], []).append(index)
        try:
            with SourceFile.open(self._part.target) as old, self._buffers.take() as buffer:
                for index in range(old.blocks):
                    plain = old.read_block(index, buffer)
                    for place in wanted_at.pop(hash_block(plain).hex(), ()):
                        self._part.write(place * BLOCK_BYTES, plain)
                        self._lacking.discard(place)
                        self._tally.spared(len(plain))
        except (Unsettled, LocalTrouble):
            return  # the old file is only a shortcut: what it does not give is fetched

    def _fetch(self, index: int) -> None:
        plain = fetch_block(self._api, self._recipe, self._wanted, index)
        self._part.write(index * BLOCK_BYTES, plain)
        self._tally.moved(len(plain))
        self._written += 1  # a count lost between two threads only delays a flush
        if self._written % FLUSH_BLOCKS == 0:
            self._part.flush()


def _has_already(wanted: Wanted, target: Path, buffers: Buffers) -> bool:
    """Whether the file at `target` has these contents; costs its hashing, and only where the size is right."""
    try:
        if target.is_symlink() or not target.is_file() or target.stat().st_size != wanted.size:
            return False
        with SourceFile.open(target) as there, buffers.take() as buffer:
            hashes = [hash_block(there.read_block(index, buffer)) for index in range(there.blocks)]
            there.check_unchanged()
    except (OSError, Unsettled, LocalTrouble):
        return False
    return content_hash(hashes).hex() == wanted.content_hash


def _dress(target: Path, wanted: Wanted) -> None:
    """Time and executable bit for a file whose contents are right already."""
    try:
        target.chmod(with_executable(target.stat().st_mode, wanted.executable))
        if wanted.mtime is not None:
            stamp_ns = mtime_ns_of(wanted.mtime)
            os.utime(target, ns=(stamp_ns, stamp_ns))
    except OSError as error:
        raise local_error(target, error) from error


def _check_space(target: Path, needed_bytes: int) -> None:
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise local_error(target, error) from error
    if free < needed_bytes:
        raise LocalTrouble(path=target, reason=f"the disk has {free} bytes left where {needed_bytes} are needed")
