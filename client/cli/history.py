"""`holdfast history`: a file's versions."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import human_size, human_time, plain, write_table
from client.cli.session import ServiceCommand, Session
from client.naming import remote_path


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.pass_obj
def history(session: Session, *, remote: str, limit: int) -> None:
    """List the versions of the file REMOTE, newest first; also those of a deleted file."""
    versions = session.api.versions(remote_path(remote), limit)
    rows = [
        (
            f"v{row.version}",
            human_size(row.size),
            human_time(row.modified_at),
            plain(row.modified_by),
            row.content_hash[:12],
        )
        for row in versions
    ]
    session.show({"versions": msgspec.to_builtins(versions)}, lambda: write_table(rows, right=frozenset({0, 1})))
