"""What every command gets: whether JSON is wanted, and the service that this computer is logged in to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import click

from client.api import Api
from client.cli.output import write_json
from client.cli.progress import shown
from client.connection import Connection
from client.problems import Problems
from client.state import Account, load_account
from client.transfer import Transfer


class Session:
    """One run of one command."""

    def __init__(self, *, json: bool, chosen_account: str | None = None) -> None:
        self.json = json
        self.chosen_account = chosen_account

    @cached_property
    def account(self) -> Account:
        """Raises NotLoggedInHere, StateUnreadable, UsageProblem."""
        return load_account(self.chosen_account)

    @cached_property
    def api(self) -> Api:
        """Raises as `account` does."""
        return api_of(self.account)

    def show(self, document: object, human: Callable[[], None]) -> None:
        """Print the command's result: `document` as JSON where that is wanted, else what `human` writes."""
        if self.json:
            write_json(document)
        else:
            human()

    @contextmanager
    def transfer(self, doing: str) -> Iterator[Transfer]:
        """A transfer with a progress bar on a terminal, once it has taken a second."""
        transfer = Transfer(self.api)
        if sys.stderr.isatty():
            with shown(transfer.tally, doing):
                yield transfer
        else:
            yield transfer

    @staticmethod
    def problems() -> Problems:
        """Tells what goes wrong with single entries on stderr."""
        return Problems(lambda sentence: click.echo(sentence, err=True))


def api_of(account: Account) -> Api:
    return Api(Connection(account.url, token=account.token, ca_pem=account.ca_pem))


class JsonCommand(click.Command):
    """A command with --json, whose function gets a Session first (`@click.pass_obj`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document."))

    def invoke(self, ctx: click.Context) -> object:
        ctx.obj = Session(json=ctx.params.pop("as_json"), chosen_account=ctx.params.pop("account", None))
        return super().invoke(ctx)


class ServiceCommand(JsonCommand):
    """A command that works for an account, the first of this computer unless --account says another."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        told = "Work for this login of the computer's (see: holdfast accounts)."
        self.params.append(click.Option(["--account"], metavar="EMAIL", envvar="HOLDFAST_ACCOUNT", help=told))
