"""`holdfast rm`: into the trash."""

from __future__ import annotations

import click

from client.cli.output import plain, write_line
from client.cli.session import ServiceCommand, Session
from client.naming import remote_path


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.option("-r", "--recursive", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def rm(session: Session, *, remote: str) -> None:
    """Move the file REMOTE, or the folder with everything in it, to the trash (see: holdfast restore)."""
    path = remote_path(remote)
    deleted = session.api.delete(path)
    line = f"{plain(path)}: now in the trash. Bring it back with: holdfast restore {plain(path)}"
    session.show({"path": path, "deleted": deleted}, lambda: write_line(line))
