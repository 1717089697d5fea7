"""`holdfast coordinator …`: the command of a coordinator worker."""

from __future__ import annotations

import asyncio

import click

from coordinator.config import CoordinatorConfig
from node.base.config import ConfigError, load_toml
from node.base.logs import setup_logging


@click.group()
def coordinator() -> None:
    """Coordinator workers of a real installation."""


@coordinator.command()
@click.option("--config", "config_file", required=True, type=click.Path(dir_okay=False), help="coordinator.toml")
def serve(config_file: str) -> None:
    """Serve until SIGTERM, then finish what runs."""
    # Imported here, so that listing the commands does not load the whole server.
    from coordinator.api.listener import ListenError  # noqa: PLC0415
    from coordinator.blocks.keys import BadRootKey  # noqa: PLC0415
    from coordinator.daemon import serve as serve_worker  # noqa: PLC0415
    from coordinator.protocol.errors import ApiError  # noqa: PLC0415

    try:
        config = load_toml(config_file, CoordinatorConfig)
        setup_logging(config.log_level)
        asyncio.run(serve_worker(config))
    except (ConfigError, ListenError, BadRootKey, ApiError, OSError) as error:
        raise click.ClickException(str(error)) from error
