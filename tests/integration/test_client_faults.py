"""What the client does when the service, the network, the local files or a person get in its way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from client import connection, download
from client.retry import RetryPolicy
from coordinator.protocol import errors, types
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from tests.kit.cluster import child_environment, wait_until
from tests.kit.commands import Device, signals_for_children
from tests.kit.fake_service import EMAIL, PASSWORD, Cut, FakeService, Request


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture
def device(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Device:
    (tmp_path / "password").write_text(PASSWORD)
    device = Device(tmp_path / "home", "", monkeypatch, capfdbinary)
    device("login", service.url, "--email", EMAIL, "--password-file", tmp_path / "password")
    return device


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose patience is measured in fractions of a second."""
    quick = RetryPolicy(refused_at_first_s=0.3, refused_later_s=0.3, broken_s=0.3, busy_s=0.3, delay_first_s=0.01)
    monkeypatch.setattr(connection, "RetryPolicy", lambda: quick)
    monkeypatch.setattr(download, "RetryPolicy", lambda: quick)


def some_file(path: Path, size: int, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def is_for(request: Request, method: str, start: str) -> bool:
    return request.method == method and request.path.startswith("/api/v1" + start)


def every(count: int, method: str, start: str) -> Callable[[Request], None]:
    """Cuts the line at every `count`-th such request."""
    seen = 0

    def fault(request: Request) -> None:
        nonlocal seen
        if is_for(request, method, start):
            seen += 1
            if seen % count == 0:
                raise Cut

    return fault


def always(method: str, start: str, error: errors.ApiError) -> Callable[[Request], None]:
    def fault(request: Request) -> None:
        if is_for(request, method, start):
            raise error

    return fault


def answer_lost_once(service: FakeService, method: str, start: str) -> Callable[[Request], None]:
    """The first such request is carried out, and the line cut before its answer."""
    lost = False

    def fault(request: Request) -> None:
        nonlocal lost
        if is_for(request, method, start) and not lost:
            lost = True
            service.answer(request)
            raise Cut

    return fault


# --- a network and workers that fail --------------------------------------------------------------------------------


def test_a_dying_worker_is_not_noticed(service: FakeService, device: Device, tmp_path: Path) -> None:
    local = some_file(tmp_path / "file", 9 * BLOCK_BYTES)
    for number in range(30):
        some_file(tmp_path / "tree" / str(number), 2000, seed=number)
    with (
        service.fault(every(2, "PUT", "/blocks")),
        service.fault(every(2, "POST", "/")),
        service.fault(every(3, "GET", "/")),
    ):
        device("put", local, "/file")
        device("put", tmp_path / "tree", "/tree")
        device("get", "/file", tmp_path / "back")
        device("get", "/tree", tmp_path / "tree back")
        assert device("get", "/file", "-", "--range", "100-").out == local.read_bytes()[100:]
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert len(os.listdir(tmp_path / "tree back")) == 30


@pytest.mark.parametrize("call", ["/files/commit", "/files/announce", "/blocks/missing", "/blocks/batch"])
def test_a_lost_answer_changes_nothing_twice(service: FakeService, device: Device, tmp_path: Path, call: str) -> None:
    for number in range(3):
        some_file(tmp_path / "tree" / str(number), 100, seed=number)
    with service.fault(answer_lost_once(service, "POST", call)):
        device("put", tmp_path / "tree", "/tree")
        assert device.json("put", tmp_path / "tree" / "1", "/single")["version"] == 1
    assert [len(device.json("history", f"/tree/{name}")["versions"]) for name in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("call", "command"),
    [
        ("/files/delete", ["rm", "/file"]),
        ("/files/move", ["mv", "/file", "/moved"]),
        ("/files/copy", ["cp", "/file", "/copied", "-n"]),
        ("/files/create_folder", ["mkdir", "/folder"]),
    ],
)
def test_what_was_done_although_the_answer_was_lost_counts_as_done(
    service: FakeService, device: Device, tmp_path: Path, call: str, command: list[str]
) -> None:
    device("put", some_file(tmp_path / "file", 10), "/file")
    with service.fault(answer_lost_once(service, "POST", call)):
        device(*command)
    device(*command, expect=3 if command[0] in ("rm", "mv") else 4)


def test_an_undelete_whose_answer_was_lost_counts_as_done(service: FakeService, device: Device, tmp_path: Path) -> None:
    device("put", some_file(tmp_path / "file", 10), "/file")
    device("rm", "/file")
    with service.fault(answer_lost_once(service, "POST", "/files/restore")):
        assert device.json("restore", "/file")["path"] == "/file"
    device("restore", "/file", expect=3)


@pytest.mark.usefixtures("hasty")
def test_a_service_that_cannot_take_it_now_is_exit_6(service: FakeService, device: Device, tmp_path: Path) -> None:
    local = some_file(tmp_path / "file", 5 * BLOCK_BYTES)
    with service.fault(always("PUT", "/blocks", errors.CannotTakeWrite())):
        error = device.json("put", local, "/file", expect=6)["error"]
    assert error["code"] == "cannot_take_write"
    assert error["message"] == errors.CannotTakeWrite().message
    device("put", local, "/file")
    with service.fault(always("GET", "/blocks", errors.CannotRead())):
        device("get", "/file", tmp_path / "back", expect=6)
    assert not (tmp_path / "back").exists()


def test_a_short_wish_to_wait_is_honoured(service: FakeService, device: Device) -> None:
    asked = 0

    def busy_once(request: Request) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise errors.TooManyRequests(retry_after_s=1)

    with service.fault(busy_once):
        device("ls")
    assert asked == 3  # twice for what it is, once for what lies in it
    with service.fault(always("GET", "/", errors.TooManyRequests(retry_after_s=600))):
        assert "600 seconds" in device("ls", expect=6).err


@pytest.mark.usefixtures("hasty")
def test_nobody_there_is_exit_6(service: FakeService, device: Device, tmp_path: Path) -> None:
    service.__exit__()
    assert device.json("ls", expect=6)["error"]["code"] == "unreachable"
    device("logout", expect=6)
    device("logout", "--force")
    device("ls", expect=5)
    words = ["--email", EMAIL, "--password-file", str(tmp_path / "password")]
    device("login", "https://no-such-host.invalid", *words, expect=6)
    device("login", "http://example.org", *words, expect=2)
    device("login", "ftp://127.0.0.1", *words, expect=2)
    device("login", "https://127.0.0.1:99999", *words, expect=2)


@pytest.mark.usefixtures("hasty")
def test_an_internal_error_is_told_in_the_services_words(service: FakeService, device: Device) -> None:
    with service.fault(always("GET", "/files", errors.InternalError())):
        assert device("ls", expect=1).err.strip() == errors.InternalError().message


def test_a_full_account_ends_a_tree_at_once(service: FakeService, device: Device, tmp_path: Path) -> None:
    for number in range(20):
        some_file(tmp_path / "tree" / str(number), 10, seed=number)
    with service.fault(always("POST", "/blocks/batch", errors.QuotaExceeded(used=1, quota=2))):
        assert device.json("put", tmp_path / "tree", "/tree", expect=1)["error"]["code"] == "quota_exceeded"


def test_an_answer_of_nonsense_is_a_sentence(
    service: FakeService, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "get_metadata", lambda request: (200, {}, b"<html>"))
    assert device.json("stat", "/", expect=1)["error"]["code"] == "bad_answer"


# --- bytes and names that cannot be trusted -------------------------------------------------------------------------


def test_damaged_blocks_never_become_a_file(service: FakeService, device: Device, tmp_path: Path) -> None:
    device("put", some_file(tmp_path / "large", 3 * BLOCK_BYTES), "/large")
    device("put", some_file(tmp_path / "small", 1000), "/small")
    for digest, plain in list(service.blocks.items()):
        service.blocks[digest] = plain[:-1] + bytes([plain[-1] ^ 1])
    for name in ("large", "small"):
        assert device.json("get", f"/{name}", tmp_path / "back", expect=1)["error"]["code"] == "damaged_transfer"
        assert device("get", f"/{name}", "-", expect=1).out == b""
        assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("path", ["/tree/../../escape", "/elsewhere/x", "/tree", "tree/x", "/tree/a/../../x"])
def test_a_service_cannot_write_outside_the_target(
    service: FakeService, device: Device, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device("put", some_file(tmp_path / "tree" / "inner", 10), "/tree/inner")
    honest = service._metadata(service.tree.find("/tree/inner"), "/tree/inner")
    lying = types.FolderPage(entries=[honest, msgspec.structs.replace(honest, path=path)])
    monkeypatch.setattr(service, "get_list_folder", lambda request: lying)
    before = sorted(tmp_path.rglob("*"))
    ran = device("get", "/tree", tmp_path / "target", "--json", expect=1)
    assert len(ran.document["problems"]) == 1
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [tmp_path / "target", tmp_path / "target" / "inner"]


def test_links_inside_the_target_are_not_followed(device: Device, tmp_path: Path) -> None:
    device("put", some_file(tmp_path / "tree" / "sub" / "file", 10), "/tree/sub/file")
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "sub").symlink_to(tmp_path / "outside")
    device("get", "/tree", tmp_path / "target")
    (tmp_path / "target" / "tree" / "sub" / "file").unlink()
    (tmp_path / "target" / "tree" / "sub").rmdir()
    (tmp_path / "target" / "tree" / "sub").symlink_to(tmp_path / "outside")
    device("get", "/tree", tmp_path / "target", expect=4)
    assert os.listdir(tmp_path / "outside") == []


def test_an_untrusted_certificate_is_refused(tmp_path: Path, device: Device) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True)
    with FakeService(cert=certificate, key=key) as service:
        words = ["login", service.url, "--email", EMAIL, "--password-file", str(tmp_path / "password")]
        assert device.json(*words, expect=6)["error"]["code"] == "untrusted_certificate"
        assert service.requests == []
        device(*words, "--ca-file", certificate)
        certificate.unlink()
        device("ls")


