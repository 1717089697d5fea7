"""`holdfast get`: remote files and folders onto this computer."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click
import msgspec

from client.cli.output import human_size, plain, write_line
from client.cli.session import ServiceCommand, Session
from client.download import Wanted, copy_out, find_version, get_file, get_range, wanted_from
from client.download_tree import get_tree
from client.errors import LocalMissing, UsageProblem
from client.naming import ByteRange, base_name, parse_range, remote_path
from client.source import local_error
from coordinator.protocol.types import Kind, Metadata


@click.command(cls=ServiceCommand)
@click.argument("remote")
@click.argument("local")
@click.option("--version", type=click.IntRange(min=1), help="An earlier version (see: holdfast history).")
@click.option(
    "--range", "range_text", metavar="A-B", help="Only the bytes A to B, both included; A- and -N as in HTTP."
)
@click.option("-r", "--recursive", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def get(session: Session, *, remote: str, local: str, version: int | None, range_text: str | None) -> None:
    """Fetch the file or folder REMOTE as LOCAL; "-" writes to stdout.

    When LOCAL is an existing folder, REMOTE goes inside it; otherwise LOCAL is the new name. A file appears under its
    name only when it is whole. Run it again after an interruption and it goes on where it was.
    """
    byte_range = parse_range(range_text) if range_text is not None else None
    path = remote_path(remote)
    if local == "-" and session.json:
        raise UsageProblem(reason="With --json the file cannot go to stdout as well; name a file instead of '-'.")
    if version is not None:
        wanted = find_version(session.api, path, version)
    else:
        metadata = session.api.metadata(path)
        if metadata.kind is Kind.FOLDER:
            _get_folder(session, metadata, local, byte_range)
            return
        wanted = wanted_from(metadata.path, metadata)
    try:
        _get_one(session, wanted, local, byte_range)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise local_error(Path(local), error) from error


def _get_one(session: Session, wanted: Wanted, local: str, byte_range: ByteRange | None) -> None:
    target = _target(local, base_name(wanted.path), source_is_folder=False)
    with session.transfer("Fetching") as transfer:
        if local == "-":
            copy_out(transfer, wanted, byte_range, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        elif _is_special(target):
            # Renaming a finished file over /dev/null or a pipe would destroy it.
            with target.open("wb", buffering=0) as out:
                copy_out(transfer, wanted, byte_range, out)
        elif byte_range is not None:
            get_range(transfer, wanted, byte_range, target)
        else:
            get_file(transfer, wanted, target)
    if local == "-":
        return
    moved = transfer.tally.report()
    document = {
        "path": wanted.path,
        "version": wanted.version,
        "size": wanted.size,
        "content_hash": wanted.content_hash,
        "local": os.fsencode(target).decode("utf-8", "backslashreplace"),
        "transfer": moved,
    }
    what = f"version {wanted.version}, {human_size(wanted.size)}, {human_size(moved['bytes_moved'])} fetched"
    session.show(document, lambda: write_line(f"{plain(str(document['local']))}: {what}"))


def _get_folder(session: Session, root: Metadata, local: str, byte_range: ByteRange | None) -> None:
    if local == "-" or byte_range is not None:
        raise UsageProblem(reason=f"{root.path} is a folder; only a file can be written to stdout or cut.")
    target = _target(local, base_name(root.path), source_is_folder=True)
    problems = session.problems()
    with session.transfer("Fetching") as transfer:
        get_tree(transfer, root, target, problems)
    moved = transfer.tally.report()
    document = {
        **msgspec.to_builtins(root),
        "local": os.fsencode(target).decode("utf-8", "backslashreplace"),
        "transfer": moved,
        "problems": problems.report(),
    }
    line = f"{plain(str(document['local']))}: {moved['files']} files, {human_size(moved['bytes_moved'])} fetched"
    session.show(document, lambda: write_line(line))
    if (outcome := problems.outcome(moved["files"])) is not None:
        raise outcome


def _target(local: str, name: str, *, source_is_folder: bool) -> Path:
    """Where something called `name` goes ("" for the root's contents). Of a link, what it points to is replaced."""
    path = Path(os.path.realpath(local))
    if path.is_dir():
        return Path(os.path.realpath(path / name))
    if local.endswith("/") and not source_is_folder:
        raise LocalMissing(path=local)
    return path


def _is_special(target: Path) -> bool:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
