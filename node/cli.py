"""The `node` commands: serve, format, keygen, clear-disk. Thin; what they need is imported when they run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from node.base.config import ConfigError

_CONFIG = click.option(
    "--config", "config_file", required=True, type=click.Path(dir_okay=False), help="The node's TOML file."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def node() -> None:
    """Storage daemon: keeps shards on this machine's disks."""


@node.command()
@_CONFIG
def serve(config_file: str) -> None:
    """Run the storage daemon in the foreground until SIGTERM."""
    from node import daemon  # noqa: PLC0415
    from node.base.logs import setup_logging  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415

    try:
        config = load_config(config_file)
        setup_logging(config.log_level)
        clean = daemon.serve(config)
    except (ConfigError, daemon.CannotListen) as error:
        _die(str(error))
    sys.exit(0 if clean else 1)


@node.command(name="format")
@_CONFIG
@click.option("--disk", "only", type=click.Path(), help="Only this disk of the file.")
@_JSON
def format_(config_file: str, only: str | None, as_json: bool) -> None:
    """Make new, empty directories the disks that the file names.

    A directory that carries the right identity already is left alone; one that holds anything else is an error.
    """
    from node.config import load_config  # noqa: PLC0415
    from node.volumes.identity import DiskForeign, Identity, format_disk, is_formatted_as  # noqa: PLC0415

    formatted: list[str] = []
    try:
        config = load_config(config_file)
        disks = [disk for disk in config.disks if only is None or Path(disk.path) == Path(only)]
        if not disks:
            _die(f"{only} is no disk of {config_file}.", as_json)
        for disk in disks:
            identity = Identity(cluster_id=config.cluster_id, node=config.name, disk_id=disk.id)
            if not is_formatted_as(Path(disk.path), identity):
                format_disk(Path(disk.path), identity)
                formatted.append(disk.path)
    except (ConfigError, DiskForeign, OSError) as error:
        _die(str(error), as_json)
    _report({"formatted": formatted}, [f"{path} is a disk now." for path in formatted], as_json)


@node.command()
@click.argument("secret_key_file", type=click.Path(dir_okay=False))
@_JSON
def keygen(secret_key_file: str, as_json: bool) -> None:
    """Make a CURVE key pair: the secret goes to a new file (mode 0600), the public key is printed."""
    import zmq  # noqa: PLC0415

    from node.base.durable import write_file_durably  # noqa: PLC0415

    if Path(secret_key_file).exists():
        _die(f"{secret_key_file} exists already; a key is never overwritten.", as_json)
    public, secret = zmq.curve_keypair()
    try:
        write_file_durably(secret_key_file, secret + b"\n", mode=0o600)
    except OSError as error:
        _die(f"{secret_key_file} cannot be written: {error.strerror}.", as_json)
    if not as_json:
        click.echo(public.decode("ascii"))
        return
    _report({"public_key": public.decode("ascii"), "secret_key_file": secret_key_file}, [], as_json)


@node.command(name="clear-disk")
@_CONFIG
@click.option("--disk", "path", required=True, type=click.Path(), help="The disk's directory.")
@_JSON
def clear_disk(config_file: str, path: str, as_json: bool) -> None:
    """Take a failed disk back into use. Stop the daemon and look at the disk (SMART, kernel log) first."""
    from node.config import load_config  # noqa: PLC0415
    from node.volumes.health import clear_failure, read_failure  # noqa: PLC0415
    from node.volumes.identity import DiskForeign, claim_disk  # noqa: PLC0415

    try:
        config = load_config(config_file)
        disk = next((disk for disk in config.disks if Path(disk.path) == Path(path)), None)
        if disk is None:
            _die(f"{path} is no disk of {config_file}.", as_json)
        claim = claim_disk(Path(path), config.cluster_id, config.name, disk.id)
        reason = read_failure(Path(path))
        clear_failure(Path(path))
        claim.release()
    except (ConfigError, DiskForeign, OSError) as error:
        _die(str(error), as_json)
    told = f"{path} had failed ({reason}); it is used again." if reason else f"{path} had not failed."
    _report({"path": path, "reason": reason}, [told], as_json)


def _report(document: dict[str, object], sentences: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document))
        return
    for sentence in sentences:
        click.echo(sentence, err=True)


def _die(message: str, as_json: bool = False) -> NoReturn:
    click.echo(message, err=True)
    if as_json:
        click.echo(json.dumps({"error": {"code": "failed", "message": message, "request_id": None}}))
    sys.exit(1)
