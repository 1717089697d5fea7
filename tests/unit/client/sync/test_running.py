"""A folder is claimed before it is synced: what the database says of another one is never taken for this one's."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.fs.real import RealFileSystem
from client.state import Account
from client.sync.engine import unselect
from client.sync.engine.loop import State
from client.sync.engine.rules import BYTES_MAX
from client.sync.folders import StatusFile, register
from client.sync.local.selection import Selection
from client.sync.remote.side import RemoteSide
from client.sync.running import Options, Running
from client.sync.store.store import Store
from client.sync.tree import Content, LocalId, LocalNode, RemoteId, Stamp, SyncedNode
from coordinator.protocol.types import Kind
from node.base.clock import SystemClock

ROOT = 7


class Rig:
    """A folder that was synced once: file 20 is paired with the local file 2."""

    def __init__(self, base: Path) -> None:
        self.path = base / "docs"
        self.path.mkdir()
        self.store = Store(None)
        self.told: list[StatusFile] = []
        self.account = Account(
            url="https://files.example",
            service_id="s1",
            name="Ann",
            token="t",
            device_id=1,
            device_name="laptop",
            user_id=3,
            email="ann@example.org",
        )
        self.claim()
        with self.store.transaction():
            stamp = self._stamp()
            self.store.set_remote_root(RemoteId(ROOT), stamp)
            self.store.put_local(
                LocalNode(LocalId(2), self.store.local_root, "a", Kind.FILE, stamp, Content(bytes(32)))
            )
            self.store.put_synced(
                SyncedNode(RemoteId(20), LocalId(2), RemoteId(ROOT), "a", Kind.FILE, 1, Content(bytes(32)))
            )

    def claim(self) -> None:
        with closing(RealFileSystem(self.path, SystemClock())) as fs:
            self._client()._claim_root(fs, self.store)

    def _client(self) -> Running:
        folder = register(self.path, "/", self.account, None)
        api = SimpleNamespace(find=lambda path: SimpleNamespace(id=ROOT, kind=Kind.FOLDER))
        return Running(
            *(folder, self.account, api, Options(once=True)),  # type: ignore[arg-type]  # an Api that only finds
            on_conflict=lambda path, copy: None,
            on_status=self.told.append,
        )

    def first_rules(self) -> str | None:
        with closing(RealFileSystem(self.path, SystemClock())) as fs:
            selection = self._client()._first_selection(fs, self.store)
        return None if selection is None else selection.rules

    def knows_pairs(self) -> bool:
        return self.store.synced(RemoteId(20)) is not None

    def _stamp(self) -> Stamp:
        with closing(RealFileSystem(self.path, SystemClock())) as fs:
            return fs.stat(()).stamp()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    return Rig(tmp_path)


def test_the_same_folder_keeps_what_was_agreed_on(rig: Rig) -> None:
    rig.claim()
    rig.claim()
    assert rig.knows_pairs()


def test_a_folder_from_a_backup_made_since_the_last_start_is_met_as_new(rig: Rig) -> None:
    """Its marker is the present one, its files are not: what was stored since then must not look deleted here."""
    backup = rig.path.with_name("backup")
    shutil.copytree(rig.path, backup)
    rig.path.rename(rig.path.with_name("broken"))
    backup.rename(rig.path)
    rig.claim()
    assert not rig.knows_pairs()


def test_a_folder_from_an_older_backup_is_met_as_new(rig: Rig) -> None:
    marker = rig.path / ".holdfast" / "root.json"
    old = marker.read_bytes()
    rig.claim()
    rig.claim()
    marker.write_bytes(old)
    rig.claim()
    assert not rig.knows_pairs()


@pytest.mark.parametrize("rules", [b"\xfc\n", b"#" * (BYTES_MAX + 1)])
def test_nothing_begins_while_rules_that_were_never_known_cannot_be_read(rig: Rig, rules: bytes) -> None:
    (rig.path / ".holdfastignore").write_bytes(rules)
    assert rig.first_rules() is None
    assert rig.told[-1].state == State.BLOCKED
    assert "Nothing is synced until it can" in (rig.told[-1].reason or "")
    (rig.path / ".holdfastignore").write_bytes(b"*.log\n")
    assert rig.first_rules() == "*.log\n"


def test_rules_that_held_before_go_on_while_they_cannot_be_read(rig: Rig) -> None:
    unselect.take_up(rig.store, RemoteSide(rig.store, Selection()), Selection("*.log\n"))
    (rig.path / ".holdfastignore").write_bytes(b"\xfc\n")
    assert rig.first_rules() == "*.log\n"
