"""People at several computers who change files at random, and a ledger of what must be there in the end.

Every change is one step of the file system (renameat2), so that what a person overwrote or deleted is exactly what was
there, whatever a client does at the same instant. Contents are unique: where one is missing, doubled or unknown in the
end, the ledger names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.api import User
from tests.kit.fork_server import Command
from tests.kit.oracle import ABSENT, Value
from tests.kit.sync_device import FOLDER, ONCE_TIMEOUT_S, Device, differences, digest_of, trees_of

NAMES = ("a", "b", "c", "d")
SETTLE_ROUNDS = 4
_NOREPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def rename(source: Path, target: Path, flags: int) -> None:
    """renameat2(2): a person's write and what it overwrote must be one step, whatever the client does meanwhile."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


@dataclass
class World:
    """One person with three computers, whose clients run one after the other or side by side."""

    user: User
    devices: list[Device]
    scratch: Path
    running: dict[int, Command] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    person: str = ""  # begins his contents and lines, where several work at once
    graves: int = 0
    _written: int = 0

    def tell(self, what: str) -> None:
        self.told.append(self.person + what)

    # --- clients

    def begin_sync(self, at: int) -> None:
        """Start one client's run, unless it is running."""
        if at not in self.running:
            self.tell(f"{at} begins to sync")
            self.running[at] = self.devices[at].begin_once()

    def finish_sync(self, at: int) -> None:
        """Wait for its end. Others may keep it from finishing its work, so any exit code is right."""
        command = self.running.pop(at)
        command.wait(ONCE_TIMEOUT_S)
        assert "Traceback" not in command.stderr, command.stderr
        self.tell(f"{at} has synced ({command.result.code})")

    def sync(self, at: int) -> None:
        self.begin_sync(at)
        self.finish_sync(at)

    def rest(self) -> None:
        """Let everybody finish, until all hold the same."""
        for at in list(self.running):
            self.finish_sync(at)
        for _ in range(SETTLE_ROUNDS):
            for device in self.devices:
                device.once()
            if not differences(trees_of(self.user, *self.devices)):
                self.tell("at rest")
                return
        raise AssertionError(f"the trees differ:\n{differences(trees_of(self.user, *self.devices))}")

    # --- what a person does, each in one step

    def new_content(self) -> str:
        self._written += 1
        return f"{self.person}content {self._written}"

    def read(self, at: int, path: str) -> Value:
        try:
            return self.devices[at].read(path).decode()
        except FileNotFoundError:
            return ABSENT

    def write(self, at: int, path: str, value: Value) -> Value:
        """Replace the file (ABSENT: delete it); what it had. Raises OSError where a folder is in the way or missing."""
        target = self.devices[at].path(path)
        aside = self.scratch / "aside"
        aside.unlink(missing_ok=True)
        if value is ABSENT:
            try:
                rename(target, aside, _NOREPLACE)
            except FileNotFoundError:
                return ABSENT
            return aside.read_text()
        aside.write_text(value)
        while True:
            try:
                rename(aside, target, _EXCHANGE)
                if aside.is_dir():
                    rename(aside, target, _EXCHANGE)
                    raise IsADirectoryError(str(target))
                return aside.read_text()
            except FileNotFoundError:
                pass
            try:
                rename(aside, target, _NOREPLACE)
                return ABSENT
            except FileExistsError:
                continue  # the client has placed it in between


