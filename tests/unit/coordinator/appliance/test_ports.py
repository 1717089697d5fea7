"""Ports of an appliance: free ones, and never one that another appliance has just chosen."""

from __future__ import annotations

import socket
import subprocess
import sys

from coordinator.appliance.ports import free_ports, taken_ports

CHOOSE = """
import sys
from coordinator.appliance.ports import taken_ports
print(*taken_ports(map(int, sys.argv[1:])), flush=True)
sys.stdin.read()
"""


def test_ports_are_free_and_all_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_somebody_listens_on_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert taken_ports([port]) == [port]


def test_a_chosen_port_is_taken_for_every_other_process_until_this_one_ends() -> None:
    ours = free_ports(3)
    other = [sys.executable, "-c", CHOOSE, *map(str, ours)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == [str(port) for port in ours]
        process.communicate()
    assert taken_ports(ours) == [], "asking again for what is ours already is fine"


def test_claims_end_with_their_process() -> None:
    port = free_ports(1)[0] + 1
    with subprocess.Popen(
        [sys.executable, "-c", CHOOSE, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline().split()
        process.kill()
        process.wait()
    assert taken_ports([port]) == [int(text) for text in first]
