"""Following the change feed: what is asked for when, and what is never passed over."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from client.errors import Unreachable
from client.sync.local.selection import Selection
from client.sync.remote.feed import Feed
from client.sync.remote.side import RemoteSide
from client.sync.store.store import Store
from client.sync.tree import RemoteId
from client.sync.workers import Result, run
from coordinator.protocol.types import PAGE_ENTRIES_MAX, Change, ChangesAnswer, Kind, Metadata

ROOT = 7
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return 1_790_000_000.0


class Jobs:
    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Result[Any]], None]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Result[Any]], None]) -> None:
        self._waiting.append((job, done))

    def next_event(self, deadline: float | None) -> bool:
        if not self._waiting:
            return False
        job, done = self._waiting.popleft()
        done(run(job))
        return True


class Told:
    """A service that gives what is written down: `pages` by the cursor before them, `there` by id, `inside` by path."""

    def __init__(self) -> None:
        self.pages: dict[str | None, ChangesAnswer] = {}
        self.there = {ROOT: folder(ROOT, "/docs")}
        self.inside: dict[str, list[Metadata]] = {}
        self.breaks_after: int | None = None  # so many entries of a folder

    def find(self, path: str) -> Metadata | None:
        return next((one for one in self.there.values() if one.path == path), None)

    def find_id(self, file_id: int) -> Metadata | None:
        return self.there.get(file_id)

    def list_folder(self, path: str, *, recursive: bool = False) -> Iterator[Metadata]:
        for number, entry in enumerate(self.inside[path]):
            if number == self.breaks_after:
                raise Unreachable(url="https://sim.example.org", reason="it did not answer")
            yield entry

    def changes(self, cursor: str | None, limit: int) -> ChangesAnswer:
        return self.pages[cursor]


def folder(node: int, path: str, parent: int | None = None) -> Metadata:
    return file(node, path, parent, text=None)


def file(node: int, path: str, parent: int | None, text: str | None = "x") -> Metadata:
    return Metadata(
        id=node,
        path=path,
        kind=Kind.FOLDER if text is None else Kind.FILE,
        version=0 if text is None else 1,
        size=len(text or ""),
        content_hash=None if text is None else text.encode().ljust(32, b".").hex(),
        modified_at=NOW,
        client_modified_at=NOW,
        modified_by="ann",
        state="complete",
        parent_id=parent,
    )


def change(op: str, about: Metadata) -> Change:
    return Change(
        seq=1,
        namespace_id=1,
        op=op,  # type: ignore[arg-type]  # one of Change's words; cases give plain strings
        id=about.id,
        parent_id=about.parent_id,
        name=about.path.rpartition("/")[2],
        path=about.path,
        metadata=None if op == "delete" else about,
    )


def page(cursor: str, *changes: Change, more: bool = False) -> ChangesAnswer:
    return ChangesAnswer(changes=list(changes), cursor=cursor, has_more=more, reset=False)


class Rig:
    """A feed of the folder /docs, which it has followed to cursor 1."""

    def __init__(self) -> None:
        self.service, self.store, self.jobs, self.clock = Told(), Store(None), Jobs(), Clock()
        self.remote = RemoteSide(self.store, Selection(), 1)
        self.feed = Feed(
            *(self.remote, self.service, self.jobs, self.clock, random.Random(1), "/docs"),  # type: ignore[arg-type]  # fakes of the service and the workers
            follow=False,
            on_change=lambda: None,
        )
        self.service.pages = {None: page("1"), "1": page("1")}
        self.run()

    def run(self) -> None:
        for _ in range(50):
            self.feed.step()
            while self.jobs.next_event(None):
                pass


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_root_that_is_deleted_and_is_there_again_is_followed_to_the_end(rig: Rig) -> None:
    rig.service.pages = {
        "1": page("2", change("delete", folder(ROOT, "/docs")), more=True),
        "2": page("3", change("put", file(9, "/docs/a", ROOT))),
        "3": page("3"),
    }
    rig.feed.want()
    ticket = rig.feed.ticket
    rig.run()
    assert rig.remote.cursor == "3"
    assert rig.store.remote(RemoteId(9)) is not None
    assert rig.feed.is_idle
    assert rig.feed.passed >= ticket, "who waits for this fetch would wait for ever"


def test_a_folder_that_is_renamed_before_it_is_listed_is_not_taken_for_the_one_in_its_place(rig: Rig) -> None:
    mine, other = folder(20, "/docs/f", ROOT), folder(30, "/docs/f", ROOT)
    renamed = folder(20, "/docs/g", ROOT)
    rig.service.there |= {20: renamed, 30: other}
    rig.service.inside = {"/docs/f": [file(31, "/docs/f/other", 30)], "/docs/g": [file(21, "/docs/g/mine", 20)]}
    rig.service.pages = {
        "1": page("2", change("move", mine)),
        "2": page("3", change("move", renamed), change("folder", other), change("put", file(31, "/docs/f/other", 30))),
        "3": page("3"),
    }
    rig.feed.want()
    rig.run()
    assert rig.feed.is_idle
    assert {rig.store.remote_path(RemoteId(node)) for node in (21, 31)} == {("g", "mine"), ("f", "other")}


def test_a_folder_that_is_gone_before_it_is_listed_is_waited_for_no_more(rig: Rig) -> None:
    rig.service.pages = {
        "1": page("2", change("move", folder(20, "/docs/f", ROOT))),
        "2": page("3", change("delete", folder(20, "/docs/f", ROOT))),
        "3": page("3"),
    }
    rig.feed.want()
    rig.run()
    assert rig.feed.is_idle
    assert rig.store.remote(RemoteId(20)) is None


def test_a_folder_with_very_much_in_it_is_written_down_page_by_page(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * PAGE_ENTRIES_MAX + 1
    sizes: list[int] = []
    absorb = rig.remote.absorb_listing

    def note(entries: list[Metadata]) -> None:
        sizes.append(len(entries))
        absorb(entries)

    monkeypatch.setattr(rig.remote, "absorb_listing", note)
    moved = folder(20, "/docs/f", ROOT)
    rig.service.there[20] = moved
    rig.service.inside = {"/docs/f": [file(100 + number, f"/docs/f/{number}", 20) for number in range(count)]}
    rig.service.pages = {"1": page("2", change("move", moved)), "2": page("2")}
    rig.feed.want()
    rig.run()
    assert rig.feed.is_idle
    assert sizes == [PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX, 1]
    assert len(list(rig.store.remote_children(RemoteId(20)))) == count


def test_a_listing_that_breaks_off_begins_again(rig: Rig) -> None:
    moved = folder(20, "/docs/f", ROOT)
    rig.service.there[20] = moved
    rig.service.inside = {"/docs/f": [file(21, "/docs/f/a", 20), file(22, "/docs/f/b", 20)]}
    rig.service.pages = {"1": page("2", change("move", moved)), "2": page("2")}
    rig.service.breaks_after = 1
    rig.feed.want()
    rig.run()
    assert not rig.feed.is_ready, "what is not listed would look deleted"
    rig.service.breaks_after = None
    rig.clock.at += 60
    rig.run()
    assert rig.feed.is_idle
    assert {node.name for node in rig.store.remote_children(RemoteId(20))} == {"a", "b"}
