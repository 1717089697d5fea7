"""`holdfast sync install`: a folder that is kept synced whenever its person is logged in, by systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import click

from client.cli.output import plain, write_line
from client.cli.session import JsonCommand, ServiceCommand, Session
from client.errors import ClientError, LocalTrouble
from client.naming import remote_path
from client.sync.folders import account_for, existing, find, register
from client.sync.unit import unit_name, unit_path, unit_text
from node.base.durable import write_file_durably

_TIMEOUT_S: Final = 30.0


class NoSystemd(ClientError):
    code = "no_systemd"
    template = "The unit was written to {path}, but systemd could not start it ({reason}). Start it with: {command}"


@click.command(cls=ServiceCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--remote", default="/", show_default=True, help="The folder of the service that DIR is to equal.")
@click.pass_obj
def install(session: Session, *, folder: Path, remote: str) -> None:
    """Keep DIR synced from now on: as a systemd service of yours, started at every login.

    It logs to the journal: journalctl --user -u holdfast-sync-…
    """
    found = existing(folder)
    known = register(found, remote_path(remote), account_for(found, session.chosen_account), None)
    path = unit_path(known)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file_durably(path, unit_text(known, os.environ.get("HOLDFAST_HOME")).encode())
    except OSError as error:
        raise LocalTrouble(path=path, reason=error.strerror) from error
    _systemctl(path, "daemon-reload")
    _systemctl(path, "enable", "--now", unit_name(known))
    document = {"path": known.path, "remote": known.remote, "unit": str(path)}
    session.show(document, lambda: write_line(f"{plain(known.path)} is synced from now on ({plain(str(path))})."))


@click.command(cls=JsonCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def uninstall(session: Session, *, folder: Path) -> None:
    """Stop the service that `install` made. DIR and what is known of it stay as they are."""
    known = find(folder)
    path = unit_path(known)
    if path.exists():
        _systemctl(path, "disable", "--now", unit_name(known))
        path.unlink(missing_ok=True)
        _systemctl(path, "daemon-reload")
    document = {"path": known.path, "remote": known.remote, "unit": None}
    session.show(document, lambda: write_line(f"{plain(known.path)} is no longer synced by a service."))


def _systemctl(unit: Path, *arguments: str) -> None:
    """Raises NoSystemd with what to do by hand."""
    command = ["systemctl", "--user", *arguments]
    if shutil.which("systemctl") is None:
        raise NoSystemd(path=unit, reason="there is no systemctl here", command=" ".join(command))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSystemd(path=unit, reason=str(error), command=" ".join(command)) from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise NoSystemd(path=unit, reason=reason[0], command=" ".join(command))
