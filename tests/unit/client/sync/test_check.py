"""What a check of a synced folder finds, and what it does not mind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.fs.real import RealFileSystem
from client.sync.check import Between, Checked, Difference, check, lasting
from client.sync.local.selection import Selection
from client.sync.store.store import Store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, RemoteNode, SyncedNode
from coordinator.protocol.hashing import content_hash, hash_block
from coordinator.protocol.types import Kind, Metadata
from node.base.clock import SystemClock

ROOT = RemoteId(1)
TEXT = b"the only copy"
CONTENT = Content(content_hash([hash_block(TEXT)]))


class Synced:
    """A folder with one file, all in order: disk, database and service agree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "drive"
        self.folder.mkdir()
        (self.folder / "a.txt").write_bytes(TEXT)
        self.fs = RealFileSystem(self.folder, SystemClock())
        self.database = folder / "state.db"
        self.store = Store(self.database)
        self.listing = [metadata(7, "/a.txt")]
        with self.store.transaction():
            self.store.set_remote_root(ROOT, self.fs.stat(()).stamp())
            self.store.put_remote(RemoteNode(RemoteId(7), ROOT, "a.txt", Kind.FILE, 1, len(TEXT), CONTENT))
            stamp = self.fs.stat(("a.txt",)).stamp()
            self.store.put_local(LocalNode(LocalId(2), self.store.local_root, "a.txt", Kind.FILE, stamp, CONTENT))
            self.store.put_synced(SyncedNode(RemoteId(7), LocalId(2), ROOT, "a.txt", Kind.FILE, 1, CONTENT))

    def check(self, rules: str = "", *, contents: bool = False) -> Checked:
        return check(self.database, self.fs, self.listing, Selection(rules), contents=contents)

    def differences(self, rules: str = "", *, contents: bool = False) -> list[tuple[str, Between]]:
        return [(one.path, one.between) for one in self.check(rules, contents=contents).differences]


def metadata(node_id: int, path: str, version: int = 1) -> Metadata:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Metadata(
        id=node_id,
        path=path,
        kind=Kind.FILE,
        version=version,
        size=len(TEXT),
        content_hash=CONTENT.digest.hex(),
        modified_at=now,
        client_modified_at=now,
        modified_by="ann",
        state="complete",
        parent_id=ROOT,
    )


@pytest.fixture
def synced(tmp_path: Path) -> Iterator[Synced]:
    one = Synced(tmp_path)
    yield one
    one.store.close()
    one.fs.close()


def test_nothing_differs_when_all_is_in_order(synced: Synced) -> None:
    assert synced.check(contents=True) == Checked(1, [])


def test_what_is_ignored_or_cannot_be_synced_is_not_missed(synced: Synced) -> None:
    (synced.folder / "a.tmp").write_text("x")
    (synced.folder / ".DS_Store").write_text("x")
    os.symlink("/etc", synced.folder / "link")
    os.mkfifo(synced.folder / "pipe")
    assert synced.differences("*.tmp") == []


def test_a_new_a_changed_and_a_vanished_file_on_disk_are_told(synced: Synced) -> None:
    (synced.folder / "new").write_text("x")
    (synced.folder / "a.txt").write_bytes(TEXT + b"!")
    assert synced.differences() == [("a.txt", Between.DISK_AND_DATABASE), ("new", Between.DISK_AND_DATABASE)]
    (synced.folder / "a.txt").unlink()
    assert ("a.txt", Between.DISK_AND_DATABASE) in synced.differences()


def test_only_reading_finds_contents_that_changed_behind_size_and_time(synced: Synced) -> None:
    path = synced.folder / "a.txt"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"T")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert synced.differences() == []
    assert synced.differences(contents=True) == [("a.txt", Between.DISK_AND_DATABASE)]


def test_what_the_service_has_otherwise_is_told(synced: Synced) -> None:
    synced.listing = [metadata(7, "/b.txt"), metadata(8, "/c.txt")]
    assert synced.differences() == [("/b.txt", Between.SERVICE_AND_DATABASE), ("/c.txt", Between.SERVICE_AND_DATABASE)]
    synced.listing = [metadata(7, "/a.txt", version=2)]
    assert synced.differences() == [("/a.txt", Between.SERVICE_AND_DATABASE)]
    synced.listing = []
    assert synced.differences() == [("a.txt", Between.SERVICE_AND_DATABASE)]


def test_what_the_two_sides_disagree_about_is_told(synced: Synced) -> None:
    with synced.store.transaction():
        synced.store.put_remote(RemoteNode(RemoteId(9), ROOT, "there", Kind.FILE, 1, 1, CONTENT))
        synced.store.drop_synced(RemoteId(7))
    synced.listing.append(metadata(9, "/there"))
    # The file that is on both sides is one's and the other's as long as nothing ties the two together.
    assert synced.differences() == [(path, Between.BOTH_SIDES) for path in ("a.txt", "a.txt", "there")]


def test_only_what_is_found_twice_lasts() -> None:
    one, two, three = (Difference(path, Between.BOTH_SIDES, "") for path in "abc")
    assert lasting([one, two], [two, three]) == [two]
