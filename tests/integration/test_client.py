"""The commands as a person uses them: the same tests against the contract fake and against a real appliance."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.errors import ExitCode
from coordinator.protocol.hashing import BLOCK_BYTES
from tests.kit.cluster import Appliance, child_environment
from tests.kit.commands import Device
from tests.kit.fake_service import EMAIL, PASSWORD, FakeService

AWKWARD_NAMES = [
    "a b",
    "ü",
    "e\u0301clair",
    "-rf",
    "📁 emoji",
    "line\nbreak",
    "x" * 255,
    "back\\slash",
    "Ä" * 127,
    "%41?#&=+",
]


@pytest.fixture(scope="module", params=["fake", "appliance"])
def login(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The arguments that log in to the one service or the other; the password's file is the last but one."""
    if request.param == "fake":
        password = request.getfixturevalue("tmp_path_factory").mktemp("login") / "password"
        password.write_text(PASSWORD + "\n")
        with FakeService() as service:
            yield [service.url, "--email", EMAIL, "--password-file", str(password)]
        return
    appliance: Appliance = request.getfixturevalue("shared_appliance")
    told = appliance.description
    admin = told["admin"]
    yield [
        told["url"],
        "--email",
        admin["email"],
        "--password-file",
        admin["password_file"],
        "--ca-file",
        told["ca_file"],
    ]


