"""Where a source goes in the remote tree: client.naming's rules, with what the service knows."""

from __future__ import annotations

from client.api import Api
from client.naming import Target, place, remote_path, says_folder
from coordinator.protocol.types import Kind, Metadata


def find_target(api: Api, text: str, source_name: str, *, source_is_folder: bool) -> tuple[str, Metadata | None]:
    """The path that a source called `source_name` gets at the target `text`, and what stands there now."""
    path = remote_path(text)
    there = api.find(path)
    is_folder = there is not None and there.kind is Kind.FOLDER
    target = Target(path, is_folder=is_folder, says_folder=says_folder(text))
    chosen = place(source_name, target, source_is_folder=source_is_folder)
    return (path, there) if chosen == path else (chosen, api.find(chosen))


def find_new_place(api: Api, source: Metadata, text: str) -> str:
    """Like `find_target` for something that is in the remote tree itself: a new spelling of its own name renames it."""
    path = remote_path(text)
    there = api.find(path)
    if there is not None and there.id == source.id and path != source.path:
        return path
    is_folder = there is not None and there.kind is Kind.FOLDER
    target = Target(path, is_folder=is_folder, says_folder=says_folder(text))
    source_name = source.path.rpartition("/")[2]
    return place(source_name, target, source_is_folder=source.kind is Kind.FOLDER)
