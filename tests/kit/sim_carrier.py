"""client.sync.carry.Carrier the plain way, for the simulated world: whole blocks, one file after the other, and nothing
that is not needed to be right. What transfer.py adds is speed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from client.api import Api
from client.errors import Refused
from client.fs.base import FileSystem
from client.sync import apply
from client.sync.apply import Outcome, Placed, Stale, Told
from client.sync.carry import ToDownload, ToUpload
from client.sync.store import PendingUpload
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from coordinator.protocol.types import CommitEntry


class SimCarrier:
    def __init__(self, fs: FileSystem, api: Api, tape: random.Random) -> None:
        self._fs = fs
        self._api = api
        self._tape = tape

    def upload(self, files: Sequence[ToUpload]) -> list[Outcome]:
        return [apply.touching(one.path, lambda one=one: apply.asking(lambda: self._upload(one))) for one in files]

    def _upload(self, one: ToUpload) -> Outcome:
        assert one.local.content is not None
        with self._fs.open(one.path) as file:
            buffer = bytearray(one.local.stamp.size)
            file.read_at(0, memoryview(buffer))
            if file.stat().stamp() != one.local.stamp:
                return Stale(local=True)
        blocks = [bytes(buffer[at : at + BLOCK_BYTES]) for at in range(0, len(buffer), BLOCK_BYTES)]
        hashes = [hash_block(block) for block in blocks]
        if content_hash(hashes) != one.local.content.digest:
            return Stale(local=True)
        entry = CommitEntry(
            path=one.remote_path,
            size=len(buffer),
            blocks=[digest.hex() for digest in hashes],
            base_version=one.base.version if one.base else 0,
            executable=one.local.content.executable,
            parent_id=one.parent_id,
            id=one.base.id if one.base else None,
        )
        [announced] = self._api.announce([entry])
        if announced.error is not None:
            raise Refused(409, announced.error)
        for digest, block in zip(hashes, blocks, strict=True):
            if digest.hex() in announced.missing:
                self._api.put_block(one.remote_path, digest.hex(), block)
        [result] = self._api.commit([entry], f"{self._tape.getrandbits(64):x}")
        if result.metadata is None:
            raise Refused(409, result.error or {})
        return Told(result.metadata)

    def download(self, files: Sequence[ToDownload]) -> list[Outcome]:
        return [apply.touching(one.path, lambda one=one: apply.asking(lambda: self._download(one))) for one in files]

    def _download(self, one: ToDownload) -> Outcome:
        content = one.remote.content
        assert content is not None
        recipe = self._api.blocks(one.remote_path, one.remote.version)
        if recipe.content_hash != content.digest.hex():
            return Stale(remote=True)
        with self._fs.open_temp(content.digest.hex()) as temp:
            for index, block in enumerate(recipe.blocks):
                temp.write_at(index * BLOCK_BYTES, self._api.get_block(one.remote_path, block))
            temp.truncate(recipe.size)
            temp.set_executable(content.executable)
            if one.remote.mtime_ns is not None:
                temp.set_mtime(one.remote.mtime_ns)
            expected = one.replaces.stamp if one.replaces is not None else None
            return Placed(self._fs.place(temp, one.path, expected).stamp())

    def prefetch(self, row: PendingUpload, remote_path: str) -> None:
        """What is announced is not waited for here."""
