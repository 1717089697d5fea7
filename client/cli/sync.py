"""`holdfast sync`: keeps a folder of this computer and the person's tree the same."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from client.api import Api
from client.cli.output import plain, write_line
from client.cli.session import ServiceCommand, Session
from client.cli.sync_status import document
from client.connection import Connection
from client.errors import ClientError, ExitCode, UsageProblem
from client.naming import remote_path
from client.retry import RetryPolicy
from client.state import Account
from client.sync.folders import (
    ProblemLine,
    StatusFile,
    account_for,
    existing,
    give_yes,
    is_running,
    read_status,
    register,
)

# The engine shows what is wrong and tries again by itself, so a single call need not be patient.
_RETRY = RetryPolicy(refused_at_first_s=1.0, refused_later_s=2.0, broken_s=10.0, busy_s=3.0)
_CONNECTIONS_MAX = 24


class SyncStopped(ClientError):
    """`--once` could not make both sides equal."""

    code, exit_code = "not_in_sync", ExitCode.UNAVAILABLE
    template = "{reason}"
    told = True


@click.command(cls=ServiceCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--remote", default="/", show_default=True, help="The folder of the service that DIR is to equal.")
@click.option("--once", is_flag=True, help="Return when both sides agree.")
@click.option(
    "--exclude", multiple=True, metavar="PATH", help="Leave out this path below DIR; can be given repeatedly."
)
@click.option(
    "--allow-deletes", is_flag=True, help="Carry out many deletes at once, this time; a client that runs for DIR does."
)
@click.option(
    "--set-up-anew", is_flag=True, help="Take DIR as it is, whatever was synced there: compare, delete nothing."
)
@click.option("--up-limit", metavar="SIZE", help="Send at most this much a second, such as 500kB.")
@click.option("--down-limit", metavar="SIZE", help="Fetch at most this much a second.")
@click.pass_obj
def sync(
    session: Session,
    *,
    folder: Path,
    remote: str,
    once: bool,
    exclude: tuple[str, ...],
    allow_deletes: bool,
    set_up_anew: bool,
    up_limit: str | None,
    down_limit: str | None,
) -> None:
    """Keep the folder DIR and the service's tree the same, until Ctrl-C.

    Edits, moves and deletes go both ways. When a file was changed in two places, both are kept: the later one as a
    conflicted copy. What the service deletes goes to DIR/.holdfast/trash first.
    """
    from client.sync.running import Options, Running, exit_code  # noqa: PLC0415  # 100 ms that `--help` does not need

    path = existing(folder)
    account = account_for(path, session.chosen_account)
    options = Options(
        once=once,
        allow_deletes=allow_deletes,
        set_up_anew=set_up_anew,
        up_limit=_rate(up_limit),
        down_limit=_rate(down_limit),
    )
    known = register(path, remote_path(remote), account, list(exclude) or None)
    if allow_deletes and not once and is_running(known):
        give_yes(known)
        told = f"The client that is running for {plain(known.path)} carries out its deletes now."
        session.show(document(known, read_status(known)), lambda: write_line(told))
        return
    shown = _Shown(live=sys.stderr.isatty(), once=once)

    def run(account: Account) -> tuple[StatusFile, Account | None]:
        running = Running(known, account, _api(account), options, on_conflict=shown.conflict, on_status=shown.status)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: running.stop())
        return running.run(), running.new_login

    status, new_login = run(account)
    while new_login is not None:
        status, new_login = run(new_login)
    shown.end()
    code = exit_code(status) if once else ExitCode.DONE
    session.show(document(known, status), lambda: None)
    if code is not ExitCode.DONE:
        raise SyncStopped(reason=status.reason or "The two sides do not agree yet.")


def _api(account: Account) -> Api:
    return Api(
        Connection(
            account.url, token=account.token, ca_pem=account.ca_pem, retry=_RETRY, connections_max=_CONNECTIONS_MAX
        )
    )


class _Shown:
    """What a person at the terminal sees: a line for each change of state, conflict and problem. With `once` why the
    sides do not agree is told when it ends."""

    def __init__(self, *, live: bool, once: bool = False) -> None:
        self._live, self._once = live, once
        self._line = ""
        self._told: set[ProblemLine] = set()

    def conflict(self, path: str, copy: str) -> None:
        self._write(
            f"{plain(path)} was changed here and elsewhere. Both are kept: yours is now {plain(copy)}", stays=True
        )

    def status(self, status: StatusFile) -> None:
        for problem in status.problems:
            if problem not in self._told:
                self._told.add(problem)
                about = f"{plain(problem.path)}: " if problem.path else ""
                self._write(f"{about}{plain(problem.reason)}", stays=True)
        match status.state:
            case "in_sync":
                self._write("In sync.")
            case "syncing":
                self._write(f"Syncing, {status.queued} to do …" if self._live else "Syncing …")
            case _ if not self._once:
                self._write(plain(status.reason or status.state), stays=True)

    def end(self) -> None:
        if self._live and self._line:
            click.echo(err=True)

    def _write(self, line: str, *, stays: bool = False) -> None:
        if line == self._line:
            return
        if self._live:
            click.echo(f"\r\x1b[2K{line}" + ("\n" if stays else ""), err=True, nl=False)
        else:
            click.echo(line, err=True)
        self._line = "" if stays and self._live else line


_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _rate(text: str | None) -> int | None:
    """Bytes a second from `500kB`, `2M`, `1000`. Raises UsageProblem."""
    if text is None:
        return None
    number = text.strip().removesuffix("/s").upper().removesuffix("B")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        rate = int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        rate = 0
    if rate <= 0:
        raise UsageProblem(reason=f"{text!r} is not a speed; write for example 500kB or 2MB.")
    return rate
