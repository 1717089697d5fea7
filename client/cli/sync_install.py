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
from client.sync.folders import Folder, account_for, existing, find, register
from client.sync.unit import unit_name, unit_path, unit_text
from node.base.durable import write_file_durably

_TIMEOUT_S: Final = 30.0


class NoSystemd(ClientError):
    code = "no_systemd"
    template = "Your systemd cannot be told of {path} now: {reason}. When it can be, run: {commands}"


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
    _tell_systemd(path, "daemon-reload", f"enable --now {unit_name(known)}")
    document = {"path": known.path, "remote": known.remote, "unit": str(path)}
    session.show(document, lambda: write_line(f"{plain(known.path)} is synced from now on ({plain(str(path))})."))


@click.command(cls=JsonCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def uninstall(session: Session, *, folder: Path) -> None:
    """Stop the service that `install` made. DIR and what is known of it stay as they are."""
    known = find(folder)
    remove_unit(known)
    document = {"path": known.path, "remote": known.remote, "unit": None}
    session.show(document, lambda: write_line(f"{plain(known.path)} is no longer synced by a service."))


def remove_unit(folder: Folder) -> None:
    """Nothing where there is none. Raises NoSystemd."""
    path = unit_path(folder)
    if path.exists():
        _tell_systemd(path, f"disable --now {unit_name(folder)}")
        path.unlink(missing_ok=True)
        _tell_systemd(path, "daemon-reload")


def _tell_systemd(unit: Path, *calls: str) -> None:
    """`calls` are arguments of systemctl. Raises NoSystemd with what to do by hand."""
    commands = [f"systemctl --user {call}" for call in calls]
    for done, command in enumerate(commands):
        reason = _refusal(command.split())
        if reason is not None:
            raise NoSystemd(path=unit, reason=reason, commands=" && ".join(commands[done:]))


def _refusal(command: list[str]) -> str | None:
    """Runs it; why it failed, None when it did not."""
    if shutil.which(command[0]) is None:
        return f"there is no {command[0]} here"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
