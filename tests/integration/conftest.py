"""Fixtures of the tests that talk to the shared appliance's API."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.api import User, add_user
from tests.kit.cluster import Appliance, Session

NewUser = Callable[..., User]


@pytest.fixture(scope="session")
def administrator(shared_appliance: Appliance) -> Session:
    return shared_appliance.login("api tests")


@pytest.fixture(scope="session")
def new_user(shared_appliance: Appliance, administrator: Session) -> NewUser:
    """Makes an account: `new_user(quota=…)`, in bytes."""

    def make(quota: int | None = None) -> User:
        return add_user(administrator, shared_appliance, quota)

    return make


@pytest.fixture(scope="module")
def user(new_user: NewUser) -> User:
    """An account that the tests of one file share; each uses names of its own."""
    return new_user()


@pytest.fixture(scope="module")
def stranger(new_user: NewUser) -> User:
    """Another account of the same installation."""
    return new_user()
