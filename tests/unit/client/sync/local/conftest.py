from __future__ import annotations

import pytest

from tests.kit.scan_device import Device


@pytest.fixture(params=["all", "dirty"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["at once", "late"])
def device(request: pytest.FixtureRequest) -> Device:
    """With d1/{a,b}, d2/sub/c and top, all scanned."""
    device = Device(late=request.param)
    for folder in (("d1",), ("d2",), ("d2", "sub")):
        device.user.mkdir(folder)
    for number, path in enumerate((("d1", "a"), ("d1", "b"), ("d2", "sub", "c"), ("top",))):
        device.user.write_in_place(path, b"contents of " * (number + 1))
    device.scan()
    device.check()
    device.dirty.clear()
    return device
