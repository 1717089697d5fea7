"""One operation on its way: what the look-ups gave for it, so that it can be carried out and its outcome understood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from client.sync.engine.apply import Outcome
from client.sync.local.disk import Place
from client.sync.local.findings import DirtyFolder
from client.sync.store.store import Store
from client.sync.transfer.carry import ToDownload, ToUpload
from client.sync.tree import DeleteLocal, LocalNode, MakeLocalFolder, MoveLocal, Operation
from coordinator.protocol.types import Kind


class Lane(StrEnum):
    """Operations of one lane share its slots, so that none waits behind what takes longer than itself."""

    DISK = "disk"
    CALLS = "calls"
    UPLOADS = "uploads"
    DOWNLOADS = "downloads"
    LARGE_UPLOADS = "large uploads"
    LARGE_DOWNLOADS = "large downloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`places` are where on disk it is at work; `agreed`: both sides are in the same place once it is done.
    `scans_begun` and `asked_at` tell what was known when it was prepared: by the disk, by the feed (RemoteSide.tick).
    """

    operation: Operation
    lane: Lane
    task: Callable[[], Outcome] | ToUpload | ToDownload
    size: int = 0
    places: tuple[Place, ...] = ()
    agreed: bool = False
    scans_begun: int
    asked_at: int

    @property
    def digest(self) -> bytes | None:
        """The content that is to be fetched."""
        content = self.task.remote.content if isinstance(self.task, ToDownload) else None
        return None if content is None else content.digest

    def folders(self, store: Store) -> list[DirtyFolder]:
        """Where to look to see what became of it; everywhere, when a folder is not where it was."""
        folders = {parent for parent, _ in self.places}
        if isinstance(self.task, ToUpload) and self.task.local.parent_id is not None:
            folders.add(self.task.local.parent_id)
        paths = [store.local_path(folder) for folder in folders]
        return [DirtyFolder(path) if path is not None else DirtyFolder((), recursive=True) for path in paths]

    def folders_at_work(self, store: Store) -> list[DirtyFolder]:
        """Of an operation about a folder, that folder with all in it, at each of its places."""
        match self.operation:
            case MakeLocalFolder() | MoveLocal(LocalNode(kind=Kind.FOLDER)) | DeleteLocal(LocalNode(kind=Kind.FOLDER)):
                above = [(store.local_path(parent), name) for parent, name in self.places]
                return [DirtyFolder((*path, name), recursive=True) for path, name in above if path is not None]
        return []
