from __future__ import annotations

import re
from typing import Any, Literal, NotRequired, TypedDict

import jsonschema_rs
import pytest

from p2pstream.manage import shapes
from p2pstream.manage.endpoints import ENDPOINTS
from p2pstream.manage.openapi import description, schema_of


class Inner(TypedDict):
    """What is inside."""

    at: float


class Outer(TypedDict):
    """All of it."""

    id: str
    inner: Inner | None
    pairs: list[tuple[str, int]]
    state: Literal["a", "b"] | None
    extra: NotRequired[dict[str, bool]]
    anything: Any


def test_a_type_as_json_schema() -> None:
    schemas: dict[str, Any] = {}
    assert schema_of(Outer, schemas) == {"$ref": "#/components/schemas/Outer"}
    assert schemas["Inner"] == {
        "type": "object",
        "description": "What is inside.",
        "properties": {"at": {"type": "number"}},
        "required": ["at"],
        "additionalProperties": False,
    }
    assert schemas["Outer"]["required"] == ["id", "inner", "pairs", "state", "anything"]
    assert schemas["Outer"]["properties"] == {
        "id": {"type": "string"},
        "inner": {"anyOf": [{"$ref": "#/components/schemas/Inner"}, {"type": "null"}]},
        "pairs": {
            "type": "array",
            "items": {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "integer"}],
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "state": {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]},
        "extra": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "anything": {},
    }


def test_what_has_no_schema_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="bytes"):
        schema_of(bytes, {})


def test_every_endpoint_and_every_shape_is_described() -> None:
    whole = description("/base")
    assert whole["servers"] == [{"url": "/base"}]
    assert description()["servers"] == [{"url": "/"}]
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, methods in whole["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == ENDPOINTS.keys()
    for name, endpoint in ENDPOINTS.items():
        method, path, operation = operations[name]
        assert (method.upper(), path) == (endpoint.method, endpoint.path)
        assert ("401" in operation["responses"]) is (endpoint.guarded or name == "login")
        assert operation["security"] == ([{"token": []}] if endpoint.guarded else [])
        for response in operation["responses"].values():
            for kind in response["content"].values():
                jsonschema_rs.validator_for({**kind["schema"], "components": whole["components"]})
    for name, schema in whole["components"]["schemas"].items():
        assert schema["description"], name
        assert re.match("[A-Z]", schema["description"])
    named = {name for name, shape in vars(shapes).items() if hasattr(shape, "__total__")}
    assert named - {"TypedDict"} == set(whole["components"]["schemas"])
