"""One computer of a person who syncs: a HOLDFAST_HOME, a folder, and `holdfast sync` as real processes.

    ann, ben = Device(user, tmp_path, "ann"), Device(user, tmp_path, "ben")
    ann.put("plan.txt", b"first")
    settle(user, ann, ben)

Trees are compared by what a person sees: names, kinds, contents and executable bits. Nothing here sleeps for luck.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.protocol.hashing import BLOCK_BYTES, content_hash, hash_block
from tests.kit import fork_server
from tests.kit.api import PASSWORD, User
from tests.kit.cluster import CliResult, child_environment, wait_until

# What the client keeps for itself in a synced folder.
OWN_FOLDER = ".holdfast"
ONCE_TIMEOUT_S = 60.0
_CONFLICT = re.compile(
    r"(?P<stem>.*) \((?P<who>[^()]+)'s conflicted copy (?P<date>\d{4}-\d\d-\d\d)(?: \d+)?\)(?P<suffix>\.[^.]*)?"
)
_previews: dict[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """One file or folder. `digest` is the content hash as the service tells it; None for a folder."""

    kind: str
    digest: str | None = None
    executable: bool = False

    def __str__(self) -> str:
        if self.digest is None:
            return self.kind
        bit = ", executable" if self.executable else ""
        return f"{self.kind} {_previews.get(self.digest, self.digest[:12])}{bit}"


Tree = Mapping[str, Entry]


def digest_of(data: bytes) -> str:
    """The content hash of these bytes."""
    hashes = [hash_block(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
    digest = content_hash(hashes).hex()
    _previews.setdefault(digest, repr(data[:24]) + (f"… ({len(data)} bytes)" if len(data) > 24 else ""))
    return digest


def file_entry(data: bytes, *, executable: bool = False) -> Entry:
    return Entry("file", digest_of(data), executable)


FOLDER = Entry("folder")


def _digest_at(folder_fd: int, name: str) -> str:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder_fd), "rb") as file:
        if os.fstat(file.fileno()).st_size <= BLOCK_BYTES:
            return digest_of(file.read())
        return content_hash(hash_block(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")).hex()


def read_tree(root: Path) -> dict[str, Entry]:
    """What is synced of the folder: path below it to entry. Links and special files are never synced, so left out.

    A file that vanishes while this looks is left out as well. Paths longer than the kernel takes at once are read too.
    """
    while True:
        with contextlib.suppress(NotADirectoryError):  # a folder has changed places with a file in this instant
            return _read_tree(root)


def _read_tree(root: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for folder, folders, files, folder_fd in os.fwalk(root):
        below = Path(folder).relative_to(root)
        if folder == str(root) and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        for name in [*folders, *files]:
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    found[str(below / name)] = FOLDER
                elif stat.S_ISREG(mode):
                    found[str(below / name)] = Entry("file", _digest_at(folder_fd, name), bool(mode & stat.S_IXUSR))
    return found


def read_service_tree(user: User, below: str = "/") -> dict[str, Entry]:
    """The same of the person's tree in the service; what is still arriving is not there yet."""
    found: dict[str, Entry] = {}
    query: dict[str, object] = {"path": below, "recursive": "true", "limit": 1000}
    prefix = below.rstrip("/") + "/"
    while True:
        page = user.get("/files/list_folder", **query)
        for row in page["entries"]:
            if row["state"] == "complete":
                entry = FOLDER if row["kind"] == "folder" else Entry("file", row["content_hash"], row["executable"])
                found[row["path"].removeprefix(prefix)] = entry
        if page.get("next_page") is None:
            return found
        query["page"] = page["next_page"]


def differences(trees: Mapping[str, Tree]) -> str:
    """What differs between named trees, a line for each path; empty when they are equal."""
    lines = []
    for path in sorted({path for tree in trees.values() for path in tree}):
        there = {name: tree.get(path) for name, tree in trees.items()}
        if len(set(there.values())) > 1:
            lines.append(
                f"  {path!r}: " + "; ".join(f"{name} has {entry or 'nothing'}" for name, entry in there.items())
            )
    return "\n".join(lines)


