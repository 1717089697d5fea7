"""Moves contents the plain way: whole blocks, one file after the other."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from client.api import Api
from client.errors import ClientError, Refused
from client.fs.base import FileSystem
from client.sync import apply
from client.sync.apply import Outcome, Placed, Stale, Told
from client.sync.carry import ToDownload, ToUpload
from client.sync.store import PendingUpload
from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from coordinator.protocol.types import CommitEntry


class PlainCarrier:
    def __init__(self, fs: FileSystem, api: Api) -> None:
        self._fs = fs
        self._api = api

    def upload(self, files: Sequence[ToUpload]) -> list[Outcome]:
        return [apply.touching(one.path, lambda one=one: apply.asking(lambda: self._upload(one))) for one in files]

    def _upload(self, one: ToUpload) -> Outcome:
        blocks: list[bytes] = []
        with self._fs.open(one.path) as file:
            size = file.stat().size
            for at in range(0, size, BLOCK_BYTES):
                buffer = bytearray(min(BLOCK_BYTES, size - at))
                file.read_at(at, memoryview(buffer))
                blocks.append(bytes(buffer))
            if file.stat().stamp() != one.local.stamp:
                return Stale(local=True)
        hashes = [hash_block(block) for block in blocks]
        assert one.local.content is not None
        if content_hash(hashes) != one.local.content.digest:
            return Stale(local=True)
        entry = CommitEntry(
            path=one.remote_path,
            size=size,
            blocks=[digest.hex() for digest in hashes],
            base_version=one.base.version if one.base else 0,
            executable=one.local.content.executable,
            parent_id=one.parent_id,
            id=one.base.id if one.base else None,
        )
        announced = self._api.announce([entry])[0]
        if announced.error is not None:
            raise Refused(409, announced.error)
        for digest, block in zip(hashes, blocks, strict=True):
            if digest.hex() in announced.missing:
                self._api.put_block(one.remote_path, digest.hex(), block)
        result = self._api.commit([entry], uuid.uuid4().hex)[0]
        if result.metadata is None:
            raise Refused(409, result.error or {})
        return Told(result.metadata)

    def download(self, files: Sequence[ToDownload]) -> list[Outcome]:
        return [apply.touching(one.path, lambda one=one: apply.asking(lambda: self._download(one))) for one in files]

    def _download(self, one: ToDownload) -> Outcome:
        assert one.remote.content is not None
        recipe = self._api.blocks(one.remote_path, one.remote.version)
        if recipe.content_hash != one.remote.content.digest.hex():
            return Stale(remote=True)
        temp = self._fs.open_temp(one.remote.content.digest.hex())
        for index, block in enumerate(recipe.blocks):
            temp.write_at(index * BLOCK_BYTES, self._api.get_block(one.remote_path, block))
        temp.truncate(recipe.size)
        temp.set_executable(one.remote.content.executable)
        if one.remote.mtime_ns is not None:
            temp.set_mtime(one.remote.mtime_ns)
        return Placed(self._fs.place(temp, one.path, one.replaces.stamp if one.replaces else None).stamp())

    def prefetch(self, row: PendingUpload, remote_path: str) -> None:
        raise ClientError