# --- local files that move, and people who press Ctrl-C -------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read_is_read_again(
    service: FakeService, device: Device, tmp_path: Path
) -> None:
    local = some_file(tmp_path / "file", 3 * BLOCK_BYTES)
    changes = 0

    def change(request: Request) -> None:
        nonlocal changes
        if is_for(request, "PUT", "/blocks") and changes < 1:
            changes += 1
            some_file(local, 2 * BLOCK_BYTES + 5, seed=2)

    with service.fault(change):
        device("put", local, "/file")
    assert device("get", "/file", "-").out == local.read_bytes()
    assert len(device.json("history", "/file")["versions"]) == 1


def test_a_file_that_never_rests_is_refused(service: FakeService, device: Device, tmp_path: Path) -> None:
    local = some_file(tmp_path / "file", 2 * BLOCK_BYTES)
    seed = iter(range(10, 1000))

    def change(request: Request) -> None:
        if is_for(request, "POST", "/files/announce"):
            some_file(local, 2 * BLOCK_BYTES, seed=next(seed))

    with service.fault(change):
        assert device.json("put", local, "/file", expect=1)["error"]["code"] == "file_changed"
    device("stat", "/file", expect=3)


def test_somebody_elses_change_meanwhile_is_a_conflict(service: FakeService, device: Device, tmp_path: Path) -> None:
    local, theirs = some_file(tmp_path / "file", 100), some_file(tmp_path / "theirs", 100, seed=2)
    raced = False

    def race(request: Request) -> None:
        nonlocal raced
        if is_for(request, "POST", "/files/commit") and not raced:
            raced = True
            body = msgspec.json.decode(request.body, type=types.CommitBody)
            plain = theirs.read_bytes()
            digest = hash_block(plain).hex()
            service.blocks[digest] = plain
            service._commit(types.CommitEntry(path=body.entries[0].path, size=100, blocks=[digest], base_version=0))

    with service.fault(race):
        error = device.json("put", local, "/file", expect=4)["error"]
    assert (error["code"], error["current_version"]) == ("version_conflict", 1)
    assert device("get", "/file", "-").out == theirs.read_bytes()