def original_name(name: str) -> str | None:
    """What a conflicted copy is a copy of; None for any other name. The last marker counts."""
    found = _CONFLICT.fullmatch(name)
    return None if found is None else found["stem"] + (found["suffix"] or "")


def conflicts_in(tree: Tree) -> list[str]:
    """The paths of conflicted copies."""
    return sorted(path for path in tree if original_name(Path(path).name) is not None)


class Device:
    """`url` is where the service is to be reached if not directly; `remote` what part of the tree is synced.

    Belongs to one thread. The continuous client, when one runs, is `client`.
    """

    def __init__(self, user: User, base: Path, name: str, *, url: str | None = None, remote: str = "/") -> None:
        self.user, self.name, self.remote = user, name, remote
        self.base = base / name
        self.home, self.root = self.base / "home", self.base / "files"
        self.root.mkdir(parents=True)
        self.client: fork_server.Command | None = None
        self.peak_bytes = 0  # the most memory that a command of its had
        self._environment = child_environment(HOLDFAST_HOME=str(self.home))
        self._url = url
        self.log_in()

    def log_in(self) -> None:
        """Register this computer, also when it is known already."""
        password_file = self.base / "password"
        password_file.write_text(PASSWORD)
        url, user = self._url or self.user.session.url, self.user
        arguments = ["login", url, "--email", user.email, "--password-file", str(password_file)]
        if url.startswith("https:"):
            arguments += ["--ca-file", user.appliance.description["ca_file"]]
        self.run(*arguments, "--device-name", self.name)

    # --- commands

    def begin(self, *arguments: str | Path) -> fork_server.Command:
        """Start any `holdfast` command as this device."""
        return fork_server.start([str(one) for one in arguments], folder=self.base, environment=self._environment)

    def run(self, *arguments: str | Path, expect: int | None = 0, timeout_s: float = ONCE_TIMEOUT_S) -> CliResult:
        """Run a command to its end; fails the test when its exit code is not `expect` (None: whatever it is)."""
        command = self.begin(*arguments)
        try:
            command.wait(timeout_s)
        except BaseException:
            command.kill()
            raise
        result = command.result
        assert "Traceback" not in result.stderr, result.stderr
        self.peak_bytes = max(self.peak_bytes, command.peak_bytes)
        said = result.stderr if "mistake in Holdfast" not in result.stderr else result.stderr + self.log()[-4000:]
        assert "mistake in Holdfast" not in said, said
        assert expect in (None, result.code), f"{self.name}: {command} ended with {result.code}: {said}"
        return result

    def _sync(self, *options: str) -> tuple[str | Path, ...]:
        return ("sync", self.root, "--remote", self.remote, *options)

    def once(self, *options: str, expect: int | None = 0, timeout_s: float = ONCE_TIMEOUT_S) -> CliResult:
        """`holdfast sync --once`; its document tells the state and everything that cannot be synced."""
        return self.run(*self._sync("--once", "--json", *options), expect=expect, timeout_s=timeout_s)

    def begin_once(self, *options: str) -> fork_server.Command:
        """The same, not waited for."""
        return self.begin(*self._sync("--once", *options))

    def start(self, *options: str) -> fork_server.Command:
        """Start the continuous client."""
        assert self.client is None or not self.client.is_running, "it runs already"
        self.client = self.begin(*self._sync(*options))
        return self.client

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does, and wait; it must end well."""
        assert self.client is not None
        self.client.signal(signal.SIGINT)
        code = self.client.wait(30)
        assert code in (0, 130), f"{self.name}: {self.client} ended with {code}: {self.client.stderr}"
        assert "Traceback" not in self.client.stderr, self.client.stderr

    def kill(self) -> None:
        """kill -9 of the continuous client."""
        assert self.client is not None
        self.client.kill()

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[fork_server.Command]:
        """The continuous client runs inside the block."""
        client = self.start(*options)
        try:
            yield client
        except BaseException:
            client.kill()
            print(f"--- {self.name}: what its client said\n{client.stderr}")
            raise
        if client.is_running:
            self.stop()

    def status(self) -> dict[str, Any]:
        """What `sync-status` says of this folder."""
        told = self._find_status()
        assert told is not None, f"{self.name} has never synced {self.root}"
        return told

    def said(self) -> dict[str, Any]:
        """The same as the running client wrote it last: costs no command, so it may be asked often."""
        assert self.client is not None
        for path in (self.home / "sync").glob("*/status.json"):
            told: dict[str, Any] = json.loads(path.read_bytes())
            if told["pid"] == self.client.pid:
                return told
        return {"state": "syncing", "reason": None, "queued": 1}  # it has only just been started

    def _find_status(self) -> dict[str, Any] | None:
        """None before the first client has registered the folder."""
        folders = self.run("sync-status", "--json", expect=None).document["folders"]
        return next((row for row in folders if Path(row["path"]) == self.root), None)

    def wait_for_state(self, state: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until `sync-status` says so; all that it says then."""

        def look() -> dict[str, Any] | None:
            told = self._find_status()
            return told if told is not None and told["state"] == state else None

        return wait_until(look, timeout_s=timeout_s, what=f"{self.name} being {state}", every_s=0.1)

    def log(self) -> str:
        """The client's own log, for a test that fails."""
        path = self.home / "holdfast.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    # --- its files

    def path(self, name: str) -> Path:
        return self.root / name

    def put(self, name: str, data: bytes = b"", *, executable: bool | None = None) -> Path:
        """Write a file in place, folders above included."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if executable is not None:
            path.chmod(0o755 if executable else 0o644)
        return path

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def move(self, name: str, target: str) -> None:
        (self.root / name).rename(self.root / target)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def delete(self, name: str) -> None:
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def inode(self, name: str) -> int:
        return (self.root / name).lstat().st_ino

    def tree(self) -> dict[str, Entry]:
        return read_tree(self.root)

    def contents(self) -> set[str]:
        """Every file's content hash, the local trash included."""
        kept = read_tree(self.root / OWN_FOLDER / "trash")
        return {entry.digest for tree in (self.tree(), kept) for entry in tree.values() if entry.digest is not None}


