"""The `holdfast` command: finds the command that is meant, loads only that, and turns every error into one sentence.

Guarantees: exit codes as in client.errors, never a traceback, with `--json` exactly one JSON document on stdout.
Server packages add their commands through `holdfast.commands` entry points; an installation without them says so.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import click

from client.errors import ClientError, ExitCode, UsageProblem, error_object, sentence

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# name -> (module:attribute, one line of help). The line stands here so that `--help` imports none of them.
OWN_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "login": ("client.cli.login:login", "Register this computer with a service."),
    "logout": ("client.cli.login:logout", "Sign this computer out."),
    "accounts": ("client.cli.login:accounts", "List the accounts that this computer is logged in to."),
    "whoami": ("client.cli.login:whoami", "Show who is logged in and how much space is used."),
    "put": ("client.cli.put:put", "Store a file, a folder or stdin."),
    "get": ("client.cli.get:get", "Fetch a file or a folder."),
    "ls": ("client.cli.ls:ls", "List a folder."),
    "mkdir": ("client.cli.mkdir:mkdir", "Make a folder."),
    "mv": ("client.cli.mv:mv", "Move or rename; no bytes travel."),
    "cp": ("client.cli.cp:cp", "Copy; no bytes travel."),
    "rm": ("client.cli.rm:rm", "Move a file or folder to the trash."),
    "stat": ("client.cli.stat:stat", "Show what is known of a file or folder."),
    "history": ("client.cli.history:history", "List a file's versions."),
    "restore": ("client.cli.restore:restore", "Bring back an earlier version or a deleted file."),
    "undelete": ("client.cli.undelete:undelete", "Undo a mass delete."),
    "trash": ("client.cli.trash:trash", "List what was deleted."),
    "sync": ("client.cli.sync_group:sync", "Keep a folder and the service the same."),
    "sync-status": ("client.cli.sync_status:sync_status", "Show what the synced folders are doing."),
    "sync-check": ("client.cli.sync_check:sync_check", "Compare a synced folder with the service."),
    "activity": ("client.cli.activity:activity", "Show notifications."),
    "devices": ("client.cli.devices:devices", "List the computers that are logged in, or sign one out."),
    "admin": ("client.cli.admin:admin", "Run the service: status, users, nodes, jobs."),
}
# Known commands of the server packages, for `--help`; others are listed by their package's name only.
SERVER_HELP: Final = {
    "up": "Run the whole appliance on this computer.",
    "coordinator": "Run a coordinator of a larger installation.",
    "node": "Run or prepare a storage node of a larger installation.",
}


class HoldfastGroup(click.Group):
    """Resolves a command's name to the one module that holds it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*OWN_COMMANDS, *(name for name in _entry_points() if name not in OWN_COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN_COMMANDS:
            return _load(OWN_COMMANDS[cmd_name][0])
        if (entry := _entry_points().get(cmd_name)) is not None:
            return _load_server(cmd_name, entry)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(name, text) for name, (_, text) in OWN_COMMANDS.items()]
        servers = [(name, SERVER_HELP.get(name, f"From {entry.value}.")) for name, entry in _entry_points().items()]
        for title, rows in (("Commands", own), ("Servers", [row for row in servers if row[0] not in OWN_COMMANDS])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.group(cls=HoldfastGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", message="holdfast %(version)s")
def holdfast() -> None:
    """Keep files safe on your own machines.

    Every command takes --json. Exit codes: 0 done, 1 failed, 2 usage, 3 no such file, version or user, 4 conflict,
    5 not allowed or not logged in, 6 the service cannot be reached or cannot take the write now.
    """


def main() -> NoReturn:
    """What the `holdfast` program runs."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Do what `args` say and return the exit code."""
    wants_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        outcome = holdfast.main(args=list(args), prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else ExitCode.DONE
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except click.UsageError as error:
        where = f" See: {' '.join(error.ctx.command_path.split())} --help" if error.ctx is not None else ""
        return _tell(UsageProblem(reason=error.format_message() + where), wants_json)
    except click.ClickException as error:
        return _tell(ClientFailure(error), wants_json)
    except ClientError as error:
        return _tell(error, wants_json)
    except BrokenPipeError:
        # Who read the output has gone (`holdfast ls | head`). Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001  # the last resort: a bug must not end in a traceback
        return _tell(_bug(error), wants_json)


class ClientFailure(ClientError):
    """A failure that a server's command tells in click's way."""

    def __init__(self, error: click.ClickException) -> None:
        super().__init__()
        self.message = error.format_message()
        self.exit_code = ExitCode(error.exit_code) if error.exit_code in set(ExitCode) else ExitCode.FAILED


class Bug(ClientError):
    code = "bug"
    template = "This is a mistake in Holdfast itself ({kind}). Your files are as they were. {where}"


class MissingPart(ClientError):
    code = "missing_part"
    template = "`holdfast {command}` needs server parts that are not installed here ({module}): {how}"


def _tell(error: ClientError, wants_json: bool) -> int:
    from client.cli.output import plain, write_json  # noqa: PLC0415  # only needed when something failed

    # It may name what somebody else called his file, or quote a service that nobody should trust with the terminal.
    click.echo("\n".join(map(plain, sentence(error).split("\n"))), err=True)
    if wants_json and not error.told:
        write_json({"error": error_object(error)})
    return error.exit_code


def _bug(error: Exception) -> ClientError:
    from client.state import record_bug  # noqa: PLC0415  # only needed when something failed

    try:
        where = f"Please report it with the file {record_bug(error)}."
    except OSError:
        where = f"It could not be logged either; it says: {error}"
    return Bug(kind=type(error).__name__, where=where)


def _load(target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  # 40 ms that the client's own commands never need

    return {entry.name: entry for entry in entry_points(group="holdfast.commands")}


def _load_server(name: str, entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        extra = "appliance" if name == "up" else name
        how = f"pip install 'holdfast[{extra}]'"
        raise MissingPart(command=name, module=error.name, how=how) from error
    assert isinstance(command, click.Command)
    return command


if __name__ == "__main__":
    main()
