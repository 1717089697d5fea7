"""What a one-machine installation consists of: names, ports, disks, paths. Pure: nothing here touches the disk.

The layout is written to DIR/layout.json before anything is created from it, and from then on decides: an interrupted
first start is completed from it, and a later start with other options is told that the layout wins. Paths in it are
relative to DIR, so that DIR may be moved while the appliance is stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

FORMAT_VERSION: Final = 1
NODES_MAX: Final = 64
DISKS_MAX: Final = 16
SITES_MAX: Final = 8
WORKERS_MAX: Final = 32
ADMIN_EMAIL: Final = "admin@localhost"


class LayoutError(Exception):
    """The options or the layout file cannot be used; the message is a sentence for a person."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said. None: not said, so the layout (or the default of a first start) decides."""

    port: int | None = None
    bind: str | None = None
    sites: int | None = None
    nodes: int | None = None
    disks: int | None = None
    code: str | None = None
    workers: int | None = None


DEFAULTS: Final = Options(port=8443, bind="127.0.0.1", sites=1, nodes=6, disks=1, code="4+2", workers=2)


class DiskLayout(msgspec.Struct, frozen=True):
    """One disk directory; `path` is relative to DIR."""

    id: str
    path: str


class NodeLayout(msgspec.Struct, frozen=True):
    """One storage daemon; both ports are on the loopback address."""

    name: str
    site: str
    port: int
    metrics_port: int
    disks: tuple[DiskLayout, ...]


class WorkerLayout(msgspec.Struct, frozen=True):
    """One coordinator process. They share the public port; `metrics_port` is its own, on the loopback address."""

    name: str
    site: str
    metrics_port: int


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DIR/layout.json. `formatted`: every disk has its identity; a disk that lacks it later is lost, not new."""

    format_version: int
    cluster_id: str
    bind: str
    port: int
    code: str
    nodes: tuple[NodeLayout, ...]
    workers: tuple[WorkerLayout, ...]
    formatted: bool = False

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in order."""
        return tuple(dict.fromkeys(node.site for node in self.nodes))

    def ports(self) -> Iterator[int]:
        """Every loopback port that the layout holds (the public port is not one of them)."""
        for node in self.nodes:
            yield node.port
            yield node.metrics_port
        for worker in self.workers:
            yield worker.metrics_port


