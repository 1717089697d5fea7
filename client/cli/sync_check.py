"""`holdfast sync-check`: whether a synced folder, this computer's database and the service say the same."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

import click

from client.api import Api
from client.cli.output import counted, plain, write_line
from client.cli.session import JsonCommand, Session, api_of
from client.errors import ClientError, LocalTrouble
from client.sync.check import Checked, Difference, check, lasting
from client.sync.folders import Folder, account_of, find, is_running, list_folders, read_status

PASSES_MAX: Final = 4
PAUSE_S: Final = 1.0
SETTLE_S: Final = 60.0
_SHOWN_MAX: Final = 100


class Differs(ClientError):
    code, told = "differs", True
    template = "{found} found. A running client looks again at what differs; see sync-status."


@click.command(name="sync-check", cls=JsonCommand)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--contents", is_flag=True, help="Read every file as well, instead of trusting sizes and times.")
@click.pass_obj
def sync_check(session: Session, *, folder: Path | None, contents: bool) -> None:
    """Compare disk, database and service of DIR (all synced folders without one) and tell exactly what differs.

    Nothing is changed. What is on its way while this runs does not count: only what is found twice is told.
    """
    found = [
        (known, _check(api_of(account_of(known)), known, contents=contents))
        for known in ([find(folder)] if folder is not None else list_folders())
    ]
    session.show({"folders": [_document(known, checked) for known, checked in found]}, lambda: _show(found))
    count = sum(len(checked.differences) for _, checked in found)
    if count:
        raise Differs(found=counted(count, "difference"))


def _check(api: Api, folder: Folder, *, contents: bool) -> Checked:
    """Again until two checks in a row agree on what differs, or nothing does."""
    checked = _check_once(api, folder, contents=contents)
    for _ in range(PASSES_MAX - 1):
        if not checked.differences:
            break
        _wait_until_settled(folder)
        again = _check_once(api, folder, contents=contents)
        checked = Checked(again.files, lasting(checked.differences, again.differences))
        if checked.differences == again.differences:
            break
    return checked


def _check_once(api: Api, folder: Folder, *, contents: bool) -> Checked:
    from client.sync.running import open_root, read_selection  # noqa: PLC0415  # 100 ms that `--help` does not need

    try:
        with open_root(folder) as fs:
            entries = api.list_folder(folder.remote, recursive=True)
            return check(folder.state / "state.db", fs, entries, read_selection(folder, fs), contents=contents)
    except OSError as error:
        raise LocalTrouble(path=folder.path, reason=error.strerror or str(error)) from error
    except sqlite3.Error as error:
        raise LocalTrouble(path=folder.state / "state.db", reason=str(error)) from error


def _wait_until_settled(folder: Folder) -> None:
    """A client that runs is given the time to come to rest."""
    time.sleep(PAUSE_S)
    until = time.monotonic() + SETTLE_S
    while is_running(folder) and read_status(folder).state == "syncing" and time.monotonic() < until:
        time.sleep(PAUSE_S)


def _document(folder: Folder, checked: Checked) -> dict[str, object]:
    rows = [{"path": one.path, "between": one.between.value, "what": one.what} for one in checked.differences]
    return {"path": folder.path, "remote": folder.remote, "files": checked.files, "differences": rows}


def _show(found: list[tuple[Folder, Checked]]) -> None:
    if not found:
        write_line("No folder is synced on this computer. Begin with: holdfast sync DIR")
    for folder, checked in found:
        if not checked.differences:
            write_line(f"{plain(folder.path)}: {counted(checked.files, 'file')}, nothing differs.")
            continue
        differences = counted(len(checked.differences), "difference")
        write_line(f"{plain(folder.path)}: {counted(checked.files, 'file')}, {differences}:")
        for one in checked.differences[:_SHOWN_MAX]:
            write_line(f"  {_line(one)}")
        if len(checked.differences) > _SHOWN_MAX:
            write_line(f"  … and {len(checked.differences) - _SHOWN_MAX} more (all with --json)")


def _line(one: Difference) -> str:
    return f"{plain(one.path)} ({one.between}): {one.what}"
