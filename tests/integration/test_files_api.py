"""The tree over HTTP: what each call answers, and that every worker and device sees the same right away."""

from __future__ import annotations

import hashlib
import random
import secrets
import threading
from datetime import datetime

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, as_json, check_refused, cut, digest, entry, target

METADATA = {
    *("id", "path", "kind", "version", "size", "content_hash", "modified_at", "client_modified_at", "modified_by"),
    *("state", "executable", "parent_id"),
}
AWKWARD = [
    *(" leading", "trailing ", "dot.", "...", "-rf", "~", "$HOME", "`id`", "a\\b", "a:b", "CON", "nul.txt", "*?<>|"),
    *("tab\there", "line\nbreak", "\x01\x1f\x7f", "%2e%2e", "%00", "+&=#;", "'\"", "ÄÖÜß", "e\u0301", "字" * 85),
    *("\u202eevil", "\u200b", "👩‍👩‍👧‍👦", "\U0001f4a9", "ﷺ", "İi̇", "ǰ", "\ufeffbom", "\ufffd", "x" * 255),
]


def content_hash(data: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(plain).digest() for plain in cut(data))).hexdigest()


def names_in(user: User, path: str) -> list[str]:
    return [one["path"].rpartition("/")[2] for one in user.get("/files/list_folder", path=path)["entries"]]


def test_a_file_is_described_in_full(user: User) -> None:
    data = random.Random("described").randbytes(BLOCK_BYTES + 7)
    query = {"uploadType": "simple", "path": "/made/on/the/way.bin", "mtime": "2019-05-06T07:08:09.5+02:00"}
    answer = user.call("POST", "/files/upload", query=query | {"executable": "true"}, body=data)
    assert answer.status == 200
    made = answer.document
    assert set(made) == METADATA
    assert made["path"] == "/made/on/the/way.bin"
    assert (made["kind"], made["version"], made["size"], made["state"]) == ("file", 1, len(data), "complete")
    assert made["content_hash"] == content_hash(data)
    assert (made["executable"], made["modified_by"]) == (True, user.email)
    assert datetime.fromisoformat(made["client_modified_at"]).timestamp() == 1557119289.5
    assert user.metadata("/made/on/the/way.bin") == made
    folder = user.metadata("/made/on")
    assert (folder["kind"], folder["version"], folder["size"], folder["content_hash"]) == ("folder", 0, 0, None)
    root = user.metadata("/")
    assert (root["kind"], root["path"]) == ("folder", "/")


def test_awkward_names_are_kept_to_the_byte(user: User) -> None:
    for name in AWKWARD:
        made = user.put(f"/awkward/{name}", name.encode())
        assert made["path"] == f"/awkward/{name}"
    listed = user.get("/files/list_folder", path="/awkward")["entries"]
    assert {one["path"] for one in listed} == {f"/awkward/{name}" for name in AWKWARD}
    below = user.get("/files/list_folder", path="/", recursive="true")["entries"]
    assert {f"/awkward/{name}" for name in AWKWARD} <= {one["path"] for one in below}
    told = {change["path"] for change in _all_changes(user)}
    for name in AWKWARD:
        path = f"/awkward/{name}"
        assert path in told
        assert user.content(path) == name.encode()
        user.post("/files/move", from_path=path, to_path=f"/awkward/{name[:60]}-2")
        user.post("/files/copy", from_path=f"/awkward/{name[:60]}-2", to_path=path)
        assert user.content(path) == name.encode()


def _all_changes(user: User) -> list[dict[str, object]]:
    found, cursor, more = [], "", True
    while more:
        page = user.get("/changes", **({"cursor": cursor} if cursor else {}))
        found += page["changes"]
        cursor, more = page["cursor"], page["has_more"]
    return found


def test_a_tree_as_deep_as_it_may_be_is_made_read_and_removed(user: User) -> None:
    path = "/deep" + "/d" * 254
    user.put(f"{path}/f", b"deep")
    assert user.content(f"{path}/f") == b"deep"
    assert len(user.get("/files/list_folder", path="/deep", recursive="true")["entries"]) == 255
    with user.unchanged():
        document = {"from_path": "/deep", "to_path": "/deep/d/inside"}
        check_refused(user.call("POST", "/files/move", document=document), 409, "move_into_itself")
    user.post("/files/delete", path="/deep")
    user.post("/files/restore", path="/deep")
    assert user.content(f"{path}/f") == b"deep"


def test_a_listing_comes_in_pages_without_a_gap_though_names_come_and_go(user: User) -> None:
    names = [f"{number:03}" for number in range(25)]
    user.commit(*[entry(f"/paged/{name}", b"") for name in names])
    seen: list[str] = []
    page: dict[str, object] = {}
    while True:
        answer = user.get("/files/list_folder", path="/paged", limit=4, **page)
        assert len(answer["entries"]) <= 4
        seen += [one["path"][7:] for one in answer["entries"]]
        if len(seen) == 8:
            user.post("/files/delete", path="/paged/001")  # behind the page
            user.post("/files/delete", path="/paged/020")  # before it
            user.put("/paged/0105", b"")
        if answer.get("next_page") is None:
            break
        page = {"page": answer["next_page"]}
    assert seen == sorted([*(name for name in names if name != "020"), "0105"])


