"""What a workload's steps do: programs of a person on a simulated disk, and the same person on the web.

Every single change is a switch point of its own, so the sync client sees half-written files, half-done swaps and files
that move while it reads them. `Ledger` notes what everybody wrote and let go of: what is neither let go of nor to be
found at the end was lost.

Does not: judge (tests/kit/world.py).
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, Protocol

from client.api import Api
from client.errors import ClientError
from client.fs.base import FileKind, Path
from client.sync.local.ignore import is_built_in
from coordinator.protocol import types
from coordinator.protocol.hashing import BLOCK_BYTES, hash_block
from tests.kit.sim_service import Node, SimService
from tests.kit.workload import FOLDERS, NAMES, SHARED, Step, new_content

DEPTH_MAX: Final = 4
HOT: Final = ("a.txt",)
IGNORE_FILE: Final = ".holdfastignore"
PATTERNS: Final = ("c\n", "*.txt\n", "d/\n", "/e\n", "# nothing\n", "*.txt\n!a.txt\n")


class Entry(NamedTuple):
    """`content` of a file only."""

    kind: FileKind
    content: bytes | None = None
    executable: bool = False


class WriteHandle(Protocol):
    """A file that a program has open for writing; it is the one that was opened, wherever it is moved meanwhile."""

    def write_at(self, offset: int, data: bytes) -> None: ...
    def truncate(self, size: int) -> None: ...
    def content(self) -> bytes: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """A person's view of a simulated disk. Nothing here is a switch point; errors are those of the operating system."""

    def look(self) -> Mapping[Path, Entry]:
        """Everything but the client's own folder."""

    def look_at(self, path: Path) -> Entry | None: ...
    def open_to_write(self, path: Path, *, create: bool) -> WriteHandle: ...
    def rename(self, source: Path, target: Path) -> None:
        """As rename(2): a file in the way is replaced, and so is an empty folder by a folder."""

    def unlink(self, path: Path) -> None: ...
    def make_folder(self, path: Path) -> None: ...
    def remove_folder(self, path: Path) -> None: ...
    def make_symlink(self, path: Path, target: str) -> None: ...
    def set_executable(self, path: Path, executable: bool) -> None: ...
    def set_mtime(self, path: Path, mtime_ns: int) -> None: ...


class Ledger:
    """`written`: finished contents and who made them. `let_go`: what somebody who saw it replaced or deleted.
    `seen`: every state that a file of a person was ever in, half-written ones too. `copied`: what a person has put into
    several files."""

    def __init__(self) -> None:
        self.written: dict[bytes, str] = {}
        self.let_go: set[bytes] = set()
        self.seen: set[bytes] = set()
        self.copied: set[bytes] = {*SHARED, *(pattern.encode() for pattern in PATTERNS)}

    def wrote(self, content: bytes, who: str) -> None:
        self.written.setdefault(content, who)
        self.seen.add(content)

    def replaced(self, entry: Entry | None) -> None:
        if entry is not None and entry.content is not None:
            self.let_go.add(entry.content)


