"""Addresses: of the API and its description, and those that a worker listens on."""

from __future__ import annotations

import json
import re
import socket

import pytest

from coordinator.api.application import ROUTES, compile_template
from coordinator.api.listener import ListenError, open_listener, parse_listen
from coordinator.api.openapi import describe


def test_template_takes_one_part_of_the_path() -> None:
    pattern = compile_template("/api/v1/devices/{device}")
    found = pattern.fullmatch("/api/v1/devices/a%2Fb.c")
    assert found is not None and found.groupdict() == {"device": "a%2Fb.c"}
    for other in ("/api/v1/devices/", "/api/v1/devices/1/2", "/api/v1/devicesx1", "/apixv1/devices/1"):
        assert pattern.fullmatch(other) is None


def test_routes_have_names_and_addresses_of_their_own() -> None:
    assert len({route.name for route in ROUTES}) == len({route.path for route in ROUTES}) == len(ROUTES)


def test_description_covers_every_route_and_refers_to_what_it_holds() -> None:
    document = describe(ROUTES)
    assert set(document["paths"]) == {route.path for route in ROUTES}
    undescribed = [path for path, item in document["paths"].items() if not set(item) - {"parameters"}]
    assert undescribed == []
    text = json.dumps(document)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names and names <= set(document["components"]["schemas"])
    ids = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_every_implemented_method_is_described() -> None:
    for route in ROUTES:
        described = set(describe([route])["paths"][route.path])
        base = route.handler.__mro__[-2]
        for method in ("get", "post", "put", "patch", "delete"):
            own = getattr(route.handler, method) is not getattr(base, method)
            if own and getattr(route.handler, method).__name__ != "_unimplemented_method":
                assert method in described, f"{route.name} {method}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8443", (None, "127.0.0.1", 8443)),
        ("[::1]:80", (None, "::1", 80)),
        (":8443", (None, "", 8443)),
        ("fd:3", (3, "", 0)),
    ],
)
def test_listen_address_is_understood(text: str, place: tuple[int | None, str, int]) -> None:
    assert tuple(parse_listen(text)) == place


@pytest.mark.parametrize("text", ["", "8443", "fd:", "fd:x", "host", "a:b:c", "::1:80", "host:port", "host:-1"])
def test_unusable_listen_address_is_named(text: str) -> None:
    with pytest.raises(ListenError, match="neither host:port nor fd:number"):
        parse_listen(text)


def test_inherited_descriptor_must_listen() -> None:
    with socket.socket() as idle, pytest.raises(ListenError, match="not a listening socket"):
        open_listener(f"fd:{idle.detach()}")
    with pytest.raises(ListenError, match="cannot listen"):
        open_listener("fd:9999")
