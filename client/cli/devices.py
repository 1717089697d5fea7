"""`holdfast devices`: the computers that are logged in to this account."""

from __future__ import annotations

import click
import msgspec

from client.cli.output import human_time, plain, write_table
from client.cli.session import ServiceCommand, Session
from coordinator.protocol.types import Device


@click.command(cls=ServiceCommand)
@click.option("--revoke", metavar="ID", type=click.IntRange(min=1), help="Sign this device out, wherever it is.")
@click.pass_obj
def devices(session: Session, *, revoke: int | None) -> None:
    """List the devices of this account, when they were last seen and whether they are online."""
    if revoke is not None:
        session.api.revoke_device(revoke)
    rows = session.api.devices()
    session.show({"devices": msgspec.to_builtins(rows)}, lambda: write_table([_row(device) for device in rows]))


def _row(device: Device) -> tuple[str, ...]:
    state = "online" if device.online else f"last seen {human_time(device.last_seen_at)}"
    return str(device.id), plain(device.name) + (" (this one)" if device.current else ""), state
