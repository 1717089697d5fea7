"""Sending one file or stream: blocks the service lacks, several at a time, then one commit.

A file is hashed ahead of the sending, in windows: after each the service is asked which blocks it lacks, and those are
read again (from the page cache) and sent while the next window is hashed. When the last window is hashed the whole file
is announced. So the first bytes travel soon however large the file is, memory stays bounded, a second run after a kill
asks first and sends only the rest, and what the service has never travels.
Guarantees: what is committed is one state of the file; nothing is replaced but `base_version`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from client.api import Api, refused_entry
from client.errors import BadAnswer, FileChanged, Refused
from client.parallel import for_each
from client.source import SourceFile, Unsettled
from client.transfer import Transfer
from coordinator.protocol.hashing import BLOCK_BYTES, block_size, content_hash, hash_block
from coordinator.protocol.types import CommitEntry, CommitResult, Metadata

TRANSFERS: Final = 4  # blocks on the wire at once
WINDOW_BLOCKS: Final = 64  # 256 MiB between two questions: one round trip for each costs nothing
AHEAD_BLOCKS: Final = 256  # 1 GiB: hashing further ahead would push the blocks out of the page cache before sending
HASH_THREADS: Final = min(2, os.cpu_count() or 1)
ATTEMPTS_MAX: Final = 3
STREAM_WINDOW_BLOCKS: Final = 3  # of a stream, which is held in memory: 3 being read, 1 waiting, 4 on the wire


def put_file(transfer: Transfer, local: Path, remote: str, there: Metadata | None) -> Metadata:
    """Store the local file as `remote` in place of what is `there` now (None: no file may be there).

    Raises FileChanged when it does not hold still, LocalMissing, LocalTrouble, Refused.
    """
    for _ in range(ATTEMPTS_MAX):
        try:
            with SourceFile.open(local) as source:
                return _FileUpload(transfer, source, remote, there).run()
        except Unsettled:
            continue
    raise FileChanged(path=local)


def put_stream(transfer: Transfer, stream: BinaryIO, remote: str, base_version: int) -> Metadata:
    """Store what `stream` gives until its end; its length need not be known, memory holds at most eight blocks."""
    api, tally = transfer.api, transfer.tally
    hashes: list[str] = []
    size = 0

    def blocks_to_send() -> Iterator[tuple[str, bytes]]:
        nonlocal size
        for window in _read_windows(stream):
            named = [(hash_block(plain).hex(), plain) for plain in window]
            hashes.extend(digest for digest, _ in named)
            size += sum(map(len, window))
            missing = api.missing(remote, [digest for digest, _ in named])
            for digest, plain in named:
                if digest in missing:
                    missing.discard(digest)
                    yield digest, plain
                else:
                    tally.spared(len(plain))

    def send(block: tuple[str, bytes]) -> None:
        api.put_block(remote, *block)
        tally.moved(len(block[1]))

    for_each(blocks_to_send(), send, workers=TRANSFERS)
    entry = CommitEntry(path=remote, size=size, blocks=hashes, base_version=base_version)
    return committed(commit_entries(api, [entry])[0])


def is_same(there: Metadata | None, entry: CommitEntry) -> bool:
    """Whether committing `entry` would change nothing, not even the time or the executable bit."""
    return (
        there is not None
        and there.content_hash == content_hash(map(bytes.fromhex, entry.blocks)).hex()
        and there.executable == entry.executable
        and there.client_modified_at == entry.mtime
    )


def commit_entries(api: Api, entries: list[CommitEntry]) -> list[CommitResult]:
    """One commit under a fresh request key: however often the call is repeated, it is carried out once."""
    return api.commit(entries, uuid.uuid4().hex)


def committed(result: CommitResult) -> Metadata:
    """Raises Refused for an entry that was not committed."""
    if result.metadata is None:
        raise refused_entry(result.error or {})
    return result.metadata


class _FileUpload:
    """One attempt at one file. `_hashes` is filled by the hashing threads and read after each window is whole."""

    def __init__(self, transfer: Transfer, source: SourceFile, remote: str, there: Metadata | None) -> None:
        self._api = transfer.api
        self._source = source
        self._remote = remote
        self._there = there
        self._nothing_new = False
        self._failed = False
        self._tally = transfer.tally
        self._buffers = transfer.buffers
        self._hashes = [""] * source.blocks
        self._queued: set[str] = set()

    def run(self) -> Metadata:
        done_before = self._tally.done_bytes
        try:
            for_each(self._blocks_to_send(), self._send, workers=TRANSFERS, ahead=AHEAD_BLOCKS)
            self._source.check_unchanged()
            metadata = self._there if self._there is not None and self._nothing_new else self._commit()
            self._tally.finished_file()
            return metadata
        except Refused as refusal:
            # The bytes that were sent are not those that were hashed a moment ago: the file is being written.
            if refusal.code in ("hash_mismatch", "size_mismatch"):
                raise Unsettled from refusal
            raise
        except Unsettled:
            self._tally.spared(done_before - self._tally.done_bytes)
            raise

    def _blocks_to_send(self) -> Iterator[int]:
        """Indices of blocks that the service lacks, each hash once; the feeding thread runs it ahead of the senders."""
        count = self._source.blocks
        for start in range(0, count or 1, WINDOW_BLOCKS):
            if self._failed:
                return  # otherwise hours of hashing could go by before the error is told
            window = range(start, min(start + WINDOW_BLOCKS, count))
            for_each(window, self._hash, workers=HASH_THREADS, ahead=len(window))
            if window.stop == count:
                self._source.check_unchanged()
                self._nothing_new = is_same(self._there, self._entry())
                missing = set() if self._nothing_new else self._announce()
            else:
                missing = self._api.missing(self._remote, self._hashes[window.start : window.stop])
            for index in window:
                digest = self._hashes[index]
                if digest in missing and digest not in self._queued:
                    self._queued.add(digest)
                    yield index
                else:
                    self._tally.spared(block_size(self._source.size, index))

    def _hash(self, index: int) -> None:
        with self._buffers.take() as buffer:
            self._hashes[index] = hash_block(self._source.read_block(index, buffer)).hex()

    def _send(self, index: int) -> None:
        try:
            with self._buffers.take() as buffer:
                plain = self._source.read_block(index, buffer)
                self._api.put_block(self._remote, self._hashes[index], plain)
        except BaseException:
            self._failed = True
            raise
        self._tally.moved(len(plain))

    def _announce(self) -> set[str]:
        result = self._api.announce([self._entry()])[0]
        if result.error is not None:
            raise refused_entry(result.error)
        return set(result.missing)

    def _commit(self) -> Metadata:
        for _ in range(ATTEMPTS_MAX):
            result = commit_entries(self._api, [self._entry()])[0]
            if result.metadata is not None:
                return result.metadata
            refusal = refused_entry(result.error or {})
            if refusal.code != "blocks_missing":
                raise refusal
            # What the service had at the announcement it may have let go since: an upload that took days.
            for_each(self._indices_of(refusal), self._send, workers=TRANSFERS)
        raise refusal

    def _indices_of(self, refusal: Refused) -> list[int]:
        named = refusal.facts.get("missing")
        wanted = set(named) if isinstance(named, list) else set()
        indices = {digest: index for index, digest in enumerate(self._hashes) if digest in wanted}
        if not indices:
            raise BadAnswer(url=self._api.url, reason="it misses blocks that the file does not have")
        return sorted(indices.values())

    def _entry(self) -> CommitEntry:
        return CommitEntry(
            path=self._remote,
            size=self._source.size,
            blocks=self._hashes,
            base_version=self._there.version if self._there is not None else 0,
            mtime=self._source.mtime,
            executable=self._source.executable,
        )


def _read_windows(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The stream's blocks, a few at a time; all but the last are full."""
    ended = False
    while not ended:
        window: list[bytes] = []
        while len(window) < STREAM_WINDOW_BLOCKS and not ended:
            plain = _read_block(stream)
            ended = len(plain) < BLOCK_BYTES
            if plain:
                window.append(plain)
        if window:
            yield window


def _read_block(stream: BinaryIO) -> bytes:
    """Up to a full block, less only at the stream's end, from a pipe that gives little at a time."""
    plain = bytearray()
    while len(plain) < BLOCK_BYTES and (piece := stream.read(BLOCK_BYTES - len(plain))):
        plain += piece
    return bytes(plain)
