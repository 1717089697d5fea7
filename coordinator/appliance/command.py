"""The command `holdfast up`: what a person types, and what they read while it runs."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from pathlib import Path

import click
import msgspec

from coordinator.appliance.layout import (
    DEFAULTS,
    DISKS_MAX,
    NODES_MAX,
    SITES_MAX,
    WORKERS_MAX,
    LayoutError,
    Options,
    Paths,
    check_options,
)
from coordinator.appliance.logfiles import open_log
from coordinator.appliance.run import HUNG_AFTER_S, Appliance, Description, lock_folder
from coordinator.appliance.start import StartFailed
from node.base.logs import setup_logging


@click.command(short_help="Run the whole appliance on this machine.")
@click.option(
    "--data",
    "data",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where everything is kept. The same folder again continues where it was.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"The port people use (default {DEFAULTS.port}; 0: a free one)."
)
@click.option("--bind", metavar="ADDRESS", help=f"The address to listen on (default {DEFAULTS.bind}; 0.0.0.0: all).")
@click.option(
    "--sites", type=click.IntRange(1, SITES_MAX), help=f"Sites, each with its own nodes (default {DEFAULTS.sites})."
)
@click.option(
    "--nodes", type=click.IntRange(1, NODES_MAX), help=f"Storage daemons per site (default {DEFAULTS.nodes})."
)
@click.option("--disks", type=click.IntRange(1, DISKS_MAX), help=f"Disks per node (default {DEFAULTS.disks}).")
@click.option("--code", metavar="K+M", help=f"Any K of K+M shards rebuild a block (default {DEFAULTS.code}).")
@click.option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    help=f"Coordinator processes (default {DEFAULTS.workers}; may change at any start).",
)
@click.option(
    "--hung-after",
    type=click.FloatRange(min=0),
    default=HUNG_AFTER_S,
    show_default=True,
    metavar="SECONDS",
    help="Kill and start again a process that answers nothing for so long (0: never).",
)
@click.option("--no-restart", is_flag=True, help="Leave a process that died dead (for fault tests).")
@click.option(
    "--json", "as_json", is_flag=True, help="When ready, print one JSON document (that of DIR/appliance.json)."
)
def up(
    *,
    data: Path,
    port: int | None,
    bind: str | None,
    sites: int | None,
    nodes: int | None,
    disks: int | None,
    code: str | None,
    workers: int | None,
    hung_after: float,
    no_restart: bool,
    as_json: bool,
) -> None:
    """Run the whole appliance on this machine, in the foreground.

    Starts an embedded PostgreSQL, the coordinator workers and the storage nodes, each a process of its own, and starts
    again what dies or hangs. Ctrl-C or SIGTERM stops everything cleanly. How the appliance is made up (all but
    --workers) is settled by the first start.
    """
    options = Options(port=port, bind=bind, sites=sites, nodes=nodes, disks=disks, code=code, workers=workers)
    paths = Paths(data.absolute())
    try:
        if not paths.layout.exists():
            check_options(options)
        lock_folder(paths)  # held until this process ends
        paths.logs.mkdir(mode=0o700, exist_ok=True)
        # Kept open for as long as the process lives.
        setup_logging("info", open(open_log(paths.logs / "supervisor.log"), "w", encoding="utf-8"))  # noqa: SIM115
        asyncio.run(_run(paths, options, restart=not no_restart, hung_after_s=hung_after, as_json=as_json))
    except LayoutError as error:
        raise click.UsageError(str(error)) from error
    except StartFailed as error:
        logging.getLogger(__name__).error("appliance.start_failed", extra={"reason": str(error)})
        for line in error.details:
            _say(f"  | {line}")
        raise click.ClickException(str(error)) from error


async def _run(paths: Paths, options: Options, *, restart: bool, hung_after_s: float, as_json: bool) -> None:
    def on_ready(description: Description) -> None:
        if as_json:
            click.echo(msgspec.json.encode(description))
        _say(_ready_text(description))

    if not paths.layout.exists():
        _say(f"Making a new Holdfast appliance in {paths.root}; this takes a few seconds.")
    await Appliance(paths, options, restart=restart, say=_say, hung_after_s=hung_after_s).run(on_ready)


def _ready_text(description: Description) -> str:
    holdfast = "holdfast" if shutil.which("holdfast") else str(Path(sys.executable).with_name("holdfast"))
    admin = description.admin
    return "\n".join(
        (
            "Holdfast is ready.",
            f"  Address        {description.url}",
            f"  Administrator  {admin.email}, password in {admin.password_file}",
            f"  Certificate    signed by {description.ca_file}",
            "Next, in another terminal:",
            f"  {holdfast} login {description.url} --email {admin.email} \\",
            f"      --password-file {admin.password_file} --ca-file {description.ca_file}",
            f"  {holdfast} put FILE /",
            "Ctrl-C stops everything.",
        )
    )


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
