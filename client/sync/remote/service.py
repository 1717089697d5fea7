"""What sync asks of the service: the part of client.api.Api that the simulation has to stand in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from coordinator.protocol import types


class Service(Protocol):
    """Every call answers or raises a ClientError."""

    def find(self, path: str) -> types.Metadata | None: ...
    def find_id(self, file_id: int) -> types.Metadata | None: ...
    def list_folder(self, path: str, *, recursive: bool = False) -> Iterator[types.Metadata]: ...
    def changes(self, cursor: str | None, limit: int = ...) -> types.ChangesAnswer: ...
    def longpoll(self, cursor: str, timeout_s: int) -> types.LongpollAnswer: ...
    def create_folder(self, path: str, *, parents: bool = False, parent_id: int | None = None) -> types.Metadata: ...
    def move_id(
        self, file_id: int, path: str, target: str, *, parent_id: int, base_version: int | None = None
    ) -> types.Metadata: ...
    def delete(
        self,
        path: str,
        *,
        file_id: int | None = None,
        base_version: int | None = None,
        unchanged_since: str | None = None,
    ) -> int: ...
