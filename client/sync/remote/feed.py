"""Follows the change feed: fetches pages, waits in a long poll, lists folders that came from elsewhere.

Guarantees: one fetch at a time, its pages absorbed in order. What the service refuses or cannot answer changes nothing
here: it is asked again later. `passed` tells which fetches came to the journal's end, so that who changed something in
the service can wait until the feed has told it.
Does not: know what the changes mean (side.py, plan.py). Belongs to the control thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from client.errors import ClientError, Refused, sentence
from client.sync.remote.listing import Listing
from client.sync.remote.service import Service
from client.sync.remote.side import RemoteSide
from client.sync.tree import PendingUpload, RemoteId
from client.sync.workers import Result, Workers
from coordinator.protocol.types import PAGE_ENTRIES_MAX, ChangesAnswer, LongpollAnswer, Metadata
from node.base.clock import Clock

POLL_S: Final = 60
RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 30.0


@dataclass
class Backoff:
    """When to try again after failures in a row: growing, and different for every client."""

    random: random.Random
    first_s: float = RETRY_FIRST_S
    max_s: float = RETRY_MAX_S
    failures: int = 0

    def failed(self) -> float:
        """Seconds to wait now."""
        self.failures += 1
        return min(self.max_s, self.first_s * 2.0 ** min(self.failures - 1, 16)) * (0.5 + self.random.random() / 2)

    def succeeded(self) -> None:
        self.failures = 0


@dataclass
class Feed:
    """`started` counts the fetches begun, `passed` is the last of them that came to the journal's end. `trouble` is
    why the service gives no changes now (a sentence), `root_trouble` why this folder cannot be synced at all."""

    remote: RemoteSide
    service: Service
    workers: Workers
    clock: Clock
    random: random.Random
    path: str
    follow: bool
    on_change: Callable[[], None]
    on_announced: Callable[[tuple[PendingUpload, ...]], None] = lambda announced: None
    poll_s: int = POLL_S
    started: int = 0
    passed: int = 0
    trouble: ClientError | None = None
    root_trouble: str | None = None
    _begun: bool = False
    _asking: bool = False  # a call other than the long poll is under way
    _polling: bool = False
    _listing: Listing | None = None
    _wanted: bool = True
    _not_before: float = 0.0
    _poll_not_before: float = 0.0
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.random)

    # --- what others ask ----------------------------------------------------------------------------------------

    def want(self) -> None:
        """Fetch again, beginning after now."""
        self._wanted = True

    def fail(self, error: ClientError) -> None:
        """Somebody else found that the service does not answer; fetching again tells when it does."""
        if self.trouble is None and not self._asking:
            self._failed(error)
        self._wanted = True

    def look_up_root(self) -> None:
        """The synced folder may have another path by now, when a folder above it was moved."""
        if not self._asking:
            self._begun = False

    @property
    def ticket(self) -> int:
        """When `passed` has reached this, the feed has told everything that is done by now."""
        return self.started + 1

    @property
    def is_ready(self) -> bool:
        """Whether the remote tree is a whole one, as of some moment."""
        return self._begun and self.passed > 0 and not self.remote.is_listing and not self.remote.to_list

    @property
    def is_idle(self) -> bool:
        """Whether nothing that is known of is still to be fetched."""
        return self.is_ready and not self._asking and not self._wanted

    # --- the course of things -----------------------------------------------------------------------------------

    def step(self) -> float | None:
        """Start what is due; when to call again at the latest (monotonic), if nothing happens before."""
        now = self.clock.monotonic()
        if self.root_trouble is not None:
            return None
        if not self._asking:
            if now < self._not_before:
                return self._not_before
            self._start()
        # While a fetch is under way the service would answer at once that there is something to fetch.
        if self.follow and not self._polling and self.is_idle and self.trouble is None:
            if now < self._poll_not_before:
                return self._poll_not_before
            self._poll()
        return None

    def _start(self) -> None:
        if not self._begun:
            self._asking = True
            self.workers.submit(self._find_root, self._root_found)
        elif self.remote.to_list and not self.remote.is_listing:
            self._asking = True
            self._list(self.remote.to_list[0])
        elif self._wanted or self.remote.is_listing:
            self._asking, self._wanted = True, False
            self.started += 1
            self._fetch()

    # --- the synced folder itself -------------------------------------------------------------------------------

    def _find_root(self) -> Metadata | None:
        known = self.remote.root_id
        return self.service.find(self.path) if known is None else self.service.find_id(known)

    def _root_found(self, result: Result[Metadata | None]) -> None:
        self._asking = False
        try:
            root = result.get()
        except ClientError as error:
            self._failed(error)
            return
        self._worked()
        if root is None or root.kind != "folder":
            self.root_trouble = (
                f"The folder {self.path} is not in the service any more. Nothing here was deleted; choose another"
                " folder of the service, or restore it there."
            )
        else:
            self.remote.begin(root)
            self._begun = True
        self.on_change()

    # --- changes ------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        cursor = self.remote.cursor
        self.workers.submit(lambda: self.service.changes(cursor, PAGE_ENTRIES_MAX), self._fetched)

    def _fetched(self, result: Result[ChangesAnswer]) -> None:
        try:
            page = result.get()
        except ClientError as error:
            self._asking, self._wanted = False, True
            if isinstance(error, Refused) and error.code == "bad_cursor":
                self.remote.relist()
            self._failed(error)
            return
        self._worked()
        absorbed = self.remote.absorb(page)
        if absorbed.root_gone:
            self._begun = False  # looked up again: it may have been restored meanwhile
            self._wanted = True
        if absorbed.announced:
            self.on_announced(absorbed.announced)
        if page.has_more and self._begun:
            self._fetch()
            return
        self._asking = False
        if self.remote.is_listing:
            self._wanted = True  # what was told was contradictory
        elif self._begun:
            self.passed = self.started
        self.on_change()

    # --- waiting ------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        cursor = self.remote.cursor
        assert cursor is not None
        self._polling = True
        self.workers.submit(lambda: self.service.longpoll(cursor, self.poll_s), partial(self._polled, cursor))

    def _polled(self, cursor: str, result: Result[LongpollAnswer]) -> None:
        self._polling = False
        try:
            answer = result.get()
        except ClientError as error:
            self._wanted = True
            self._failed(error)
            return
        if answer.changes and self.remote.cursor == cursor:
            self._wanted = True
        # The service spreads its clients after a restart; everybody coming back at once is what fails.
        self._poll_not_before = self.clock.monotonic() + answer.backoff

    # --- folders that came from elsewhere -----------------------------------------------------------------------

    def _list(self, folder_id: RemoteId) -> None:
        if self._listing is None or self._listing.folder_id != folder_id:
            self._listing = Listing(self.service, folder_id)
        self.workers.submit(self._listing.read, partial(self._listed, folder_id))

    def _listed(self, folder_id: RemoteId, result: Result[list[Metadata]]) -> None:
        self._asking = False
        try:
            entries = result.get()
        except ClientError as error:
            self._listing = None
            self._failed(error)
            return
        self._worked()
        if entries:
            self.remote.absorb_listing(entries)
            return
        self._listing = None
        self.remote.forget_to_list(folder_id)
        # The listing is newer than the cursor: until the feed has caught up its entries look older than they are.
        self._wanted = True
        self.passed = 0

    # --- failures -----------------------------------------------------------------------------------------------

    def _failed(self, error: ClientError) -> None:
        self.trouble = error
        self._not_before = self.clock.monotonic() + self._backoff.failed()
        self.on_change()

    def _worked(self) -> None:
        self._backoff.succeeded()
        if self.trouble is not None:
            self.trouble = None
            self.on_change()

    def explain(self) -> str | None:
        return self.root_trouble or (sentence(self.trouble) if self.trouble is not None else None)
