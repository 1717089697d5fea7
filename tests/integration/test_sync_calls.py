"""The client's calls for syncing against a real service, each also with its answer lost: the call is made twice."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from client.api import Api
from client.connection import Answer, Connection
from client.errors import Refused
from coordinator.protocol import types
from coordinator.protocol.delta import BlockDelta, Copy, Delta, Literal
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from tests.kit.api import User, cut
from tests.kit.cluster import Appliance


class Lossy(Connection):
    """While `lose`, every POST is carried out, its answer lost, and made again, as after a broken connection. Unless it
    `arrives` it is not even carried out the first time."""

    lose = False
    arrives = True
    meanwhile: Callable[[], object] | None = None  # what another device does between the two

    def call(self, method: str, path: str, **more: Any) -> Answer:
        if not self.lose or method != "POST":
            return super().call(method, path, **more)
        if self.arrives:
            super().call(method, path, **more)
        if self.meanwhile is not None:
            self.meanwhile()
        again = super().call(method, path, **more)
        return Answer(again.status, again.headers, again.body, repeated=True)


@pytest.fixture(scope="module")
def line(shared_appliance: Appliance, user: User) -> Iterator[Lossy]:
    ca_pem = Path(shared_appliance.description["ca_file"]).read_text()
    connection = Lossy(shared_appliance.url, token=user.session.token, ca_pem=ca_pem)
    yield connection
    connection.close()


@pytest.fixture
def api(line: Lossy) -> Iterator[Api]:
    yield Api(line)
    line.lose, line.arrives, line.meanwhile = False, True, None


@pytest.fixture
def place(api: Api) -> types.Metadata:
    """A folder of the test's own."""
    return api.create_folder(f"/{secrets.token_hex(6)}")


def put(api: Api, path: str, data: bytes, **more: Any) -> types.Metadata:
    entry = types.CommitEntry(
        path=path, size=len(data), blocks=[hash_block(plain).hex() for plain in cut(data)], **more
    )
    for plain, digest in zip(cut(data), entry.blocks, strict=True):
        api.put_block(path, digest, plain)
    [result] = api.commit([entry], secrets.token_hex(8))
    assert result.metadata is not None, result.error
    return result.metadata


def test_a_guarded_folder(api: Api, line: Lossy, place: types.Metadata) -> None:
    line.lose = True
    made = api.create_folder(f"{place.path}/a", parent_id=place.id)
    assert made.parent_id == place.id
    with pytest.raises(Refused, match="changed"):
        api.create_folder(f"{place.path}/b", parent_id=made.id)


def test_a_move_by_id(api: Api, line: Lossy, place: types.Metadata) -> None:
    file = put(api, f"{place.path}/f", b"1")
    line.lose = True
    moved = api.move_id(file.id, file.path, f"{place.path}/g", parent_id=place.id, base_version=1)
    assert (moved.id, moved.path) == (file.id, f"{place.path}/g")
    assert api.find_id(file.id) == moved
    with pytest.raises(Refused) as refused:
        api.move_id(file.id, f"{place.path}/g", f"{place.path}/h", parent_id=file.id)
    assert (refused.value.code, refused.value.facts["guard"]) == ("version_conflict", "parent_id")


def test_a_delete_by_id(api: Api, line: Lossy, place: types.Metadata) -> None:
    file = put(api, f"{place.path}/f", b"1")
    line.lose = True
    assert api.delete(file.path, file_id=file.id, base_version=1) == 0
    assert api.find_id(file.id) is None
    other = put(api, file.path, b"2")
    assert other.id != file.id or other.version == 2


def test_a_delete_whose_place_somebody_takes_before_the_repeat(api: Api, line: Lossy, place: types.Metadata) -> None:
    file = put(api, f"{place.path}/f", b"1")
    line.lose = True

    def take() -> None:
        line.lose = False
        api.create_folder(file.path)

    line.meanwhile = take
    assert api.delete(file.path, file_id=file.id) == 0
    assert api.find(file.path) is not None


def test_a_delete_that_never_arrived_is_not_taken_for_done_when_a_folder_above_has_moved(
    api: Api, line: Lossy, place: types.Metadata
) -> None:
    """Its path is not found then, which says nothing about the file."""
    above = api.create_folder(f"{place.path}/above")
    file = put(api, f"{above.path}/f", b"1")

    def move() -> None:
        line.lose = False
        api.move_id(above.id, above.path, f"{place.path}/moved", parent_id=place.id)

    line.lose, line.arrives, line.meanwhile = True, False, move
    with pytest.raises(Refused) as refused:
        api.delete(file.path, file_id=file.id, base_version=1)
    assert refused.value.code == "not_found"
    assert api.find_id(file.id) is not None


def test_a_delete_of_what_changed_is_refused(api: Api, place: types.Metadata) -> None:
    put(api, f"{place.path}/f", b"1")
    cursor = latest(api)
    put(api, f"{place.path}/f", b"2", base_version=1)
    with pytest.raises(Refused) as refused:
        api.delete(place.path, file_id=place.id, unchanged_since=cursor)
    assert refused.value.facts["guard"] == "unchanged_since"
    assert api.delete(place.path, file_id=place.id, unchanged_since=latest(api)) == 2