class Paths:
    """Where things lie in DIR."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.layout = root / "layout.json"
        self.appliance = root / "appliance.json"
        self.admin_password = root / "admin-password"
        self.config = root / "config"
        self.keys = root / "keys"
        self.root_key = root / "keys" / "root.key"
        self.coordinator_key = root / "keys" / "coordinator.key"
        self.tls = root / "tls"
        self.ca = root / "tls" / "ca.crt"
        self.server_cert = root / "tls" / "server.crt"
        self.server_key = root / "tls" / "server.key"
        self.logs = root / "logs"
        self.run = root / "run"
        self.postgres = root / "postgres"

    def node_key(self, name: str) -> Path:
        """The CURVE secret of a node."""
        return self.keys / f"{name}.key"

    def config_file(self, name: str) -> Path:
        """The TOML file of a node or worker."""
        return self.config / f"{name}.toml"


def public_key_file(secret_key_file: Path) -> Path:
    """Where the public half of a CURVE secret lies."""
    return secret_key_file.with_suffix(".pub")


def parse_code(code: str) -> tuple[int, int]:
    """(k, m) of "4+2". Raises LayoutError."""
    match = re.fullmatch(r"(\d{1,2})\+(\d{1,2})", code)
    k, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= k <= 14 and 1 <= m <= 6):
        raise LayoutError(f'The code "{code}" is not of the form K+M with K from 1 to 14 and M from 1 to 6.')
    return k, m


def plan_layout(options: Options, *, new_id: Callable[[], str], free_ports: Callable[[int], Sequence[int]]) -> Layout:
    """The layout of a first start. `new_id` gives hex ids, `free_ports(n)` n ports. Raises LayoutError."""
    check_options(options)
    wanted = _with_defaults(options)
    sites, nodes, disks = _count(wanted.sites), _count(wanted.nodes), _count(wanted.disks)
    workers = _count(wanted.workers)
    # All in one draw, since no two calls know of each other.
    ports = iter(free_ports(1 + 2 * sites * nodes + workers))
    node_layouts = []
    for site in range(1, sites + 1):
        for number in range(1, nodes + 1):
            name = f"site{site}-node{number}"
            node_disks = tuple(DiskLayout(id=new_id(), path=f"nodes/{name}/disk{disk}") for disk in range(1, disks + 1))
            node_layouts.append(NodeLayout(name, f"site{site}", next(ports), next(ports), node_disks))
    layout = Layout(
        format_version=FORMAT_VERSION,
        cluster_id=new_id(),
        bind=wanted.bind or "",
        # A free one is chosen like the others, not by the kernel: it has to be free again at every later start.
        port=_count(wanted.port) or next(ports),
        code=wanted.code or "",
        nodes=tuple(node_layouts),
        workers=(),
    )
    return with_workers(layout, workers, lambda count: [next(ports) for _ in range(count)])


def check_options(options: Options) -> None:
    """Raises LayoutError when no appliance can be made with these options."""
    wanted = _with_defaults(options)
    code, nodes = wanted.code or "", _count(wanted.nodes)
    k, m = parse_code(code)
    if nodes < k + m:
        raise LayoutError(
            f"The code {code} keeps {k + m} shards of a block on {k + m} different nodes, but a site has only {nodes}. "
            f"Give --nodes {k + m} or more, or a smaller --code."
        )


def _with_defaults(options: Options) -> Options:
    said = {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}
    return msgspec.structs.replace(DEFAULTS, **said)


def with_workers(layout: Layout, count: int, free_ports: Callable[[int], Sequence[int]]) -> Layout:
    """The layout with `count` workers, spread over the sites; those that stay keep their ports."""
    kept = layout.workers[:count]
    sites = layout.sites
    added = tuple(
        WorkerLayout(f"worker{number}", sites[(number - 1) % len(sites)], port)
        for number, port in enumerate(free_ports(count - len(kept)), start=len(kept) + 1)
    )
    return msgspec.structs.replace(layout, workers=kept + added)


def with_other_ports(layout: Layout, taken: Sequence[int], free_ports: Callable[[int], Sequence[int]]) -> Layout:
    """The layout with another port for each one in `taken`."""
    other = dict(zip(taken, free_ports(len(taken)), strict=True))
    return msgspec.structs.replace(
        layout,
        nodes=tuple(
            msgspec.structs.replace(
                node,
                port=other.get(node.port, node.port),
                metrics_port=other.get(node.metrics_port, node.metrics_port),
            )
            for node in layout.nodes
        ),
        workers=tuple(
            msgspec.structs.replace(worker, metrics_port=other.get(worker.metrics_port, worker.metrics_port))
            for worker in layout.workers
        ),
    )


def list_differences(layout: Layout, options: Options) -> list[str]:
    """A plain sentence for every option that says something else than the layout, which wins."""
    per_site = len(layout.nodes) // len(layout.sites)
    stands = {
        "port": layout.port,
        "bind": layout.bind,
        "sites": len(layout.sites),
        "nodes": per_site,
        "disks": len(layout.nodes[0].disks),
        "code": layout.code,
    }
    return [
        f"--{name} {said} is not used: this appliance was made with --{name} {stands[name]}."
        for name in stands
        if (said := getattr(options, name)) is not None and said not in (stands[name], 0)
    ]


def decode_layout(data: bytes) -> Layout:
    """Read a layout file. Raises LayoutError."""
    try:
        layout = msgspec.json.decode(data, type=Layout)
    except msgspec.DecodeError as error:
        raise LayoutError(f"layout.json cannot be read ({error}). Nothing was started or changed.") from error
    if layout.format_version != FORMAT_VERSION:
        raise LayoutError(
            f"layout.json has format {layout.format_version}; this Holdfast reads format {FORMAT_VERSION}. "
            "Nothing was started or changed."
        )
    return layout


def encode_layout(layout: Layout) -> bytes:
    """The bytes of a layout file, for people to read as well."""
    return msgspec.json.format(msgspec.json.encode(layout), indent=2) + b"\n"


def _count(value: int | None) -> int:
    assert value is not None  # _with_defaults was applied
    return value
