"""What travels between workers fits PostgreSQL's notices and loses nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.notify.notices import OUTBOX_MAX, PAYLOAD_BYTES_MAX, Notices, _Notice, encode_notices

big = st.integers(0, (1 << 63) - 1)


@given(
    st.dictionaries(big, big, max_size=700),
    st.lists(st.tuples(st.text(max_size=40), st.text(max_size=400)), max_size=60),
)
def test_every_notice_fits_and_together_they_hold_everything(
    positions: dict[int, int], messages: list[tuple[str, str]]
) -> None:
    payloads = encode_notices(list(positions.items()), messages)
    assert all(len(payload.encode()) <= PAYLOAD_BYTES_MAX for payload in payloads)
    notices = [msgspec.json.decode(payload, type=_Notice) for payload in payloads]
    assert dict(pair for notice in notices for pair in notice.positions) == positions
    assert [message for notice in notices for message in notice.messages] == messages


def test_nothing_to_say_is_no_notice() -> None:
    assert encode_notices([], []) == []


def make_notices(heard: list[object]) -> Notices:
    return Notices(
        "",
        name="test",
        position=lambda *args: heard.append(args),
        message=lambda *args: heard.append(args),
        connected=lambda: None,
    )


def test_positions_are_coalesced_and_the_outbox_is_bounded() -> None:
    notices = make_notices([])
    notices.send_position(1, 5)
    notices.send_position(1, 7)
    notices.send_position(1, 6)
    for n in range(OUTBOX_MAX + 10):
        notices.send_position(n + 2, 1)
        notices.send_message("t", "x")
    decoded = [msgspec.json.decode(payload, type=_Notice) for payload in notices._take_outbox()]
    positions = [pair for notice in decoded for pair in notice.positions]
    assert positions[0] == (1, 7)
    assert len(positions) == OUTBOX_MAX
    assert sum(len(notice.messages) for notice in decoded) == OUTBOX_MAX
    assert notices._take_outbox() == []


def test_message_that_fits_no_notice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="one notice"):
        make_notices([]).send_message("t", "x" * PAYLOAD_BYTES_MAX)


def test_own_and_unreadable_notices_are_ignored() -> None:
    heard: list[object] = []
    notices = make_notices(heard)
    notices._own_pid = 7
    [payload] = encode_notices([(1, 2)], [("upload:1", "3")])
    notices._deliver(7, payload.encode())
    notices._deliver(8, b"nonsense")
    assert heard == []
    notices._deliver(8, payload.encode())
    assert heard == [(1, 2), ("upload:1", "3")]
