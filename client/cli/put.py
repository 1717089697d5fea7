"""`holdfast put`: local files, folders and streams into the remote tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click
import msgspec

from client.cli.output import human_size, plain, write_line
from client.cli.session import ServiceCommand, Session
from client.cli.targets import find_target
from client.errors import UsageProblem
from client.naming import local_name
from client.source import local_error
from client.upload import put_file, put_stream
from client.upload_tree import put_tree
from coordinator.protocol.types import Kind, Metadata


@click.command(cls=ServiceCommand)
@click.argument("local")
@click.argument("remote")
@click.option("-r", "--recursive", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def put(session: Session, *, local: str, remote: str) -> None:
    """Store the file or folder LOCAL as REMOTE; "-" stores stdin.

    When REMOTE is an existing folder, LOCAL goes inside it; otherwise REMOTE is the new name. An existing file gets a
    new version; the earlier ones stay in its history. Only what the service does not have yet is sent: run it again
    after an interruption and it goes on where it was.
    """
    if local == "-":
        _put_stream(session, 0, ".", remote)
        return
    path, name = Path(local), local_name(local)
    facts = _facts_of(path)
    if stat.S_ISDIR(facts.st_mode):
        _put_folder(session, path, name, remote)
    elif stat.S_ISREG(facts.st_mode):
        _put_file(session, path, name, remote, facts.st_size)
    else:
        # A pipe or device that is named itself is read like stdin, as `cp` does.
        descriptor = _open_special(path)
        try:
            _put_stream(session, descriptor, name, remote)
        finally:
            os.close(descriptor)


def _put_file(session: Session, local: Path, name: str, remote: str, size_bytes: int) -> None:
    path, there = find_target(session.api, remote, name, source_is_folder=False)
    with session.transfer("Sending") as transfer:
        transfer.tally.expect(size_bytes)
        metadata = put_file(transfer, local, path, there)
    _show(session, metadata, transfer.tally.report())


def _put_stream(session: Session, descriptor: int, name: str, remote: str) -> None:
    path, there = find_target(session.api, remote, name, source_is_folder=False)
    if there is not None and there.kind is Kind.FOLDER:
        raise UsageProblem(reason=f"{remote} is a folder; write the whole name that the file is to get.")
    with session.transfer("Sending") as transfer, os.fdopen(descriptor, "rb", buffering=0, closefd=False) as stream:
        metadata = put_stream(transfer, stream, path, there.version if there is not None else 0)
    _show(session, metadata, transfer.tally.report())


def _put_folder(session: Session, local: Path, name: str, remote: str) -> None:
    path, _ = find_target(session.api, remote, name, source_is_folder=True)
    problems = session.problems()
    with session.transfer("Sending") as transfer:
        metadata = put_tree(transfer, local, path, problems)
    _show(session, metadata, transfer.tally.report(), problems.report())
    if (outcome := problems.outcome(transfer.tally.files)) is not None:
        raise outcome


def _facts_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise local_error(path, error) from error


def _open_special(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise local_error(path, error) from error


def _show(
    session: Session, metadata: Metadata, moved: dict[str, int], problems: list[dict[str, str]] | None = None
) -> None:
    document = {**msgspec.to_builtins(metadata), "transfer": moved}
    what = f"version {metadata.version}, {human_size(metadata.size)}"
    if problems is not None:
        document["problems"] = problems
        what = f"{moved['files']} files"
    line = f"{plain(metadata.path)}: {what}, {human_size(moved['bytes_moved'])} sent"
    session.show(document, lambda: write_line(line))
