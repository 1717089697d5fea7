"""`holdfast coordinator …`: the commands of a coordinator worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import click

from coordinator.config import CoordinatorConfig
from node.base.config import ConfigError, load_toml
from node.base.logs import setup_logging

# What only a running worker needs is imported where it starts: listing the commands must not load a whole server.
_config = click.option(
    "--config", "config_file", required=True, type=click.Path(dir_okay=False), help="coordinator.toml"
)


@click.group()
def coordinator() -> None:
    """Coordinator workers of a real installation."""


@coordinator.command()
@_config
def serve(config_file: str) -> None:
    """Serve until SIGTERM, then finish what runs."""
    from coordinator.api.listener import ListenError  # noqa: PLC0415
    from coordinator.blocks.keys import BadRootKey  # noqa: PLC0415
    from coordinator.daemon import WorkerBroken  # noqa: PLC0415
    from coordinator.daemon import serve as serve_worker  # noqa: PLC0415
    from coordinator.protocol.errors import ApiError  # noqa: PLC0415

    with _told_plainly(ConfigError, ListenError, BadRootKey, WorkerBroken, ApiError, OSError):
        config = load_toml(config_file, CoordinatorConfig)
        setup_logging(config.log_level)
        asyncio.run(serve_worker(config))


@coordinator.command()
@_config
def migrate(config_file: str) -> None:
    """Bring the database to this program's schema; safe at any time and from several machines."""
    import psycopg  # noqa: PLC0415

    from coordinator.metadata.schema.migrate import migrate as migrate_database  # noqa: PLC0415

    with _told_plainly(ConfigError, psycopg.Error):
        applied = migrate_database(load_toml(config_file, CoordinatorConfig).database)
        click.echo(f"applied: {', '.join(applied)}" if applied else "nothing to do")


@contextmanager
def _told_plainly(*kinds: type[Exception]) -> Iterator[None]:
    """What an operator can act on is one sentence; anything else is a bug and keeps its traceback."""
    try:
        yield
    except kinds as error:
        raise click.ClickException(str(error).strip()) from error
