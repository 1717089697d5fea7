"""`holdfast sync forget`: a folder that this computer is not to sync any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from client.cli.output import plain, write_line
from client.cli.session import JsonCommand, Session
from client.cli.sync_install import remove_unit
from client.errors import LocalTrouble
from client.sync.folders import find, running


@click.command(cls=JsonCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def forget(session: Session, *, folder: Path) -> None:
    """Sync DIR no more, and forget what is known of it. Its files stay as they are, here and in the service.

    DIR need not exist any more. When it is synced again, both sides are compared and nothing is deleted.
    """
    known = find(folder)
    remove_unit(known)
    with running(known):  # so that none does, or begins to
        try:
            shutil.rmtree(known.state)
        except OSError as error:
            raise LocalTrouble(path=known.state, reason=error.strerror) from error
    document = {"path": known.path, "remote": known.remote}
    session.show(document, lambda: write_line(f"{plain(known.path)} is not synced any more; its files stay."))
