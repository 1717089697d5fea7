"""Fetching remote contents into parts: temporary files of the synced folder, named by the content they are to hold.

An interrupted download, one that begins before the version is complete, and the final one share a part. A content that
a local file has is copied from there without a word. Otherwise, what a block holds is looked for, in this order: in the
part, in other local files, in the file that is replaced together with the few bytes that were new (a delta), in the
service.
Guarantees: a part that `fetch` returns holds exactly the wanted content, each block checked by its hash, and is on the
disk. Does not: give it its name (transfer.py), retry.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from client.errors import BadAnswer, DamagedTransfer, Refused
from client.fs.base import Path, ReadFile, TempFile
from client.sync.transfer.contents import Learned, Tools, is_signed
from client.sync.tree import Content
from coordinator.protocol.delta import BlockDelta, Copy
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block
from coordinator.protocol.types import BlockList

AT_ONCE: Final = 6
CHECKED_AT_ONCE: Final = 2
FLUSH_BLOCKS: Final = 8  # 32 MiB between two flushes: the last one is short, and the file takes little memory
ASK_RECIPE_BYTES_MIN: Final = 1 << 20  # of smaller files the one block is fetched without looking for it elsewhere
LITERAL_SPANS_MAX: Final = 8  # ranges fetched for one block: each is a call
_SPAN_GAPS: Final = (4 << 10, 64 << 10, 512 << 10)  # spans closer than this are fetched as one
_CANDIDATES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version. `file_id` and `old`, the file on disk that it replaces, are what a delta can build on; `upload_id` is
    how it was announced, where that is known."""

    remote_path: str
    version: int
    size: int
    content: Content
    mtime_ns: int | None = None
    file_id: int = 0
    old: Path | None = None
    upload_id: str | None = None

    @property
    def name(self) -> str:
        return self.content.digest.hex()


@dataclass
class Part:
    """A temporary file on its way to a content. `blocks` is the recipe, once it is known; `have` the positions whose
    blocks are in the file and checked; `signatures` one for each of those, where the file is signed."""

    temp: TempFile
    size: int
    digest: bytes
    blocks: list[bytes] = field(default_factory=list)
    have: set[int] = field(default_factory=set)
    signatures: dict[int, bytes] = field(default_factory=dict)
    unflushed: int = 0

    @property
    def lacking(self) -> list[int]:
        return [index for index in range(len(self.blocks)) if index not in self.have]

    def set_recipe(self, recipe: BlockList, url: str, path: str) -> None:
        """Raises BadAnswer, DamagedTransfer when the recipe is not that of the wanted content."""
        try:
            blocks = [bytes.fromhex(block) for block in recipe.blocks]
        except ValueError as error:
            raise BadAnswer(url=url, reason="a block hash is not hexadecimal") from error
        if content_hash(blocks) != self.digest or len(blocks) != count_blocks(self.size):
            raise DamagedTransfer(path=path)
        self.blocks = blocks

    def put(self, index: int, plain: bytes | memoryview) -> None:
        """A block that was checked, into every place that it has."""
        block = self.blocks[index]
        if is_signed(self.size):
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            self.signatures[index] = delta.sign(plain, block)
        self.temp.write_at(index * BLOCK_BYTES, plain)
        self.have.add(index)
        self.unflushed += 1  # a count lost between two threads only delays a flush
        if self.unflushed >= FLUSH_BLOCKS:
            self.unflushed = 0
            self.temp.sync()

    def learned(self) -> Learned:
        joined = None
        if self.signatures:
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            joined = delta.join_signatures(self.size, [self.signatures.get(at) for at in range(len(self.blocks))])
        return Learned(self.digest, tuple(self.blocks), joined)

    def finish(self, wanted: Wanted) -> None:
        """Size, time and executable bit, and all of it on the disk."""
        self.temp.truncate(self.size)
        self.temp.set_executable(wanted.content.executable)
        if wanted.mtime_ns is not None:
            self.temp.set_mtime(wanted.mtime_ns)
        self.temp.sync()


def open_part(tools: Tools, size: int, content: Content) -> Part:
    """Raises BlockingIOError when somebody else is filling it, OSError."""
    return Part(tools.fs.open_temp(content.digest.hex()), size, content.digest)


def fetch_together(tools: Tools, files: Sequence[Wanted]) -> dict[int, memoryview]:
    """Contents of small files by their position in `files`, unchecked, in one call: of those that no local file has.

    Only to save calls: what is missing in the answer, all of it where the service refuses, is fetched by itself.
    """
    asked = [
        at
        for at, one in enumerate(files)
        if 0 < one.size < ASK_RECIPE_BYTES_MIN and not tools.known.find_content(one.content.digest)
    ]
    if len(asked) < 2:
        return {}
    tools.down.take(sum(files[at].size for at in asked))
    try:
        told = tools.service.fetch_small([(files[at].file_id, files[at].version) for at in asked])
    except Refused:
        return {}
    return {at: plain for at, plain in zip(asked, told, strict=True) if plain is not None}


