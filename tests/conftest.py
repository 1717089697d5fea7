"""What every test may use: the option `--deep`, and one real appliance that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.cluster import Appliance, lend, short_folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="run the longer campaigns as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--deep"):
        return
    for item in items:
        if item.get_closest_marker("deep"):
            item.add_marker(pytest.mark.skip(reason="a longer campaign; runs with --deep"))


@pytest.fixture(scope="session")
def shared_appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    """A running appliance that nobody may damage. Make users and names of your own in it."""
    with short_folder() as folder, Appliance(folder / "data") as appliance:
        yield from lend(appliance, request)