def test_a_folder_that_is_full_to_the_page_has_no_empty_page_after_it(user: User) -> None:
    user.commit(*[entry(f"/exact/{number}", b"") for number in range(6)])
    first = user.get("/files/list_folder", path="/exact", limit=3)
    second = user.get("/files/list_folder", path="/exact", limit=3, page=first["next_page"])
    assert [len(first["entries"]), len(second["entries"])] == [3, 3]
    assert second.get("next_page") is None


def test_versions_are_listed_newest_first_in_pages(user: User) -> None:
    for number in range(5):
        user.put("/versioned", b"%d" % number, base_version=number)
    versions = user.get("/files/list_revisions", path="/versioned")["versions"]
    assert [one["version"] for one in versions] == [5, 4, 3, 2, 1]
    assert [one["content_hash"] for one in versions] == [content_hash(b"%d" % number) for number in (4, 3, 2, 1, 0)]
    assert {one["modified_by"] for one in versions} == {user.email}
    page = user.get("/files/list_revisions", path="/versioned", limit=2, before=4)["versions"]
    assert [one["version"] for one in page] == [3, 2]


def test_a_version_that_is_restored_is_a_new_one_on_top(user: User) -> None:
    for number, content in enumerate((b"first", b"second and longer")):
        user.put("/restored", content, base_version=number)
    used = user.usage()[0]
    made = user.post("/files/restore", path="/restored", version=1)
    assert (made["version"], made["size"]) == (3, 5)
    assert user.content("/restored") == b"first"
    assert user.content("/restored", version=2) == b"second and longer"
    assert user.usage()[0] == used - 12
    again = user.post("/files/restore", path="/restored", version=3)
    assert again["version"] == 3  # it is so already


def test_the_trash_lists_what_was_deleted_and_gives_it_back(user: User) -> None:
    made = user.put("/trashed/file", b"kept")
    assert user.post("/files/delete", path="/trashed/file")["deleted"] == 1
    [row] = [row for row in user.get("/files/trash")["entries"] if row["path"] == "/trashed/file"]
    assert (row["id"], row["size"], row["version"], row["deleted_by"]) == (made["id"], 4, 1, user.email)
    back = user.post("/files/restore", path="/trashed/file")
    assert back["id"] == made["id"]
    assert user.content("/trashed/file") == b"kept"
    assert "/trashed/file" not in {row["path"] for row in user.get("/files/trash")["entries"]}


def test_a_file_put_where_a_deleted_one_was_goes_on_with_its_history(user: User) -> None:
    first = user.put("/again", b"one")
    user.post("/files/delete", path="/again")
    second = user.put("/again", b"two")
    assert (second["id"], second["version"]) == (first["id"], 2)
    assert user.content("/again", version=1) == b"one"


def test_a_move_keeps_the_file_and_sends_nothing(user: User) -> None:
    made = user.put("/from/file", b"moved")
    user.post("/files/create_folder", path="/to")
    moved = user.post("/files/move", from_path="/from/file", to_path="/to/renamed", base_version=1)
    assert (moved["id"], moved["version"], moved["path"]) == (made["id"], 1, "/to/renamed")
    check_refused(user.read("/from/file"), 404, "not_found")
    assert user.content("/to/renamed") == b"moved"
    folder = user.post("/files/move", from_path="/to", to_path="/elsewhere")
    assert folder["path"] == "/elsewhere"
    assert user.metadata("/elsewhere/renamed")["id"] == made["id"]


def test_replace_lets_a_file_take_anothers_place_which_goes_to_the_trash(user: User) -> None:
    user.put("/place/old", b"old")
    user.put("/place/new", b"new")
    user.post("/files/move", from_path="/place/new", to_path="/place/old", replace=True)
    assert names_in(user, "/place") == ["old"]
    assert user.content("/place/old") == b"new"
    assert "/place/old" in {row["path"] for row in user.get("/files/trash")["entries"]}


def test_a_copy_is_a_file_of_its_own(user: User) -> None:
    made = user.put("/original", b"same")
    copied = user.post("/files/copy", from_path="/original", to_path="/copied")
    assert copied["id"] != made["id"]
    assert copied["content_hash"] == made["content_hash"]
    user.put("/copied", b"changed", base_version=1)
    assert user.content("/original") == b"same"


# --- commits ----------------------------------------------------------------------------------------------------


def test_a_repeated_request_is_carried_out_once(user: User) -> None:
    user.put_block(b"once")
    key = secrets.token_hex(8)
    [first] = user.commit(entry("/once", b"once"), request_key=key)
    [again] = user.commit(entry("/once", b"once"), request_key=key)
    assert again["metadata"] == first["metadata"]
    user.put("/once", b"somebody else's", base_version=1)
    [late] = user.commit(entry("/once", b"once"), request_key=key)
    assert late["metadata"]["version"] == 1  # it was done the first time
    assert user.content("/once") == b"somebody else's"


