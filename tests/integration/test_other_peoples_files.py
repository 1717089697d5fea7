"""Another user's paths, blocks, uploads and cursors: not readable, not changeable, and not even known to be there."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import User, check_refused, digest, entry, forge, target
from tests.kit.tus import TUS, Upload

SECRET = b"the owner's only copy"


@pytest.fixture(scope="module", autouse=True)
def owned(user: User) -> Upload:
    """An upload that the owner has begun; files and blocks of theirs lie about as well."""
    user.post("/files/create_folder", path="/private/below", parents=True)
    user.put("/private/file", SECRET)
    user.put_block(b"staged by the owner")
    return Upload.begin(user, "/private/coming", 10)


def test_another_ones_paths_are_as_unknown_as_those_of_nobody(user: User, stranger: User) -> None:
    with user.unchanged(), stranger.unchanged():
        for path in ("/private/file", "/private", "/nobody/file"):
            for call in ("metadata", "list_folder", "list_revisions", "blocks", "download"):
                check_refused(stranger.call("GET", f"/files/{call}", query={"path": path}), 404, "not_found")
            for call in ("delete", "restore"):
                check_refused(stranger.call("POST", f"/files/{call}", document={"path": path}), 404, "not_found")
            for call in ("move", "copy"):
                document = {"from_path": path, "to_path": "/mine"}
                check_refused(stranger.call("POST", f"/files/{call}", document=document), 404, "not_found")
        assert stranger.get("/files/list_folder", path="/")["entries"] == []
        assert stranger.get("/files/trash")["entries"] == []


def test_the_same_path_is_another_file_for_each_user(user: User, stranger: User) -> None:
    with user.unchanged():
        stranger.put("/private/file", b"the stranger's own")
        assert stranger.content("/private/file") == b"the stranger's own"
        assert user.content("/private/file") == SECRET
        stranger.post("/files/delete", path="/private")


def test_a_hash_does_not_tell_whether_somebody_else_has_the_bytes(user: User, stranger: User) -> None:
    hashes = [digest(SECRET), digest(b"staged by the owner"), digest(b"nobody's")]
    assert user.missing(hashes) == [digest(b"nobody's")]
    with user.unchanged(), stranger.unchanged():
        assert stranger.missing(hashes) == hashes
        for block in hashes:
            answer = stranger.call("GET", f"/blocks/{block}", query={"path": "/x"})
            error = check_refused(answer, 404, "not_found")
            assert set(error) == {"code", "message", "request_id", "what"}
        for data in (SECRET, b"staged by the owner", b"nobody's"):
            [result] = stranger.commit(entry("/guessed", data))
            assert result["error"]["code"] == "blocks_missing"
            assert result["error"]["missing"] == [digest(data)]


def test_announcing_anothers_hashes_asks_for_all_of_them(user: User, stranger: User) -> None:
    with user.unchanged():
        [result] = stranger.post("/files/announce", entries=[entry("/guessed", SECRET)])["results"]
        assert result["missing"] == [digest(SECRET)]
        stranger.call("DELETE", f"/uploads/{result['upload_id']}", headers=TUS)


def test_the_same_bytes_sent_by_two_users_are_stored_apart(user: User, stranger: User) -> None:
    data = secrets.token_bytes(300_000)
    user.put("/shared-content", data)
    assert stranger.missing([digest(data)]) == [digest(data)]
    stranger.put("/shared-content", data)
    assert stranger.missing([digest(data)]) == []
    user.post("/files/delete", path="/shared-content")
    assert stranger.content("/shared-content") == data


def test_blocks_of_a_path_outside_of_the_callers_tree_are_not_found(user: User, stranger: User) -> None:
    for path in ("/", "/private/file", "/x"):
        answer = stranger.call("GET", f"/blocks/{digest(SECRET)}", query={"path": path})
        check_refused(answer, 404, "not_found")
        assert user.call("GET", f"/blocks/{digest(SECRET)}", query={"path": path}).body == SECRET


def test_a_block_of_a_deleted_file_is_still_its_owners(user: User) -> None:
    """Versions in the trash and in the past keep their blocks: putting the file back sends nothing."""
    data = b"deleted, yet not forgotten"
    user.put("/deleted", data)
    user.post("/files/delete", path="/deleted")
    assert user.missing([digest(data)]) == []
    [result] = user.commit(entry("/again", data))
    assert result["metadata"]["version"] == 1


def test_anothers_upload_is_not_found_whatever_is_asked_of_it(user: User, stranger: User, owned: Upload) -> None:
    with user.unchanged(), stranger.unchanged():
        for address in (owned.address, "/uploads/" + "0" * 32):
            foreign = Upload(stranger, address)
            head = foreign.head()
            assert (head.status, head.headers.get("Upload-Offset")) == (404, None)
            check_refused(foreign.patch(0, b"foreign"), 404, "not_found")
            check_refused(foreign.cancel(), 404, "not_found")
    assert owned.offset == 0


def test_an_upload_does_not_read_what_only_another_has(stranger: User, user: User) -> None:
    """A streamed upload names no hashes: what arrives is hashed here, so nothing can be claimed without its bytes."""
    with user.unchanged():
        stranger.put("/copy", SECRET)
    assert stranger.content("/copy") == SECRET
    stranger.post("/files/delete", path="/copy")


def test_a_foreign_cursor_tells_nothing_of_the_other_tree(user: User, stranger: User) -> None:
    """Whoever had a tree mounted and has it no longer is told so; the same of a tree that there never was."""
    theirs = user.get("/changes")["changes"][0]["namespace_id"]
    own = stranger.get("/changes")["changes"][0]["namespace_id"]
    told = {}
    for namespace_id in (theirs, 10**12):
        cursor = forge([1, {namespace_id: [1, 0]}])
        changes = stranger.get("/changes", cursor=cursor)["changes"]
        [told[namespace_id]] = [change for change in changes if change["namespace_id"] != own]
        assert told[namespace_id].pop("namespace_id") == namespace_id
    assert told[theirs] == told[10**12]
    page = stranger.get("/changes", cursor=user.get("/changes")["cursor"])
    assert not any("private" in (change["path"] or "") for change in page["changes"])


def test_ordinary_users_do_not_administer(user: User) -> None:
    for method, path, document in (
        ("GET", "/admin/users", None),
        ("GET", "/admin/status", None),
        ("POST", "/admin/users", {"email": "made@example.org", "password": "long enough"}),
        ("POST", "/admin/jobs/collect", {}),
    ):
        check_refused(user.call(method, path, document=document), 403, "not_allowed")


def test_a_revoked_device_loses_an_upload_in_its_middle(user: User) -> None:
    """The token is checked at each request; what had arrived stays for the user's other devices."""
    device = user.new_device("about to be signed out")
    data = secrets.token_bytes(BLOCK_BYTES + 1000)
    upload = Upload.begin(device, "/from-a-lost-device", len(data))
    upload.send(0, data[:1000])
    device.call("POST", "/auth/logout")
    check_refused(upload.patch(1000, data[1000:]), 401, "not_logged_in")
    Upload(user, upload.address).send(1000, data[1000:])
    assert hashlib.sha256(user.content("/from-a-lost-device")).digest() == hashlib.sha256(data).digest()


def test_a_token_in_the_address_is_no_token(user: User) -> None:
    token, user.session.token = user.session.token, None
    try:
        with user.line() as line:
            answer = line.ask("GET", target("/auth/whoami", token=token, access_token=token))
            check_refused(answer, 401, "not_logged_in")
    finally:
        user.session.token = token
