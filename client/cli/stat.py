"""`holdfast stat`: everything that is known of one file or folder."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import human_size, human_time, plain, write_table
from client.cli.session import ServiceCommand, Session
from client.naming import remote_path
from coordinator.protocol.types import Kind, Metadata


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.pass_obj
def stat(session: Session, *, remote: str) -> None:
    """Show what is known of the file or folder REMOTE."""
    there = session.api.metadata(remote_path(remote))
    session.show(msgspec.to_builtins(there), lambda: write_table(_rows(there)))


def _rows(there: Metadata) -> list[tuple[str, str]]:
    rows = [("path", plain(there.path)), ("kind", there.kind.value), ("id", str(there.id))]
    if there.kind is Kind.FILE:
        rows += [
            ("version", str(there.version)),
            ("size", f"{human_size(there.size)} ({there.size} bytes)"),
            ("content hash", there.content_hash or "-"),
            ("state", there.state),
            ("executable", "yes" if there.executable else "no"),
            ("file's own time", human_time(there.client_modified_at)),
        ]
    return [*rows, ("stored", f"{human_time(there.modified_at)} by {plain(there.modified_by)}")]