def test_blocks_that_the_service_lost_meanwhile_are_sent_again(
    service: FakeService, device: Device, tmp_path: Path
) -> None:
    forgotten = 0

    def forget(request: Request) -> None:
        nonlocal forgotten
        if is_for(request, "POST", "/files/commit") and forgotten < 2:
            forgotten += 1
            service.blocks.clear()

    for number in range(3):
        some_file(tmp_path / "tree" / str(number), 50, seed=number)
    with service.fault(forget):
        device("put", some_file(tmp_path / "file", 2 * BLOCK_BYTES + 1), "/file")
    forgotten = 0
    with service.fault(forget):
        device("put", tmp_path / "tree", "/tree")
    assert forgotten == 2
    assert device("get", "/tree/1", "-").out == (tmp_path / "tree" / "1").read_bytes()


class Stopper:
    """Lets the first `count` such requests pass and holds all others until it is released."""

    def __init__(self, count: int, method: str, start: str) -> None:
        self.passed = 0
        self.held = 0
        self._count, self._method, self._start = count, method, start
        self._open = threading.Event()

    def __call__(self, request: Request) -> None:
        if not is_for(request, self._method, self._start):
            return
        if self.passed < self._count:
            self.passed += 1
            return
        self.held += 1
        self._open.wait(30)
        raise Cut

    def release(self) -> None:
        self._open.set()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_put_sends_only_the_rest(
    service: FakeService, device: Device, tmp_path: Path, how: signal.Signals
) -> None:
    local = some_file(tmp_path / "file", 12 * BLOCK_BYTES)
    stopper = Stopper(5, "PUT", "/blocks")
    with service.fault(stopper):
        ended = interrupt(device, ["put", str(local), "/file"], lambda: stopper.held == 4, how)
        stopper.release()
    assert ended == (130 if how is signal.SIGINT else -how)
    again = device.json("put", local, "/file")
    assert again["transfer"]["blocks_moved"] == 12 - 5
    assert device("get", "/file", "-").out == local.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_get_fetches_only_the_rest(
    service: FakeService, device: Device, tmp_path: Path, how: signal.Signals
) -> None:
    local = some_file(tmp_path / "file", 12 * BLOCK_BYTES)
    device("put", local, "/file")
    stopper = Stopper(5, "GET", "/blocks")
    with service.fault(stopper):
        ended = interrupt(device, ["get", "/file", str(tmp_path / "back")], lambda: stopper.held == 4, how)
        stopper.release()
    assert ended == (130 if how is signal.SIGINT else -how)
    assert not (tmp_path / "back").exists()
    again = device.json("get", "/file", tmp_path / "back")
    assert 12 - 5 <= again["transfer"]["blocks_moved"] <= 12 - 3  # two may have arrived and not been written yet
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert not list(tmp_path.glob(".back*"))