def latest(api: Api) -> str:
    page = api.changes(None)
    while page.has_more:
        page = api.changes(page.cursor)
    return page.cursor


def test_the_feed(api: Api, place: types.Metadata) -> None:
    cursor = latest(api)
    assert not api.longpoll(cursor, 1).changes
    file = put(api, f"{place.path}/f", b"1")
    assert api.longpoll(cursor, 30).changes
    [change] = api.changes(cursor).changes
    assert (change.op, change.id, change.parent_id) == ("put", file.id, place.id)
    assert change.device_id == api.whoami().device_id
    assert change.metadata == file


def test_an_upload_by_announcement_and_delta(api: Api, line: Lossy, place: types.Metadata) -> None:
    base = random.Random("sync calls").randbytes(BLOCK_BYTES + 1000)
    first = put(api, f"{place.path}/f", base)
    data = b"!" + base
    line.lose = True
    entry = types.CommitEntry(
        path=first.path,
        size=len(data),
        blocks=[hash_block(plain).hex() for plain in cut(data)],
        base_version=1,
        id=first.id,
        parent_id=place.id,
    )
    [announced] = api.announce([entry], as_ranges=True)
    assert announced.missing_ranges == [(0, 2)]
    assert announced.upload_id is not None
    recipe = api.upload_blocks(announced.upload_id)
    assert (recipe.blocks, recipe.version) == (entry.blocks, 2)
    assert api.get_delta(announced.upload_id) is None
    with pytest.raises(Refused, match="There is no such block"):
        api.get_block(first.path, entry.blocks[0], upload_id=announced.upload_id)
    blocks = (
        BlockDelta(0, (Literal(1, b"!"), Copy(0, BLOCK_BYTES - 1))),
        BlockDelta(1, (Copy(BLOCK_BYTES - 1, 1001),)),
    )
    api.put_delta(announced.upload_id, Delta(first.id, 1, blocks))
    told = Delta(first.id, 1, (BlockDelta(0, (Literal(1), *blocks[0].ops[1:])), blocks[1]))
    assert api.get_delta(announced.upload_id) == told
    plain = api.get_block(first.path, entry.blocks[1], upload_id=announced.upload_id, wait_s=30)
    assert plain == cut(data)[1]
    assert api.get_block(first.path, entry.blocks[0], byte_range=(0, 2)) == data[:2]
    commit = types.CommitEntry(
        path=first.path,
        size=len(data),
        upload_id=announced.upload_id,
        base_version=1,
        id=first.id,
        parent_id=place.id,
    )
    [result] = api.commit([commit], "key")
    assert result.metadata is not None
    assert (result.metadata.version, result.metadata.id) == (2, first.id)
    assert api.download(first.path, None) == data


def test_a_withdrawn_announcement(api: Api, line: Lossy, place: types.Metadata) -> None:
    entry = types.CommitEntry(path=f"{place.path}/f", size=5, blocks=[hash_block(b"12345").hex()])
    [announced] = api.announce([entry])
    assert announced.upload_id is not None
    before = api.whoami().pending
    api.cancel_upload(announced.upload_id)
    api.cancel_upload(announced.upload_id)
    api.cancel_upload("0" * 32)
    assert api.whoami().pending == before - 5
    with pytest.raises(Refused) as refused:
        api.upload_blocks(announced.upload_id)
    assert refused.value.code == "upload_gone"
    [result] = api.commit([types.CommitEntry(path=entry.path, size=5, upload_id=announced.upload_id)], "key 2")
    assert result.error is not None
    assert result.error["code"] == "upload_gone"


def test_a_copy_of_a_version(api: Api, line: Lossy, place: types.Metadata) -> None:
    plain = random.Random("copy").randbytes(2 * BLOCK_BYTES + 7)
    first = put(api, f"{place.path}/f", plain)
    assert first.content_hash is not None
    source = types.CopySource(id=first.id, version=1, content_hash=first.content_hash)
    entry = types.CommitEntry(path=f"{place.path}/g", size=len(plain), copy_of=source, parent_id=place.id)
    line.lose = True
    [result] = api.commit([entry], "key")
    assert result.metadata is not None
    assert (result.metadata.version, result.metadata.content_hash) == (1, first.content_hash)
    assert result.metadata.id != first.id
    assert api.blocks(entry.path, None).blocks == api.blocks(first.path, None).blocks
    other = msgspec.structs.replace(source, content_hash=hash_block(b"other").hex())
    hashes = [hash_block(part).hex() for part in cut(plain)]
    for wrong, code in (
        (msgspec.structs.replace(entry, copy_of=other), "not_found"),
        (msgspec.structs.replace(entry, size=5), "size_mismatch"),
        (msgspec.structs.replace(entry, blocks=hashes), "bad_request"),
        (msgspec.structs.replace(entry, upload_id="0" * 32), "bad_request"),
    ):
        [result] = api.commit([msgspec.structs.replace(wrong, path=f"{place.path}/h")], code)
        assert result.error is not None
        assert result.error["code"] == code
    [announced] = api.announce([entry])
    assert announced.error is not None
    assert announced.error["code"] == "bad_request"
