"""A disk in memory for the simulated world: deterministic, fast, and as forgetful in a power cut as a real one.

`FakeDisk` is what outlives a process: the folders, the person's programs (`user`), and `crash`. `FakeFileSystem` is one
process's view of it, with base.py's calls on the very steps that the real disk takes (steps.py).

Power cuts: changes of names, times and modes are a log in order, and a cut keeps some first part of it that reaches at
least to the last sync of anything touched in it (as ext4, xfs and btrfs do). Contents are lost apart from names: what
was not synced is old, new, cut short, torn or zeros, as the given `random` says. What was synced stays.
Inode numbers are used again as soon as they are free, lowest first. Time stamps of one disk are all different, and so
are those of two disks with different devices.
Does not: know permissions other than the executable bit, quotas by user, or names that ignore case.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Self

from client.fs.base import OWN_FOLDER, FileKind, Path, ReadFile, Stat, TempFile
from client.fs.paths import check_component, check_path, split
from client.fs.steps import Steps, Temp, Unsupported, check_stamp, was_made_before
from client.sync.tree import Stamp
from node.base.clock import Clock


class Dead(BaseException):
    """The process whose file system this was has ended: nothing that it still tries to do happens."""


@dataclass(eq=False, slots=True)
class Inode:
    """One file or folder. `synced` is what of `data` a power cut cannot take; None: all of it."""

    number: int
    kind: FileKind
    mtime_ns: int
    ctime_ns: int
    data: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None
    children: dict[str, Inode] = field(default_factory=dict)
    executable: bool = False
    made_ns: int = 0
    links: int = 1
    writers: int = 0


# One change of names (folder, name, what was there before), or of a time or mode (inode, mtime, executable before).
_Named = tuple[Inode, str, Inode | None]
_Marked = tuple[Inode, int, bool]
_Entry = tuple[tuple[_Named, ...], _Marked | None, tuple[Inode, ...]]


class FakeDisk:
    """All of it belongs to the simulation's one thread."""

    def __init__(self, clock: Clock, *, device: int = 1, capacity: int = 1 << 40, can_exchange: bool = True) -> None:
        """`device` in 1..999. `capacity` in bytes may be changed at any time: beyond it writing fails with ENOSPC."""
        assert 1 <= device <= 999
        self.clock = clock
        self.device = device
        self.capacity = capacity
        self.can_exchange = can_exchange
        self.generation = 0  # of processes: a crash ends all views of the one before
        self.locked = False
        self.open_temps: set[str] = set()
        self.present = True  # False: the root is not there (unmounted, moved away)
        self.on_event: Callable[[Path, bool], None] | None = None
        self.used = 0
        self._last_ns = 0
        self._free: list[int] = []
        self._next = 2
        self._log: list[_Entry] = []
        self._unsynced: dict[int, Inode] = {}
        self.root = self.new_inode(FileKind.FOLDER)
        self.user = User(self)

    # --- crash ----------------------------------------------------------------------------------------------------

    def crash(self, random: Random | None = None) -> None:
        """The process ends. With `random` the power fails too, and what was not synced is lost in part."""
        self.generation += 1
        self.locked = False
        self.open_temps.clear()
        if random is None:
            return
        for changes, marked, _ in reversed(self._log[random.randint(0, len(self._log)) :]):
            for folder, name, before in reversed(changes):
                if before is None:
                    folder.children.pop(name, None)
                else:
                    folder.children[name] = before
            if marked is not None:
                marked[0].mtime_ns, marked[0].executable = marked[1:]
        self._log.clear()
        for inode in self._unsynced.values():
            inode.data = bytearray(_torn(random, inode.synced or b"", bytes(inode.data)))
            inode.synced = None
        self._unsynced.clear()
        self._count_again()

    def sync_all(self) -> None:
        self._log.clear()
        for inode in self._unsynced.values():
            inode.synced = None
        self._unsynced.clear()

    def tell(self, path: Path) -> None:
        """What the watcher hears of a change at `path`, whoever made it: the folder, and whether to look below it."""
        if self.on_event is not None:
            try:
                is_folder = self.find(path).kind is FileKind.FOLDER
            except OSError:
                is_folder = False
            self.on_event(path if is_folder else path[:-1], is_folder)
            if is_folder:
                self.on_event(path[:-1], False)

    # --- inodes ---------------------------------------------------------------------------------------------------

    def tick(self) -> int:
        """A time stamp that no other change of this or another disk has."""
        self._last_ns = max(int(self.clock.now() * 1e6) * 1000, self._last_ns + 1000)
        return self._last_ns + self.device

    def new_inode(self, kind: FileKind) -> Inode:
        number = heapq.heappop(self._free) if self._free else self._next
        if number == self._next:
            self._next += 1
        now = self.tick()
        return Inode(number, kind, now, now, made_ns=now)

    def stat(self, inode: Inode) -> Stat:
        size = len(inode.data) if inode.kind is FileKind.FILE else 0
        return Stat(
            inode.kind, size, inode.mtime_ns, inode.ctime_ns, inode.number, self.device, inode.executable, inode.links
        )

    def find(self, path: Path) -> Inode:
        inode = self.root
        for name in path:
            inode = self.child(inode, name)
        return inode

    def folder(self, path: Path) -> Inode:
        inode = self.find(path)
        if inode.kind is not FileKind.FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/".join(path))
        return inode

    def child(self, folder: Inode, name: str) -> Inode:
        if folder.kind is not FileKind.FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        inode = folder.children.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode

    # --- changes --------------------------------------------------------------------------------------------------

    def set_names(self, *changes: tuple[Inode, str, Inode | None]) -> None:
        """The one way in which names change: in one step, and into the log. A folder that was removed while somebody
        had it open takes no new names, as on any disk."""
        if any(inode is not None and folder.links == 0 for folder, _, inode in changes):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), changes[0][1])
        before = tuple((folder, name, folder.children.get(name)) for folder, name, _ in changes)
        now = self.tick()
        touched: list[Inode] = []
        for folder, name, inode in changes:
            if inode is None:
                folder.children.pop(name, None)
            else:
                folder.children[name] = inode
                inode.ctime_ns = now
                touched.append(inode)
            folder.mtime_ns = folder.ctime_ns = now
            touched.append(folder)
        self._log.append((before, None, tuple(touched)))

    def add(self, folder: Inode, name: str, kind: FileKind) -> Inode:
        if name in folder.children:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self.check_space(0)
        inode = self.new_inode(kind)
        if kind is FileKind.FILE:
            self._touch(inode)
        self.set_names((folder, name, inode))
        return inode

    def unlink(self, folder: Inode, name: str) -> None:
        inode = self.child(folder, name)
        if inode.kind is FileKind.FOLDER and inode.children:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        self.set_names((folder, name, None))
        self.let_go(inode)

    def let_go(self, inode: Inode) -> None:
        inode.links -= 1
        if inode.links == 0:
            self.used -= len(inode.data)
            heapq.heappush(self._free, inode.number)

    def rename(self, source: Inode, name: str, target: Inode, new_name: str) -> None:
        inode = self.child(source, name)
        if inode.kind is FileKind.FOLDER and self._is_below(target, inode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        replaced = target.children.get(new_name)
        if replaced is inode:
            return
        if replaced is not None:
            if replaced.kind is FileKind.FOLDER and inode.kind is not FileKind.FOLDER:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), new_name)
            if replaced.kind is not FileKind.FOLDER and inode.kind is FileKind.FOLDER:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), new_name)
            if replaced.children:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), new_name)
        self.set_names((source, name, None), (target, new_name, inode))
        if replaced is not None:
            self.let_go(replaced)

    def exchange(self, one: Inode, name: str, other: Inode, other_name: str) -> None:
        first, second = self.child(one, name), self.child(other, other_name)
        self.set_names((one, name, second), (other, other_name, first))

    def write(self, inode: Inode, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        growth = max(0, end - len(inode.data))
        self.check_space(growth)
        self._touch(inode)
        self.used += growth if inode.links else 0
        inode.data.extend(bytes(max(0, offset - len(inode.data))))
        inode.data[offset:end] = data

    def truncate(self, inode: Inode, size: int) -> None:
        growth = size - len(inode.data)
        self.check_space(max(0, growth))
        self._touch(inode)
        self.used += growth if inode.links else 0
        del inode.data[size:]
        inode.data.extend(bytes(max(0, growth)))

    def mark(self, inode: Inode, *, mtime_ns: int | None = None, executable: bool | None = None) -> None:
        self._log.append(((), (inode, inode.mtime_ns, inode.executable), (inode,)))
        inode.ctime_ns = self.tick()
        if mtime_ns is not None:
            inode.mtime_ns = mtime_ns
        if executable is not None:
            inode.executable = executable

    def sync(self, inode: Inode) -> None:
        """All up to the last change that touched it becomes durable, and its own contents."""
        for index in range(len(self._log) - 1, -1, -1):
            if inode in self._log[index][2]:
                del self._log[: index + 1]
                break
        if self._unsynced.pop(id(inode), None) is not None:
            inode.synced = None

    def check_space(self, growth: int) -> None:
        if self.used + growth >= self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _touch(self, inode: Inode) -> None:
        inode.mtime_ns = inode.ctime_ns = self.tick()
        if id(inode) not in self._unsynced:
            self._unsynced[id(inode)] = inode
            inode.synced = bytes(inode.data)

    def _is_below(self, folder: Inode, above: Inode) -> bool:
        waiting = [above]
        while waiting:
            inode = waiting.pop()
            if inode is folder:
                return True
            waiting.extend(child for child in inode.children.values() if child.kind is FileKind.FOLDER)
        return False

    def _count_again(self) -> None:
        """After a power cut: which inodes are there, and which numbers are free."""
        links: dict[int, int] = {}
        inodes: dict[int, Inode] = {}
        waiting = [self.root]
        while waiting:
            for child in waiting.pop().children.values():
                links[id(child)] = links.get(id(child), 0) + 1
                if id(child) not in inodes:
                    inodes[id(child)] = child
                    waiting.append(child)
        taken = {self.root.number}
        for key, inode in inodes.items():
            inode.links, inode.writers = links[key], 0
            if inode.number in taken:  # its number was given away after it was deleted, and now it is back
                inode.number = self._next
                self._next += 1
            taken.add(inode.number)
        self.used = sum(len(inode.data) for inode in inodes.values())
        self._free = [number for number in range(2, self._next) if number not in taken]


class User:
    """What the person and the person's programs do in the root, at any moment.

    `durable` (the usual) means that the program synced, so that a power cut after it does not take the change.
    """

    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk

    def write_in_place(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Write over the file, or make it."""
        folder = self._disk.folder(path[:-1])
        inode = folder.children.get(path[-1]) or self._disk.add(folder, path[-1], FileKind.FILE)
        if inode.kind is not FileKind.FILE:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path[-1])
        self._disk.truncate(inode, 0)
        self._disk.write(inode, 0, data)
        self._done(path, durable, inode, folder)

    def write_part(self, path: Path, offset: int, data: bytes, *, durable: bool = True) -> None:
        inode = self._disk.find(path)
        self._disk.write(inode, offset, data)
        self._done(path, durable, inode)

    def save_by_rename(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """As editors do: a new file beside it, renamed over it."""
        folder = self._disk.folder(path[:-1])
        beside = f".{path[-1]}.save~"
        if path[-1] in folder.children:
            _regular(folder.children[path[-1]], path[-1])
        inode = self._disk.add(folder, beside, FileKind.FILE)
        self._disk.write(inode, 0, data)
        self._disk.rename(folder, beside, folder, path[-1])
        self._done(path, durable, inode, folder)

    def rename(self, source: Path, target: Path, *, durable: bool = True) -> None:
        """As rename(2): a file or an empty folder at the target is replaced."""
        source_folder, target_folder = self._disk.folder(source[:-1]), self._disk.folder(target[:-1])
        self._disk.rename(source_folder, source[-1], target_folder, target[-1])
        self._done(source, False)
        self._done(target, durable, source_folder, target_folder)

    def delete(self, path: Path, *, durable: bool = True) -> None:
        """A file, or a folder with all in it."""
        folder = self._disk.folder(path[:-1])
        inode = self._disk.child(folder, path[-1])
        for name in list(inode.children):
            self.delete((*path, name), durable=durable)
        self._disk.unlink(folder, path[-1])
        self._done(path, durable, folder)

    def mkdir(self, path: Path, *, durable: bool = True) -> None:
        folder = self._disk.folder(path[:-1])
        self._disk.add(folder, path[-1], FileKind.FOLDER)
        self._done(path, durable, folder)

    def symlink(self, path: Path, *, durable: bool = True) -> None:
        folder = self._disk.folder(path[:-1])
        self._disk.add(folder, path[-1], FileKind.SYMLINK)
        self._done(path, durable, folder)

    def link(self, source: Path, target: Path, *, durable: bool = True) -> None:
        folder, inode = self._disk.folder(target[:-1]), self._disk.find(source)
        if target[-1] in folder.children:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target[-1])
        inode.links += 1
        self._disk.set_names((folder, target[-1], inode))
        self._done(target, durable, folder)

    def touch(self, path: Path, mtime_ns: int | None = None, *, durable: bool = True) -> None:
        inode = self._disk.find(path)
        self._disk.mark(inode, mtime_ns=self._disk.tick() if mtime_ns is None else mtime_ns)
        self._done(path, durable, inode)

    def chmod(self, path: Path, executable: bool, *, durable: bool = True) -> None:
        inode = self._disk.find(path)
        self._disk.mark(inode, executable=executable)
        self._done(path, durable, inode)

    @contextmanager
    def open_for_writing(self, path: Path) -> Iterator[Callable[[int, bytes], None]]:
        """A program that keeps the file open: it writes to this very file, whatever becomes of its name."""
        inode = self._disk.find(path)
        inode.writers += 1

        def write(offset: int, data: bytes) -> None:
            self._disk.write(inode, offset, data)
            self._done(path, True, inode)

        try:
            yield write
        finally:
            inode.writers = max(0, inode.writers - 1)

    def read(self, path: Path) -> bytes:
        inode = self._disk.find(path)
        if inode.kind is not FileKind.FILE:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "/".join(path))
        return bytes(inode.data)

    def files(self, below: Path = ()) -> dict[Path, bytes]:
        """Every file with its contents; OWN_FOLDER only when `below` is in it."""
        found: dict[Path, bytes] = {}
        for name, inode in sorted(self._disk.folder(below).children.items()):
            path = (*below, name)
            if inode.kind is FileKind.FILE:
                found[path] = bytes(inode.data)
            elif inode.kind is FileKind.FOLDER and path != (OWN_FOLDER,):
                found.update(self.files(path))
        return found

    def folders(self, below: Path = ()) -> list[Path]:
        found: list[Path] = []
        for name, inode in sorted(self._disk.folder(below).children.items()):
            if inode.kind is FileKind.FOLDER and (*below, name) != (OWN_FOLDER,):
                found += [(*below, name), *self.folders((*below, name))]
        return found

    def trashed(self) -> list[bytes]:
        """The contents of all files in our trash, and of those that a crash left on the way there."""
        own = self._disk.root.children.get(OWN_FOLDER)
        return [
            data
            for name in ("trash", "moving")
            if own is not None and name in own.children
            for data in self.files((OWN_FOLDER, name)).values()
        ]

    def _done(self, path: Path, durable: bool, *touched: Inode) -> None:
        if durable:
            for inode in touched:
                self._disk.sync(inode)
        self._disk.tell(path)


class FakeFileSystem(Steps[Inode]):
    """One process's view. `on_call` is told the name of each call before it, and may raise OSError or end the process;
    `on_step` that of each single step of a call (steps.py), likewise. Both are where a scheduler switches."""

    def __init__(
        self,
        disk: FakeDisk,
        *,
        on_call: Callable[[str], None] | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self._tokens = 0
        super().__init__(disk.clock.now, self._next_token)
        self.disk = disk
        self.on_call = on_call
        self.on_step = on_step
        self._generation = disk.generation
        self._locked = False

    def close(self) -> None:
        if self._locked and self._generation == self.disk.generation:
            self.disk.locked = False
        self._locked = False

    # --- looking --------------------------------------------------------------------------------------------------

    def list_folder(self, path: Path) -> list[tuple[str, Stat]]:
        self.call("list_folder")
        check_path(path)
        found = self._list(self.disk.folder(path))
        return [item for item in found if item[0] != OWN_FOLDER] if not path else found

    def stat(self, path: Path) -> Stat:
        self.call("stat")
        check_path(path)
        return self.disk.stat(self.disk.find(path))

    def is_same_since(self, path: Path, stamp: Stamp) -> bool:
        self.call("is_same_since")
        check_path(path)
        inode = self.disk.find(path)
        return inode.number == stamp.inode and was_made_before(inode.made_ns, stamp)

    def open(self, path: Path) -> ReadFile:
        self.call("open")
        parent, name = split(path)
        return _FakeFile(self, _regular(self.disk.child(self.disk.folder(parent), name), name))

    def free_bytes(self) -> int:
        self.call("free_bytes")
        return max(0, self.disk.capacity - self.disk.used)

    # --- temporary files ------------------------------------------------------------------------------------------

    def open_temp(self, name: str) -> TempFile:
        self.call("open_temp")
        check_component(name)
        with self._own("temp") as temps:
            if name in self.disk.open_temps:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), name)
            inode = temps.children.get(name)
            if inode is None:
                inode = self.disk.add(temps, name, FileKind.FILE)
            self.disk.open_temps.add(name)
            return _FakeTemp(self, inode, name)

    def list_temp(self) -> list[tuple[str, Stat]]:
        self.call("list_temp")
        with self._own("temp") as temps:
            return self._list(temps)

    # --- changing -------------------------------------------------------------------------------------------------

    def place(self, temp: TempFile, path: Path, expected: Stamp | None) -> Stat:
        self.call("place")
        try:
            return super().place(temp, path, expected)
        finally:
            self.disk.tell(path)

    def move(self, source: Path, target: Path, expected: Stamp | None = None) -> Stat:
        self.call("move")
        try:
            return super().move(source, target, expected)
        finally:
            self.disk.tell(source)
            self.disk.tell(target)

    def make_folder(self, path: Path) -> Stat:
        self.call("make_folder")
        try:
            return super().make_folder(path)
        finally:
            self.disk.tell(path)

    def remove_folder(self, path: Path) -> None:
        self.call("remove_folder")
        try:
            super().remove_folder(path)
        finally:
            self.disk.tell(path)

    def trash(self, path: Path, expected: Stamp | None) -> None:
        self.call("trash")
        try:
            super().trash(path, expected)
        finally:
            self.disk.tell(path)

    def recover(self) -> list[Path]:
        self.call("recover")
        return super().recover()

    def set_executable(self, path: Path, executable: bool, expected: Stamp) -> Stat:
        self.call("set_executable")
        parent, name = split(path)
        inode = _regular(self.disk.child(self.disk.folder(parent), name), name)
        check_stamp(self.disk.stat(inode), expected)
        self.disk.mark(inode, executable=executable)
        after = self.disk.stat(inode)
        self.step("set_executable")
        self.disk.sync(inode)
        return after

    # --- our own folder -------------------------------------------------------------------------------------------

    def lock(self) -> None:
        self.call("lock")
        self._make_own_folder()
        if self.disk.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        self.disk.locked = self._locked = True

    def read_marker(self) -> bytes | None:
        self.call("read_marker")
        if not self.disk.present:
            raise FileNotFoundError(errno.ENOENT, "another folder stands there now")
        own = self.disk.root.children.get(OWN_FOLDER)
        marker = own.children.get("root.json") if own else None
        return bytes(marker.data) if marker else None

    def write_marker(self, data: bytes) -> None:
        self.call("write_marker")
        self._make_own_folder()
        own = self.disk.root.children[OWN_FOLDER]
        if "root.json.new" in own.children:
            self.disk.unlink(own, "root.json.new")
        inode = self.disk.add(own, "root.json.new", FileKind.FILE)
        self.disk.write(inode, 0, data)
        self.disk.sync(inode)
        self.step("write_marker")
        self.disk.rename(own, "root.json.new", own, "root.json")
        self.disk.sync(own)

    # --- primitives -----------------------------------------------------------------------------------------------

    def call(self, name: str) -> None:
        self._check_alive()
        if self.on_call is not None:
            self.on_call(name)
            self._check_alive()

    def step(self, name: str) -> None:
        self._check_alive()
        if self.on_step is not None:
            self.on_step(name)
            self._check_alive()

    def _check_alive(self) -> None:
        if self._generation != self.disk.generation:
            raise Dead

    def _next_token(self) -> str:
        self._tokens += 1
        return f"{self._generation}-{self._tokens}"

    def _temp(self, temp: TempFile) -> Temp:
        assert isinstance(temp, _FakeTemp)
        return temp

    def _open(self, path: Path) -> AbstractContextManager[Inode]:
        check_path(path)
        return nullcontext(self.disk.folder(path))

    def _own(self, name: str) -> AbstractContextManager[Inode]:
        self._check_alive()
        own = self.disk.child(self.disk.root, OWN_FOLDER)
        if name not in own.children:
            self.disk.add(own, name, FileKind.FOLDER)
            self.disk.sync(own)
        return nullcontext(own.children[name])

    def _below(self, folder: Inode, name: str) -> AbstractContextManager[Inode]:
        return nullcontext(self.disk.child(folder, name))

    def _make_own_folder(self) -> None:
        if OWN_FOLDER not in self.disk.root.children:
            self.disk.add(self.disk.root, OWN_FOLDER, FileKind.FOLDER)
            self.disk.sync(self.disk.root)

    def _list(self, folder: Inode) -> list[tuple[str, Stat]]:
        return [(name, self.disk.stat(inode)) for name, inode in folder.children.items()]

    def _names(self, folder: Inode) -> list[str]:
        return list(folder.children)

    def _stat(self, folder: Inode, name: str) -> Stat:
        self.step("stat")
        return self.disk.stat(self.disk.child(folder, name))

    def _make(self, folder: Inode, name: str) -> None:
        self.step("make")
        self.disk.add(folder, name, FileKind.FOLDER)

    def _remove(self, folder: Inode, name: str) -> None:
        self.step("remove")
        if self.disk.child(folder, name).kind is not FileKind.FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        self.disk.unlink(folder, name)

    def _unlink(self, folder: Inode, name: str) -> None:
        self.step("unlink")
        self.disk.unlink(folder, name)

    def _link(self, source: Inode, name: str, target: Inode, new_name: str) -> None:
        self.step("link")
        inode = self.disk.child(source, name)
        self.disk.set_names((target, new_name, inode))
        inode.links += 1

    def _rename(self, source: Inode, name: str, target: Inode, new_name: str) -> None:
        self.step("rename")
        self.disk.rename(source, name, target, new_name)

    def _rename_new(self, source: Inode, name: str, target: Inode, new_name: str) -> None:
        self.step("rename")
        if new_name in target.children:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
        self.disk.rename(source, name, target, new_name)

    def _exchange(self, one: Inode, name: str, other: Inode, other_name: str) -> None:
        self.step("exchange")
        if not self.disk.can_exchange:
            raise Unsupported
        self.disk.exchange(one, name, other, other_name)

    def _sync(self, folder: Inode) -> None:
        self.step("sync")
        self.disk.sync(folder)

    def _is_written(self, folder: Inode, name: str) -> bool:
        self._check_alive()
        inode = folder.children.get(name)
        return inode is not None and inode.writers > 0


class _FakeFile:
    def __init__(self, fs: FakeFileSystem, inode: Inode) -> None:
        self._fs = fs
        self._disk = fs.disk
        self._inode = inode

    def stat(self) -> Stat:
        self._fs.call("file.stat")
        return self._disk.stat(self._inode)

    def read_at(self, offset: int, buffer: memoryview) -> int:
        self._fs.call("file.read_at")
        part = self._inode.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Nothing to give back, and nothing that could fail."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _FakeTemp(_FakeFile):
    def __init__(self, fs: FakeFileSystem, inode: Inode, name: str) -> None:
        super().__init__(fs, inode)
        self.name = name
        self._generation = fs.disk.generation

    def size(self) -> int:
        self._fs.call("temp.size")
        return len(self._inode.data)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._fs.call("temp.write_at")
        self._disk.write(self._inode, offset, data)

    def truncate(self, size: int) -> None:
        self._fs.call("temp.truncate")
        self._disk.truncate(self._inode, size)

    def set_mtime(self, mtime_ns: int) -> None:
        self._fs.call("temp.set_mtime")
        self._disk.mark(self._inode, mtime_ns=mtime_ns)

    def set_executable(self, executable: bool) -> None:
        self._fs.call("temp.set_executable")
        self._disk.mark(self._inode, executable=executable)

    def take_permissions(self, folder: object, name: str) -> None:
        """There are none."""

    def sync(self) -> None:
        self._fs.call("temp.sync")
        self._disk.sync(self._inode)

    def close(self) -> None:
        if self._generation == self._disk.generation:
            self._disk.open_temps.discard(self.name)

    def discard(self) -> None:
        self._fs.call("temp.discard")
        with self._fs._own("temp") as temps:
            if temps.children.get(self.name) is self._inode:
                self._disk.unlink(temps, self.name)
        self.close()


def _regular(inode: Inode, name: str) -> Inode:
    if inode.kind is FileKind.FOLDER:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if inode.kind is not FileKind.FILE:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return inode


def _torn(random: Random, old: bytes, new: bytes) -> bytes:
    """What a power cut leaves of a file that was being changed."""
    where = random.randint(0, len(new))
    choice = random.randrange(5)
    if choice == 0:
        return old
    if choice == 1:
        return new
    if choice == 2:
        return new[:where]
    if choice == 3:
        return new[:where] + bytes(len(new) - where)
    return (new[:where] + old[where:])[: max(len(new), len(old))]
