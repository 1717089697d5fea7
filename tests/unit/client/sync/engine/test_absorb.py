"""What is written down after an operation, while both sides go on changing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from client.fs.base import Path
from client.sync.engine.apply import Placed
from client.sync.engine.work import Lane, Work
from client.sync.transfer.carry import ToDownload
from client.sync.tree import Content, Download, LocalId, RemoteId, RemoteNode, Stamp
from coordinator.protocol.types import Kind
from tests.kit.engine_rig import Rig


@pytest.mark.parametrize("again", ["undeleted", "stored"])
def test_what_comes_back_in_the_service_while_it_goes_from_the_disk_stays(rig: Rig, again: str) -> None:
    rig.write("x", b"content")
    rig.run()
    rig.others.delete("/x")
    other = Rig(service=rig.service)
    other.tape.seed(2)  # so that its request keys are its own
    trash = rig.fs.trash

    def then_it_is_back(path: Path, expected: Stamp | None) -> None:
        trash(path, expected)
        if again == "undeleted":
            rig.others.restore("/x", None)
        else:
            other.run()
            other.write("x", b"content")
            other.settle()
        rig.feed.want()
        rig.feed.step()

    rig.fs.trash = then_it_is_back  # type: ignore[method-assign]  # for this rig only
    rig.settle()
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} == {"x"}
    assert rig.files() == {"x": b"content"}


def test_a_folder_kept_for_a_file_that_was_not_seen_yet_is_looked_at_again(rig: Rig) -> None:
    rig.disk.user.mkdir(("folder",))
    rig.write("folder/old", b"old")
    rig.run()
    rig.others.delete("/folder")
    rig.write("folder/new", b"new")  # nobody has told the client
    rig.feed.want()
    rig.engine.note_change()
    rig.run()
    assert rig.files() == {"folder/new": b"new"}
    assert {path.strip("/") for path in rig.remote()} >= {"folder/new"}
    assert "folder/old" not in {path.strip("/") for path in rig.remote()}
    assert rig.store.told.problems() == []


def test_what_is_undeleted_before_the_feed_has_told_our_own_delete_stays(rig: Rig) -> None:
    rig.write("x", b"x")
    rig.run()
    rig.disk.user.delete(("x",))
    rig.api.after["delete"] = lambda: rig.others.restore("/x", None)
    rig.settle()
    rig.settle()
    assert rig.files() == {"x": b"x"}
    assert {path.strip("/") for path in rig.remote()} == {"x"}


def test_a_folder_in_which_a_scan_finds_something_while_it_is_to_go_is_new(rig: Rig) -> None:
    rig.disk.user.mkdir(("folder",))
    rig.run()
    rig.others.delete("/folder")
    rig.feed.want()
    rig.engine.note_change()

    list_folder = rig.fs.list_folder

    def list_when_it_is_to_go(path: tuple[str, ...]) -> Any:
        folder = rig.store.local_at(("folder",))
        if path == ("folder",) and rig.local.busy and rig.store.local_at(("folder", "new")) is None and folder:
            rig.disk.user.mkdir(("folder", "new"))
            with rig.store.transaction():  # as the scan does that was under way
                rig.store.put_local(replace(folder, id=rig.store.new_local_id(), parent_id=folder.id, name="new"))
        return list_folder(path)

    rig.fs.list_folder = list_when_it_is_to_go  # type: ignore[method-assign]  # for this rig only
    rig.run()
    rig.settle()
    assert {path.strip("/") for path in rig.remote()} >= {"folder/new"}


def test_what_came_into_a_folder_that_is_gone_by_then_is_neither_placed_nor_paired(rig: Rig) -> None:
    """A pair without its local node would look like a delete."""
    rig.upload("a", b"a")
    rig.settle()
    root = rig.store.remote_root
    node = RemoteNode(RemoteId(4711), root, "b", Kind.FILE, 1, 1, Content(b"d" * 32))
    operation = Download(node, LocalId(999), "b", None)
    task = ToDownload(node, "/b", ("folder", "b"), None)
    work = Work(operation=operation, lane=Lane.DOWNLOADS, task=task, scans_begun=0, asked_at=0)
    with rig.store.transaction():
        rig.store.put_remote(node)
        rig.engine._absorber.absorb(work, Placed(Stamp(1, 1, 1, 77, 1)))
    assert rig.store.synced(node.id) is None
    assert list(rig.store.local_with_inode(77)) == []
    assert rig.engine.disk.is_idle is False, "everything is looked at again"
