from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import zmq

from node.base.config import ConfigError
from node.config import NodeConfig, load_config, load_keys

README = Path(__file__).parents[3] / "node" / "README.md"


def sample() -> str:
    found = re.search(r"```toml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "node.toml").write_text(text)
    return tmp_path / "node.toml"


def test_the_documented_sample_loads_and_names_every_key_with_its_default(tmp_path: Path) -> None:
    text = sample()
    config = load_config(write(tmp_path, text))
    for field in NodeConfig.__struct_fields__:
        assert re.search(rf"^#? ?(\[\[)?{field}\b", text, re.MULTILINE), f"{field} is not documented"
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    with_all = load_config(write(tmp_path, uncommented))
    assert msgspec.structs.replace(with_all, metrics_listen=None) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('id = "', 'id = "X'), r"disks\[0\]\.id"),
        (("[[disks]]", "[[discs]]"), "discs"),
        (('coordinator_keys = ["', 'coordinator_keys = ["short", "'), "not a public key"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, sample().replace(*change)))


def test_two_disks_must_differ(tmp_path: Path) -> None:
    text = sample()
    disk = text[text.index("[[disks]]") :]
    with pytest.raises(ConfigError, match="same path"):
        load_config(write(tmp_path, text + disk))


def test_a_secret_key_must_be_secret_and_a_key(tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    file = tmp_path / "node.key"
    file.write_bytes(secret + b"\n")
    file.chmod(0o600)
    keys = load_keys(file)
    assert keys.public == public
    assert secret.decode() not in repr(keys)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="read by others"):
        load_keys(file)
    file.chmod(0o600)
    file.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="does not hold a CURVE key"):
        load_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "missing")
