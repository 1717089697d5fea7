"""Sending local files: small ones together, a large one by the blocks that the service lacks, or parts of them.

A large file is announced before anything travels, so other devices fetch along. Of a block that the service lacks only
those bytes travel that the replaced version does not have, wherever in it; blocks that have little in common with it
travel whole. A copy of a file that is synced is told as such. Run again after a break, the service is asked what it
still lacks.
Guarantees: what is committed has exactly the content that the plan knows (`ToUpload.local`): every block that travels
is checked by its hash, here or by the service, and a file that is not like that any more is Stale. A commit replaces
only the version that it is based on, in the folder that it is meant for.
Does not: retry, place blame (apply.refused), keep what was learned (the engine).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from client.api import refused_entry
from client.errors import ClientError, Refused
from client.fs.base import ReadFile
from client.source import datetime_of
from client.sync.engine import apply
from client.sync.engine.apply import Outcome, Stale
from client.sync.store.reader import SyncedContent
from client.sync.transfer.carry import ToUpload
from client.sync.transfer.contents import Learned, Sent, Tools, is_signed
from client.sync.transfer.jobs import Job
from coordinator.protocol.delta import (
    DELTA_BASE_BLOCKS_MAX,
    DELTA_BODY_BYTES_MAX,
    BlockDelta,
    Copy,
    Delta,
    Literal,
    Op,
)
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, count_blocks, hash_block
from coordinator.protocol.types import CommitEntry, CommitResult, CopySource

if TYPE_CHECKING:
    from client.sync.transfer.delta import BlockCopies

WHOLE_AT_ONCE: Final = 4
DELTAS_AT_ONCE: Final = 2
HASHED_AT_ONCE: Final = 2
ASK_BYTES_MIN: Final = 256 * 1024  # fewer bytes are sent sooner than the service has said whether it has them
DELTA_BLOCKS: Final = 32  # in one request: each is some milliseconds of work for the service
_DELTA_BYTES: Final = DELTA_BODY_BYTES_MAX - 1024 * 1024
_SMALL_BYTES: Final = 64 * 1024  # so few bytes go along with a delta whatever they are
_OP_BYTES: Final = 16  # of one operation at the most
_BASE_WINDOW: Final = 1024  # blocks of the old version that are searched at once: 4 GiB take 30 MB
_BASE_STEP: Final = 256  # and how far it may go on before the window moves
_COMMITS_MAX: Final = 3
_NO_COPY: Final = frozenset({"not_found", "size_mismatch", "blocks_missing", "bad_request", "too_large"})
_CHANGED: Final = frozenset({"hash_mismatch", "size_mismatch"})


class Changed(Exception):
    """The file is not what the plan knows any more."""


class LocalContent:
    """The file that is to be sent, open. Reading is safe from any number of threads."""

    def __init__(self, tools: Tools, one: ToUpload) -> None:
        """Raises Changed, OSError."""
        self._file: ReadFile = tools.fs.open(one.path)
        self.size = one.local.stamp.size
        try:
            if self._file.stat().stamp() != one.local.stamp:
                raise Changed
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, offset: int, buffer: memoryview) -> memoryview:
        """Fills the buffer. Raises Changed when the file ends before."""
        if self._file.read_at(offset, buffer) != len(buffer):
            raise Changed
        return buffer

    def read_block(self, index: int, buffer: bytearray) -> memoryview:
        return self.read(index * BLOCK_BYTES, memoryview(buffer)[: block_size(self.size, index)])

    def part(self, offset: int, size: int) -> memoryview:
        return self.read(offset, memoryview(bytearray(size)))


def entry_of(
    one: ToUpload, blocks: Sequence[bytes], upload_id: str | None = None, source: SyncedContent | None = None
) -> CommitEntry:
    """By its blocks, or by what was announced, or as a copy."""
    assert one.local.content is not None
    digest = one.local.content.digest.hex()
    return CommitEntry(
        path=one.remote_path,
        size=one.local.stamp.size,
        blocks=[block.hex() for block in blocks] if upload_id is None and source is None else [],
        base_version=one.base.version if one.base is not None else 0,
        mtime=datetime_of(one.local.stamp.mtime_ns),
        executable=one.local.content.executable,
        id=one.base.id if one.base is not None else None,
        parent_id=one.parent_id,
        upload_id=upload_id,
        copy_of=None if source is None else CopySource(id=source.id, version=source.version, content_hash=digest),
    )


def find_copy(tools: Tools, one: ToUpload) -> SyncedContent | None:
    """A file of the service that has this content already, as far as is known here."""
    if one.local.content is None or not one.local.stamp.size:
        return None
    return next(iter(tools.known.find_content(one.local.content.digest)), None)


# --- small files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Small:
    """A small file, read and hashed; an empty one has no block. `source`: what it is a copy of."""

    one: ToUpload
    plain: bytes
    blocks: tuple[bytes, ...]
    source: SyncedContent | None


def send_small(tools: Tools, files: Sequence[ToUpload]) -> list[Outcome]:
    """Files of at most one block, as many as fit one batch; one outcome for each, in order."""
    found = [_read_small(tools, one) for one in files]
    told = iter(_store_small(tools, [read for read in found if isinstance(read, _Small)]))
    return [next(told) if isinstance(read, _Small) else read for read in found]


def _read_small(tools: Tools, one: ToUpload) -> _Small | Outcome:
    """The whole file, or why it cannot be sent."""
    found: list[_Small] = []

    def read() -> Outcome:
        assert one.local.content is not None
        try:
            with LocalContent(tools, one) as file:
                plain = bytes(file.part(0, file.size))
        except Changed:
            return Stale(local=True)
        blocks = (hash_block(plain),) if plain else ()
        if content_hash(blocks) == one.local.content.digest:
            found.append(_Small(one, plain, blocks, find_copy(tools, one)))
        return Stale(local=True)

    outcome = apply.touching(one.path, read)
    return found[0] if found else outcome


def _store_small(tools: Tools, going: Sequence[_Small]) -> list[Outcome]:
    if not going:
        return []
    try:
        _send_batch(tools, [small for small in going if small.source is None])
        entries = [entry_of(small.one, small.blocks, source=small.source) for small in going]
        results = tools.service.commit(entries, tools.new_key())
    except ClientError as error:
        return [apply.refused(error)] * len(going)
    return [_small_outcome(tools, small, result) for small, result in zip(going, results, strict=True)]


def _send_batch(tools: Tools, going: Sequence[_Small]) -> None:
    if not going:
        return
    path = going[0].one.remote_path
    blocks = {block: small.plain for small in going for block in small.blocks}
    size = sum(map(len, blocks.values()))
    if size >= ASK_BYTES_MIN or any(len(tools.known.find_block(block)) > 1 for block in blocks):
        missing = tools.service.missing(path, [block.hex() for block in blocks])
        blocks = {block: plain for block, plain in blocks.items() if block.hex() in missing}
    left = sum(map(len, blocks.values()))
    tools.traffic.had(size - left)
    if blocks:
        tools.up.take(left)
        tools.service.put_batch(path, list(blocks.items()))
        tools.traffic.sent(left)


def _small_outcome(tools: Tools, small: _Small, result: CommitResult) -> Outcome:
    if result.metadata is not None:
        assert small.one.local.content is not None
        signatures = None
        if is_signed(len(small.plain)):
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            signatures = delta.sign(small.plain, small.blocks[0])
        if small.source is not None:
            tools.traffic.had(len(small.plain))
        return Sent(result.metadata, Learned(small.one.local.content.digest, small.blocks, signatures))
    refusal = refused_entry(result.error or {})
    if refusal.code == "blocks_missing" or (small.source is not None and refusal.code in _NO_COPY):
        # A mounted folder is another namespace, which the batch's path did not name; or they were let go just then.
        return send_large(tools, small.one, as_copy=False)
    return apply.refused(refusal)


# --- one large file ---------------------------------------------------------------------------------------------


def send_large(tools: Tools, one: ToUpload, *, as_copy: bool = True) -> Outcome:
    """A file of any size by itself. `as_copy`: see whether the service has its content as another file."""

    def send() -> Outcome:
        try:
            with LocalContent(tools, one) as file:
                sending = _Sending(tools, one, file)
                return (sending.copy() if as_copy else None) or sending.run()
        except Changed:
            return Stale(local=True)
        except Refused as refusal:
            return Stale(local=True) if refusal.code in _CHANGED else apply.refused(refusal)

    return apply.touching(one.path, lambda: apply.asking(send))


class _Sending:
    """One attempt. `_whole` are the blocks that are to travel whole: filled while the deltas are made and sent, read
    after. `_signatures` holds a signature for each block that has one, filled by any thread."""

    def __init__(self, tools: Tools, one: ToUpload, file: LocalContent) -> None:
        assert one.local.content is not None
        self._tools = tools
        self._one = one
        self._file = file
        self._digest = one.local.content.digest
        self._blocks = self._known_blocks() or [b""] * count_blocks(file.size)
        self._upload_id = ""
        self._whole: list[int] = []
        self._deltas_fail = False
        self._signed = is_signed(file.size)
        self._signatures: dict[int, bytes | memoryview] = {}

    def copy(self) -> Outcome | None:
        """As a copy of what the service has, told in a line; None where that cannot be."""
        tools, source = self._tools, find_copy(self._tools, self._one)
        if source is None:
            return None
        entry = entry_of(self._one, (), source=source)
        [result] = tools.service.commit([entry], tools.new_key())
        if result.metadata is None:
            refusal = refused_entry(result.error or {})
            return None if refusal.code in _NO_COPY else apply.refused(refusal)
        tools.traffic.had(self._file.size)
        recipe = tools.known.blocks_of(source.local_id)
        blocks = self._known_blocks() or (recipe[1] if recipe is not None and recipe[0] == self._digest else None)
        if blocks is None:
            return Sent(result.metadata)
        signed = tools.known.signature(source.local_id)
        signatures = signed[1] if signed is not None and signed[0] == self._digest else None
        return Sent(result.metadata, Learned(self._digest, tuple(blocks), signatures))

    def run(self) -> Outcome:
        if self._blocks and not self._blocks[0]:
            self._hash_all()
        announced = self._tools.service.announce([entry_of(self._one, self._blocks)], as_ranges=True)[0]
        if announced.error is not None:
            return apply.refused(refused_entry(announced.error))
        self._upload_id = announced.upload_id or ""
        missing = [index for start, stop in announced.missing_ranges for index in range(start, stop)]
        self._note_spared(missing)
        old = self._old_signatures()
        if old:
            self._keep_signatures_of_old_blocks(old, missing)
            self._tools.parallel.run_all(self._delta_jobs(old, missing), DELTAS_AT_ONCE)
        else:
            self._whole = missing
        self._send_whole(self._whole)
        return self._commit()

    # --- hashing ------------------------------------------------------------------------------------------------

    def _known_blocks(self) -> list[bytes] | None:
        """As read by the scan just before."""
        known = self._tools.known.blocks_of(self._one.local.id)
        if known is None or known[0] != self._digest or len(known[1]) != count_blocks(self._file.size):
            return None
        return known[1]

    def _hash_all(self) -> None:
        self._tools.parallel.run_all((partial(self._hash, index) for index in range(len(self._blocks))), HASHED_AT_ONCE)
        if content_hash(self._blocks) != self._digest:
            raise Changed

    def _hash(self, index: int) -> None:
        with self._tools.buffers.take() as buffer:
            self._blocks[index] = hash_block(self._file.read_block(index, buffer))

    # --- whole blocks -------------------------------------------------------------------------------------------

    def _send_whole(self, indices: Sequence[int]) -> None:
        self._tools.parallel.run_all((partial(self._send_block, index) for index in sorted(indices)), WHOLE_AT_ONCE)

    def _send_block(self, index: int) -> None:
        tools = self._tools
        with tools.buffers.take() as buffer:
            plain = self._file.read_block(index, buffer)
            tools.up.take(len(plain))
            tools.service.put_block(self._one.remote_path, self._blocks[index].hex(), plain)
            tools.traffic.sent(len(plain))
            self._sign(index, plain)

    # --- deltas -------------------------------------------------------------------------------------------------

    def _old_signatures(self) -> list[memoryview]:
        """Of the blocks of the version that is replaced; [] when they are not known."""
        base = self._one.base
        if base is None or base.content is None or not is_signed(base.size) or not self._file.size:
            return []
        known = self._tools.known.signature(self._one.local.id)
        if known is None or known[0] != base.content.digest:
            return []
        from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

        return delta.cut_signatures(base.size, known[1])

    def _delta_jobs(self, old: Sequence[memoryview], missing: Sequence[int]) -> Iterator[Job]:
        """Requests with the blocks that have enough in common with the old version; the others go to `_whole`."""
        group: list[BlockCopies] = []
        weight = 0
        for block in self._found_copies(old, missing):
            if self._deltas_fail or block.literal_bytes > max(block.size * 3 // 4, _SMALL_BYTES):
                self._whole.append(block.index)
                continue
            more = block.literal_bytes + _OP_BYTES * (2 * len(block.copies) + 1)
            if group and (len(group) == DELTA_BLOCKS or weight + more > _DELTA_BYTES):
                yield partial(self._send_delta, group)
                group, weight = [], 0
            group.append(block)
            weight += more
        if group:
            yield partial(self._send_delta, group)

    def _found_copies(self, old: Sequence[memoryview], missing: Sequence[int]) -> Iterator[BlockCopies]:
        from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

        base, size = self._one.base, self._file.size
        assert base is not None
        search: delta.Search | None = None
        window = -1
        for run in _runs(missing, _BASE_STEP):
            first = 0
            if len(old) > _BASE_WINDOW:
                first = max(0, (run.start // _BASE_STEP) * _BASE_STEP - _BASE_WINDOW // 2)
            if first != window or search is None:
                window = first
                known = delta.Base(base.size, old[first : first + _BASE_WINDOW], first)
                if search is None:
                    search = delta.Search(known, self._file.part, size)
                else:
                    search.change_base(known)
            start, stop = run.start * BLOCK_BYTES, min(run.stop * BLOCK_BYTES, size)
            yield from delta.split(search.find(start, stop), start, stop, DELTA_BASE_BLOCKS_MAX)

    def _send_delta(self, group: Sequence[BlockCopies]) -> None:
        tools, base = self._tools, self._one.base
        assert base is not None
        if self._deltas_fail:
            self._whole += [block.index for block in group]
            return
        told = Delta(base.id, base.version, tuple(BlockDelta(block.index, self._ops(block)) for block in group))
        literals = sum(block.literal_bytes for block in group)
        tools.up.take(literals)
        try:
            tools.service.put_delta(self._upload_id, told)
        except Refused as refusal:
            wrong = refusal.facts.get("blocks")
            if refusal.code == "hash_mismatch" and isinstance(wrong, list):
                self._whole += [block.index for block in group if block.index in wrong]
            elif refusal.status in (400, 404, 405, 413):
                # The old version is gone, or the service knows no deltas: then everything travels.
                self._deltas_fail = True
                self._whole += [block.index for block in group]
                return
            else:
                raise
        tools.traffic.sent(literals)
        tools.traffic.had(sum(block.size for block in group) - literals)
        for block in group:
            if block.index not in self._whole:
                with tools.buffers.take() as buffer:
                    self._sign(block.index, self._file.read_block(block.index, buffer))

    def _ops(self, block: BlockCopies) -> tuple[Op, ...]:
        ops: list[Op] = []
        at = block.index * BLOCK_BYTES
        stop = at + block.size
        for copy in block.copies:
            if copy.offset > at:
                ops.append(self._literal(at, copy.offset))
            ops.append(Copy(copy.base_offset, copy.size))
            at = copy.offset + copy.size
        if at < stop:
            ops.append(self._literal(at, stop))
        return tuple(ops)

    def _literal(self, start: int, stop: int) -> Literal:
        return Literal(stop - start, self._file.part(start, stop - start))

    # --- signatures ---------------------------------------------------------------------------------------------

    def _sign(self, index: int, plain: memoryview) -> None:
        if self._signed:
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            self._signatures[index] = delta.sign(plain, self._blocks[index])

    def _keep_signatures_of_old_blocks(self, old: Sequence[memoryview], missing: Sequence[int]) -> None:
        from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

        travels = set(missing)
        named = {delta.name_of(signature): signature for signature in old}
        for index, block in enumerate(self._blocks):
            signature = named.get(block[: delta.NAME_BYTES])
            if index not in travels and signature is not None:
                self._signatures[index] = signature

    def _learned(self) -> Learned:
        """Blocks that the service had and this device knew nothing of stay unknown: reading them is not worth it."""
        joined = None
        if self._signed and self._signatures:
            from client.sync.transfer import delta  # noqa: PLC0415  # loads numpy

            row = [self._signatures.get(index) for index in range(len(self._blocks))]
            joined = delta.join_signatures(self._file.size, row)
        return Learned(self._digest, tuple(self._blocks), joined)

    # --- the end ------------------------------------------------------------------------------------------------

    def _note_spared(self, missing: Sequence[int]) -> None:
        travels = sum(block_size(self._file.size, index) for index in missing)
        self._tools.traffic.had(self._file.size - travels)

    def _commit(self) -> Outcome:
        """The upload's id is the request key: however often it is sent, it is carried out once."""
        entry = entry_of(self._one, self._blocks, self._upload_id)
        for _ in range(_COMMITS_MAX):
            result = self._tools.service.commit([entry], self._upload_id)[0]
            if result.metadata is not None:
                return Sent(result.metadata, self._learned())
            refusal = refused_entry(result.error or {})
            if refusal.code != "blocks_missing":
                break
            # What the service had at the announcement it may have let go since: an upload that took days.
            named = refusal.facts.get("missing")
            wanted = set(named) if isinstance(named, list) else set()
            first = {block.hex(): index for index, block in reversed(list(enumerate(self._blocks)))}
            self._send_whole([first[block] for block in wanted if block in first])
        return apply.refused(refusal)


def _runs(indices: Sequence[int], step: int) -> Iterator[range]:
    """Ascending indices as ranges, each within one stretch of `step` of them."""
    start = stop = -1
    for index in indices:
        if index != stop or index % step == 0:
            if stop > start >= 0:
                yield range(start, stop)
            start = index
        stop = index + 1
    if stop > start >= 0:
        yield range(start, stop)