class Person:
    """Carries out steps on one disk. A step whose file is gone, or whose way is barred, ends early, as programs do."""

    def __init__(self, name: str, disk: Disk, ledger: Ledger, pause: Callable[[str, object], None]) -> None:
        self.name = name
        self._disk = disk
        self._ledger = ledger
        self._pause = pause
        self._number = 0

    def do(self, step: Step) -> None:
        tape = random.Random(step.seed)
        with suppress(OSError):
            getattr(self, f"_{step.kind}")(tape)

    # --- choosing -----------------------------------------------------------------------------------------------

    def _choose(self, tape: random.Random, *kinds: FileKind) -> Path:
        """Something that is there; raises FileNotFoundError when nothing is."""
        found = sorted(path for path, entry in self._disk.look().items() if entry.kind in kinds)
        if not found:
            raise FileNotFoundError
        return found[int(tape.random() * len(found))]

    def _file(self, tape: random.Random) -> Path:
        return self._choose(tape, FileKind.FILE)

    def _folder(self, tape: random.Random) -> Path:
        return self._choose(tape, FileKind.FOLDER)

    def _some_folder(self, tape: random.Random) -> Path:
        """Often the root."""
        if tape.random() < 0.5:
            return ()
        try:
            return self._folder(tape)
        except FileNotFoundError:
            return ()

    def _place(self, tape: random.Random, names: tuple[str, ...] = NAMES) -> Path:
        folder = self._some_folder(tape)
        if len(folder) >= DEPTH_MAX:
            folder = ()
        return (*folder, tape.choice(names))

    def _content(self, tape: random.Random) -> bytes:
        self._number += 1
        return new_content(tape, f"{self.name}.{self._number}")

    # --- single changes, each a switch point --------------------------------------------------------------------

    def _rename_path(self, source: Path, target: Path) -> None:
        self._pause("renames", (source, target))
        there = self._disk.look_at(target)
        self._disk.rename(source, target)
        if source != target:
            self._ledger.replaced(there)
        now = self._disk.look_at(target)
        if is_built_in(source[-1]) and now is not None and now.content is not None:
            self._wrote(target, now.content)

    def _unlink(self, path: Path) -> None:
        self._pause("deletes", path)
        there = self._disk.look_at(path)
        self._disk.unlink(path)
        self._ledger.replaced(there)

    @contextmanager
    def _open(self, path: Path, *, create: bool) -> Iterator[WriteHandle]:
        handle = self._disk.open_to_write(path, create=create)
        try:
            yield handle
        finally:
            handle.close()

    def _write(self, path: Path, content: bytes, *, create: bool) -> None:
        """In place: emptied, then written in two pieces."""
        self._pause("opens", path)
        there = self._disk.look_at(path)
        with self._open(path, create=create) as handle:
            self._ledger.replaced(there)
            handle.truncate(0)
            self._ledger.seen.add(b"")
            middle = len(content) // 2
            for at, piece in ((0, content[:middle]), (middle, content[middle:])):
                self._pause("writes", path)
                handle.write_at(at, piece)
                self._ledger.seen.add(handle.content())
            self._pause("closes", path)
            self._wrote(path, handle.content())

    def _wrote(self, path: Path, content: bytes) -> None:
        """A program's temporary file is never synced, and goes with its folder: nobody's work until it is renamed."""
        if is_built_in(path[-1]):
            self._ledger.seen.add(content)
        else:
            self._ledger.wrote(content, self.name)

    def _make(self, path: Path) -> None:
        self._pause("makes folder", path)
        self._disk.make_folder(path)

    # --- steps --------------------------------------------------------------------------------------------------

    def _create(self, tape: random.Random) -> None:
        path = self._place(tape)
        if self._disk.look_at(path) is None:
            self._write(path, self._content(tape), create=True)

    def _rewrite(self, tape: random.Random) -> None:
        self._write(self._file(tape), self._content(tape), create=False)

    def _edit(self, tape: random.Random) -> None:
        """A few bytes in the middle, the rest stays."""
        path = self._file(tape)
        self._pause("opens", path)
        with self._open(path, create=False) as handle:
            old = handle.content()
            self._pause("writes", path)
            self._ledger.let_go.add(handle.content())
            self._number += 1
            handle.write_at(len(old) // 2, f"<{self.name}.{self._number} {tape.getrandbits(40):x}>".encode())
            self._wrote(path, handle.content())
            self._pause("closes", path)

    def _append_slowly(self, tape: random.Random) -> None:
        path = self._file(tape)
        self._pause("opens", path)
        with self._open(path, create=False) as handle:
            self._ledger.let_go.add(handle.content())
            for number in range(3):
                self._pause("appends", path)
                handle.write_at(len(handle.content()), f"+{self.name}.{number}.{tape.getrandbits(40):x}".encode())
                self._ledger.seen.add(handle.content())
            self._wrote(path, handle.content())

    def _hot_create(self, tape: random.Random) -> None:
        if self._disk.look_at(HOT) is None:
            self._write(HOT, self._content(tape), create=True)

    def _hot_rewrite(self, tape: random.Random) -> None:
        self._write(HOT, self._content(tape), create=False)

    def _hot_save(self, tape: random.Random) -> None:
        temporary = (f".{HOT[0]}.swp",)
        self._write(temporary, self._content(tape), create=True)
        self._rename_path(temporary, HOT)

    def _hot_delete(self, tape: random.Random) -> None:
        self._unlink(HOT)

    def _create_large(self, tape: random.Random) -> None:
        path = self._place(tape)
        size = tape.choice((1_200_000, BLOCK_BYTES + 5000, 2 * BLOCK_BYTES + 70_000))
        if self._disk.look_at(path) is None:
            self._write(path, tape.randbytes(size), create=True)

    def _insert(self, tape: random.Random) -> None:
        """A few bytes somewhere in front of the rest, which shifts."""
        path = self._file(tape)
        there = self._disk.look_at(path)
        assert there is not None
        assert there.content is not None
        at = int(len(there.content) * tape.random())
        temporary = (*path[:-1], f"{path[-1]}~")
        new = f"<{self.name} {tape.getrandbits(40):x}>".encode()
        self._write(temporary, there.content[:at] + new + there.content[at:], create=True)
        self._rename_path(temporary, path)

    def _overwrite(self, tape: random.Random) -> None:
        """Some hundred bytes in place."""
        path = self._file(tape)
        with self._open(path, create=False) as handle:
            self._pause("overwrites", path)
            self._ledger.let_go.add(handle.content())
            handle.write_at(int(len(handle.content()) * tape.random()), tape.randbytes(300))
            self._wrote(path, handle.content())
            self._pause("closes", path)

    def _save_by_rename(self, tape: random.Random) -> None:
        """An editor's way: the new file beside the old one, then over it."""
        path = self._file(tape)
        temporary = (*path[:-1], tape.choice((f"{path[-1]}~", f".{path[-1]}.swp", f"{path[-1]}.new")))
        self._write(temporary, self._content(tape), create=True)
        self._rename_path(temporary, path)

    def _save_with_backup(self, tape: random.Random) -> None:
        """Another editor's way: the old file aside, a new one in its place, the old one deleted."""
        path = self._file(tape)
        backup = (*path[:-1], f"{path[-1]}.bak")
        self._rename_path(path, backup)
        self._write(path, self._content(tape), create=True)
        self._unlink(backup)

    def _delete(self, tape: random.Random) -> None:
        self._unlink(self._choose(tape, FileKind.FILE, FileKind.FILE, FileKind.SYMLINK))

    def _delete_folder(self, tape: random.Random) -> None:
        self._delete_tree(self._folder(tape))

    def _delete_tree(self, folder: Path) -> None:
        inside = [path for path in self._disk.look() if path[: len(folder)] == folder and path != folder]
        for path in sorted(inside, key=lambda path: (-len(path), path)):
            there = self._disk.look_at(path)
            if there is None:
                continue
            if there.kind is FileKind.FOLDER:
                self._pause("removes", path)
                self._disk.remove_folder(path)
            else:
                self._unlink(path)
        self._pause("removes", folder)
        self._disk.remove_folder(folder)

    def _touch(self, tape: random.Random) -> None:
        path = self._file(tape)
        self._pause("touches", path)
        self._disk.set_mtime(path, tape.choice((0, -1_000_000_000, 10**18, tape.getrandbits(60), 2**62)))

    def _set_executable(self, tape: random.Random) -> None:
        path = self._file(tape)
        there = self._disk.look_at(path)
        self._pause("changes mode", path)
        self._disk.set_executable(path, not (there is not None and there.executable))

    def _rename(self, tape: random.Random) -> None:
        path = self._choose(tape, FileKind.FILE, FileKind.FOLDER)
        target = (*path[:-1], tape.choice(NAMES))
        if self._disk.look_at(target) is None:
            self._rename_path(path, target)

    def _move(self, tape: random.Random) -> None:
        path = self._file(tape)
        target = (*self._some_folder(tape), path[-1])
        if self._disk.look_at(target) is None:
            self._rename_path(path, target)

    def _move_folder(self, tape: random.Random) -> None:
        path = self._folder(tape)
        target = (*self._some_folder(tape), tape.choice((path[-1], *FOLDERS)))
        if self._disk.look_at(target) is None and len(target) <= DEPTH_MAX:
            self._rename_path(path, target)

    def _make_folder(self, tape: random.Random) -> None:
        self._make(self._place(tape, FOLDERS))

    def _invert(self, tape: random.Random) -> None:
        """a/b becomes b/a."""
        inner = self._choose(tape, FileKind.FOLDER)
        if len(inner) < 2:
            return
        outer = inner[:-1]
        aside = (*outer[:-1], "aside")
        self._rename_path(inner, aside)
        self._rename_path(outer, (*aside, outer[-1]))
        self._rename_path(aside, (*outer[:-1], inner[-1]))

    def _copy(self, tape: random.Random) -> None:
        path = self._file(tape)
        there = self._disk.look_at(path)
        target = self._place(tape)
        if there is not None and there.content is not None and self._disk.look_at(target) is None:
            self._ledger.copied.add(there.content)
            self._write(target, there.content, create=True)

    def _copy_folder(self, tape: random.Random) -> None:
        source = self._folder(tape)
        target = self._place(tape, FOLDERS)
        inside = sorted(path for path in self._disk.look() if path[: len(source)] == source)
        if target[: len(source)] == source:
            return
        for path in inside:
            there = self._disk.look_at(path)
            copy = (*target, *path[len(source) :])
            if there is not None and there.kind is FileKind.FOLDER:
                self._make(copy)
            elif there is not None and there.content is not None:
                self._ledger.copied.add(there.content)
                self._write(copy, there.content, create=True)

    def _swap(self, tape: random.Random) -> None:
        one = self._choose(tape, FileKind.FILE, FileKind.FOLDER)
        other = self._choose(tape, FileKind.FILE, FileKind.FOLDER)
        if one == other or one[: len(other)] == other or other[: len(one)] == one:
            return
        aside = (*one[:-1], "aside")
        self._rename_path(one, aside)
        self._rename_path(other, one)
        self._rename_path(aside, other)

    def _rotate(self, tape: random.Random) -> None:
        files = [path for path, entry in sorted(self._disk.look().items()) if entry.kind is FileKind.FILE]
        if len(files) < 3:
            return
        one, two, three = tape.sample(files, 3)
        aside = (*one[:-1], "aside")
        for source, target in ((three, aside), (two, three), (one, two), (aside, one)):
            self._rename_path(source, target)

    def _respell(self, tape: random.Random) -> None:
        """Only case or Unicode normalisation of the name changes."""
        path = self._choose(tape, FileKind.FILE, FileKind.FOLDER)
        name = path[-1]
        other = tape.choice((name.upper(), name.lower(), name.title()))
        if tape.random() < 0.3:
            other = unicodedata.normalize(tape.choice(("NFC", "NFD")), name)
        if other != name and self._disk.look_at((*path[:-1], other)) is None:
            self._rename_path(path, (*path[:-1], other))

    def _change_type(self, tape: random.Random) -> None:
        """A file becomes a folder with something in it, or a folder a file."""
        path = self._choose(tape, FileKind.FILE, FileKind.FOLDER)
        there = self._disk.look_at(path)
        if there is None:
            return
        if there.kind is FileKind.FILE:
            self._unlink(path)
            self._make(path)
            self._write((*path, tape.choice(NAMES)), self._content(tape), create=True)
        else:
            self._delete_tree(path)
            self._write(path, self._content(tape), create=True)

    def _link(self, tape: random.Random) -> None:
        path = self._place(tape)
        self._pause("links", path)
        self._disk.make_symlink(path, tape.choice(("a.txt", "/etc", "nowhere", ".")))

    def _ignore(self, tape: random.Random) -> None:
        self._write((IGNORE_FILE,), tape.choice(PATTERNS).encode(), create=True)


class WebPerson:
    """The same person on the web: every step is done at once. `root` is the folder that the clients sync; what is
    outside of it can be moved into it and out of it."""

    def __init__(
        self, service: SimService, api: Api, ledger: Ledger, pause: Callable[[str, object], None], root: str = "/"
    ) -> None:
        self._root = root
        self._service = service
        self._api = api
        self._ledger = ledger
        self._pause = pause
        self._number = 0

    def do(self, step: Step) -> None:
        tape = random.Random(step.seed)
        self._pause(f"web {step.kind}", step.seed)
        with suppress(ClientError):
            getattr(self, f"_{step.kind}")(tape)

    def _choose(self, tape: random.Random, *, files: bool, folders: bool) -> Node | None:
        found = [
            one
            for path, one in sorted(self._service.tree().items())
            if path != self._root and (folders if one.is_folder else files)
        ]
        return found[int(tape.random() * len(found))] if found else None

    def _folder(self, tape: random.Random) -> str:
        node = self._choose(tape, files=False, folders=True) if tape.random() < 0.5 else None
        if node is None:
            return "/" if self._root == "/" else tape.choice(("/", f"{self._root}/"))
        return self._service.path_of(node) + "/"

    def _store(self, path: str, content: bytes, base: int) -> None:
        blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
        for block in blocks:
            self._api.put_block(path, hash_block(block).hex(), block)
        self._number += 1
        hashes = [hash_block(block).hex() for block in blocks]
        entry = types.CommitEntry(path=path, size=len(content), blocks=hashes, base_version=base)
        [result] = self._api.commit([entry], f"web-{self._number}")
        if result.metadata is not None:
            self._ledger.wrote(content, "web")

    def _release(self, node: Node) -> None:
        for below in self._service.below(node):
            if not below.is_folder:
                self._ledger.let_go.add(self._service.content(below.current))

    def _create(self, tape: random.Random) -> None:
        self._store(self._folder(tape) + tape.choice(NAMES), new_content(tape, f"web.{self._number}"), 0)

    def _edit(self, tape: random.Random) -> None:
        node = self._choose(tape, files=True, folders=False)
        if node is not None:
            self._release(node)
            content = new_content(tape, f"web.{self._number}")
            self._store(self._service.path_of(node), content, node.current.number)

    def _move(self, tape: random.Random) -> None:
        node = self._choose(tape, files=True, folders=True)
        if node is not None:
            target = self._folder(tape) + tape.choice((node.name, *NAMES))
            self._api.move(self._service.metadata(node), target, replace=False)

    def _delete(self, tape: random.Random) -> None:
        node = self._choose(tape, files=True, folders=True)
        if node is not None:
            self._release(node)
            self._api.delete(self._service.path_of(node))

    def _make_folder(self, tape: random.Random) -> None:
        self._api.create_folder(self._folder(tape) + tape.choice(FOLDERS))

    def _restore(self, tape: random.Random) -> None:
        """The newest deleted file whose folder is still there."""
        gone = [one for one in self._service.nodes.values() if one.deleted is not None and not one.is_folder]
        if gone:
            newest = max(gone, key=lambda node: node.deleted or 0)
            self._api.restore(self._service.path_of(newest), None)
