"""A systemd user unit that keeps a folder synced whenever its person is logged in. Pure text, and where it belongs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from client.sync.folders import Folder


def unit_name(folder: Folder) -> str:
    return f"holdfast-sync-{folder.id}.service"


def unit_path(folder: Folder, environment: Mapping[str, str] = os.environ) -> Path:
    """Where systemd looks for this person's own units."""
    config = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return Path(config) / "systemd" / "user" / unit_name(folder)


def unit_text(folder: Folder, home: str | None, python: str = sys.executable) -> str:
    """`home` is HOLDFAST_HOME where the person set one. What a restart cannot mend (a wrong command line, a login that
    has ended: exit codes 2 and 5) is not tried again."""
    where = f"Environment={_quoted(f'HOLDFAST_HOME={home}')}\n" if home else ""
    command = " ".join(
        _quoted(part) for part in (python, "-m", "client", "sync", folder.path, "--remote", folder.remote)
    )
    return (
        "[Unit]\n"
        f"Description=Holdfast keeps {_escaped(folder.path)} and {_escaped(folder.remote)} the same\n"
        "\n"
        "[Service]\n"
        f"{where}"
        f"ExecStart={command}\n"
        "Restart=always\n"
        "RestartSec=5\n"
        "RestartPreventExitStatus=2 5\n"
        "Nice=5\n"
        "TimeoutStopSec=30\n"
        "\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )


def _escaped(text: str) -> str:
    """As systemd reads it: specifiers begin with %, and a unit's line ends at its newline."""
    return text.replace("\\", "\\\\").replace("%", "%%").replace("\n", "\\n").replace("\r", "\\r")


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace('"', '\\"').replace("$", "$$") + '"'