def fetch(tools: Tools, wanted: Wanted, part: Part, plain: memoryview | None = None) -> None:
    """Complete the part; `plain` is what `fetch_together` brought. Raises ClientError, OSError."""
    found = not part.blocks and wanted.size and _copy_whole(tools, part)
    if not found and not part.blocks and wanted.size < ASK_RECIPE_BYTES_MIN:
        _fetch_small(tools, wanted, part, plain)
    elif not found:
        if not part.blocks:
            recipe = tools.service.blocks(wanted.remote_path, wanted.version)
            part.set_recipe(recipe, tools.service.url, wanted.remote_path)
            check_part(tools, part)
        _check_space(tools, part)
        _Fetching(tools, wanted, part).run()
    part.finish(wanted)


def check_part(tools: Tools, part: Part) -> None:
    """Keep the blocks that an earlier attempt has brought."""
    held = min(part.temp.size(), part.size)
    positions = [
        index for index in range(len(part.blocks)) if index * BLOCK_BYTES + block_size(part.size, index) <= held
    ]
    tools.parallel.run_all((partial(_check_block, tools, part, index) for index in positions), CHECKED_AT_ONCE)


def find_in_other_files(tools: Tools, part: Part, index: int) -> bool:
    """Copy the block from a local file that holds it."""
    wanted, size = part.blocks[index], block_size(part.size, index)
    for path, position in list(tools.known.find_block(wanted))[:_CANDIDATES_MAX]:
        try:
            with tools.fs.open(path) as file, tools.buffers.take() as buffer:
                plain = memoryview(buffer)[:size]
                if file.read_at(position * BLOCK_BYTES, plain) == size and hash_block(plain) == wanted:
                    part.put(index, plain)
                    tools.traffic.had(size)
                    return True
        except OSError:
            continue  # it was only a hint
    return False


def fetch_block(
    tools: Tools, part: Part, index: int, path: str, *, upload_id: str | None = None, wait_s: int | None = None
) -> None:
    """One whole block. Bytes damaged on the way are asked for once more. Raises Refused, DamagedTransfer."""
    block, size = part.blocks[index], block_size(part.size, index)
    tools.down.take(size)
    for _ in range(2):
        plain = tools.service.get_block(path, block.hex(), upload_id=upload_id, wait_s=wait_s)
        if len(plain) == size and hash_block(plain) == block:
            part.put(index, plain)
            tools.traffic.fetched(size)
            return
    raise DamagedTransfer(path=path)


class _Unusable(Exception):
    """A local file cannot be read, or is shorter than it was."""


def _copy_whole(tools: Tools, part: Part) -> bool:
    """From a local file with the same content: then not even the recipe is asked for."""
    for source in tools.known.find_content(part.digest):
        part.blocks = [b""] * count_blocks(part.size)
        _check_space(tools, part)
        with suppress(_Unusable), _reading(tools, source.path) as file:
            jobs = (partial(_copy_block, tools, part, file, index) for index in range(len(part.blocks)))
            tools.parallel.run_all(jobs, CHECKED_AT_ONCE)
        if content_hash(part.blocks) == part.digest:
            tools.traffic.had(part.size)
            return True
        part.blocks = []
        part.have.clear()
        part.signatures.clear()
    return False


@contextmanager
def _reading(tools: Tools, path: Path) -> Iterator[ReadFile]:
    try:
        file = tools.fs.open(path)
    except OSError as error:
        raise _Unusable from error
    with file:
        yield file


def _copy_block(tools: Tools, part: Part, file: ReadFile, index: int) -> None:
    with tools.buffers.take() as buffer:
        plain = memoryview(buffer)[: block_size(part.size, index)]
        try:
            complete = file.read_at(index * BLOCK_BYTES, plain) == len(plain)
        except OSError as error:
            raise _Unusable from error
        if not complete:
            raise _Unusable
        part.blocks[index] = hash_block(plain)
        part.put(index, plain)


def _fetch_small(tools: Tools, wanted: Wanted, part: Part, brought: memoryview | None) -> None:
    plain: bytes | memoryview | None = brought
    if plain is None and wanted.size:
        tools.down.take(wanted.size)
        plain = tools.service.download(wanted.remote_path, wanted.version)
    blocks = [hash_block(plain)] if plain else []
    if len(plain or b"") != wanted.size or content_hash(blocks) != wanted.content.digest:
        raise DamagedTransfer(path=wanted.remote_path)
    part.blocks = blocks
    if plain:
        tools.traffic.fetched(len(plain))
        part.put(0, plain)


