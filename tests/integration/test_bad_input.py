"""What clients send by mistake or on purpose: each refusal has its code and sentence, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User, as_json, check_refused, cut, digest, entry, forge, target
from tests.kit.tus import OCTETS, create

JSON = {"Content-Type": "application/json"}
PLAIN = b"plain"
SIZE_BYTES_MAX = 1 << 44


@pytest.fixture(scope="module", autouse=True)
def something_there(user: User) -> None:
    user.put("/stays", b"stays")


HUGE = [-1, SIZE_BYTES_MAX + 1, 1 << 63, 1 << 64, 10**30]


@pytest.mark.parametrize("size", HUGE)
def test_a_negative_or_huge_size_is_refused(user: User, size: int) -> None:
    with user.unchanged():
        check_refused(user.call("POST", "/files/upload", document={"path": "/size", "size": size}), 400, "bad_request")
        for call in ("/files/announce", "/files/commit"):
            document = {"entries": [{"path": "/size", "size": size, "blocks": []}]}
            check_refused(user.call("POST", call, document=document), 400, "bad_request")
        tus = create(user, "/size", size)
        assert (tus.status, tus.error_code) in [(400, "bad_request"), (413, "too_large")]
        check_refused(tus, tus.status, tus.error_code)


def test_a_number_that_is_none_is_refused(user: User) -> None:
    with user.unchanged():
        no_numbers: list[object] = [1.5, "5", True, [], {}, "Infinity"]
        for size in no_numbers:
            check_refused(
                user.call("POST", "/files/upload", document={"path": "/size", "size": size}), 400, "bad_request"
            )
        for length in ("", " ", "1e3", "0x10", "+5", "5 5", "\xb2"):
            check_refused(create(user, "/size", Upload_Length=length), 400, "bad_request")
        for base in ("-1", "x", "", "1.0", "9" * 30, str(1 << 31)):
            query = {"uploadType": "simple", "path": "/size", "base_version": base}
            check_refused(user.call("POST", "/files/upload", query=query, body=PLAIN), 400, "bad_request")
        for version in ("0", "-1", "x", "9" * 30, str(1 << 31)):
            answer = user.call("GET", "/files/download", query={"path": "/stays", "version": version})
            check_refused(answer, 400, "bad_request")
        for limit in ("0", "-1", "2001", "many"):
            check_refused(user.call("GET", "/files/list_folder", query={"limit": limit}), 400, "bad_request")
        for before in ("0", str(1 << 31)):
            answer = user.call("GET", "/files/list_revisions", query={"path": "/stays", "before": before})
            check_refused(answer, 400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b"[]",
        b"null",
        b'"/path"',
        b'{"path": "/x"',
        b'{"path": "/x"}}',
        b'{"path": 7}',
        b'{"path": null}',
        b'{"path": ""}',
        b"{}",
        b'{"path": "/x", "surprise": 1}',
        b'\xff\xfe{"path": "/x"}',
        b'{"path": "/caf\xe9"}',
        b'{"path": "/\\ud800"}',
        b'{"path": "/\\udc00\\ud800"}',
        b"[" * 100_000,
        b'{"path": "/x", "parents": "yes"}',
    ],
)
def test_a_body_that_is_not_what_the_call_takes_is_refused(user: User, body: bytes) -> None:
    with user.unchanged():
        for call in ("create_folder", "delete", "restore", "move", "commit", "announce"):
            check_refused(user.call("POST", f"/files/{call}", body=body, headers=JSON), 400, "bad_request")
        check_refused(user.call("POST", "/blocks/missing", body=body, headers=JSON), 400, "bad_request")
        check_refused(user.call("POST", "/files/upload", body=body, headers=JSON), 400, "bad_request")


def test_a_body_of_another_media_type_is_refused(user: User) -> None:
    with user.unchanged():
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            headers = {"Content-Type": media}
            body = as_json({"path": "/made"})
            check_refused(
                user.call("POST", "/files/create_folder", body=body, headers=headers), 415, "unsupported_media"
            )


def test_too_much_json_is_refused(user: User) -> None:
    with user.unchanged():
        body = as_json({"path": "/made", "padding": "x" * 2_000_000})
        check_refused(user.call("POST", "/files/create_folder", body=body, headers=JSON), 413, "too_large")
        check_refused(user.call("POST", "/files/upload", body=body, headers=JSON), 413, "too_large")


def test_more_entries_or_hashes_than_a_call_takes_are_refused(user: User) -> None:
    hashes = [f"{number:064x}" for number in range(10_001)]
    assert user.missing(hashes[:-1]) == hashes[:-1]
    with user.unchanged():
        document = {"path": "/x", "hashes": hashes}
        check_refused(user.call("POST", "/blocks/missing", document=document), 400, "bad_request")
        for call in ("/files/announce", "/files/commit"):
            many = [entry(f"/many-{number}", b"") for number in range(1001)]
            check_refused(user.call("POST", call, document={"entries": many}), 400, "bad_request")
            check_refused(user.call("POST", call, document={"entries": []}), 400, "bad_request")


@pytest.mark.parametrize("bad", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "0" * 63 + "\n", "٠" * 64])
def test_a_hash_that_is_none_is_refused(user: User, bad: str) -> None:
    with user.unchanged():
        document = {"path": "/x", "hashes": [bad]}
        check_refused(user.call("POST", "/blocks/missing", document=document), 400, "bad_request")
        for call in ("/files/announce", "/files/commit"):
            entries = [{"path": "/x", "size": 5, "blocks": [bad]}]
            check_refused(user.call("POST", call, document={"entries": entries}), 400, "bad_request")
        if bad:
            for method, body in (("PUT", PLAIN), ("GET", None)):
                answer = user.call(method, f"/blocks/{bad}", query={"path": "/x"}, body=body)
                check_refused(answer, 400, "bad_request")


def test_blocks_that_do_not_fit_the_size_are_refused_and_the_others_written(user: User) -> None:
    for plain in (PLAIN, b"good"):
        user.put_block(plain)
    wrong = [
        {"path": "/wrong-1", "size": 5, "blocks": []},
        {"path": "/wrong-2", "size": 0, "blocks": [digest(PLAIN)]},
        {"path": "/wrong-3", "size": 6, "blocks": [digest(PLAIN)]},
        {"path": "/wrong-4", "size": 4, "blocks": [digest(PLAIN)]},
        {"path": "/wrong-5", "size": BLOCK_BYTES + 5, "blocks": [digest(PLAIN), digest(PLAIN)]},
    ]
    before = user.state()
    *refused, good = user.commit(*wrong, entry("/fitting", b"good"))
    for result in refused:
        assert result["error"]["code"] in ("size_mismatch", "bad_request")
        assert "metadata" not in result or result["metadata"] is None
    assert good["metadata"]["path"] == "/fitting"
    after = user.state()
    assert set(after.entries) - set(before.entries) == {"/fitting 1 complete"}
    assert after.used == before.used + 4


def test_a_commit_of_blocks_that_have_not_arrived_names_them(user: User) -> None:
    data = bytes(BLOCK_BYTES) + b"tail that nobody sent"
    user.put_block(bytes(BLOCK_BYTES))
    with user.unchanged():
        [result] = user.commit(entry("/incomplete", data))
        assert result["error"]["code"] == "blocks_missing"
        assert result["error"]["missing"] == [digest(cut(data)[1])]


CURSORS = ["x", "", "AAAA", "é", "\0", "A" * 5000, "../..", "null", "0"]


def test_a_cursor_from_nowhere_is_refused(user: User) -> None:
    forged = [
        forge(value) for value in (None, [], [1], [1, {1: []}], [2, {}], [1, {1: [0, 0]}], [1, {1: [1, -1]}], "x")
    ]
    for cursor in [*CURSORS, *forged]:
        for call in ("/changes", "/changes/longpoll"):
            if cursor or call == "/changes/longpoll":
                check_refused(user.call("GET", call, query={"cursor": cursor}), 400, "bad_cursor")


def test_a_cursor_with_impossible_numbers_is_no_failure_of_the_service(user: User) -> None:
    space = next(iter(user.get("/changes")["changes"]))["namespace_id"]
    for place in ([1, 2**63], [2**31, 1], [2**63, 2**63], [1, 2**64 - 1], [1, 0, 2**63], [1, 2**63 - 1]):
        for namespace in (space, 2**63, 2**63 - 1, 10**9):
            for call in ("/changes", "/changes/longpoll"):
                answer = user.call("GET", call, query={"cursor": forge([1, {namespace: place}])})
                assert answer.status in (200, 400), (place, namespace, answer)


def test_a_page_from_nowhere_is_refused(user: User) -> None:
    values: list[object] = [7, None, {}, "a\0b", ["a\0b"], [1], ["a", "b\0"], [2**63, 2**63], 2**64 - 1]
    forged = [forge(value) for value in values]
    for page in [*filter(None, CURSORS), *forged]:
        for call, more in (
            ("/files/list_folder", {}),
            ("/files/list_folder", {"recursive": "true"}),
            ("/files/trash", {}),
        ):
            answer = user.call("GET", call, query={"page": page, **more})
            assert answer.status in (200, 400), (call, more, page, answer)
            if answer.status == 400:
                check_refused(answer, 400, "bad_request")


def test_nul_where_text_is_taken_is_no_failure_of_the_service(user: User) -> None:
    with user.unchanged():
        document = {"entries": [entry("/nul", PLAIN)], "request_key": "a\0b"}
        check_refused(user.call("POST", "/files/commit", document=document), 400, "bad_request")
        with user.line() as line:
            for address in ("uploads/%00", "uploads/a%00b", "blocks/%00?path=/x", "devices/%00"):
                answer = line.ask(
                    "GET" if address.startswith("blocks") else "DELETE", f"{BASE}/{address}", {"Tus-Resumable": "1.0.0"}
                )
                assert answer.status in (400, 404), (address, answer)


def test_times_that_are_none_are_refused(user: User) -> None:
    with user.unchanged():
        for bad in ("yesterday", "", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "1e9"):
            check_refused(
                user.call("POST", "/files/upload", document={"path": "/time", "size": 5, "mtime": bad}),
                400,
                "bad_request",
            )
            query = {"uploadType": "simple", "path": "/time", "mtime": bad}
            check_refused(user.call("POST", "/files/upload", query=query, body=PLAIN), 400, "bad_request")
            document = {"entries": [entry("/time", PLAIN, mtime=bad)]}
            check_refused(user.call("POST", "/files/commit", document=document), 400, "bad_request")


@pytest.mark.parametrize("extreme", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_the_first_and_last_times_are_kept_or_refused(user: User, extreme: str) -> None:
    query = {"uploadType": "simple", "path": f"/extreme-{extreme[:4]}-{extreme[-1:]}", "mtime": extreme}
    answer = user.call("POST", "/files/upload", query=query, body=PLAIN)
    assert answer.status in (200, 400), answer
    if answer.status == 200:
        assert user.get("/files/list_folder", path="/")["entries"]
        assert user.metadata(str(query["path"]))["client_modified_at"]


def test_an_unknown_version_is_neither_read_nor_restored(user: User) -> None:
    with user.unchanged():
        for version in (2, 99, (1 << 31) - 1):
            for call in ("/files/download", "/files/blocks"):
                check_refused(user.call("GET", call, query={"path": "/stays", "version": version}), 404, "not_found")
            document = {"path": "/stays", "version": version}
            check_refused(user.call("POST", "/files/restore", document=document), 404, "not_found")
        for version in (-1, 1 << 31):
            document = {"path": "/stays", "version": version}
            check_refused(user.call("POST", "/files/restore", document=document), 400, "bad_request")
        check_refused(user.call("POST", "/files/restore", document={"path": "/stays", "version": 0}), 404, "not_found")
        check_refused(user.call("POST", "/files/restore", document={"path": "/stays"}), 404, "not_found")


def test_an_unknown_mass_delete_is_not_undone(user: User) -> None:
    with user.unchanged():
        for number in (1, (1 << 63) - 1):
            check_refused(user.call("POST", "/files/undelete", document={"id": number}), 404, "not_found")
        for wrong in (0, -1, 1 << 63, "1", None):
            check_refused(user.call("POST", "/files/undelete", document={"id": wrong}), 400, "bad_request")


def test_a_wrong_base_version_overwrites_nothing(user: User) -> None:
    user.put_block(b"new")
    with user.unchanged():
        for base in (None, 0, 2, 7):
            error = check_refused(user.session.put("/stays", b"new", base_version=base), 409, "version_conflict")
            assert error["current_version"] == 1
            [result] = user.commit(entry("/stays", b"new", base_version=base))
            assert (result["error"]["code"], result["error"]["current_version"]) == ("version_conflict", 1)
        for base in (1, 3):
            error = check_refused(user.session.put("/not-there", b"new", base_version=base), 409, "version_conflict")
            assert error["current_version"] is None
        for call in ("/files/move", "/files/copy"):
            document = {"from_path": "/stays", "to_path": "/gone", "base_version": 2}
            check_refused(user.call("POST", call, document=document), 409, "version_conflict")
        document = {"path": "/stays", "base_version": 2}
        check_refused(user.call("POST", "/files/delete", document=document), 409, "version_conflict")


def test_an_unknown_address_or_method_is_told_as_json(user: User) -> None:
    for address in ("/nothing", "/files", "/files/", "/files/metadata/", "/uploads/", "/../../etc/passwd"):
        with user.line() as line:
            check_refused(line.ask("GET", BASE + address), 404, "not_found")
    for method in ("DELETE", "PUT", "PATCH"):
        answer = user.call(method, "/files/metadata", query={"path": "/stays"})
        check_refused(answer, 405, "method_not_allowed")
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "override", ["PREPARE", "FINISH", "GET_STATUS", "__INIT__", "BEGIN", "", "CLEAR", "patch me", "PUT"]
)
def test_an_overriding_method_is_one_of_http_or_refused(user: User, override: str) -> None:
    with user.unchanged():
        headers = {"X-HTTP-Method-Override": override, "Tus-Resumable": "1.0.0"}
        for address in ("/uploads", f"/uploads/{'0' * 32}"):
            answer = user.call("POST", address, headers=headers)
            assert answer.status in (400, 404, 405), (override, answer)
            check_refused(answer, answer.status, answer.error_code)


def test_an_argument_given_twice_is_refused(user: User) -> None:
    with user.unchanged(), user.line() as line:
        answer = line.ask("POST", target("/files/upload") + "?uploadType=simple&path=/a&path=/b", body=PLAIN)
        check_refused(answer, 400, "bad_request")


def test_arguments_that_mean_nothing_are_refused(user: User) -> None:
    with user.unchanged():
        query = {"uploadType": "multipart", "path": "/x"}
        check_refused(user.call("POST", "/files/upload", query=query, body=PLAIN), 400, "bad_request")
        check_refused(
            user.call("POST", "/files/upload", query={"uploadType": "simple"}, body=PLAIN), 400, "bad_request"
        )
        query = {"uploadType": "simple", "path": "/x", "executable": "maybe"}
        check_refused(user.call("POST", "/files/upload", query=query, body=PLAIN), 400, "bad_request")


@dataclass(frozen=True)
class Token:
    kind: str
    header: str | None


def bad_tokens(user: User) -> Iterator[Token]:
    good = user.session.token or ""
    yield Token("none", None)
    yield Token("empty", "Bearer ")
    yield Token("unknown", "Bearer " + "A" * len(good))
    yield Token("cut", f"Bearer {good[:-1]}")
    yield Token("longer", f"Bearer {good}A")
    yield Token("endless", "Bearer " + "A" * 10_000)
    yield Token("another scheme", f"Basic {good}")
    yield Token("not ASCII", "Bearer \xe9\xff")
    revoked = user.new_device("signed out")
    revoked.call("POST", "/auth/logout")
    yield Token("signed out", f"Bearer {revoked.session.token}")


def test_without_a_good_token_nothing_is_answered_and_nothing_taken(user: User) -> None:
    upload = user.call("POST", "/files/upload", document={"path": "/token-upload", "size": 5})
    address = upload.headers["Location"].partition(BASE)[2]
    with user.unchanged():
        for token in bad_tokens(user):
            headers = {} if token.header is None else {"Authorization": token.header}
            line = user.line()
            user_token, user.session.token = user.session.token, None
            try:
                with line:
                    for method, path, body in (
                        ("GET", "/files/metadata?path=/stays", b""),
                        ("GET", "/files/download?path=/stays", b""),
                        ("GET", f"/blocks/{digest(b'stays')}?path=/stays", b""),
                        ("GET", "/changes", b""),
                        ("PUT", f"/blocks/{digest(PLAIN)}?path=/x", PLAIN),
                        ("POST", "/files/upload?uploadType=simple&path=/made", PLAIN),
                        ("POST", "/files/delete", as_json({"path": "/stays"})),
                        ("POST", "/files/upload", as_json({"path": "/made", "size": 5})),
                        ("HEAD", address, b""),
                        ("PATCH", address, PLAIN),
                        ("DELETE", address, b""),
                    ):
                        sent = headers | (OCTETS | {"Upload-Offset": "0"} if path == address else {})
                        answer = line.ask(method, BASE + path, sent, body)
                        assert answer.status == 401, (token.kind, method, path, answer)
                        if method != "HEAD":
                            check_refused(answer, 401, "not_logged_in")
            finally:
                user.session.token = user_token
