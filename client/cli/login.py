"""`holdfast login`, `logout` and `whoami`: this computer as a device of an account."""

from __future__ import annotations

import platform
from pathlib import Path

import click
import msgspec

from client.api import Api
from client.cli.ask import read_password, read_text
from client.cli.output import human_size, write_line, write_table
from client.cli.session import JsonCommand, Session
from client.connection import Connection, clean_url
from client.errors import ClientError, ExitCode, NotLoggedInHere, StateUnreadable
from client.state import Account, forget_account, load_account, save_account

_DEVICE_NAME_MAX = 100


@click.command(cls=JsonCommand)
@click.argument("url")
@click.option("--email", required=True, help="The account.")
@click.option("--password-file", help="A file whose first line is the password; - is stdin.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The service's CA (PEM); default: the computer's own.")
@click.option("--device-name", help="How this computer is listed; default: its host name.")
@click.pass_obj
def login(
    session: Session, *, url: str, email: str, password_file: str | None, ca_file: Path | None, device_name: str | None
) -> None:
    """Register this computer with the service at URL.

    An earlier login on this computer is signed out and replaced.
    """
    base_url = clean_url(url)
    ca_pem = read_text(ca_file) if ca_file is not None else None
    name = (device_name or platform.node() or "computer")[:_DEVICE_NAME_MAX]
    answer = Api(Connection(base_url, ca_pem=ca_pem)).login(email, read_password(password_file), name)
    account = Account(
        url=base_url,
        email=answer.email,
        name=answer.name,
        user_id=answer.user_id,
        device_id=answer.device_id,
        device_name=name,
        token=answer.token,
        ca_pem=ca_pem,
    )
    _sign_out_earlier()
    save_account(account)
    document = msgspec.to_builtins(account)
    del document["token"], document["ca_pem"]
    session.show(document, lambda: write_line(f"Logged in to {base_url} as {answer.email}."))


@click.command(cls=JsonCommand)
@click.option("--force", is_flag=True, help="Forget the login here even when the service cannot be told.")
@click.pass_obj
def logout(session: Session, *, force: bool) -> None:
    """Sign this computer out and forget its token."""
    try:
        session.api.logout()
    except (NotLoggedInHere, StateUnreadable):
        if not force:
            raise
    except ClientError as error:
        # A token that the service does not know any more is signed out already.
        if not force and error.exit_code is not ExitCode.NOT_ALLOWED:
            raise
    forget_account()
    session.show({"logged_in": False}, lambda: write_line("Logged out."))


@click.command(cls=JsonCommand)
@click.pass_obj
def whoami(session: Session) -> None:
    """Show the account, the service and the space that is used."""
    me = session.api.whoami()
    rows = [
        ("account", me.email),
        ("name", me.name),
        ("service", session.api.url),
        ("role", "administrator" if me.is_admin else "user"),
        ("used", f"{human_size(me.used)} of {human_size(me.quota)}"),
    ]
    session.show({**msgspec.to_builtins(me), "url": session.api.url}, lambda: write_table(rows))


def _sign_out_earlier() -> None:
    """The token that is about to be overwritten would otherwise stay valid without anybody holding it."""
    try:
        earlier = load_account()
    except (NotLoggedInHere, StateUnreadable):
        return
    try:
        Api(Connection(earlier.url, token=earlier.token, ca_pem=earlier.ca_pem)).logout()
    except ClientError as error:
        if error.exit_code is not ExitCode.NOT_ALLOWED:
            click.echo(f"The earlier login could not be signed out: {error.message}", err=True)
