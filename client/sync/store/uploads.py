"""What is remembered of uploads: this client's until their outcome is known, and how others' were announced."""

from __future__ import annotations

from typing import Final

from client.sync.store.database import Database
from client.sync.tree import Content, LocalId, RemoteId

_ANY_VERSION: Final = (1 << 63) - 1


class Uploads:
    """Belongs to the control thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, local_id: LocalId, remote_id: RemoteId | None, content: Content) -> None:
        """Before an upload may be carried out: the service may store it without this client hearing of it, and that
        must not be taken for somebody else's edit. `remote_id` None: it is a new file."""
        self._database.write(
            "INSERT OR REPLACE INTO sending (local_id, remote_id, digest, executable) VALUES (?, ?, ?, ?)",
            (local_id, remote_id, content.digest, content.executable),
        )

    def begun(self, local_id: LocalId) -> tuple[RemoteId | None, Content] | None:
        """The last upload of this file whose outcome is not known: of which remote file, and what."""
        row = self._database.row("SELECT remote_id, digest, executable FROM sending WHERE local_id = ?", (local_id,))
        return None if row is None else (row[0], Content(row[1], bool(row[2])))

    def begun_new(self, content: Content) -> list[LocalId]:
        """Local files of this content that were being stored as new ones."""
        rows = self._database.rows(
            "SELECT local_id FROM sending WHERE remote_id IS NULL AND digest = ? AND executable = ? ORDER BY local_id",
            (content.digest, content.executable),
        )
        return [LocalId(row[0]) for row in rows]

    def unsettled(self) -> list[LocalId]:
        """Local files whose upload began and whose outcome is not known."""
        return [LocalId(row[0]) for row in self._database.rows("SELECT local_id FROM sending ORDER BY local_id")]

    def settle(self, local_id: int) -> None:
        """The outcome is known, or of no concern any more."""
        self._database.write("DELETE FROM sending WHERE local_id = ?", (local_id,))

    def settle_all(self) -> None:
        self._database.write("DELETE FROM sending")

    def note_announced(self, node_id: RemoteId, version: int, upload_id: str) -> None:
        """A version that replaces another is there, and this is what it was announced as: how it was sent may save
        fetching it whole."""
        if version > 1:
            self._database.write(
                "INSERT OR REPLACE INTO sent_as (remote_id, version, upload_id) VALUES (?, ?, ?)",
                (node_id, version, upload_id),
            )

    def announced_as(self, node_id: RemoteId, version: int) -> str | None:
        """What a version that is not here yet was announced as, where that is known."""
        row = self._database.row(
            "SELECT upload_id FROM sent_as WHERE remote_id = ? AND version = ?", (node_id, version)
        )
        return None if row is None else str(row[0])

    def forget_announced(self, node_id: RemoteId, version: int = _ANY_VERSION) -> None:
        """It is here up to this version, or of no concern any more."""
        self._database.write("DELETE FROM sent_as WHERE remote_id = ? AND version <= ?", (node_id, version))

    def forget_unknown(self) -> None:
        """Announcements for files that the remote tree does not hold any more."""
        self._database.write("DELETE FROM sent_as WHERE remote_id NOT IN (SELECT id FROM remote)")
