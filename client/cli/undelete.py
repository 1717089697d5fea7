"""`holdfast undelete`: mass deletes that the service noticed, and bringing back what one of them deleted."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import human_time, plain, write_line, write_table
from client.cli.session import ServiceCommand, Session
from coordinator.protocol.types import MassDelete


@click.command(cls=ServiceCommand)
@click.argument("number", metavar="[ID]", required=False, type=click.IntRange(min=1))
@click.pass_obj
def undelete(session: Session, *, number: int | None) -> None:
    """Bring back all that the mass delete ID has put into the trash; without ID list those that were noticed.

    A device that deletes more than half of the files, and more than 50, is noticed. What has its old name in use by now
    comes back beside it, marked as restored. Run it again when it was interrupted.
    """
    if number is None:
        found = session.api.mass_deletes()
        session.show({"mass_deletes": msgspec.to_builtins(found)}, lambda: _show(found))
        return
    restored = 0
    for count in session.api.undelete(number):
        restored += count
    session.show({"id": number, "restored": restored}, lambda: write_line(f"{restored} files and folders are back."))


def _show(found: list[MassDelete]) -> None:
    if not found:
        write_line("No mass delete was noticed.")
        return
    rows = [("ID", "WHEN", "BY", "COMPUTER", "FILES", "")]
    rows += [
        (
            str(row.id),
            human_time(row.began_at),
            plain(row.deleted_by),
            plain(row.device),
            str(row.files),
            "undone" if row.undone_at is not None else "",
        )
        for row in found
    ]
    write_table(rows, right=frozenset({0, 4}))
