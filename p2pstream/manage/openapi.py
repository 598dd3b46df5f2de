"""The OpenAPI 3.1 file of the API, made from the table of endpoints and the shapes of answers."""

from __future__ import annotations

import inspect
from functools import cache
from types import NoneType, UnionType
from typing import (
    Any,
    Final,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from p2pstream import __version__
from p2pstream.config.scalars import ID_PATTERN
from p2pstream.manage import shapes
from p2pstream.manage.endpoints import ENDPOINTS, Endpoint

Schema = dict[str, Any]

_JSON: Final = "application/json"
_ABOUT: Final = """\
What a p2pstream server knows of itself. Everything here is for the administrator: with the admin
token, or with the cookie of a login, which changes things only when the dashboard's own page asks.

Points in time are epoch seconds, durations say their unit in their name, sizes are bytes, shares
are fractions of 1. Null is "not known", "not measured" or "does not apply".

Beside these there are two WebSockets: `/api/v1/live` keeps a view up to date, `/api/v1/trace` tells
requests as they happen. `/metrics`, `/healthz` and `/readyz` are for machines.
"""
_SIMPLE: Final[dict[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
}
_REASONS: Final = {
    400: "The question cannot be understood",
    401: "Neither the admin token nor a session",
    403: "Another site asks with the session's cookie",
    404: "There is no such object",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The server's file is at fault",
    429: "Too many wrong tokens; see Retry-After",
    500: "The system does not let it be done",
    503: "The server is stopping",
}
_EVERY_GUARDED: Final = (400, 401, 403, 429)
# Told before anybody knows what is asked, and in plain text.
_TOO_LARGE: Final[Schema] = {
    "description": "The request's head is too large",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


@cache
def description(base: str = "") -> Schema:
    """The whole file, of a server at this base path; nobody may change it."""
    schemas: dict[str, Schema] = {}
    paths: dict[str, Schema] = {}
    for name, endpoint in ENDPOINTS.items():
        operation = _operation(name, endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2pstream management",
            "version": __version__,
            "description": _ABOUT,
        },
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the admin token; browsers use the cookie of a login instead",
                }
            },
        },
    }


def _operation(name: str, endpoint: Endpoint, schemas: dict[str, Schema]) -> Schema:
    statuses = {*endpoint.refuses, *(_EVERY_GUARDED if endpoint.guarded else ())}
    operation: Schema = {
        "operationId": name,
        "summary": endpoint.summary,
        "parameters": [*map(_in_path, endpoint.path_names), *map(_in_query, endpoint.parameters)],
        "responses": {
            "200": _content("Done", schema_of(endpoint.answer, schemas)),
            **{str(status): _refusal(status, schemas) for status in sorted(statuses)},
            "431": _TOO_LARGE,
        },
        "security": [{"token": []}] if endpoint.guarded else [],
    }
    if endpoint.takes is not None:
        body = schema_of(endpoint.takes, schemas)
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return operation


def _in_path(name: str) -> Schema:
    schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(parameter: Any) -> Schema:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.purpose,
        "required": parameter.required,
        "schema": parameter.schema(),
    }


def _refusal(status: int, schemas: dict[str, Schema]) -> Schema:
    response = _content(_REASONS[status], schema_of(shapes.Refusal, schemas))
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
    if status == 429:
        seconds = {"type": "integer", "minimum": 1}
        response["headers"] = {"Retry-After": {"schema": seconds, "required": True}}
    return response


def _content(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {_JSON: {"schema": schema}}}


def schema_of(hint: Any, schemas: dict[str, Schema]) -> Schema:
    """A type as JSON Schema; TypedDicts go into `schemas` and are referred to."""
    if hint is Any:
        return {}
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if is_typeddict(hint):
        _describe(hint, schemas)
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is NotRequired:
        return schema_of(inner[0], schemas)
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin in (Union, UnionType):
        return _union([schema_of(one, schemas) for one in inner])
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], schemas)}
    if origin is tuple:
        items = [schema_of(one, schemas) for one in inner]
        size = len(items)
        return {"type": "array", "prefixItems": items, "minItems": size, "maxItems": size}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1], schemas)}
    raise TypeError(f"no schema for {hint}")


def _union(options: list[Schema]) -> Schema:
    if all(option.keys() == {"type"} for option in options):
        return {"type": [option["type"] for option in options]}
    return {"anyOf": options}


def _describe(shape: Any, schemas: dict[str, Schema]) -> None:
    if shape.__name__ in schemas:
        return
    schema: Schema = {"type": "object", "description": inspect.getdoc(shape) or ""}
    schemas[shape.__name__] = schema
    hints = get_type_hints(shape, include_extras=True)
    schema["properties"] = {key: schema_of(hint, schemas) for key, hint in hints.items()}
    schema["required"] = [key for key, hint in hints.items() if get_origin(hint) is not NotRequired]
    schema["additionalProperties"] = False