def _check_block(tools: Tools, part: Part, index: int) -> None:
    with tools.buffers.take() as buffer:
        plain = memoryview(buffer)[: block_size(part.size, index)]
        if part.temp.read_at(index * BLOCK_BYTES, plain) != len(plain) or hash_block(plain) != part.blocks[index]:
            return
        part.have.add(index)
        tools.traffic.had(len(plain))
        if is_signed(part.size):
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            part.signatures[index] = delta.sign(plain, part.blocks[index])


def _check_space(tools: Tools, part: Part) -> None:
    needed = sum(block_size(part.size, index) for index in part.lacking)
    if needed and tools.fs.free_bytes() < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Fetching:
    """One attempt to fill a part whose recipe is known. `_deltas` is settled before the jobs begin."""

    def __init__(self, tools: Tools, wanted: Wanted, part: Part) -> None:
        self._tools = tools
        self._wanted = wanted
        self._part = part
        self._deltas: dict[int, BlockDelta] = {}

    def run(self) -> None:
        lacking = self._one_place_each()
        self._tools.parallel.run_all((partial(self._find, index) for index in lacking), CHECKED_AT_ONCE)
        lacking = [index for index in lacking if index not in self._part.have]
        if lacking:
            self._deltas = self._get_deltas()
            self._tools.parallel.run_all((partial(self._bring, index) for index in lacking), AT_ONCE)
        self._repeat_equal_blocks()

    def _one_place_each(self) -> list[int]:
        """Positions of the lacking blocks, of equal ones the first."""
        return sorted({self._part.blocks[index]: index for index in reversed(self._part.lacking)}.values())

    def _repeat_equal_blocks(self) -> None:
        part = self._part
        first = {part.blocks[index]: index for index in sorted(part.have, reverse=True)}
        for index in part.lacking:
            with self._tools.buffers.take() as buffer:
                plain = memoryview(buffer)[: block_size(part.size, index)]
                part.temp.read_at(first[part.blocks[index]] * BLOCK_BYTES, plain)
                part.put(index, plain)
                self._tools.traffic.had(len(plain))

    def _find(self, index: int) -> None:
        find_in_other_files(self._tools, self._part, index)

    def _bring(self, index: int) -> None:
        told = self._deltas.get(index)
        if told is None or not self._put_together(index, told):
            fetch_block(self._tools, self._part, index, self._wanted.remote_path)

    # --- deltas -------------------------------------------------------------------------------------------------

    def _get_deltas(self) -> dict[int, BlockDelta]:
        """How the version was sent, where it was made from the file that is replaced here."""
        wanted = self._wanted
        if wanted.upload_id is None or wanted.old is None:
            return {}
        try:
            found = self._tools.service.get_delta(wanted.upload_id)
        except Refused:
            return {}  # only a shortcut
        if found is None or found.base_id != wanted.file_id:
            return {}
        return {block.index: block for block in found.blocks}

    def _put_together(self, index: int, told: BlockDelta) -> bool:
        """The block from the old file and the bytes that it lacks; False when that does not give it."""
        size = block_size(self._part.size, index)
        spans = _spans(told)
        if spans is None or told.length != size:
            return False
        assert self._wanted.old is not None
        tools, block = self._tools, self._part.blocks[index]
        try:
            with tools.fs.open(self._wanted.old) as old, tools.buffers.take() as buffer:
                plain = memoryview(buffer)[:size]
                at = 0
                for op in told.ops:
                    here = plain[at : at + op.length]
                    if isinstance(op, Copy) and old.read_at(op.offset, here) != op.length:
                        return False
                    at += op.length
                for start, stop in spans:
                    tools.down.take(stop - start)
                    literal = tools.service.get_block(self._wanted.remote_path, block.hex(), byte_range=(start, stop))
                    if len(literal) != stop - start:
                        return False
                    plain[start:stop] = literal
                    tools.traffic.fetched(stop - start)
                if hash_block(plain) != block:
                    return False
                self._part.put(index, plain)
        except OSError:
            return False
        tools.traffic.had(size - sum(stop - start for start, stop in spans))
        return True


def _spans(told: BlockDelta) -> list[tuple[int, int]] | None:
    """The ranges of the block to be fetched, few enough; None when fetching all of it is as good."""
    literals = list(_literal_ranges(told))
    for gap in _SPAN_GAPS:
        spans: list[tuple[int, int]] = []
        for start, stop in literals:
            if spans and start - spans[-1][1] < gap:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))
        if len(spans) <= LITERAL_SPANS_MAX:
            return spans if sum(stop - start for start, stop in spans) <= told.length // 2 else None
    return None


def _literal_ranges(told: BlockDelta) -> Iterator[tuple[int, int]]:
    at = 0
    for op in told.ops:
        if not isinstance(op, Copy):
            yield at, at + op.length
        at += op.length
