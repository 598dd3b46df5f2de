"""The JSON Schema says of whole files what the loader says, as far as a schema can."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from p2pstream.config.fields import FIELDS
from p2pstream.config.reference import reference
from p2pstream.config.schema import json_schema

CASES = Path(__file__).parent / "cases"
SCHEMA = json_schema()


def faults(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """As much of JSON Schema draft 7 as `json_schema` uses; an unknown word is an error here."""
    found: list[str] = []
    for word, wanted in schema.items():
        found += [f"{at}: {text}" for text in WORDS[word](value, wanted, schema)]
        if word == "properties" and isinstance(value, dict):
            for key in value.keys() & wanted.keys():
                found += faults(value[key], wanted[key], f"{at}.{key}")
        if word == "items" and isinstance(value, list):
            for number, one in enumerate(value):
                found += faults(one, wanted, f"{at}[{number}]")
    return found


def is_a(value: Any, name: str) -> bool:
    if isinstance(value, bool) or name == "boolean":
        return isinstance(value, bool) and name == "boolean"
    return isinstance(value, {"object": dict, "array": list, "string": str, "integer": int}[name])


def additional(value: Any, wanted: Any, schema: dict[str, Any]) -> list[str]:
    if not isinstance(value, dict):
        return []
    others = value.keys() - schema.get("properties", {}).keys()
    if wanted is False:
        return [f"unknown {key}" for key in others]
    return [text for key in others for text in faults(value[key], wanted)]


def nothing(*_: Any) -> list[str]:
    return []


def unless(fine: bool, text: str) -> list[str]:
    return [] if fine else [text]


WORDS: dict[str, Any] = {
    "$schema": nothing,
    "title": nothing,
    "description": nothing,
    "default": nothing,
    "definitions": nothing,
    "properties": nothing,
    "items": nothing,
    "additionalProperties": additional,
    "type": lambda v, w, s: unless(is_a(v, w), f"no {w}"),
    "enum": lambda v, w, s: unless(v in w, f"none of {w}"),
    "pattern": lambda v, w, s: unless(
        not isinstance(v, str) or bool(re.search(w.replace("$", r"\Z"), v)), f"not like {w}"
    ),
    "minimum": lambda v, w, s: unless(not isinstance(v, int) or v >= w, f"below {w}"),
    "maximum": lambda v, w, s: unless(not isinstance(v, int) or v <= w, f"above {w}"),
    "minLength": lambda v, w, s: unless(not isinstance(v, str) or len(v) >= w, "too short"),
    "minItems": lambda v, w, s: unless(not isinstance(v, list) or len(v) >= w, "too few"),
    "maxItems": lambda v, w, s: unless(not isinstance(v, list) or len(v) <= w, "too many"),
    "minProperties": lambda v, w, s: unless(not isinstance(v, dict) or len(v) >= w, "few keys"),
    "maxProperties": lambda v, w, s: unless(not isinstance(v, dict) or len(v) <= w, "many keys"),
    "required": lambda v, w, s: [
        f"{key} is missing" for key in w if isinstance(v, dict) and key not in v
    ],
    "anyOf": lambda v, w, s: unless(any(not faults(v, one) for one in w), "fits nothing"),
    "oneOf": lambda v, w, s: unless(sum(not faults(v, one) for one in w) == 1, "not one of"),
    "allOf": lambda v, w, s: [text for one in w for text in faults(v, one)],
    "$ref": lambda v, w, s: faults(v, SCHEMA["definitions"][w.rpartition("/")[2]]),
}


def test_it_is_json_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(SCHEMA)
    names = set(re.findall(r'"#/definitions/(\w+)"', text))
    assert names == set(SCHEMA["definitions"])
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_it_has_every_key_with_what_it_is_for() -> None:
    for owner, known in FIELDS.items():
        schema = SCHEMA["definitions"].get(owner.__name__, SCHEMA)
        assert set(known) <= set(schema["properties"])
        for name, one in known.items():
            assert schema["properties"][name]["description"].startswith(one.purpose)
            assert schema["additionalProperties"] is False


def test_the_reference_fits() -> None:
    assert faults(tomllib.loads(reference()), SCHEMA) == []
    assert faults(tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", reference())), SCHEMA) == []


FINE = sorted(
    path.stem
    for path in CASES.glob("*.expected")
    if path.read_text(encoding="utf-8").startswith(("fine", "warning"))
)


@pytest.mark.parametrize("name", FINE)
def test_what_loads_fits(name: str) -> None:
    assert faults(tomllib.loads((CASES / f"{name}.toml").read_text(encoding="utf-8")), SCHEMA) == []


@pytest.mark.parametrize(
    "name",
    [
        "agent_missing_keys", "agent_token_hash", "agent_values", "cache_rules", "listener_values",
        "management_values", "redirect_incomplete", "route_values", "secret_references",
        "server_types", "server_values", "static_headers", "target_health_check", "target_values",
        "target_basic_auth", "templates", "unknown_keys", "unknown_top_level", "wrong_tables",
        "include_wrong", "single_bracket_table", "expectations",
    ],
)  # fmt: skip
def test_what_is_wrong_in_one_field_does_not_fit(name: str) -> None:
    assert faults(tomllib.loads((CASES / f"{name}.toml").read_text(encoding="utf-8")), SCHEMA)
