"""What an engine hands to its workers: one operation with everything that was looked up for it. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from client.fs.base import Path
from client.sync.engine.apply import Outcome
from client.sync.tree import LocalNode, PendingUpload, RemoteId, RemoteNode


@dataclass(frozen=True, slots=True)
class ToUpload:
    """Store the local file at `path` as `remote_path`, where nothing is (`base` None) or exactly `base`. Only what
    `local` says its content is may be stored. `previous` is the content hash that both sides last agreed on: what a
    delta can build on."""

    local: LocalNode
    path: Path
    remote_path: str
    parent_id: RemoteId
    base: RemoteNode | None
    previous: bytes | None = None


@dataclass(frozen=True, slots=True)
class ToDownload:
    """Bring the remote file at `remote_path` to `path`, where nothing is (`replaces` None) or exactly that file.
    `upload_id` is what the version was announced as, where that is known: what a delta can be asked for by."""

    remote: RemoteNode
    remote_path: str
    path: Path
    replaces: LocalNode | None
    upload_id: str | None = None


class Carrier(Protocol):
    """Moves contents. Each call runs in a worker and gives one outcome for each file, in order: Told for an upload,
    Placed for a download, or why not."""

    def upload(self, files: Sequence[ToUpload]) -> list[Outcome]: ...
    def download(self, files: Sequence[ToDownload]) -> list[Outcome]: ...
    def prefetch(self, row: PendingUpload, remote_path: str) -> None:
        """Fetch what is arriving for a version that another device has announced. Gives up quietly."""
