"""Other people's tus clients, unmodified: tuspy, and tus-js-client where Node.js is there."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import tusclient.client
import tusclient.exceptions
import tusclient.uploader

from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.api import BASE, User
from tests.kit.cluster import wait_until

SIZE = 2 * BLOCK_BYTES + 77_777
DATA = random.Random("tus clients").randbytes(SIZE)
CREATIONS = {"uploads": "/uploads", "files": "/files/upload?uploadType=resumable"}


@pytest.fixture
def trusted(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The appliance's certificate authority, for clients that can only be told through the environment."""
    ca_file = user.appliance.description["ca_file"]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", ca_file)


def tus_client(user: User, creation: str) -> tusclient.client.TusClient:
    return tusclient.client.TusClient(
        user.session.url + BASE + creation, headers={"Authorization": f"Bearer {user.session.token}"}
    )


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("creation", CREATIONS.values(), ids=CREATIONS.keys())
@pytest.mark.parametrize("chunk_bytes", [SIZE, 1_000_000, BLOCK_BYTES])
def test_tuspy_uploads_in_chunks(user: User, creation: str, chunk_bytes: int) -> None:
    path = f"/tuspy-{creation[1:6]}-{chunk_bytes}"
    uploader = tus_client(user, creation).uploader(
        file_stream=io.BytesIO(DATA), chunk_size=chunk_bytes, metadata={"path": path, "filename": "ünïcode.bin"}
    )
    uploader.upload()
    assert uploader.offset == SIZE
    assert user.content(path) == DATA


@pytest.mark.usefixtures("trusted")
def test_tuspy_checks_what_it_sends(user: User) -> None:
    uploader = tus_client(user, "/uploads").uploader(
        file_stream=io.BytesIO(DATA), chunk_size=3_000_000, metadata={"path": "/tuspy-sums"}, upload_checksum=True
    )
    uploader.upload()
    assert user.content("/tuspy-sums") == DATA


@pytest.mark.usefixtures("trusted")
def test_a_fresh_tuspy_client_resumes_from_the_address_alone(user: User) -> None:
    first = tus_client(user, "/uploads").uploader(
        file_stream=io.BytesIO(DATA), chunk_size=1_500_000, metadata={"path": "/tuspy-resumed"}
    )
    for _ in range(4):
        first.upload_chunk()
    second = tus_client(user, "/uploads").uploader(file_stream=io.BytesIO(DATA), chunk_size=5_000_000, url=first.url)
    assert second.offset == first.offset == 6_000_000
    second.upload()
    assert user.content("/tuspy-resumed") == DATA


@pytest.mark.usefixtures("trusted")
def test_tuspy_goes_on_with_an_upload_that_was_made_by_json(user: User) -> None:
    answer = user.call("POST", "/files/upload", document={"path": "/tuspy-json", "size": SIZE})
    uploader = tus_client(user, "/uploads").uploader(
        file_stream=io.BytesIO(DATA), chunk_size=5_000_000, url=answer.headers["Location"]
    )
    uploader.upload()
    assert user.content("/tuspy-json") == DATA


@pytest.mark.usefixtures("trusted")
def test_tuspy_survives_a_line_that_breaks(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third request fails on its way; the client's own retries ask where to go on."""
    real, count = requests.sessions.Session.send, 0

    def send(self: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        nonlocal count
        count += 1
        if request.method == "PATCH" and count % 3 == 0:
            raise requests.exceptions.ConnectionError("the line broke")
        return real(self, request, **more)

    monkeypatch.setattr(requests.sessions.Session, "send", send)
    uploader = tus_client(user, "/uploads").uploader(
        file_stream=io.BytesIO(DATA), chunk_size=700_000, metadata={"path": "/tuspy-breaks"}, retries=3, retry_delay=0
    )
    uploader.upload()
    assert user.content("/tuspy-breaks") == DATA


@pytest.mark.usefixtures("trusted")
def test_tuspy_tells_a_refusal(user: User) -> None:
    user.put("/tuspy-taken", b"taken")
    with pytest.raises(tusclient.exceptions.TusCommunicationError) as caught, user.unchanged():
        tus_client(user, "/uploads").uploader(
            file_stream=io.BytesIO(DATA), chunk_size=SIZE, metadata={"path": "/tuspy-taken"}
        ).upload()
    assert caught.value.status_code == 409


# --- tus-js-client ----------------------------------------------------------------------------------------------

SCRIPT = """
const fs = require("fs");
const tus = require("tus-js-client");
const told = JSON.parse(process.argv[2]);
const data = fs.readFileSync(told.file);
let interrupted = false;

function start(url) {
  const upload = new tus.Upload(data, {
    endpoint: told.endpoint, uploadUrl: url, chunkSize: told.chunkSize || Infinity, retryDelays: [0, 100, 1000],
    headers: {Authorization: "Bearer " + told.token}, metadata: told.metadata,
    uploadDataDuringCreation: told.duringCreation, uploadLengthDeferred: false,
    onError: (error) => { console.error(String(error)); process.exit(1); },
    onSuccess: () => { console.log(JSON.stringify({url: upload.url})); },
    onChunkComplete: (size, accepted, total) => {
      if (told.interruptAt && !interrupted && accepted >= told.interruptAt && accepted < total) {
        interrupted = true;
        upload.abort().then(() => start(upload.url));
      }
    },
  });
  upload.start();
}
start(null);
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which Node.js finds tus-js-client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("javascript")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "tus-js-client@4"]
    try:
        result = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not reach its registry")
    if result.returncode:
        pytest.skip(f"npm cannot install tus-js-client: {result.stderr.strip()[-300:]}")
    (folder / "upload.js").write_text(SCRIPT)
    (folder / "data").write_bytes(DATA)
    yield folder


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("chunk_bytes", "interrupt_at", "during_creation"),
    [(None, 0, False), (1_000_000, 3_000_000, False), (5_000_000, 0, True)],
    ids=["whole", "in chunks, interrupted", "with the creation"],
)
def test_tus_js_client_uploads(
    user: User, javascript: Path, chunk_bytes: int | None, interrupt_at: int, during_creation: bool
) -> None:
    path = f"/js-{chunk_bytes}"
    told = {
        "endpoint": user.session.url + BASE + "/uploads",
        "token": user.session.token,
        "file": str(javascript / "data"),
        "metadata": {"path": path, "filename": "ünïcode.bin", "filetype": "application/octet-stream"},
        "chunkSize": chunk_bytes,
        "interruptAt": interrupt_at,
        "duringCreation": during_creation,
    }
    result = subprocess.run(
        ["node", "upload.js", json.dumps(told)],
        cwd=javascript,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert result.returncode == 0, result
    assert json.loads(result.stdout)["url"].startswith(user.session.url)
    wait_until(lambda: user.read(path).status == 200, what="the file", timeout_s=5)
    assert user.content(path) == DATA
