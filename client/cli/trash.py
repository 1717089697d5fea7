"""`holdfast trash`: what was deleted and can be brought back."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import human_size, human_time, plain, write_table
from client.cli.session import ServiceCommand, Session
from coordinator.protocol.types import Kind


@click.command(cls=ServiceCommand)
@click.pass_obj
def trash(session: Session) -> None:
    """List deleted files and folders, newest first."""
    entries = list(session.api.trash())
    rows = [
        (
            human_time(row.deleted_at),
            plain(row.deleted_by),
            human_size(row.size) if row.kind is Kind.FILE else "-",
            plain(row.path) + ("/" if row.kind is Kind.FOLDER else ""),
        )
        for row in entries
    ]
    session.show({"entries": msgspec.to_builtins(entries)}, lambda: write_table(rows, right=frozenset({2})))
