"""Paths and names that cannot be, or are of another kind than the call needs; and the shapes no tree may take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, as_json, check_refused, digest, entry
from tests.kit.cluster import Answer
from tests.kit.tus import create

PLAIN = b"plain"


def get(path: str) -> Callable[[User, str], Answer]:
    return lambda user, bad: user.call("GET", path, query={"path": bad})


def post(path: str, field: str = "path", **more: object) -> Callable[[User, str], Answer]:
    return lambda user, bad: user.call("POST", path, document={field: bad, **more})


def in_entry(path: str) -> Callable[[User, str], Answer]:
    """A call whose one entry is refused inside a 200: its error as if it had been the answer."""

    def call(user: User, bad: str) -> Answer:
        answer = user.call("POST", path, document={"entries": [entry(bad, PLAIN)]})
        assert answer.status in (200, 400), answer
        if answer.status == 400:
            return answer
        [result] = answer.document["results"]
        assert result["error"]["request_id"] == answer.headers["X-Request-ID"]
        return Answer(400, answer.headers, as_json({"error": result["error"]}))

    return call


TAKES_A_PATH: dict[str, Callable[[User, str], Answer]] = {
    "metadata": get("/files/metadata"),
    "list_folder": get("/files/list_folder"),
    "list_revisions": get("/files/list_revisions"),
    "recipe": get("/files/blocks"),
    "download": get("/files/download"),
    "get block": get(f"/blocks/{digest(PLAIN)}"),
    "simple upload": lambda user, bad: user.session.put(bad, PLAIN),
    "large simple upload": lambda user, bad: user.session.put(bad, bytes(BLOCK_BYTES + 1)),
    "resumable upload": post("/files/upload", size=5),
    "tus creation": create,
    "put block": lambda user, bad: user.call("PUT", f"/blocks/{digest(PLAIN)}", query={"path": bad}, body=PLAIN),
    "batch": lambda user, bad: user.call("POST", "/blocks/batch", query={"path": bad}, body=b"x" * 40),
    "missing": post("/blocks/missing", hashes=[]),
    "announce": in_entry("/files/announce"),
    "commit": in_entry("/files/commit"),
    "create_folder": post("/files/create_folder", parents=True),
    "move from": post("/files/move", "from_path", to_path="/elsewhere"),
    "move to": post("/files/move", "to_path", from_path="/stays"),
    "copy from": post("/files/copy", "from_path", to_path="/elsewhere"),
    "copy to": post("/files/copy", "to_path", from_path="/stays"),
    "delete": post("/files/delete"),
    "restore": post("/files/restore"),
}
BAD_PATHS = {
    "relative": "stays",
    "dot dot": "/a/../stays",
    "only dot dot": "/..",
    "dot": "/./stays",
    "empty part": "//stays",
    "NUL": "/a\0b",
    "256 bytes": "/" + "x" * 256,
    "256 bytes in 128 characters": "/" + "é" * 128,
    "257 folders deep": "/d" * 257,
    "longer than 16 KiB": "/" + "/".join(["y" * 255] * 65),
}


@pytest.fixture(scope="module", autouse=True)
def something_there(user: User) -> None:
    user.put("/stays", b"stays")
    user.post("/files/create_folder", path="/folder/below", parents=True)
    user.put("/folder/below/file", b"x")


@pytest.mark.parametrize("bad", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_an_unusable_path_is_refused_by_every_call_that_takes_one(user: User, bad: str) -> None:
    with user.unchanged():
        for name, call in TAKES_A_PATH.items():
            if name == "tus creation" and not bad.startswith("/"):
                continue  # what tus clients send is the name of a file
            answer = call(user, bad)
            # What is longer than any path the type itself refuses.
            code = "bad_request" if len(bad) > 16 * 1024 and answer.error_code == "bad_request" else "bad_path"
            assert check_refused(answer, 400, code), name


def test_a_path_that_is_not_utf8_is_refused_by_every_call_that_takes_one(user: User) -> None:
    lone = "/lone-\ud800-surrogate"
    with user.unchanged(), user.line() as line:
        for path in ("/files/metadata", "/files/list_folder", "/files/download", f"/blocks/{digest(PLAIN)}"):
            check_refused(line.ask("GET", f"{BASE}{path}?path=/caf%E9"), 400, "bad_request")
            check_refused(line.ask("GET", f"{BASE}{path}?path=/%ED%A0%80"), 400, "bad_request")
            check_refused(line.ask("GET", f"{BASE}{path}?path=/a%00b"), 400, "bad_path")
        for call in ("/files/upload?uploadType=simple&path=/caf%E9", "/blocks/batch?path=/caf%E9"):
            check_refused(line.ask("POST", BASE + call, body=PLAIN), 400, "bad_request")
        for name in ("announce", "commit", "create_folder", "move from", "copy to", "delete", "resumable upload"):
            assert TAKES_A_PATH[name](user, lone).status == 400, name
            check_refused(TAKES_A_PATH[name](user, lone), 400, "bad_request")
        check_refused(create(user, b"/caf\xe9"), 400, "bad_request")


def test_what_is_not_there_is_not_found_whatever_is_asked_of_it(user: User) -> None:
    for path in ("/unknown", "/unknown/below", "/folder/unknown"):
        with user.unchanged():
            for name in (
                *("metadata", "list_folder", "list_revisions", "recipe", "download"),
                *("move from", "copy from", "delete", "restore"),
            ):
                assert check_refused(TAKES_A_PATH[name](user, path), 404, "not_found"), name
    with user.unchanged():
        check_refused(post("/files/create_folder")(user, "/unknown/below"), 404, "not_found")
        for call in ("/files/move", "/files/copy"):
            document = {"from_path": "/stays", "to_path": "/unknown/stays"}
            check_refused(user.call("POST", call, document=document), 404, "not_found")


def test_a_file_is_no_folder(user: User) -> None:
    below = "/stays/below"
    with user.unchanged():
        check_refused(get("/files/list_folder")(user, "/stays"), 409, "not_a_folder")
        for name in ("metadata", "list_folder", "download", "simple upload", "resumable upload", "tus creation"):
            assert check_refused(TAKES_A_PATH[name](user, below), 409, "not_a_folder"), name
        for name in ("large simple upload", "create_folder", "delete", "copy from", "move from"):
            assert check_refused(TAKES_A_PATH[name](user, below), 409, "not_a_folder"), name
        for call in ("/files/move", "/files/copy"):
            document = {"from_path": "/folder", "to_path": below}
            check_refused(user.call("POST", call, document=document), 409, "not_a_folder")
        user.put_block(PLAIN)
        for call in ("/files/announce", "/files/commit"):
            [result] = user.post(call, entries=[entry(below, PLAIN)])["results"]
            assert result["error"]["code"] == "not_a_folder"


def test_a_folder_is_no_file(user: User) -> None:
    with user.unchanged():
        for name in ("list_revisions", "recipe", "download"):
            assert check_refused(TAKES_A_PATH[name](user, "/folder"), 409, "is_a_folder"), name
        for name in ("simple upload", "large simple upload", "resumable upload", "tus creation"):
            for path in ("/folder", "/"):
                assert check_refused(TAKES_A_PATH[name](user, path), 409, "is_a_folder"), name
        user.put_block(PLAIN)
        for call in ("/files/announce", "/files/commit"):
            [result] = user.post(call, entries=[entry("/folder", PLAIN)])["results"]
            assert result["error"]["code"] == "is_a_folder"
        restore = user.call("POST", "/files/restore", document={"path": "/folder", "version": 1})
        check_refused(restore, 409, "is_a_folder")


def test_the_root_is_neither_moved_nor_deleted_nor_made(user: User) -> None:
    with user.unchanged():
        check_refused(post("/files/delete")(user, "/"), 403, "not_allowed")
        check_refused(post("/files/restore")(user, "/"), 403, "not_allowed")
        check_refused(
            user.call("POST", "/files/move", document={"from_path": "/", "to_path": "/x"}), 403, "not_allowed"
        )
        check_refused(
            user.call("POST", "/files/copy", document={"from_path": "/", "to_path": "/x"}), 403, "not_allowed"
        )
        check_refused(post("/files/create_folder")(user, "/"), 409, "name_taken")
        for call in ("/files/move", "/files/copy"):
            document = {"from_path": "/stays", "to_path": "/", "replace": True}
            check_refused(user.call("POST", call, document=document), 409, "name_taken")


def test_a_folder_does_not_go_into_itself(user: User) -> None:
    with user.unchanged():
        for call in ("/files/move", "/files/copy"):
            for to in ("/folder/inside", "/folder/below/inside", "/FOLDER/below/inside"):
                document = {"from_path": "/folder", "to_path": to}
                check_refused(user.call("POST", call, document=document), 409, "move_into_itself")


@pytest.mark.parametrize(
    ("first", "second"),
    [("é", "e\u0301"), ("name", "NAME"), ("straße", "STRASSE"), ("Å", "\u212b"), ("ﬁ", "FI"), ("Ǆ", "ǆ")],
)
def test_names_equal_after_normalisation_are_one_name(user: User, first: str, second: str) -> None:
    user.put(f"/same/{first}", b"first")
    path = f"/same/{second}"
    with user.unchanged():
        error = check_refused(user.session.put(path, b"second"), 409, "version_conflict")
        assert error["current_version"] == 1
        check_refused(user.session.put(path, bytes(BLOCK_BYTES + 1)), 409, "version_conflict")
        check_refused(create(user, path), 409, "version_conflict")
        for parents in (False, True):
            document = {"path": path, "parents": parents}
            check_refused(user.call("POST", "/files/create_folder", document=document), 409, "name_taken")
        for call in ("/files/move", "/files/copy"):
            document = {"from_path": "/stays", "to_path": path}
            check_refused(user.call("POST", call, document=document), 409, "name_taken")
        user.put_block(b"second")
        [result] = user.commit(entry(path, b"second"))
        assert result["error"]["code"] == "version_conflict"
        assert user.content(path) == b"first"
        assert user.metadata(path)["path"] == f"/same/{first}"
    user.post("/files/delete", path=path)


def test_two_entries_of_one_commit_with_the_same_name_are_not_both_written(user: User) -> None:
    user.put_block(b"one")
    user.put_block(b"two")
    first, second = user.commit(entry("/twice", b"one"), entry("/TWICE", b"two"))
    assert first["metadata"]["version"] == 1
    assert second["error"]["code"] == "version_conflict"
    assert user.content("/twice") == b"one"
