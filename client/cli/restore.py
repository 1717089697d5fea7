"""`holdfast restore`: an earlier version, or something out of the trash."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import plain, write_line
from client.cli.session import ServiceCommand, Session
from client.naming import remote_path
from coordinator.protocol.types import Kind


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.option("--version", type=click.IntRange(min=1), help="The version to make current again.")
@click.pass_obj
def restore(session: Session, *, remote: str, version: int | None) -> None:
    """Make an earlier version of REMOTE the current one; without --version, bring REMOTE back from the trash.

    Nothing is lost: the earlier version is added as a new one.
    """
    restored = session.api.restore(remote_path(remote), version)
    what = "restored" if restored.kind is Kind.FOLDER else f"restored as version {restored.version}"
    session.show(msgspec.to_builtins(restored), lambda: write_line(f"{plain(restored.path)}: {what}"))
