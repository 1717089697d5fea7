"""`holdfast activity`: notifications."""

from __future__ import annotations

import sys
import time

import click
import msgspec

from client.cli.output import human_time, plain, write_json, write_table
from client.cli.session import ServiceCommand, Session
from coordinator.protocol.types import Notification

_PAGE = 200
_POLL_S = 3.0


@click.command(cls=ServiceCommand)
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C; with --json one notification a line.")
@click.option("--mark-read", is_flag=True, help="Mark what is shown as read.")
@click.pass_obj
def activity(session: Session, *, follow: bool, mark_read: bool) -> None:
    """Show notifications, oldest first."""
    shown: list[Notification] = []
    after = 0
    while True:
        answer = session.api.notifications(after, _PAGE)
        new = answer.notifications
        if new:
            after = new[-1].id
            if follow:
                _tell(new, as_json=session.json)
            else:
                shown += new
        if new and mark_read:
            session.api.mark_read(after)
        if len(new) < _PAGE:
            if not follow:
                break
            time.sleep(_POLL_S)
    document = {"notifications": msgspec.to_builtins(shown), "unread": 0 if mark_read else answer.unread}
    session.show(document, lambda: _tell(shown, as_json=False))


def _tell(notifications: list[Notification], *, as_json: bool) -> None:
    if as_json:
        for one in notifications:
            write_json(one)
    else:
        write_table(
            [(human_time(one.created_at), " " if one.read else "*", plain(one.message)) for one in notifications]
        )
        sys.stdout.flush()
