"""`holdfast sync select`: which parts of a synced folder this computer holds."""

from __future__ import annotations

from pathlib import Path

import click

from client.cli.output import plain, write_line
from client.cli.session import JsonCommand, Session
from client.errors import UsageProblem
from client.naming import remote_path
from client.sync.folders import Folder, choose, find


@click.command(cls=JsonCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--exclude", multiple=True, metavar="PATH", help="Leave out this path below DIR from now on.")
@click.option("--include", multiple=True, metavar="PATH", help="Hold this path below DIR again.")
@click.pass_obj
def select(session: Session, *, folder: Path, exclude: tuple[str, ...], include: tuple[str, ...]) -> None:
    """Choose what of the service's tree DIR holds; without options show what is left out.

    What is left out stays in the service. On this computer its files go to the trash in DIR/.holdfast, except those
    with changes that were not sent yet: these stay where they are. A client that runs takes it up at once.
    """
    known = find(folder)
    if exclude or include:
        known = choose(known, _after(known, exclude, include))
    document = {"path": known.path, "remote": known.remote, "excluded": known.excluded}
    session.show(document, lambda: _show(known))


def _after(folder: Folder, exclude: tuple[str, ...], include: tuple[str, ...]) -> list[str]:
    """Raises UsageProblem for what cannot be chosen."""
    chosen = set(folder.excluded)
    for path in include:
        if _below(path) not in chosen:
            raise UsageProblem(reason=f"{path} is not left out; left out are: {', '.join(folder.excluded) or 'none'}.")
        chosen.discard(_below(path))
    for path in exclude:
        if not _below(path):
            raise UsageProblem(reason="The whole folder cannot be left out; stop syncing it instead.")
        chosen.add(_below(path))
    return sorted(chosen)


def _below(path: str) -> str:
    return remote_path(path).strip("/")


def _show(folder: Folder) -> None:
    if not folder.excluded:
        write_line(f"{plain(folder.path)} holds everything of {plain(folder.remote)}.")
    for path in folder.excluded:
        write_line(f"left out: {plain(path)}")
