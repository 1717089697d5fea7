"""`holdfast ls`: what lies in a folder."""

from __future__ import annotations

from collections.abc import Iterable

import click
import msgspec

from client.cli.output import human_size, human_time, plain, write_line, write_table
from client.cli.session import ServiceCommand, Session
from client.naming import base_name, remote_path
from coordinator.protocol.types import Kind, Metadata


@click.command(cls=ServiceCommand)
@click.argument("remote", default="/")
@click.option("-l", "--long", is_flag=True, help="Also version, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="Also everything in the folders below.")
@click.pass_obj
def ls(session: Session, *, remote: str, long: bool, recursive: bool) -> None:
    """List the folder REMOTE (default: everything's root), or one file."""
    there = session.api.metadata(remote_path(remote))
    entries = [there]
    if there.kind is Kind.FOLDER:
        entries = list(session.api.list_folder(there.path, recursive=recursive))
    prefix = there.path.rstrip("/") + "/" if there.kind is Kind.FOLDER and recursive else None
    session.show({"entries": msgspec.to_builtins(entries)}, lambda: _write(entries, prefix, long=long))


def _write(entries: Iterable[Metadata], prefix: str | None, *, long: bool) -> None:
    """Names alone, or paths below `prefix` where folders are mixed."""
    named = [(entry, _shown_name(entry, prefix)) for entry in entries]
    if not long:
        for _, name in named:
            write_line(name)
        return
    rows = [
        (
            "pending" if entry.state == "pending" else entry.kind.value,
            f"v{entry.version}" if entry.version else "-",
            human_size(entry.size) if entry.kind is Kind.FILE else "-",
            human_time(entry.client_modified_at or entry.modified_at),
            name,
        )
        for entry, name in named
    ]
    write_table(rows, right=frozenset({1, 2}))


def _shown_name(entry: Metadata, prefix: str | None) -> str:
    name = base_name(entry.path) if prefix is None else entry.path.removeprefix(prefix)
    return plain(name) + ("/" if entry.kind is Kind.FOLDER else "")
