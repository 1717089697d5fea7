"""What is remembered of uploads."""

from __future__ import annotations

from client.sync.store.database import Database
from client.sync.store.uploads import Uploads
from client.sync.tree import Content, LocalId, RemoteId

TEXT = Content(b"t" * 32, executable=True)


def test_an_upload_is_unsettled_until_its_outcome_is_known() -> None:
    database = Database(None)
    uploads = Uploads(database)
    with database.transaction():
        uploads.begin(LocalId(20), None, TEXT)
        uploads.begin(LocalId(21), RemoteId(11), TEXT)
    assert uploads.begun(LocalId(20)) == (None, TEXT)
    assert uploads.begun(LocalId(21)) == (11, TEXT)
    with database.transaction():
        uploads.settle(LocalId(20))
    assert (uploads.begun(LocalId(20)), uploads.unsettled()) == (None, [21])


def test_only_versions_that_replace_one_are_worth_remembering() -> None:
    database = Database(None)
    uploads = Uploads(database)
    with database.transaction():
        uploads.note_announced(RemoteId(10), 1, "u1")
        uploads.note_announced(RemoteId(11), 3, "u3")
        uploads.forget_announced(RemoteId(11), 2)
    assert uploads.announced_as(RemoteId(10), 1) is None
    assert uploads.announced_as(RemoteId(11), 3) == "u3"
    with database.transaction():
        uploads.forget_announced(RemoteId(11))
    assert uploads.announced_as(RemoteId(11), 3) is None
