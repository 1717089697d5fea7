"""The command line itself: finding commands, telling errors, starting fast."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from client.cli import main
from client.cli.sync import _Shown
from client.errors import ClientError, Refused
from client.sync.folders import StatusFile
from tests.kit.cluster import child_environment

README = Path(main.__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    return tmp_path


COMMON = {"--json", "--account"}  # described once for all commands


def leaf_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def collect(names: tuple[str, ...], command: click.Command) -> None:
        if isinstance(command, click.Group):
            if getattr(command, "default", None) is not None:
                found.append(names)
            for name, below in command.commands.items():
                collect((*names, name), below)
        else:
            found.append(names)

    for name in main.OWN_COMMANDS:
        command = main.holdfast.get_command(click.Context(main.holdfast), name)
        assert command is not None
        collect((name,), command)
    return found


def find(names: tuple[str, ...]) -> click.Command:
    command: click.Command = main.holdfast
    for name in names:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None
        command = below
    return getattr(command, "default", command)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """`holdfast ls` ends in `error`."""

    @click.command()
    @click.option("--json", is_flag=True)
    def broken(json: bool) -> None:
        raise error

    monkeypatch.setattr(main, "_load", lambda target: broken)


@pytest.mark.parametrize("names", leaf_commands(), ids=" ".join)
def test_every_command_takes_json_and_is_documented(names: tuple[str, ...]) -> None:
    command = find(names)
    options = {option for param in command.params for option in param.opts}
    assert "--json" in options
    rows = [line for line in README.read_text("utf-8").splitlines() if f"`holdfast {' '.join(names)}" in line]
    assert rows, "it has no row in the table of commands"
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and not COMMON & {*param.opts}:
            assert any(option in rows[0] for option in param.opts), param.opts


def test_every_exit_code_is_documented() -> None:
    text = README.read_text("utf-8")
    for number in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f"| {number} |" in text


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in main.OWN_COMMANDS:
        assert f"  {name} " in shown


@pytest.mark.parametrize(
    "args", [["nonsense"], ["put"], ["put", "a"], ["get", "a", "b", "--version", "x"], ["ls", "-Z"]]
)
def test_usage_errors_are_one_sentence_and_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*args, "--json"]) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1
    assert json.loads(told.out)["error"]["code"] == "usage"


def test_not_logged_in_is_exit_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ls", "--json"]) == 5
    told = capsys.readouterr()
    assert "holdfast login" in told.err
    assert json.loads(told.out)["error"]["code"] == "not_logged_in"


def test_a_bug_is_a_sentence_and_a_log_file(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(RuntimeError("inner"), monkeypatch)
    assert main.run(["ls", "--json"]) == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert str(own_home / "holdfast.log") in told.err
    assert json.loads(told.out)["error"]["code"] == "bug"
    assert "RuntimeError: inner" in (own_home / "holdfast.log").read_text()


def test_an_unwritable_log_does_not_hide_the_bug(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_home / "holdfast.log").mkdir()
    fail_with(RuntimeError("inner"), monkeypatch)
    assert main.run(["ls"]) == 1
    assert "inner" in capsys.readouterr().err


def test_an_error_does_not_drive_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(Refused(404, {"code": "not_found", "message": "It is not there.\x1b]0;title\a"}), monkeypatch)
    main.run(["ls"])
    assert capsys.readouterr().err == "It is not there.\\x1b]0;title\\x07\n"


def test_a_blocked_folder_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _Shown(live=False).status(StatusFile(state="blocked", reason="a\x1b[2Jb on this computer cannot be changed."))
    assert capsys.readouterr().err == "a\\x1b[2Jb on this computer cannot be changed.\n"


def test_ctrl_c_is_130_and_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main.run(["ls"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_json_is_not_seen_behind_the_end_of_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["stat", "--", "--json"]) == 5
    assert capsys.readouterr().out == ""


def test_a_servers_command_without_its_parts_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = EntryPoint(name="up", value="no_such_package_of_ours:up", group="holdfast.commands")
    monkeypatch.setattr(main, "_entry_points", lambda: {"up": entry})
    assert main.run(["up", "--data", "x"]) == 1
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1
    assert "pip install 'holdfast[appliance]'" in told.err


def test_a_servers_own_failure_keeps_its_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(click.ClickException("The disk is not there."), monkeypatch)
    assert main.run(["ls"]) == 1
    assert capsys.readouterr().err == "The disk is not there.\n"
    fail_with(ClientError(), monkeypatch)
    assert main.run(["ls"]) == 1


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from client.cli.main import run; run(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=child_environment(), check=True
    )
    loaded = set(result.stderr.split("'"))
    assert not loaded & {"urllib3", "rich", "msgspec", "tornado", "peewee", "platformdirs", "ssl"}


def test_a_plain_command_loads_neither_progress_bars_nor_servers() -> None:
    code = "import sys; from client.cli.main import run; run(['ls']); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=child_environment(HOLDFAST_HOME="/x"),
        check=True,
    )
    loaded = set(result.stderr.split("'"))
    assert "urllib3" in loaded
    assert not loaded & {"rich", "tornado", "peewee", "platformdirs", "zmq", "importlib.metadata.entry_points"}
