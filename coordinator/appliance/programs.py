"""What the layout's nodes and workers are as processes: their configuration files and command lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from coordinator.appliance.layout import Layout, NodeLayout, Paths, WorkerLayout, public_key_file
from coordinator.appliance.processes import Program, python_module

LOOPBACK: Final = "127.0.0.1"
# A worker drains for as long as its configuration says; after that and a little more it is killed.
_DRAIN_S: Final = 20.0
_DRAIN_GRACE_S: Final = 5.0


def node_config(layout: Layout, node: NodeLayout, paths: Paths, coordinator_key: str) -> str:
    """The node's TOML; `coordinator_key` is the public CURVE key (Z85) of the coordinators."""
    lines = [
        _key("cluster_id", layout.cluster_id),
        _key("name", node.name),
        _key("site", node.site),
        _key("listen", node_address(node)),
        _key("metrics_listen", f"{LOOPBACK}:{node.metrics_port}"),
        _key("secret_key_file", str(paths.node_key(node.name))),
        _key("coordinator_keys", [coordinator_key]),
    ]
    for disk in node.disks:
        lines += ["", "[[disks]]", _key("path", str(paths.root / disk.path)), _key("id", disk.id)]
    return "\n".join(lines) + "\n"


def worker_config(layout: Layout, worker: WorkerLayout, paths: Paths, *, conninfo: str, descriptor: int) -> str:
    """The worker's TOML; `descriptor` is the number of the listening socket that it inherits."""
    lines = [
        _key("cluster_id", layout.cluster_id),
        _key("name", worker.name),
        _key("site", worker.site),
        _key("listen", f"fd:{descriptor}"),
        _key("metrics_listen", f"{LOOPBACK}:{worker.metrics_port}"),
        _key("public_url", public_url(layout)),
        _key("database", conninfo),
        _key("root_key_file", str(paths.root_key)),
        _key("node_secret_key_file", str(paths.coordinator_key)),
        _key("tls_cert_file", str(paths.server_cert)),
        _key("tls_key_file", str(paths.server_key)),
        _key("drain_s", _DRAIN_S),
    ]
    return "\n".join(lines) + "\n"


def node_address(node: NodeLayout) -> str:
    """Where coordinators and peers reach the node."""
    return f"tcp://{LOOPBACK}:{node.port}"


def public_url(layout: Layout) -> str:
    """Where people reach the service. Listening everywhere, the loopback address is the one that surely works here."""
    host = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(layout.bind, layout.bind)  # noqa: S104 - compared, not bound
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"https://{host}:{layout.port}"


def format_program(node: NodeLayout, paths: Paths) -> Program:
    """Gives a new node's empty disks their identity."""
    return Program(
        name=f"{node.name}-format",
        role="setup",
        site=node.site,
        argv=python_module("node", "format", "--config", str(paths.config_file(node.name))),
    )


def node_program(node: NodeLayout, paths: Paths) -> Program:
    """One storage daemon."""
    return Program(
        name=node.name,
        role="node",
        site=node.site,
        argv=python_module("node", "serve", "--config", str(paths.config_file(node.name))),
        disks=disk_folders(node, paths),
        stop_timeout_s=25.0,  # a little more than the node gives itself
    )


def worker_program(worker: WorkerLayout, paths: Paths, descriptor: int) -> Program:
    """One coordinator worker."""
    return Program(
        name=worker.name,
        role="coordinator",
        site=worker.site,
        argv=python_module("coordinator", "serve", "--config", str(paths.config_file(worker.name))),
        stop_timeout_s=_DRAIN_S + _DRAIN_GRACE_S,
        descriptors=(descriptor,),
    )


def setup_program(name: str, paths: Paths, *arguments: str) -> Program:
    """One of the short processes of this package: `keys` or `database`."""
    argv = python_module(f"coordinator.appliance.{name}", "--data", str(paths.root), *arguments)
    return Program(name=name, role="setup", site="", argv=argv)


def disk_folders(node: NodeLayout, paths: Paths) -> Sequence[Path]:
    """The node's disk directories."""
    return tuple(paths.root / disk.path for disk in node.disks)


def read_public_key(secret_key_file: Path) -> str:
    """The public half (Z85) of a CURVE key that `keys` has made. Raises OSError."""
    return public_key_file(secret_key_file).read_text("ascii").strip()


def _key(name: str, value: str | float | list[str]) -> str:
    # A JSON string, number or list of strings is TOML as well, when characters beyond ASCII stand as they are.
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"