def interrupt(device: Device, args: list[str], ready: Callable[[], bool], how: signal.Signals) -> int:
    """Run a command as a process of its own, send it a signal once `ready`, and give its exit code.

    SIGTERM is sent to one that ignores SIGINT, as shells start what is to run in the background.
    """
    environment = child_environment(HOLDFAST_HOME=str(device.home))
    command = [sys.executable, "-m", "client", *args]
    with signals_for_children(signal.SIGINT, ignored=how is signal.SIGTERM):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        wait_until(ready, what="the transfers to be in the middle")
        process.send_signal(how)
        _, told = process.communicate(timeout=10)
        assert told.strip() == b""
        return process.returncode


def test_memory_stays_bounded_however_large_the_file(device: Device, tmp_path: Path) -> None:
    local = some_file(tmp_path / "file", 60 * BLOCK_BYTES)
    code = (
        "import sys; from client.cli.main import run; assert run(sys.argv[1:]) == 0;"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    environment = child_environment(HOLDFAST_HOME=str(device.home))
    for args in (
        ["put", str(local), "/a"],
        ["put", "-", "/b"],
        ["get", "/a", str(tmp_path / "back")],
        ["get", "/a", "-"],
    ):
        with local.open("rb") as stdin:
            result = subprocess.run(
                [sys.executable, "-c", code, *args], env=environment, stdin=stdin, capture_output=True, check=True
            )
        assert int(result.stderr.split()[-1]) < 110_000, args


def test_a_reader_that_goes_away_is_no_mistake(device: Device, tmp_path: Path) -> None:
    device("put", some_file(tmp_path / "file", 3 * BLOCK_BYTES), "/file")
    environment = child_environment(HOLDFAST_HOME=str(device.home))
    command = f"{sys.executable} -m client get /file - | head -c 10"
    result = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, timeout=30, check=False)
    assert len(result.stdout) == 10
    assert result.stderr == b""


def test_devices_and_pipes_as_targets_are_written_to_not_replaced(device: Device, tmp_path: Path) -> None:
    device("put", some_file(tmp_path / "file", 1000), "/file")
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    device("get", "/file", tmp_path / "pipe")
    reader.join(10)
    assert got == [(tmp_path / "file").read_bytes()]
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").write_bytes(b"old")
    device("get", "/file", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == got[0]
