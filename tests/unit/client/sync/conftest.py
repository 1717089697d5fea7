from __future__ import annotations

import pytest

from tests.kit.engine_rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()
