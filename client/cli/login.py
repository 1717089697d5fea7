"""`holdfast login`, `logout`, `whoami` and `accounts`: this computer as a device of one account or several."""

from __future__ import annotations

import platform
from pathlib import Path

import click
import msgspec

from client.api import Api
from client.cli.ask import read_password, read_text
from client.cli.output import human_size, write_line, write_table
from client.cli.session import JsonCommand, ServiceCommand, Session, api_of
from client.connection import Connection, clean_url
from client.errors import ClientError, ExitCode, NotLoggedInHere, StateUnreadable
from client.state import Account, forget_account, forget_all_accounts, list_accounts, load_account, save_account

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

    Other accounts stay logged in, and commands work for the newest login unless --account says another. An earlier
    login of the same account is signed out and replaced.
    """
    base_url = clean_url(url)
    ca_pem = read_text(ca_file) if ca_file is not None else None
    name = (device_name or platform.node() or "computer")[:_DEVICE_NAME_MAX]
    answer = Api(Connection(base_url, ca_pem=ca_pem)).login(email, read_password(password_file), name)
    account = Account(
        url=base_url,
        service_id=answer.service_id,
        email=answer.email,
        name=answer.name,
        user_id=answer.user_id,
        device_id=answer.device_id,
        device_name=name,
        token=answer.token,
        ca_pem=ca_pem,
    )
    earlier = _earlier(account)
    save_account(account)
    if earlier is not None:
        _sign_out_earlier(earlier)
    session.show(_document(account), lambda: write_line(f"Logged in to {base_url} as {answer.email}."))


@click.command(cls=ServiceCommand)
@click.option("--force", is_flag=True, help="Forget the login here even when the service cannot be told.")
@click.pass_obj
def logout(session: Session, *, force: bool) -> None:
    """Sign this computer out of an account and forget its token."""
    try:
        account = session.account
    except (NotLoggedInHere, StateUnreadable):
        if not force:
            raise
        forget_all_accounts()
    else:
        _sign_out(account, force=force)
        forget_account(account)
    session.show({"logged_in": False}, lambda: write_line("Logged out."))


@click.command(cls=ServiceCommand)
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


@click.command(cls=JsonCommand)
@click.option("--use", metavar="EMAIL", help="Let commands work for this login from now on.")
@click.pass_obj
def accounts(session: Session, *, use: str | None) -> None:
    """List the logins of this computer. Commands work for the first unless --account says another."""
    if use is not None:
        save_account(load_account(use))
    known = list_accounts()
    session.show({"accounts": [_document(one) for one in known]}, lambda: _show(known))


def _show(known: list[Account]) -> None:
    if not known:
        raise NotLoggedInHere
    rows = [("", "ACCOUNT", "SERVICE", "THIS COMPUTER IS")]
    rows += [("*" if one is known[0] else "", one.email, one.url, one.device_name) for one in known]
    write_table(rows)


def _document(account: Account) -> dict[str, object]:
    """Everything but the secrets."""
    document = msgspec.to_builtins(account)
    del document["token"], document["ca_pem"]
    assert isinstance(document, dict)
    return document


def _earlier(account: Account) -> Account | None:
    """The login that `account` replaces."""
    try:
        known = list_accounts()
    except StateUnreadable:
        return None
    return next((one for one in known if one.is_of(account.service_id, account.user_id)), None)


def _sign_out(account: Account, *, force: bool) -> None:
    """Raises ClientError unless the service does not know the token any more, or with `force`."""
    try:
        api_of(account).logout()
    except ClientError as error:
        if not force and error.exit_code is not ExitCode.NOT_ALLOWED:
            raise


def _sign_out_earlier(account: Account) -> None:
    """Its token, which was just overwritten, would otherwise stay valid without anybody holding it."""
    try:
        _sign_out(account, force=False)
    except ClientError as error:
        click.echo(f"The earlier login could not be signed out: {error.message}", err=True)
