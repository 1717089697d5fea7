"""`holdfast mv`: move and rename; no bytes travel."""

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
@click.pass_obj
def mv(session: Session, *, source: str, target: str, no_clobber: bool) -> None:
    """Move the remote file or folder SOURCE to TARGET.

    When TARGET is an existing folder, SOURCE goes inside it; otherwise TARGET is the new name. A file that TARGET names
    is replaced and goes to the trash.
    """
    there = session.api.metadata(remote_path(source))
    moved = session.api.move(there, find_new_place(session.api, there, target), replace=not no_clobber)
    session.show(msgspec.to_builtins(moved), lambda: write_line(f"{plain(there.path)} -> {plain(moved.path)}"))
