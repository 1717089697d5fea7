"""coordinator/README.md says what the code does: every key, metric, error code and address is in it, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import coordinator.monitor  # noqa: F401  # what registers metrics
from coordinator import metrics
from coordinator.api.application import ROUTES
from coordinator.api.openapi import describe
from coordinator.config import CoordinatorConfig
from coordinator.protocol.errors import ERRORS, ApiError
from node.base.config import ConfigError, parse_toml

README = (Path(__file__).parents[3] / "coordinator" / "README.md").read_text()
SAMPLE = README.split("```toml\n")[1].split("```")[0]


def uncommented(sample: str) -> str:
    return re.sub(r"^# (\w+ = )", r"\1", sample, flags=re.MULTILINE)


def test_sample_configuration_loads_and_shows_the_defaults() -> None:
    config = parse_toml(SAMPLE, CoordinatorConfig, name="the sample")
    shown = parse_toml(uncommented(SAMPLE), CoordinatorConfig, name="the sample")
    documented = set(re.findall(r"^(?:# )?(\w+) = ", SAMPLE, flags=re.MULTILINE))
    assert documented == {field.name for field in msgspec.structs.fields(CoordinatorConfig)}
    assert msgspec.structs.replace(shown, metrics_listen=None) == config


@pytest.mark.parametrize(
    "line", ['unknown_key = "x"', "drain_s = -1.0", 'log_level = "loud"', "database_threads = 0", "longpolls_max = 1.5"]
)
def test_wrong_key_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(" ", maxsplit=1)[0]):
        parse_toml(SAMPLE + line + "\n", CoordinatorConfig, name="the sample")


def test_every_error_is_listed_with_its_sentence() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.*) \|$", README, flags=re.MULTILINE))
    assert listed == {(code, str(kind.status), kind.template) for code, kind in ERRORS.items() if kind is not ApiError}


def test_every_metric_is_listed() -> None:
    listed = set(re.findall(r"^\| `(holdfast_\w+)` \| ", README, flags=re.MULTILINE))
    text = metrics.expose("worker1").decode()
    families = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE holdfast_")}
    assert listed == {name for name in families if not name.endswith("_created")}


def test_every_address_is_listed() -> None:
    listed = set(re.findall(r"^\| `([A-Z]+ /\S*)` \| ", README, flags=re.MULTILINE))
    described = {
        f"{method.upper()} {path}"
        for path, item in describe(ROUTES)["paths"].items()
        for method in item
        if method not in ("parameters", "options")
    }
    assert listed == described
