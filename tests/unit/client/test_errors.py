"""What an error becomes on the command line."""

from __future__ import annotations

import pytest

from client.errors import ExitCode, LocalMissing, Refused, error_object, exit_code_of, sentence
from coordinator.protocol.errors import ERRORS

EXPECTED = {
    3: {"not_found", "upload_gone"},
    4: {"version_conflict", "name_taken", "not_a_folder", "is_a_folder", "move_into_itself", "upload_superseded"},
    5: {"not_logged_in", "wrong_password", "not_allowed"},
    6: {"cannot_take_write", "cannot_read", "unavailable", "cluster_full", "too_many_requests"},
    2: {"bad_path"},
}


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_code_of_the_service_has_its_exit_code(code: str) -> None:
    expected = next((number for number, codes in EXPECTED.items() if code in codes), 1)
    assert exit_code_of(code, ERRORS[code].status) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [(404, 3), (401, 5), (403, 5), (429, 6), (502, 6), (503, 6), (500, 1), (418, 1)]
)
def test_an_unknown_code_is_judged_by_its_status(status: int, expected: int) -> None:
    assert Refused(status, {"code": "from_the_future", "message": "Hm."}).exit_code == expected


def test_an_answer_without_an_error_object_still_gives_a_sentence() -> None:
    refusal = Refused(502, {})
    assert refusal.exit_code is ExitCode.UNAVAILABLE
    assert refusal.message == "The service refused this (HTTP status 502)."


def test_json_brings_code_sentence_request_and_facts() -> None:
    refusal = Refused(409, {"code": "version_conflict", "message": "No.", "request_id": "r1", "current_version": 7})
    refusal.path = "/a"
    assert error_object(refusal) == {
        "code": "version_conflict", "message": "No.", "request_id": "r1", "current_version": 7, "path": "/a"
    }  # fmt: skip
    assert sentence(refusal) == "/a: No."


def test_a_name_that_is_not_utf8_does_not_make_the_error_unprintable() -> None:
    shown = error_object(LocalMissing(path="caf\udce9"))
    assert str(shown["message"]).encode("utf-8")
    assert sentence(Refused(401, {"message": "Log in."})) == "Log in."
