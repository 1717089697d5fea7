"""Says where in the synced root something may have changed, within milliseconds of the change.

Every folder that is synced has an inotify watch; an own thread reads the events and merges them. A change is told at
once, except that a file which a program keeps writing to is told when it is closed, or once a second.

Guarantees: what changed after `start` has returned is told sooner or later: as its folder, or as None ("anything may
have changed") after the kernel dropped events or folders could not be watched. In the last case, and on network file
systems, None is told again and again, and `limitation` says why. A new folder is told with all that is in it.
Does not: look at files, or know what was changed by ourselves (engine/).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path as RootPath
from typing import Final

from client.fs.base import OWN_FOLDER, Path
from client.sync.local import inotify
from client.sync.local.findings import DirtyFolder
from client.sync.local.inotify import Event, Inotify, WatchLimit
from coordinator.protocol.names import DEPTH_MAX

POLL_S: Final = 60.0
QUIET_S: Final = 0.005  # changes that follow each other faster are told together,
BURST_S: Final = 0.02  # but never later than this after the first
WRITING_S: Final = 1.0
_FOLDERS_MAX: Final = 5000  # more changed folders at once are told as None
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIMIT_FILE: Final = RootPath("/proc/sys/fs/inotify/max_user_watches")
_MOUNTS: Final = RootPath("/proc/self/mountinfo")
# Here other computers change files, of which this kernel hears nothing.
_REMOTE_KINDS: Final = ("nfs", "cifs", "smb", "fuse.", "9p", "ceph", "afs", "gfs", "ocfs", "lustre", "virtiofs")
_WRITING: Final = inotify.MODIFY
_APPEARED: Final = inotify.CREATE | inotify.MOVED_TO
_ENDED: Final = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT


class Watcher:
    """client.sync.engine.loop.Watcher. `_watches` and `_writing` belong to the thread once it runs; `_told`, `_all` and
    `_ignored` are guarded by `_ready`."""

    def __init__(self, root: RootPath, is_ignored: Callable[[Path, bool], bool], *, poll_s: float = POLL_S) -> None:
        """`is_ignored` (path, is_folder) as of client.sync.local.ignore.Ignore: ignored folders are not watched."""
        self.limitation: str | None = None
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self._root).st_dev
        self._is_ignored = is_ignored
        self._poll_s = poll_s
        self._next_poll: float | None = None
        self._inotify: Inotify | None = None
        self._watches: dict[int, tuple[int, str]] = {}  # of each watch, the folder that it is in and its name there
        self._top = -1
        self._ready = threading.Condition()
        self._told: dict[Path, bool] = {}
        self._all = False
        self._closing = False
        self._rewatch = False
        self._writing: set[Path] = set()
        self._writing_since: float | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Watch every folder (a second or two for 100,000 of them), then begin to listen."""
        kind = remote_kind(self._root)
        if kind is not None:
            self._poll(f"The folder is on a network file system ({kind}), which does not tell what others change")
        try:
            self._inotify = Inotify()
            self._watch_below((), -1, "")
        except WatchLimit:
            self._limited()
        self._thread.start()

    def wait(self) -> list[DirtyFolder] | None:
        """Blocks until there is something to tell, or the watcher is closed (nothing then)."""
        with self._ready:
            while not (self._told or self._all or self._closing):
                self._ready.wait()
            told, self._told = self._told, {}
            everything, self._all = self._all, False
        return None if everything else [DirtyFolder(path, deep) for path, deep in told.items()]

    def refresh(self, is_ignored: Callable[[Path, bool], bool]) -> None:
        """The rules have changed: watch what is no longer ignored too. Tells None when that is done."""
        with self._ready:
            self._is_ignored = is_ignored
            self._rewatch = True
        self._wake()

    def close(self) -> None:
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        if self._inotify is not None:
            self._inotify.close()
        for descriptor in (self._root, self._wake_read, self._wake_write):
            os.close(descriptor)

    @property
    def folders(self) -> int:
        """How many are watched."""
        return len(self._watches)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._inotify is not None:
            poll.register(self._inotify.descriptor, select.POLLIN)
        while not self._closing:
            if poll.poll(self._wait_ms()):
                self._drain_wakes()
                self._gather(poll)
            now = time.monotonic()
            if self._writing_since is not None and now >= self._writing_since + WRITING_S:
                self._tell((path, False) for path in self._writing)
                self._writing, self._writing_since = set(), None
            if self._next_poll is not None and now >= self._next_poll:
                self._next_poll = now + self._poll_s
                self._tell_all()

    def _wait_ms(self) -> float | None:
        due = [self._writing_since + WRITING_S] if self._writing_since is not None else []
        if self._next_poll is not None:
            due.append(self._next_poll)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _gather(self, poll: select.poll) -> None:
        """Read events until there are none for QUIET_S, then tell."""
        until = time.monotonic() + BURST_S
        found: dict[Path, bool] = {}
        while not self._closing:
            with self._ready:
                rewatch, self._rewatch = self._rewatch, False
            if rewatch:
                self._watch_again()
            if self._inotify is not None:
                for event in self._inotify.read():
                    self._take(event, found)
            if time.monotonic() >= until or not poll.poll(QUIET_S * 1000):
                break
            self._drain_wakes()
        self._tell(found.items())

    def _take(self, event: Event, found: dict[Path, bool]) -> None:
        watch, mask, name = event
        if mask & inotify.OVERFLOW:
            self._watch_again()
            return
        path = self._path_of(watch)
        if mask & inotify.IGNORED:
            self._watches.pop(watch, None)
            return
        if path is None:
            return
        if mask & _ENDED:
            found.setdefault(path[:-1], False)
            if mask & inotify.UNMOUNT and path:
                with suppress(WatchLimit):
                    self._watch_below(path, *self._watches[watch])
                found[path] = True
            self._take_end(watch, mask)
        elif name == OWN_FOLDER and not path:
            return
        elif mask & inotify.IS_FOLDER:
            found.setdefault(path, False)
            if mask & _APPEARED and not self._ignores((*path, name)):
                with suppress(WatchLimit):
                    self._watch_below((*path, name), watch, name)
                found[(*path, name)] = True
        elif mask & _WRITING and not mask & ~_WRITING:
            self._writing.add(path)
            self._writing_since = self._writing_since or time.monotonic()
        else:
            found.setdefault(path, False)

    def _take_end(self, watch: int, mask: int) -> None:
        """A watched folder was deleted, unmounted, or moved: where to, the event of its new parent has told already."""
        if watch == self._top:
            self._tell_all()  # whoever looks at it then sees that the root has gone
        elif mask & inotify.MOVE_SELF and not self._is_where_it_was(watch):
            for each in [each for each in self._watches if self._is_below(each, watch)]:
                self._watches.pop(each)
                assert self._inotify is not None
                self._inotify.remove(each)

    def _is_where_it_was(self, watch: int) -> bool:
        path = self._path_of(watch)
        assert self._inotify is not None and path is not None
        try:
            folder = self._open(path)
        except OSError:
            return False
        try:
            known = set(self._watches)
            there = self._inotify.add(folder)
            if there not in known:
                self._watches[there] = self._watches[watch]
                self._tell([(path, True)])
            return there == watch
        except (OSError, WatchLimit):
            return False
        finally:
            os.close(folder)

    # --- watches --------------------------------------------------------------------------------------------------

    def _watch_again(self) -> None:
        """After lost events, or with new rules: folders may be there of which nothing was heard."""
        with suppress(WatchLimit):
            self._watch_below((), -1, "")
        self._tell_all()

    def _watch_below(self, path: Path, parent: int, name: str) -> None:
        """Watch a folder and all folders in it. Whoever lists it afterwards misses nothing. Raises WatchLimit, having
        said so."""
        try:
            folder = self._open(path)
        except OSError:
            return  # gone again, or not ours to read
        try:
            self._watch(folder, path, parent, name)
        except WatchLimit:
            self._limited()
            raise
        except OSError as error:  # the thread goes on: the other folders are watched all the same
            self._poll(f"A folder of this disk cannot be watched ({error.strerror})")
        finally:
            os.close(folder)

    def _watch(self, folder: int, path: Path, parent: int, name: str) -> None:
        assert self._inotify is not None
        elsewhere = os.fstat(folder).st_dev != self._device
        watch = self._inotify.add(folder, only_end=elsewhere)
        if not path:
            self._top = watch
        self._watches[watch] = (parent, name)
        if len(path) >= DEPTH_MAX or elsewhere:
            return
        with suppress(OSError):
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            for below in names:
                if not self._ignores((*path, below)):
                    with suppress(OSError):
                        descriptor = os.open(below, _FOLDER, dir_fd=folder)
                        try:
                            self._watch(descriptor, (*path, below), watch, below)
                        finally:
                            os.close(descriptor)

    def _ignores(self, path: Path) -> bool:
        return path[0] == OWN_FOLDER or self._is_ignored(path, True)

    def _open(self, path: Path) -> int:
        folder = os.open(".", _FOLDER, dir_fd=self._root)
        for name in path:
            above = folder
            try:
                folder = os.open(name, _FOLDER, dir_fd=above)
            finally:
                os.close(above)
        return folder

    def _path_of(self, watch: int) -> Path | None:
        names: list[str] = []
        while watch != self._top:
            if watch not in self._watches or len(names) > DEPTH_MAX:
                return None
            watch, name = self._watches[watch]
            names.append(name)
        return tuple(reversed(names))

    def _is_below(self, watch: int, above: int) -> bool:
        for _ in range(DEPTH_MAX + 1):
            if watch == above:
                return True
            if watch not in self._watches:
                return False
            watch = self._watches[watch][0]
        return False

    # --- telling --------------------------------------------------------------------------------------------------

    def _tell(self, folders: Iterable[tuple[Path, bool]]) -> None:
        with self._ready:
            for path, deep in folders:
                self._told[path] = self._told.get(path, False) or deep
            if len(self._told) > _FOLDERS_MAX:
                self._told, self._all = {}, True
            if self._told or self._all:
                self._ready.notify_all()

    def _tell_all(self) -> None:
        with self._ready:
            self._told, self._all = {}, True
            self._ready.notify_all()

    def _limited(self) -> None:
        try:
            limit = _LIMIT_FILE.read_text().strip()
        except OSError:
            limit = "none"
        self._poll(f"This system lets a user watch no more folders (fs.inotify.max_user_watches = {limit})")

    def _poll(self, why: str) -> None:
        self.limitation = f"{why}: such changes are found once in {self._poll_s:.0f} seconds."
        if self._next_poll is None:
            self._next_poll = time.monotonic() + self._poll_s

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)


def remote_kind(folder: int) -> str | None:
    """The kind of file system that the open folder is on, when other computers can change it too."""
    device = os.fstat(folder).st_dev
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return kind_of_mount(lines, f"{os.major(device)}:{os.minor(device)}")


def kind_of_mount(mountinfo: Iterable[str], device: str) -> str | None:
    for line in mountinfo:
        fields = line.split()
        if len(fields) > 2 and fields[2] == device and "-" in fields:
            kind = fields[fields.index("-") + 1]
            if kind.startswith(_REMOTE_KINDS):
                return kind
    return None