def trees_of(user: User, *devices: Device, remote: str = "/") -> dict[str, Tree]:
    return {"service": read_service_tree(user, remote), **{device.name: device.tree() for device in devices}}


def check_equal(user: User, *devices: Device, remote: str = "/") -> dict[str, Entry]:
    """The devices' folders and the service's tree hold the same; what that is."""
    trees = trees_of(user, *devices, remote=remote)
    different = differences(trees)
    assert not different, f"the trees differ:\n{different}"
    return dict(trees["service"])


def settle(user: User, *devices: Device, rounds: int = 3, timeout_s: float = ONCE_TIMEOUT_S) -> dict[str, Entry]:
    """Run `sync --once` on each device in turn until all trees are equal, and give what they hold.

    Two rounds are enough for what one device learns late (its own conflicted copies go up, the others fetch them).
    """
    for _ in range(rounds):
        for device in devices:
            device.once(timeout_s=timeout_s)
        if not differences(trees_of(user, *devices)):
            break
    return check_equal(user, *devices)


def wait_until_equal(
    user: User,
    *devices: Device,
    timeout_s: float = 30.0,
    remote: str = "/",
    look: Callable[[Device, dict[str, Any]], None] = lambda device, told: None,
) -> dict[str, Entry]:
    """Wait until continuous clients have brought all to the same and say so. `look` sees again and again what each of
    them tells."""

    def in_sync() -> bool:
        told = [device.said() for device in devices]
        for device, row in zip(devices, told, strict=True):
            look(device, row)
        return all(row["state"] == "in_sync" and not row["queued"] for row in told)

    def equal() -> bool:
        return in_sync() and not differences(trees_of(user, *devices, remote=remote)) and in_sync()

    try:
        wait_until(equal, timeout_s=timeout_s, what="equal trees and clients in sync", every_s=0.1)
    except AssertionError as error:
        told = {device.name: device.status() for device in devices}
        different = differences(trees_of(user, *devices, remote=remote))
        raise AssertionError(f"{error}\n{different}\n{told}") from None
    return check_equal(user, *devices, remote=remote)