@dataclass
class Ledger:
    """Every content that was written, and those that somebody overwrote or deleted with it before his eyes."""

    written: dict[str, str] = field(default_factory=dict)  # digest to content
    given_up: set[str] = field(default_factory=set)
    deleted: list[tuple[float, int]] = field(default_factory=list)  # when (monotonic) how many files went at once

    def add(self, other: Ledger) -> None:
        """What somebody else did."""
        self.written |= other.written
        self.given_up |= other.given_up
        self.deleted += other.deleted

    def deleted_since(self, moment: float) -> int:
        """How many files people have deleted since then (monotonic)."""
        return sum(count for at, count in self.deleted if at >= moment)

    def write(self, content: str) -> None:
        self.written[digest_of(content.encode())] = content

    def give_up(self, content: Value) -> None:
        if content is not ABSENT:
            self.given_up.add(digest_of(content.encode()))

    def check(self, tree: Sequence[str], *, twice: bool = False) -> None:
        """`tree`: the digests of all files at rest; `twice`: one may be there more than once.

        A client that was killed between an upload and noting it down cannot know a file of its own again that somebody
        else has moved meanwhile.
        """
        lost = [self.written[digest] for digest in self.written.keys() - self.given_up - set(tree)]
        assert not lost, f"lost: {sorted(lost)}"
        unknown = set(tree) - self.written.keys()
        assert not unknown, f"nobody wrote {unknown}"
        doubled = [self.written[digest] for digest in set(tree) if tree.count(digest) > 1]
        assert twice or not doubled, f"there more than once: {sorted(doubled)}"


def change_tree(world: World, ledger: Ledger, at: int, folder: str, rng: random.Random) -> None:
    """One change of a person at one computer. The client may be changing the same: then the change may not work out."""
    device = world.devices[at]
    tree = device.tree()
    inside = [path for path in sorted(tree) if path.startswith(folder + "/")]
    folders = [folder] + [path for path in inside if tree[path] == FOLDER and path.count("/") < 4]
    place = f"{rng.choice(folders)}/{rng.choice(NAMES)}"
    source = rng.choice(inside) if inside else None
    chance = rng.random()
    try:
        if source is None or chance < 0.3:
            content = world.new_content()
            if place in tree and tree[place] == FOLDER:
                return
            ledger.give_up(world.write(at, place, content))
            ledger.write(content)
            world.tell(f"{at} writes {place}: {content}")
        elif chance < 0.4:
            device.path(place).mkdir()
            world.tell(f"{at} makes the folder {place}")
        elif chance < 0.75:
            rename(device.path(source), device.path(place), _NOREPLACE)
            world.tell(f"{at} moves {source} to {place}")
        elif chance < 0.85:
            _delete(world, ledger, at, source)
            world.tell(f"{at} deletes {source}")
        elif tree[source] == FOLDER:
            _swap(world, at, source, rng.choice(inside))
        elif tree[source] != FOLDER:
            content = world.new_content()
            ledger.give_up(world.write(at, source, content))
            ledger.write(content)
            world.tell(f"{at} edits {source}: {content}")
    except OSError as error:
        world.tell(f"{at} cannot: {error}")


def _swap(world: World, at: int, one: str, other: str) -> None:
    """Two entries change places, where neither lies in the other."""
    if one != other and not one.startswith(other + "/") and not other.startswith(one + "/"):
        rename(world.devices[at].path(one), world.devices[at].path(other), _EXCHANGE)
        world.tell(f"{at} exchanges {one} and {other}")


def _delete(world: World, ledger: Ledger, at: int, path: str) -> None:
    """In one step, so that what the client places meanwhile is not deleted unseen."""
    world.graves += 1
    grave = world.scratch / f"grave {world.graves}"
    rename(world.devices[at].path(path), grave, _NOREPLACE)
    files = [found for found in [grave, *grave.rglob("*")] if found.is_file()]
    for found in files:
        ledger.give_up(found.read_text())
    ledger.deleted.append((time.monotonic(), len(files)))


@contextlib.contextmanager
def new_world(user: User, folder: Path, computers: int) -> Iterator[World]:
    """Logged in, with empty folders; what still runs in the end is killed."""
    devices = [Device(user, folder, f"computer{number}") for number in range(computers)]
    scratch = folder / "scratch"
    scratch.mkdir()
    made = World(user, devices, scratch)
    try:
        yield made
    finally:
        for command in [*made.running.values(), *(device.client for device in devices)]:
            if command is not None:
                command.kill()
