"""`holdfast cp`: copies within the remote tree; no bytes travel."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import plain, write_line
from client.cli.session import ServiceCommand, Session
from client.cli.targets import find_new_place
from client.naming import remote_path


@click.command(cls=ServiceCommand)
@click.argument("source")
@click.argument("target")
@click.option("-n", "--no-clobber", is_flag=True, help="Fail when a file of that name is there already.")
@click.option("-r", "--recursive", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def cp(session: Session, *, source: str, target: str, no_clobber: bool) -> None:
    """Copy the remote file or folder SOURCE to TARGET.

    When TARGET is an existing folder, the copy goes inside it; otherwise TARGET is its name. A file that TARGET names
    gets a new version.
    """
    there = session.api.metadata(remote_path(source))
    copied = session.api.copy(there, find_new_place(session.api, there, target), replace=not no_clobber)
    session.show(msgspec.to_builtins(copied), lambda: write_line(f"{plain(there.path)} -> {plain(copied.path)}"))
