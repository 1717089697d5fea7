"""What `holdfast up` decides before it touches anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from coordinator.appliance.layout import (
    Layout,
    LayoutError,
    Options,
    decode_layout,
    encode_layout,
    list_differences,
    parse_code,
    plan_layout,
    with_other_ports,
    with_workers,
)


def make_ports(first: int = 20_000) -> Callable[[int], Sequence[int]]:
    numbers = itertools.count(first)
    return lambda count: list(itertools.islice(numbers, count))


def make_layout(**said: Any) -> Layout:
    ids = (f"{number:032x}" for number in itertools.count(1))
    return plan_layout(Options(**said), new_id=lambda: next(ids), free_ports=make_ports())


def test_defaults_are_six_nodes_of_one_disk_and_two_workers() -> None:
    layout = make_layout()
    assert [node.name for node in layout.nodes] == [f"site1-node{number}" for number in range(1, 7)]
    assert {len(node.disks) for node in layout.nodes} == {1}
    assert [worker.name for worker in layout.workers] == ["worker1", "worker2"]
    assert (layout.port, layout.bind, layout.code) == (8443, "127.0.0.1", "4+2")


def test_two_sites_have_nodes_and_workers_of_their_own() -> None:
    layout = make_layout(sites=2, nodes=3, code="2+1", disks=2)
    assert layout.sites == ("site1", "site2")
    assert [node.name for node in layout.nodes][3:] == ["site2-node1", "site2-node2", "site2-node3"]
    assert [worker.site for worker in layout.workers] == ["site1", "site2"]
    assert layout.nodes[3].disks[1].path == "nodes/site2-node1/disk2"


def test_every_port_and_every_id_is_given_once() -> None:
    layout = make_layout(sites=2, disks=3, workers=4)
    ports = list(layout.ports())
    ids = [layout.cluster_id, *(disk.id for node in layout.nodes for disk in node.disks)]
    assert len(set(ports)) == len(ports) == 2 * 12 + 4
    assert len(set(ids)) == len(ids) == 1 + 36


def test_fewer_nodes_than_shards_are_refused_in_a_sentence() -> None:
    with pytest.raises(LayoutError, match="a site has only 5"):
        make_layout(nodes=5)


@pytest.mark.parametrize("code", ["", "4", "4+", "+2", "0+2", "4+0", "15+2", "4+7", "4+2+1", "a+b", "4 + 2"])
def test_codes_that_are_none_are_refused(code: str) -> None:
    with pytest.raises(LayoutError):
        parse_code(code)


def test_the_file_reads_back_as_it_was_written() -> None:
    layout = make_layout(sites=2)
    assert decode_layout(encode_layout(layout)) == layout


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"", lambda _: b"[]"])
def test_a_damaged_layout_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(LayoutError, match="Nothing was started"):
        decode_layout(damage(encode_layout(make_layout())))


def test_a_layout_of_a_later_format_is_refused() -> None:
    later = msgspec.structs.replace(make_layout(), format_version=2)
    with pytest.raises(LayoutError, match="format 2"):
        decode_layout(encode_layout(later))


def test_only_options_that_say_something_else_are_told() -> None:
    layout = make_layout(port=9000)
    assert list_differences(layout, Options()) == []
    assert list_differences(layout, Options(port=9000, nodes=6, workers=7)) == []
    assert list_differences(layout, Options(port=0)) == []  # "any" is what it has
    assert list_differences(layout, Options(nodes=9, code="6+3")) == [
        "--nodes 9 is not used: this appliance was made with --nodes 6.",
        "--code 6+3 is not used: this appliance was made with --code 4+2.",
    ]


def test_workers_that_stay_keep_their_ports() -> None:
    layout = make_layout(workers=2)
    more = with_workers(layout, 4, make_ports(30_000))
    assert more.workers[:2] == layout.workers
    assert [worker.name for worker in more.workers[2:]] == ["worker3", "worker4"]
    assert with_workers(more, 1, make_ports()).workers == layout.workers[:1]


def test_only_taken_ports_change() -> None:
    layout = make_layout()
    taken = [layout.nodes[0].port, layout.workers[1].metrics_port]
    other = with_other_ports(layout, taken, make_ports(30_000))
    assert other.nodes[0].port == 30_000
    assert other.workers[1].metrics_port == 30_001
    assert other.nodes[0].metrics_port == layout.nodes[0].metrics_port
    assert other.nodes[1:] == layout.nodes[1:]
