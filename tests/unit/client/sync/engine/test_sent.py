"""Uploads whose answer was lost are recognised as our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client.errors import Unreachable
from client.sync.local.findings import DirtyFolder
from client.sync.workers import Result
from tests.kit.engine_rig import Rig


def test_an_upload_whose_answer_was_lost_is_no_conflict_with_the_next_edit(rig: Rig) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.write("a.txt", b"second")

    def lose() -> None:
        rig.write("a.txt", b"third")
        raise Unreachable(url="u", reason="the connection broke")

    rig.api.after["commit"] = lose
    rig.settle()
    assert rig.files() == {"a.txt": b"third"}
    assert rig.conflicts == []


def test_a_feed_that_is_older_than_a_lost_answer_does_not_say_that_nothing_was_stored(rig: Rig) -> None:
    rig.write("a.txt", b"first")
    rig.run()
    rig.write("a.txt", b"second")
    older = rig.api.changes(rig.engine.remote.cursor)
    late: list[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = []
    submit = rig.workers.submit

    def keep_fetches(job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        if done == rig.feed._fetched:
            late.append((job, done))
        else:
            submit(job, done)

    def lose() -> None:
        """A fetch was under way that began before the commit; the next one takes its time."""
        rig.write("a.txt", b"third")
        rig.feed._asking, rig.feed._wanted = True, False
        rig.feed.started += 1
        submit(lambda: older, rig.feed._fetched)
        rig.workers.submit = keep_fetches  # type: ignore[method-assign]  # for this rig only
        raise Unreachable(url="u", reason="the connection broke")

    rig.api.after["commit"] = lose
    rig.look()
    rig.run(lambda: bool(late))
    rig.local.want([DirtyFolder(())])
    for _ in range(30):
        rig.engine.step(rig.clock.at + 1.0)
    rig.workers.submit = submit  # type: ignore[method-assign]  # for this rig only
    for job, done in late:
        submit(job, done)
    rig.settle()
    assert rig.files() == {"a.txt": b"third"}
    assert rig.conflicts == []
