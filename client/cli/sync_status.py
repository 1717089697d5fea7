"""`holdfast sync-status`: what the clients of this computer's synced folders are doing."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import msgspec

from client.cli.output import human_size, human_time, plain, write_line
from client.cli.session import JsonCommand, Session
from client.sync.folders import Folder, ProblemLine, StatusFile, list_folders, read_status

_SHOWN_MAX = 20
_WARNING = "here it is synced"  # how client.sync.local.disk ends what it only warns of
_WORDS = {"in_sync": "in sync", "syncing": "syncing", "blocked": "blocked", "offline": "offline"}


@click.command(name="sync-status", cls=JsonCommand)
@click.pass_obj
def sync_status(session: Session) -> None:
    """Show the synced folders: state, queue, speed, conflicts, what cannot be synced, the last errors."""
    told = [(folder, read_status(folder)) for folder in list_folders()]
    session.show({"folders": [document(folder, status) for folder, status in told]}, lambda: _show(told))


def document(folder: Folder, status: StatusFile) -> dict[str, object]:
    """A folder in JSON output."""
    said = msgspec.to_builtins(status)
    return {"path": folder.path, "remote": folder.remote, "account": folder.email, **said}


def _show(told: list[tuple[Folder, StatusFile]]) -> None:
    if not told:
        write_line("No folder is synced on this computer. Begin with: holdfast sync DIR")
    for folder, status in told:
        word = _WORDS.get(status.state, status.state)
        state = word if status.running else f"{word}, no client is running"
        write_line(f"{plain(folder.path)} ↔ {plain(folder.remote)} ({folder.email}): {state}")
        if status.reason:
            write_line(f"  {plain(status.reason)}")
        if status.queued:
            write_line(f"  {status.queued} to do, {_speed(status)}")
        for row in status.conflicted[:_SHOWN_MAX]:
            write_line(f"  conflict: {plain(row.path)} was changed twice; the other copy is {plain(row.copy)}")
        for problem in status.problems[:_SHOWN_MAX]:
            write_line(f"  {_problem(problem)}")
        if len(status.problems) > _SHOWN_MAX:
            write_line("  … and more (with --json)")
        for error in status.errors[:5]:
            about = f"{plain(error.path)}: " if error.path else ""
            write_line(f"  {human_time(datetime.fromtimestamp(error.at, UTC))} {about}{plain(error.message)}")


def _problem(problem: ProblemLine) -> str:
    if not problem.path:
        return plain(problem.reason)
    word = "note" if problem.reason.endswith(_WARNING) else "not synced"
    return f"{word}: {plain(problem.path)}: {plain(problem.reason)}"


def _speed(status: StatusFile) -> str:
    return f"{human_size(status.up_bytes_s)}/s up, {human_size(status.down_bytes_s)}/s down"
