"""Passwords and small texts that a command is given: from a file, from stdin, or from the person at the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from client.errors import LocalTrouble, UsageProblem
from client.source import local_error


def read_password(file: str | None) -> str:
    """The first line of `file` ("-": stdin); without one the person is asked. Raises UsageProblem, LocalTrouble."""
    if file is not None:
        text = sys.stdin.readline() if file == "-" else read_text(Path(file))
        password = text.split("\n", 1)[0].rstrip("\r")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        raise UsageProblem(reason="There is no terminal to ask for the password; name a file with --password-file.")
    if not password:
        raise UsageProblem(reason="The password is empty.")
    return password


def read_text(path: Path) -> str:
    """Raises LocalMissing or LocalTrouble."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise local_error(path, error) from error
    except UnicodeDecodeError as error:
        raise LocalTrouble(path=path, reason="it is not UTF-8 text") from error
