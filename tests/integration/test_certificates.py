"""Certificates that are renewed while the service runs: by the appliance every day, and taken up by running workers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.api import server
from coordinator.api.listener import ListenError, Tls
from coordinator.appliance import run
from coordinator.appliance.layout import Options, Paths, encode_layout, plan_layout
from coordinator.appliance.run import Appliance
from coordinator.appliance.tls import ensure_certificates
from coordinator.config import CoordinatorConfig
from tests.kit import cluster
from tests.kit.cluster import wait_until


def shown_certificate(context: ssl.SSLContext, ca: Path) -> bytes:
    """What a client is shown, who trusts `ca`; without a network."""
    client = ssl.create_default_context(cafile=ca)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    other = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for one in (side, other):
            with contextlib.suppress(ssl.SSLWantReadError):
                one.do_handshake()
    found = side.getpeercert(binary_form=True)
    assert found is not None
    return found


@pytest.fixture
def config(tmp_path: Path) -> CoordinatorConfig:
    ensure_certificates(tmp_path, names=["127.0.0.1"], now=datetime.now(UTC))
    return CoordinatorConfig(
        cluster_id="c",
        name="w",
        site="s",
        listen="127.0.0.1:0",
        public_url="https://127.0.0.1",
        database="",
        root_key_file="",
        node_secret_key_file="",
        tls_cert_file=str(tmp_path / "server.crt"),
        tls_key_file=str(tmp_path / "server.key"),
    )


def test_new_files_are_used_for_new_connections(config: CoordinatorConfig, tmp_path: Path) -> None:
    tls = Tls(config)
    assert tls.context is not None
    first = shown_certificate(tls.context, tmp_path / "ca.crt")
    before = tls.context
    tls.refresh()
    assert tls.context is before, "nothing has changed"
    ensure_certificates(tmp_path, names=["127.0.0.1", "another"], now=datetime.now(UTC))
    tls.refresh()
    assert shown_certificate(tls.context, tmp_path / "ca.crt") != first


def test_connections_keep_no_dictionary_of_their_fields(config: CoordinatorConfig) -> None:
    context = Tls(config).context
    assert context is not None
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as wrapped:
        assert vars(wrapped) == {}  # what fills it costs thousands of waiting connections 270 bytes each


def test_files_that_do_not_fit_together_are_not_used(
    config: CoordinatorConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(config)
    assert tls.context is not None
    first = shown_certificate(tls.context, tmp_path / "ca.crt")
    other = tmp_path / "other"
    other.mkdir()
    ensure_certificates(other, names=["127.0.0.1"], now=datetime.now(UTC))
    (tmp_path / "server.crt").write_bytes((other / "server.crt").read_bytes())
    tls.refresh()
    tls.refresh()
    assert [record.message for record in caplog.records] == ["tls.not_renewed"]
    assert shown_certificate(tls.context, tmp_path / "ca.crt") == first
    (tmp_path / "server.key").write_bytes((other / "server.key").read_bytes())
    tls.refresh()
    assert shown_certificate(tls.context, other / "ca.crt") != first


def test_a_worker_that_starts_with_files_that_do_not_fit_says_so(config: CoordinatorConfig, tmp_path: Path) -> None:
    (tmp_path / "server.key").unlink()
    with pytest.raises(ListenError, match="cannot be used"):
        Tls(config)


def test_running_workers_take_up_a_new_certificate(shared_appliance: cluster.Appliance) -> None:
    folder = shared_appliance.folder / "tls"
    host, _, port = shared_appliance.url.removeprefix("https://").partition(":")
    client = ssl.create_default_context(cafile=folder / "ca.crt")

    def serial() -> object:
        with socket.create_connection((host, int(port))) as sock, client.wrap_socket(sock, server_hostname=host) as tls:
            found = tls.getpeercert()
            assert found is not None
            return found["serialNumber"]

    before = serial()
    # One name more is a reason to sign anew.
    ensure_certificates(folder, names=[host, f"{secrets.token_hex(4)}.example"], now=datetime.now(UTC))
    wait_until(lambda: serial() != before, timeout_s=3 * server.TEND_S, what="the new certificate")


def test_the_appliance_renews_its_certificate_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RENEW_EVERY_S", 0.01)
    paths = Paths(tmp_path)
    for folder in (paths.keys, paths.tls, paths.logs, paths.run):
        folder.mkdir()
    layout = plan_layout(Options(), new_id=lambda: secrets.token_hex(16), free_ports=lambda count: range(1, count + 1))
    paths.layout.write_bytes(encode_layout(layout))

    async def work() -> None:
        appliance = Appliance(paths, Options(), restart=True, say=print)
        renewing = asyncio.create_task(appliance._keep_certificate_valid())
        async with asyncio.timeout(30):
            while not paths.server_cert.exists():  # noqa: ASYNC110 - files set no event
                await asyncio.sleep(0.01)
            first = paths.server_cert.read_bytes()
            paths.server_cert.unlink()
            while not paths.server_cert.exists():  # noqa: ASYNC110 - files set no event
                await asyncio.sleep(0.01)
            assert paths.server_cert.read_bytes() != first
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)

    asyncio.run(work())
