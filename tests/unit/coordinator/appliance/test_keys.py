"""The appliance's keys: made once, completed after an interruption, never replaced."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zmq

from coordinator.appliance.keys import ensure_keys, list_names
from coordinator.appliance.layout import Layout, Options, Paths, plan_layout
from coordinator.blocks.keys import RootKey

NOW = datetime(2030, 5, 1, tzinfo=UTC)


@pytest.fixture
def layout() -> Layout:
    ids = (f"{number:032x}" for number in itertools.count(1))
    return plan_layout(
        Options(), new_id=lambda: next(ids), free_ports=lambda count: list(range(20_000, 20_000 + count))
    )


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path)
    paths.keys.mkdir()
    paths.tls.mkdir()
    return paths


def read_all(paths: Paths) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()}


def test_every_daemon_has_a_key_pair_of_its_own(paths: Paths, layout: Layout) -> None:
    ensure_keys(paths, layout, now=NOW)
    secrets = {path.stem: path.read_bytes().strip() for path in paths.keys.glob("*.key") if path.stem != "root"}
    assert set(secrets) == {"coordinator", *(node.name for node in layout.nodes)}
    assert len(set(secrets.values())) == 7
    for name, secret in secrets.items():
        assert (paths.keys / f"{name}.pub").read_bytes().strip() == zmq.curve_public(secret)
    RootKey.read(paths.root_key)


def test_a_second_run_changes_nothing(paths: Paths, layout: Layout) -> None:
    ensure_keys(paths, layout, now=NOW)
    before = read_all(paths)
    ensure_keys(paths, layout, now=NOW)
    assert read_all(paths) == before


def test_whatever_an_interruption_left_out_is_made_and_the_rest_kept(paths: Paths, layout: Layout) -> None:
    ensure_keys(paths, layout, now=NOW)
    whole = read_all(paths)
    for lost in [path for path in whole if path.parent == paths.keys]:
        lost.unlink()
        ensure_keys(paths, layout, now=NOW)
        now = read_all(paths)
        assert set(now) == set(whole)
        # A public key follows its secret; everything else is as it was.
        changed = {path for path in now if now[path] != whole[path]}
        assert changed <= {lost, lost.with_suffix(".pub")}
        whole = now


def test_a_service_that_listens_everywhere_has_every_address_in_its_certificate() -> None:
    assert {"localhost", "127.0.0.1", "::1"} <= set(list_names("0.0.0.0"))
    assert "0.0.0.0" not in list_names("0.0.0.0")
    assert "drive.example" in list_names("drive.example")
    assert not [name for name in list_names("::") if "%" in name]