def test_what_is_so_already_makes_no_version(user: User) -> None:
    user.put("/same", b"same")
    for base in (0, 1, 7):
        [result] = user.commit(entry("/same", b"same", base_version=base))
        assert result["metadata"]["version"] == 1
    assert len(user.get("/files/list_revisions", path="/same")["versions"]) == 1


def test_a_file_of_one_block_again_and_again_is_sent_once(user: User) -> None:
    zeros = bytes(3 * BLOCK_BYTES)
    assert user.missing([digest(zeros[:BLOCK_BYTES])] * 3) == [digest(zeros[:BLOCK_BYTES])]
    user.put_block(zeros[:BLOCK_BYTES])
    [result] = user.commit(entry("/zeros", zeros))
    assert result["metadata"]["content_hash"] == content_hash(zeros)
    assert user.content("/zeros") == zeros
    recipe = user.get("/files/blocks", path="/zeros")
    assert recipe["blocks"] == [digest(zeros[:BLOCK_BYTES])] * 3


def test_what_is_missing_is_told_in_order_and_once(user: User) -> None:
    held = user.put_block(b"held")
    unknown = [digest(b"unknown %d" % number) for number in range(3)]
    asked = [unknown[2], held, unknown[0], unknown[2], held, unknown[1]]
    assert user.missing(asked) == [unknown[2], unknown[0], unknown[1]]
    assert user.missing([]) == []


def test_announcing_tells_what_to_send_and_again_continues(user: User) -> None:
    data = random.Random("announced").randbytes(BLOCK_BYTES + 9)
    first, second = cut(data)
    user.put_block(first)
    [told] = user.post("/files/announce", entries=[entry("/announced", data)])["results"]
    assert told["missing"] == [digest(second)]
    [again] = user.post("/files/announce", entries=[entry("/announced", data)])["results"]
    assert again["upload_id"] == told["upload_id"]
    user.put_block(second)
    [result] = user.commit(entry("/announced", data))
    assert user.content("/announced") == data
    assert result["metadata"]["state"] == "complete"
    assert user.usage()[1] == 0


def test_many_files_are_written_by_one_commit_each_with_its_own_outcome(user: User) -> None:
    contents = {f"/many/{number % 7}/{number}": b"%d" % number for number in range(1000)}
    entries = [entry(path, b"") for path in contents]
    results = user.commit(*entries)
    assert [result["metadata"]["path"] for result in results] == list(contents)
    assert len(user.get("/files/list_folder", path="/many", recursive="true", limit=2000)["entries"]) == 1007


def test_a_commit_that_depends_on_itself_is_carried_out_in_order(user: User) -> None:
    """A path named twice, and one below a path that another entry makes a file."""
    user.put_block(b"a")
    user.put_block(b"bb")
    first, second, below = user.commit(
        entry("/order", b"a"), entry("/order", b"bb", base_version=1), entry("/order/below", b"a")
    )
    assert first["metadata"]["version"] == 1
    assert second["metadata"]["version"] == 2
    assert below["error"]["code"] == "not_a_folder"


# --- together ---------------------------------------------------------------------------------------------------


def test_every_worker_sees_a_write_as_soon_as_it_is_acknowledged(user: User) -> None:
    download, metadata = target("/files/download", path="/seen"), target("/files/metadata", path="/seen")
    json, body = {"Content-Type": "application/json"}, as_json({"path": "/seen"})
    with user.line_to("worker1") as one, user.line_to("worker2") as two:
        for number in range(20):
            here, there = (one, two) if number % 2 else (two, one)
            content = b"%d" % number
            address = target("/files/upload", uploadType="simple", path="/seen", base_version=number)
            assert here.ask("POST", address, body=content).status == 200
            assert there.ask("GET", download).body == content
            assert there.ask("GET", metadata).document["version"] == number + 1
            assert there.ask("POST", target("/files/delete"), json, body).status == 200
            check_refused(here.ask("GET", download), 404, "not_found")
            assert there.ask("POST", target("/files/restore"), json, body).status == 200


@pytest.mark.parametrize("size", [10, BLOCK_BYTES + 10])
def test_of_many_writers_on_one_base_one_wins_and_the_others_are_told(user: User, size: int) -> None:
    user.put(f"/raced-{size}", b"base")
    contents = [bytes([number]) * size for number in range(8)]
    statuses: dict[int, int] = {}

    def write(number: int) -> None:
        with user.line() as line:
            address = f"{BASE}/files/upload?uploadType=simple&path=/raced-{size}&base_version=1"
            statuses[number] = line.ask("POST", address, body=contents[number]).status

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses.values()) == [200, *[409] * 7]
    [winner] = [number for number, status in statuses.items() if status == 200]
    assert user.content(f"/raced-{size}") == contents[winner]
    assert user.metadata(f"/raced-{size}")["version"] == 2
    assert user.usage()[1] == 0
