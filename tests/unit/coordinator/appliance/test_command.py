"""The command line of `holdfast up`, and that the entry points of pyproject.toml exist."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coordinator.appliance.command import up

PROJECT = tomllib.loads((Path(__file__).resolve().parents[4] / "pyproject.toml").read_text())
COMMANDS = PROJECT["project"]["entry-points"]["holdfast.commands"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_servers_command_can_be_loaded(name: str) -> None:
    module, _, attribute = COMMANDS[name].partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)


def test_every_option_is_explained() -> None:
    options = [parameter for parameter in up.params if isinstance(parameter, click.Option)]
    assert {option.name for option in options} >= {
        *("data", "port", "bind", "sites", "nodes", "disks", "code", "workers", "no_restart", "as_json")
    }
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("options", [(), ("--data", "x", "--sites", "9"), ("--data", "x", "--code", "9+9")])
def test_what_cannot_be_is_a_usage_error(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(up, options).exit_code == 2
    assert list(tmp_path.iterdir()) == []
