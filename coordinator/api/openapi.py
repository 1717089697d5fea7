"""The API's description, OpenAPI 3.1, made from the routes table and the types of the bodies: it cannot drift."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from types import NoneType
from typing import Any, Final, get_args

import msgspec

from coordinator.api.base import ApiHandler
from coordinator.api.routes import Operation, RouteSpec, operation
from coordinator.protocol.errors import ERRORS
from coordinator.protocol.types import ErrorBody


class _ErrorAnswer(msgspec.Struct):
    error: ErrorBody


class OpenApi(ApiHandler):
    login_required = False

    @operation("This description")
    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        await self.finish(_encode(tuple(self.settings["routes"])))


@cache
def _encode(routes: tuple[RouteSpec, ...]) -> bytes:
    return msgspec.json.encode(describe(routes))


def describe(routes: Sequence[RouteSpec]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    described = [found for route in routes for found in _operations(route).values()]
    kinds = {kind for found in described for kind in (found.body, found.answer) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        [*ordered, _ErrorAnswer], schema_hook=_any_schema, ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(ordered, schemas, strict=False))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast", "version": "1", "description": _errors_text()},
        "security": [{"bearer": []}],
        "paths": {route.path: _path_item(route, by_kind) for route in routes},
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _any_schema(kind: type) -> dict[str, Any]:
    """For values of any type: an error's facts."""
    if kind is not object:
        raise NotImplementedError
    return {"description": "any value"}


def _path_item(route: RouteSpec, by_kind: dict[type, dict[str, Any]]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if names := re.findall(r"{(\w+)}", route.path):
        item["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    for method, found in _operations(route).items():
        item[method] = _describe_operation(route, method, found, by_kind)
    return item


def _operations(route: RouteSpec) -> dict[str, Operation]:
    """The described methods of a route's handler, by name ("get")."""
    names = [method.lower() for method in route.handler.SUPPORTED_METHODS]
    found = {name: getattr(getattr(route.handler, name), "operation", None) for name in names}
    return {name: operation for name, operation in found.items() if operation is not None}


def _describe_operation(
    route: RouteSpec, method: str, operation: Operation, by_kind: dict[type, dict[str, Any]]
) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "done"}
    if operation.answer is not None:
        success["content"] = {"application/json": {"schema": by_kind[operation.answer]}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/_ErrorAnswer"}}}
    described: dict[str, Any] = {
        "operationId": f"{route.name}.{method}",
        "summary": operation.summary,
        "responses": {
            str(operation.status): success,
            "default": {"description": "refused; the code says why", "content": error},
        },
    }
    if operation.query:
        described["parameters"] = [_parameter(name, kind) for name, kind in operation.query.items()]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_kind[operation.body]}},
        }
    if not getattr(route.handler, "login_required", True):
        described["security"] = []
    return described


def _parameter(name: str, kind: Any) -> dict[str, Any]:
    """A query argument; one whose type takes None may be left out."""
    some = [part for part in get_args(kind) if part is not NoneType]
    optional = len(some) < len(get_args(kind))
    schema = msgspec.json.schema(some[0] if optional and len(some) == 1 else kind)
    return {"name": name, "in": "query", "required": not optional, "schema": schema}


def _errors_text() -> str:
    lines = [f"- `{code}` ({kind.status}): {kind.template}" for code, kind in sorted(ERRORS.items())]
    return "Errors:\n\n" + "\n".join(lines)


ROUTES: Final = (RouteSpec("openapi", "/api/v1/openapi.json", OpenApi),)
