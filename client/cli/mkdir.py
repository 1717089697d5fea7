"""`holdfast mkdir`: a new folder."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import plain, write_line
from client.cli.session import ServiceCommand, Session
from client.naming import remote_path


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.option("-p", "--parents", is_flag=True, help="Also make what is missing above; an existing folder is fine.")
@click.pass_obj
def mkdir(session: Session, *, remote: str, parents: bool) -> None:
    """Make the folder REMOTE."""
    folder = session.api.create_folder(remote_path(remote), parents=parents)
    session.show(msgspec.to_builtins(folder), lambda: write_line(f"{plain(folder.path)}/"))
