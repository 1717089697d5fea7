"""`holdfast up` as a person uses it: first start, stop, start again, options, refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.kit.cluster import Appliance, child_environment, is_alive, names_of, run_up, short_folder, wait_until
from tests.kit.commands import signals_for_children
from tests.kit.faults import make_random

SMALL = ("--nodes", "3", "--code", "2+1", "--workers", "1")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def test_first_start_describes_what_runs(shared_appliance: Appliance) -> None:
    told = shared_appliance.description
    assert set(told) == {"url", "ca_file", "admin", "processes"}
    assert set(told["admin"]) == {"email", "password_file"}
    assert names_of(shared_appliance.processes("node")) == {f"site1-node{number}" for number in range(1, 7)}
    assert names_of(shared_appliance.processes("coordinator")) == {"worker1", "worker2"}
    assert len(shared_appliance.processes("postgres")) == len(shared_appliance.processes("supervisor")) == 1
    assert all(is_alive(process.pid) for process in shared_appliance.processes())
    for node in shared_appliance.processes("node"):
        assert [disk.is_dir() for disk in node.disks] == [True]
        assert node.site == "site1"
    wait_until(
        lambda: "Ctrl-C stops everything." in shared_appliance.console.read_text(), what="the last line for people"
    )
    console = shared_appliance.console.read_text()
    assert told["url"] in console
    assert told["admin"]["email"] in console
    assert told["admin"]["password_file"] in console
    assert shared_appliance.password not in console


def test_the_certificate_is_good_for_every_local_name(shared_appliance: Appliance) -> None:
    context = ssl.create_default_context(cafile=shared_appliance.description["ca_file"])
    port = urlsplit(shared_appliance.url).port
    for name in ("localhost", "127.0.0.1", "::1", socket.gethostname()):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=name) as line,
        ):
            assert line.version() in ("TLSv1.2", "TLSv1.3")


def test_files_survive_a_stop_and_a_start(folder: Path) -> None:
    with Appliance(folder / "data", *SMALL) as appliance:
        assert appliance.login().put("/kept", b"kept" * 10_000).status in (200, 201)
        pids = [process.pid for process in appliance.processes()]
        password, url = appliance.password, appliance.url
        assert appliance.stop() == 0
        assert not (folder / "data" / "appliance.json").exists()
        assert [pid for pid in pids if is_alive(pid)] == []
        assert list((folder / "data" / "run").glob("*.pid")) == []
        appliance.start()
        assert (appliance.password, appliance.url) == (password, url)
        assert appliance.login().get("/kept").body == b"kept" * 10_000


def test_secrets_are_for_their_owner_only(shared_appliance: Appliance) -> None:
    data = shared_appliance.folder
    secrets = [data / "admin-password", *data.glob("keys/*.key"), *data.glob("tls/*.key"), data / "layout.json"]
    assert len(secrets) == 1 + 8 + 2 + 1
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for name in ("keys", "tls", "postgres", "logs", "config", "run"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o700, name


def test_what_dies_is_started_again_and_appliance_json_says_so(folder: Path) -> None:
    with Appliance(folder / "data", *SMALL) as appliance:
        for role in ("coordinator", "node", "postgres"):
            victim = appliance.processes(role)[0]
            appliance.kill_child(victim.name)
            fresh = appliance.wait_until_back(victim)
            assert is_alive(fresh.pid)
            assert fresh.disks == victim.disks
        session = appliance.login()
        wait_until(lambda: session.put("/after", b"x").status in (200, 201), what="a write after the restarts")


def test_a_second_start_on_the_same_folder_is_refused(shared_appliance: Appliance) -> None:
    result = run_up(shared_appliance.folder)
    assert result.returncode == 1
    assert "already runs" in result.stderr
    assert "Traceback" not in result.stderr
    assert is_alive(shared_appliance.supervisor.pid)


def test_other_options_later_are_told_and_not_used(folder: Path) -> None:
    appliance = Appliance(folder / "data", *SMALL)
    with appliance:
        url = appliance.url
    again = Appliance(folder / "data", "--nodes", "5", "--code", "3+2", "--workers", "3")
    with again:
        assert again.url == url
        assert len(again.processes("node")) == 3
        assert names_of(again.processes("coordinator")) == {"worker1", "worker2", "worker3"}
        console = again.console.read_text()
        assert "--nodes 5 is not used: this appliance was made with --nodes 3." in console
        assert "--code 3+2 is not used" in console
        assert "--workers" not in console


def test_two_sites_have_node_sets_of_their_own(folder: Path) -> None:
    with Appliance(folder / "data", "--sites", "2", "--nodes", "3", "--code", "2+1", "--disks", "2") as appliance:
        sites = {node.name: node.site for node in appliance.processes("node")}
        assert sites == {f"site{site}-node{node}": f"site{site}" for site in (1, 2) for node in (1, 2, 3)}
        assert {len(node.disks) for node in appliance.processes("node")} == {2}
        session = appliance.login()
        assert session.put("/file", b"y" * 100_000).status in (200, 201)
        assert session.get("/file").body == b"y" * 100_000


def test_a_port_that_somebody_took_meanwhile_is_replaced(folder: Path) -> None:
    with Appliance(folder / "data", *SMALL) as appliance:
        assert appliance.login().put("/kept", b"kept").status in (200, 201)
    port = json.loads((folder / "data" / "layout.json").read_bytes())["nodes"][0]["port"]
    with socket.create_server(("127.0.0.1", port)), Appliance(folder / "data") as appliance:
        session = appliance.login()
        wait_until(lambda: session.put("/more", b"more").status in (200, 201), what="a write to all nodes")
        assert session.get("/kept").body == b"kept"


def test_a_public_port_in_use_is_a_plain_sentence_and_leaves_nothing(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run_up(folder / "data", "--port", str(port))
    assert result.returncode == 1
    assert f"port {port}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "data" / "layout.json").exists()


@pytest.mark.parametrize(
    "options",
    [("--nodes", "5"), ("--code", "4"), ("--code", "0+1"), ("--nodes", "0"), ("--port", "70000"), ("--sites", "x")],
)
def test_impossible_options_are_usage_errors(folder: Path, options: tuple[str, ...]) -> None:
    result = run_up(folder / "data", *options)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert not (folder / "data").exists()


def test_a_folder_that_cannot_be_used_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    result = run_up(folder / "file" / "data")
    assert result.returncode == 1
    assert str(folder / "file" / "data") in result.stderr
    assert "Traceback" not in result.stderr


def test_a_long_path_works_too(folder: Path) -> None:
    with Appliance(folder / ("long" * 25) / "data", *SMALL) as appliance:
        session = appliance.login()
        assert session.put("/file", b"z").status in (200, 201)


def test_json_is_one_document_on_stdout_when_it_is_ready(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "coordinator.appliance", "--data", str(folder / "data"), "--port", "0"]
    with subprocess.Popen(
        [*command, *SMALL, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment()
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told == json.loads((folder / "data" / "appliance.json").read_bytes())
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
        assert process.wait(60) == 0


def test_a_second_signal_does_not_wait_for_a_process_that_hangs(folder: Path) -> None:
    with Appliance(folder / "data", *SMALL) as appliance:
        supervisor = appliance.supervisor
        node = appliance.processes("node")[0]
        os.kill(node.pid, signal.SIGSTOP)
        os.kill(supervisor.pid, signal.SIGTERM)
        wait_until(lambda: "Stopping" in appliance.console.read_text(), what="the first signal's answer")
        began = time.monotonic()
        os.kill(supervisor.pid, signal.SIGINT)
        wait_until(lambda: not is_alive(supervisor.pid), what="the end")
        assert time.monotonic() - began < 15, "it waited for the process that hangs"
        assert not is_alive(node.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_stop_it_as_cleanly(folder: Path, number: signal.Signals) -> None:
    appliance = Appliance(folder / "data", *SMALL)
    with signals_for_children(number, ignored=False):
        process = appliance.spawn()
    # In the midst of the start: it ends all the same, and leaves nothing running.
    wait_until((folder / "data" / "layout.json").exists, what="the layout")
    os.kill(process.pid, number)
    assert process.wait(60) == 0
    assert list((folder / "data" / "run").glob("*.pid")) == []
    with appliance:
        pass


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [8, pytest.param(80, marks=pytest.mark.deep)])
def test_a_first_start_killed_at_any_moment_is_completed_by_the_next(folder: Path, kills: int) -> None:
    rng = make_random("first start killed")
    appliance = Appliance(folder / "data", *SMALL)
    for _ in range(kills):
        process = appliance.spawn()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.1, 3.0))
        process.kill()
        process.wait(10)
    with appliance:
        session = appliance.login()
        assert session.put("/file", b"w" * 50_000).status in (200, 201)
        assert session.get("/file").body == b"w" * 50_000
