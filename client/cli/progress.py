"""A progress bar on stderr for what takes longer than a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from client.transfer import Tally

_PATIENCE_S: Final = 1.0
_REFRESH_S: Final = 0.2


@contextmanager
def shown(tally: Tally, doing: str) -> Iterator[None]:
    """Show `tally` while the block runs; nothing appears when it is over within a second."""
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(tally, doing, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=_PATIENCE_S)


def _show(tally: Tally, doing: str, over: threading.Event) -> None:
    if over.wait(_PATIENCE_S):
        return
    # 60 ms, paid only by what takes long anyway.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(doing, total=tally.total_bytes)
        while not over.wait(_REFRESH_S):
            bar.update(task, completed=tally.done_bytes, total=tally.total_bytes, refresh=True)