@pytest.fixture
def new_device(
    login: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[[], Device]:
    remote = f"/test-{uuid.uuid4().hex[:12]}"

    def make() -> Device:
        device = Device(tmp_path / f"home-{uuid.uuid4().hex[:6]}", remote, monkeypatch, capfdbinary)
        device("login", *login)
        return device

    return make


@pytest.fixture
def device(new_device: Callable[[], Device]) -> Iterator[Device]:
    device = new_device()
    device("mkdir", device.remote)
    yield device
    device("logout")


def write(path: Path, data: bytes | bytearray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def some_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Relative paths with contents; None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "size", [0, 1, 100_000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 12345], ids=str
)
def test_a_file_comes_back_byte_for_byte(device: Device, tmp_path: Path, size: int) -> None:
    local = write(tmp_path / "file", some_bytes(size, seed=size))
    local.chmod(0o755)
    os.utime(local, (1_600_000_000, 1_600_000_000))
    stored = device.json("put", local, device.path("file"))
    assert (stored["path"], stored["size"], stored["version"]) == (device.path("file"), size, 1)
    assert stored["transfer"]["bytes_moved"] == size
    device("get", device.path("file"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert (tmp_path / "back").stat().st_mtime == 1_600_000_000
    assert (tmp_path / "back").stat().st_mode & stat.S_IXUSR
    assert device("get", device.path("file"), "-").out == local.read_bytes()
    assert not list(tmp_path.glob(".*holdfast*"))


def test_stdin_and_pipes_are_stored(device: Device, tmp_path: Path) -> None:
    data = some_bytes(2 * BLOCK_BYTES + 999, seed=1)
    environment = child_environment(HOLDFAST_HOME=str(device.home))
    command = [sys.executable, "-m", "client", "put", "-", device.path("stream")]
    subprocess.run(command, input=data, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert device("get", device.path("stream"), "-").out == data
    command = [sys.executable, "-m", "client", "put", "/dev/null", device.path("nothing")]
    subprocess.run(command, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert device.json("stat", device.path("nothing"))["size"] == 0
    command = [sys.executable, "-m", "client", "put", "-", device.remote]
    assert subprocess.run(command, input=b"", env=environment, timeout=60).returncode == ExitCode.USAGE


def test_a_tree_with_awkward_names_comes_back(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for number, name in enumerate(AWKWARD_NAMES):
        write(source / "files" / name, some_bytes(1000 * number, seed=number))
        write(source / name / "inner", b"deep")
    (source / "empty" / "also empty").mkdir(parents=True)
    write(source / "large", some_bytes(2 * BLOCK_BYTES + 5, seed=9))
    stored = device.json("put", source, device.remote)
    assert stored["path"] == device.path("tree")
    assert stored["problems"] == []
    assert stored["transfer"]["files"] == 2 * len(AWKWARD_NAMES) + 1
    fetched = device.json("get", device.path("tree"), tmp_path / "back")
    assert fetched["problems"] == []
    assert tree_of(tmp_path / "back") == tree_of(source)


def test_what_a_tree_cannot_hold_is_named_and_the_rest_is_done(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    write(source / "good", b"good")
    write(source / "NAME", b"1")
    write(source / "name", b"2")
    (source / "link").symlink_to("good")
    os.mkfifo(source / "pipe")
    write(Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9")), b"x")
    ran = device("put", source, device.path("tree"), "--json", expect=1)
    assert {os.path.basename(one["path"]) for one in ran.document["problems"]} == {"name", "link", "pipe", "caf\\xe9"}
    assert len(ran.err.splitlines()) == 5
    listed = device.json("ls", device.path("tree"))["entries"]
    assert [os.path.basename(one["path"]) for one in listed] == ["good", "NAME"]


def test_a_second_put_sends_nothing_and_a_change_sends_its_block(device: Device, tmp_path: Path) -> None:
    data = bytearray(some_bytes(6 * BLOCK_BYTES, seed=2))
    local = write(tmp_path / "file", data)
    device("put", local, device.path("file"))
    again = device.json("put", local, device.path("file"))
    assert (again["version"], again["transfer"]["bytes_moved"]) == (1, 0)
    data[2 * BLOCK_BYTES + 100 : 2 * BLOCK_BYTES + 100 + (1 << 20)] = some_bytes(1 << 20, seed=3)
    local.write_bytes(data)
    changed = device.json("put", local, device.path("file"))
    assert (changed["version"], changed["transfer"]["blocks_moved"]) == (2, 1)
    device("mv", device.path("file"), device.path("renamed"))
    device("cp", device.path("renamed"), device.path("copied"))
    assert device("get", device.path("copied"), "-").out == data


def test_a_second_put_of_a_tree_sends_only_what_is_new(device: Device, tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path / "tree" / f"d{number % 5}" / f"f{number}", some_bytes(5000, seed=number))
    device("put", tmp_path / "tree", device.path("tree"))
    write(tmp_path / "tree" / "d1" / "new", b"new")
    write(tmp_path / "tree" / "d1" / "f1", b"changed")
    again = device.json("put", f"{tmp_path}/tree/.", device.path("tree"))
    assert again["path"] == device.path("tree")
    assert again["transfer"] == {"files": 51, "blocks_moved": 2, "bytes_moved": 10}
    assert device.json("stat", device.path("tree/d1/f1"))["version"] == 2
    assert device.json("stat", device.path("tree/d2/f2"))["version"] == 1


def test_a_second_get_fetches_only_what_differs(device: Device, tmp_path: Path) -> None:
    data = bytearray(some_bytes(4 * BLOCK_BYTES + 9, seed=4))
    local = write(tmp_path / "file", data)
    device("put", local, device.path("file"))
    target = tmp_path / "back"
    assert device.json("get", device.path("file"), target)["transfer"]["blocks_moved"] == 5
    assert device.json("get", device.path("file"), target)["transfer"]["blocks_moved"] == 0
    data[BLOCK_BYTES] ^= 1
    local.write_bytes(data)
    device("put", local, device.path("file"))
    assert device.json("get", device.path("file"), target)["transfer"]["blocks_moved"] == 1
    assert target.read_bytes() == data


def test_get_continues_what_an_earlier_run_left(device: Device, tmp_path: Path) -> None:
    data = some_bytes(5 * BLOCK_BYTES, seed=5)
    device("put", write(tmp_path / "file", data), device.path("file"))
    part = bytearray(data[: 3 * BLOCK_BYTES])
    part[BLOCK_BYTES + 7] ^= 0xFF
    write(tmp_path / ".back.holdfast-part", part)
    fetched = device.json("get", device.path("file"), tmp_path / "back")
    assert fetched["transfer"]["blocks_moved"] == 3
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("5-4194310", 5, 4194311),
        ("4194304-", 4194304, None),
        ("-10", -10, None),
        ("9-99999999", 9, None),
    ],
)
def test_ranges(device: Device, tmp_path: Path, text: str, start: int, stop: int | None) -> None:
    data = some_bytes(2 * BLOCK_BYTES + 77, seed=6)
    device("put", write(tmp_path / "file", data), device.path("file"))
    assert device("get", device.path("file"), "-", "--range", text).out == data[start:stop]
    device("get", device.path("file"), tmp_path / "part", "--range", text)
    assert (tmp_path / "part").read_bytes() == data[start:stop]


def test_a_range_outside_fails_and_leaves_nothing(device: Device, tmp_path: Path) -> None:
    device("put", write(tmp_path / "file", b"12345"), device.path("file"))
    error = device.json("get", device.path("file"), tmp_path / "part", "--range", "5-9", expect=1)["error"]
    assert error["code"] == "range_not_satisfiable"
    assert os.listdir(tmp_path) != []
    assert not list(tmp_path.glob("*part*")) + list(tmp_path.glob(".*part*"))


def test_versions_are_listed_fetched_and_restored(device: Device, tmp_path: Path) -> None:
    local = tmp_path / "file"
    for text in (b"one", b"two", b"three"):
        device("put", write(local, text), device.path("file"))
    versions = device.json("history", device.path("file"))["versions"]
    assert [one["version"] for one in versions] == [3, 2, 1]
    assert {"version", "size", "content_hash", "modified_at", "modified_by"} <= set(versions[0])
    assert [one["version"] for one in device.json("history", device.path("file"), "--limit", "1")["versions"]] == [3]
    assert device("get", device.path("file"), "-", "--version", "2").out == b"two"
    restored = device.json("restore", device.path("file"), "--version", "1")
    assert (restored["version"], restored["size"]) == (4, 3)
    assert device("get", device.path("file"), "-").out == b"one"
    assert (
        device.json("get", device.path("file"), tmp_path / "x", "--version", "9", expect=3)["error"]["code"]
        == "not_found"
    )
    device("get", device.path("file"), tmp_path / "x", "--version", "99999999999", expect=3)
    assert not (tmp_path / "x").exists()


def test_the_trash_gives_back(device: Device, tmp_path: Path) -> None:
    device("put", write(tmp_path / "dir" / "file", b"kept"), device.path("file"))
    device("put", tmp_path / "dir", device.path("dir"))
    for name in ("file", "dir"):
        assert device.json("rm", device.path(name))["path"] == device.path(name)
        device("stat", device.path(name), expect=3)
    trashed = {one["path"]: one for one in device.json("trash")["entries"]}
    assert trashed[device.path("file")]["kind"] == "file"
    assert trashed[device.path("dir")]["kind"] == "folder"
    assert device("get", device.path("file"), "-", "--version", "1").out == b"kept"
    for name in ("file", "dir"):
        device("restore", device.path(name))
    assert device("get", device.path("file"), "-").out == b"kept"
    assert device("get", device.path("dir/file"), "-").out == b"kept"


def test_names_are_read_as_cp_r_reads_them(device: Device, tmp_path: Path) -> None:
    local = write(tmp_path / "a.txt", b"a")
    device("mkdir", device.path("docs"))
    assert device.json("put", local, device.path("docs"))["path"] == device.path("docs/a.txt")
    assert device.json("put", local, device.path("docs/b.txt"))["path"] == device.path("docs/b.txt")
    assert device.json("put", tmp_path / "a.txt", device.path("docs/"))["path"] == device.path("docs/a.txt")
    device("put", local, device.path("nowhere/"), expect=2)
    assert device.json("mv", device.path("docs/b.txt"), device.path("c.txt"))["path"] == device.path("c.txt")
    assert device.json("mv", device.path("c.txt"), device.path("docs"))["path"] == device.path("docs/c.txt")
    assert device.json("cp", device.path("docs"), device.path("copy"))["path"] == device.path("copy")
    assert device.json("cp", device.path("docs"), device.path("copy"))["path"] == device.path("copy/docs")
    (tmp_path / "here").mkdir()
    device("get", device.path("docs/a.txt"), tmp_path / "here")
    device("get", device.path("docs"), tmp_path / "here")
    device("get", device.path("docs"), tmp_path / "new")
    device("get", device.path("docs"), f"{tmp_path}/slash/")
    for place in ("here/a.txt", "here/docs/a.txt", "new/c.txt", "slash/a.txt"):
        assert (tmp_path / place).read_bytes() == b"a"
    device("get", device.path("docs/a.txt"), f"{tmp_path}/missing/", expect=3)
    device("get", device.path("docs/a.txt"), tmp_path / "missing" / "x", expect=3)


def test_a_name_can_change_only_its_case(device: Device, tmp_path: Path) -> None:
    device("mkdir", device.path("docs"))
    assert device.json("mv", device.path("docs"), device.path("Docs"))["path"] == device.path("Docs")
    assert [one["path"] for one in device.json("ls", device.remote)["entries"]] == [device.path("Docs")]


def test_conflicts_are_exit_4_and_change_nothing(device: Device, tmp_path: Path) -> None:
    local = write(tmp_path / "file", b"x")
    device("put", local, device.path("file"))
    device("mkdir", device.path("folder"))
    device("mkdir", device.path("folder"), expect=4)
    device("mkdir", device.path("file/below"), expect=4)
    device("put", local, device.path("file/below"), expect=4)
    device("put", tmp_path / "home-none", device.path("x"), expect=3)
    device("mv", device.path("folder"), device.path("folder/below"), expect=4)
    device("cp", device.path("folder"), device.path("file"), expect=4)
    device("cp", device.path("file"), device.path("other"))
    device("cp", device.path("file"), device.path("other"), "-n", expect=4)
    (tmp_path / "dir" / "folder").mkdir(parents=True)
    write(tmp_path / "dir" / "file" / "inner", b"")
    ran = device("put", f"{tmp_path}/dir/.", device.remote, "--json", expect=4)
    assert [one["path"] for one in ran.document["problems"]] == [device.path("file/inner")]
    write(tmp_path / "back" / "tree", b"")
    device("put", tmp_path / "dir" / "folder", device.path("tree"))
    device("get", device.path("tree"), tmp_path / "back", expect=4)  # a file stands where the folder would go
    assert device("get", device.path("file"), "-").out == b"x"


def test_bad_paths_and_unknown_ones(device: Device, tmp_path: Path) -> None:
    for path in ("../x", device.path("a/../b"), device.path("x" * 256), device.path("caf\udce9")):
        device("stat", path, expect=2)
        device("mkdir", path, expect=2)
    for command in (["stat"], ["ls"], ["history"], ["rm"], ["restore"]):
        assert device.json(*command, device.path("nothing"), expect=3)["error"]["code"] == "not_found"
        assert device.path("nothing") in device(*command, device.path("nothing"), expect=3).err


def test_devices_whoami_activity_and_logout(device: Device, new_device: Callable[[], Device]) -> None:
    other = new_device()
    mine = next(one for one in device.json("devices")["devices"] if one["current"])
    theirs = next(one for one in other.json("devices")["devices"] if one["current"])
    assert mine["id"] != theirs["id"]
    assert device.json("whoami")["device_id"] == mine["id"]
    assert set(device.json("activity")) == {"notifications", "unread"}
    device("devices", "--revoke", str(theirs["id"]))
    other("ls", expect=5)
    other("logout")
    other("logout", expect=5)
    device("devices", "--revoke", str(theirs["id"]), expect=3)


def test_login_refuses_a_wrong_password_and_keeps_nothing(
    device: Device, login: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write(tmp_path / "wrong", b"not it")
    stranger = Device(tmp_path / "stranger", "/", monkeypatch, device._capture)
    arguments = [
        str(wrong) if before == "--password-file" else text for before, text in zip(["", *login], login, strict=False)
    ]
    stranger("login", *arguments, expect=5)
    stranger("ls", expect=5)
    assert not (tmp_path / "stranger" / "accounts.json").exists()


def test_administration(device: Device, tmp_path: Path) -> None:
    status = device.json("admin", "status")
    assert {"sites", "blocks", "repair", "mirror", "jobs"} <= set(status)
    assert device.json("admin", "node", "list")["nodes"][0]["state"] == "up"
    email = f"{uuid.uuid4().hex[:8]}@example.org"
    password = write(tmp_path / "password", b"long enough\n")
    added = device.json("admin", "user", "add", email, "--password-file", password, "--quota", "5GB", "--name", "Ben")
    assert added["email"] == email
    assert email in [one["email"] for one in device.json("admin", "user", "list")["users"]]
    assert device.json("admin", "user", "disable", email)["disabled"]
    device("admin", "user", "disable", "nobody@example.org", expect=3)
    for words in (["admin", "status"], ["admin", "user", "list"], ["admin", "node", "list"], ["ls", "-l"], ["devices"]):
        assert device(*words).out


def test_listing_many_pages(device: Device, tmp_path: Path) -> None:
    for number in range(2100):
        write(tmp_path / "many" / f"{number:05}", b"")
    device("put", tmp_path / "many", device.path("many"))
    listed = device.json("ls", device.path("many"), "-R")["entries"]
    assert [os.path.basename(one["path"]) for one in listed] == [f"{number:05}" for number in range(2100)]
