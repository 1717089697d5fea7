"""The configuration files that `holdfast up` writes are what the daemons read."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from coordinator.appliance.layout import Layout, Options, Paths, plan_layout
from coordinator.appliance.programs import node_config, node_program, public_url, worker_config, worker_program
from coordinator.config import CoordinatorConfig
from node.base.config import parse_toml
from node.config import NodeConfig

PATHS = Paths(Path('/srv/hold "fast" ä\\'))
PUBLIC_KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def make_layout() -> Layout:
    ids = (f"{number:032x}" for number in itertools.count(1))
    return plan_layout(
        Options(disks=2), new_id=lambda: next(ids), free_ports=lambda count: list(range(20_000, 20_000 + count))
    )


def test_a_node_reads_its_configuration() -> None:
    layout = make_layout()
    node = layout.nodes[3]
    read = parse_toml(node_config(layout, node, PATHS, PUBLIC_KEY), NodeConfig, name="node.toml")
    assert (read.cluster_id, read.name, read.site) == (layout.cluster_id, "site1-node4", "site1")
    assert read.listen == f"tcp://127.0.0.1:{node.port}"
    assert read.coordinator_keys == (PUBLIC_KEY,)
    assert [(disk.path, disk.id) for disk in read.disks] == [
        (str(PATHS.root / "nodes/site1-node4/disk1"), node.disks[0].id),
        (str(PATHS.root / "nodes/site1-node4/disk2"), node.disks[1].id),
    ]


def test_a_worker_reads_its_configuration() -> None:
    layout = make_layout()
    text = worker_config(layout, layout.workers[1], PATHS, conninfo="host=/run dbname=holdfast", descriptor=7)
    read = parse_toml(text, CoordinatorConfig, name="coordinator.toml")
    assert (read.name, read.site, read.listen) == ("worker2", "site1", "fd:7")
    assert read.public_url == "https://127.0.0.1:8443"
    assert read.tls_cert_file == str(PATHS.server_cert)


def test_nobody_is_killed_before_it_has_had_its_own_time_to_finish() -> None:
    layout = make_layout()
    node = parse_toml(node_config(layout, layout.nodes[0], PATHS, PUBLIC_KEY), NodeConfig, name="node.toml")
    assert node_program(layout.nodes[0], PATHS).stop_timeout_s > node.drain_s
    text = worker_config(layout, layout.workers[0], PATHS, conninfo="", descriptor=7)
    worker = parse_toml(text, CoordinatorConfig, name="coordinator.toml")
    assert worker_program(layout.workers[0], PATHS, 7).stop_timeout_s > worker.drain_s


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "https://127.0.0.1:8443"),
        ("0.0.0.0", "https://127.0.0.1:8443"),
        ("::", "https://[::1]:8443"),
        ("fd00::5", "https://[fd00::5]:8443"),
        ("drive.example", "https://drive.example:8443"),
    ],
)
def test_the_address_for_people(bind: str, url: str) -> None:
    assert public_url(msgspec.structs.replace(make_layout(), bind=bind)) == url
