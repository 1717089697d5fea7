"""Uploads that are interrupted go on where they were: nothing is sent twice that had arrived, nothing is lost."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from tests.kit.cluster import Answer, Appliance, Session, child_environment, lend, short_folder, wait_until
from tests.kit.faults import make_random
from tests.kit.proxy import TcpProxy

MIB = 1024 * 1024
FILE_BYTES = 96 * MIB
# Blocks on their way when the client died were sent for nothing, beside the requests themselves.
UNFINISHED_BYTES_MAX = 36 * MIB
TUS = {"Tus-Resumable": "1.0.0"}

pytestmark = pytest.mark.xdist_group("interrupted uploads")


@pytest.fixture(scope="module")
def appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    with short_folder() as folder, Appliance(folder / "data") as appliance:
        yield from lend(appliance, request)


# --- the command line


def start_put(local: Path, remote: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "client", "put", str(local), remote],
        env=child_environment(HOLDFAST_HOME=str(home)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def login_through(appliance: Appliance, proxy: TcpProxy, home: Path) -> None:
    admin, ca_file = appliance.description["admin"], appliance.description["ca_file"]
    url = f"https://127.0.0.1:{proxy.port}"
    result = appliance.cli(
        *("login", url, "--email", admin["email"], "--password-file", admin["password_file"], "--ca-file", ca_file),
        home=home,
    )
    assert result.code == 0, result


def test_a_killed_client_sends_only_the_rest_when_run_again(appliance: Appliance, tmp_path: Path) -> None:
    data = make_random("killed client").randbytes(FILE_BYTES)
    local, home = tmp_path / "large", tmp_path / "home"
    local.write_bytes(data)
    port = urlsplit(appliance.url).port
    assert port is not None
    with TcpProxy(port) as proxy:
        login_through(appliance, proxy, home)
        before = proxy.forwarded_bytes
        client = start_put(local, "/large", home)
        proxy.wait_for_bytes(before + FILE_BYTES // 2)
        client.kill()
        client.communicate(timeout=10)
        first = proxy.forwarded_bytes - before
        assert first < FILE_BYTES, "it was too fast to be interrupted"
        again = start_put(local, "/large", home)
        _, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
        second = proxy.forwarded_bytes - before - first
        assert second < FILE_BYTES - first + UNFINISHED_BYTES_MAX, f"{first} bytes, then {second}"
    assert appliance.login().get("/large").body == data


@pytest.mark.parametrize("role", ["coordinator", "node", "postgres"])
def test_one_put_outlives_a_killed_process(appliance: Appliance, tmp_path: Path, role: str) -> None:
    rng = make_random(f"put outlives {role}")
    data = rng.randbytes(FILE_BYTES // 2)
    local, home = tmp_path / "large", tmp_path / "home"
    local.write_bytes(data)
    port = urlsplit(appliance.url).port
    assert port is not None
    with TcpProxy(port) as proxy:
        login_through(appliance, proxy, home)
        before = proxy.forwarded_bytes
        client = start_put(local, f"/{role}-killed", home)
        for share in (0.25, 0.6):
            proxy.wait_for_bytes(before + int(share * len(data)))
            victim = rng.choice(appliance.processes(role))
            appliance.kill_child(victim.name)
            appliance.wait_until_back(victim)
        _, errors = client.communicate(timeout=120)
        assert client.returncode == 0, errors
        result = appliance.cli("get", f"/{role}-killed", str(tmp_path / "back"), home=home)
        assert result.code == 0, result
    assert (tmp_path / "back").read_bytes() == data


# --- tus


def create_upload(session: Session, path: str, size: int) -> str:
    """The path of a new resumable upload's URL."""
    document = {"path": path, "size": size}
    answer = session.call("POST", "/api/v1/files/upload", query={"uploadType": "resumable"}, document=document)
    assert answer.status == 201, answer
    return urlsplit(str(answer.headers["Location"])).path


def read_offset(session: Session, upload: str) -> int:
    """Where the upload goes on, once the service can say so."""

    def ask() -> Answer | None:
        try:
            answer = session.call("HEAD", upload, headers=TUS)
        except urllib3.exceptions.HTTPError:
            return None
        return answer if answer.status in (200, 204) else None

    return int(wait_until(ask, timeout_s=60, what="the upload's offset").headers["Upload-Offset"])


def patch(session: Session, upload: str, offset: int, piece: bytes, halfway: Callable[[], object]) -> Answer | None:
    """Send a piece and call `halfway` in the midst of it; None when the line broke."""

    def body() -> Iterator[bytes]:
        middle = len(piece) // 2
        yield piece[:middle]
        halfway()
        yield piece[middle:]

    headers = {
        **TUS,
        "Upload-Offset": str(offset),
        "Content-Length": str(len(piece)),
        "Content-Type": "application/offset+octet-stream",
    }
    try:
        return session.call("PATCH", upload, body=body(), headers=headers)
    except (urllib3.exceptions.HTTPError, OSError):
        return None


@pytest.mark.parametrize("role", ["coordinator", "node", "postgres"])
def test_a_resumable_upload_goes_on_after_every_kill(appliance: Appliance, role: str) -> None:
    rng = make_random(f"resumable {role}")
    data = rng.randbytes(21_000_000)
    session = appliance.login()
    upload = create_upload(session, f"/resumable-{role}", len(data))
    kills = 0

    def kill() -> None:
        nonlocal kills
        kills += 1
        victim = rng.choice(appliance.processes(role))
        appliance.kill_child(victim.name)
        appliance.wait_until_back(victim)

    sent = 0
    while (offset := read_offset(session, upload)) < len(data):
        assert offset <= sent, "more is there than was ever sent"
        piece = data[offset : offset + rng.choice((1, 700_000, 3_000_000, 5_000_000))]
        sent = offset + len(piece)
        # The space of a few kills is enough; then it may end.
        answer = patch(session, upload, offset, piece, kill if kills < 4 else lambda: None)
        if answer is not None and answer.status in (200, 204):
            assert int(answer.headers["Upload-Offset"]) == sent, "an acknowledged piece counts in full"
            assert read_offset(session, upload) >= sent or sent == len(data)
        else:
            assert answer is None or answer.status in (409, 500, 503), answer
        if sent == len(data) and answer is not None and answer.status in (200, 204):
            break
    assert kills == 4
    wait_until(lambda: session.get(f"/resumable-{role}").status == 200, what="the file")
    assert session.get(f"/resumable-{role}").body == data


def test_a_piece_with_a_wrong_checksum_is_thrown_away(appliance: Appliance) -> None:
    data = make_random("wrong checksum").randbytes(100_000)
    session = appliance.login()
    upload = create_upload(session, "/checked", len(data))
    headers = {
        **TUS,
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Upload-Checksum": "sha1 " + base64.b64encode(bytes(20)).decode(),
    }
    assert session.call("PATCH", upload, body=data, headers=headers).status == 460
    assert read_offset(session, upload) == 0
