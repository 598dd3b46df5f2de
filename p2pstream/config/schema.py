"""JSON Schema of the configuration file, from the same tables that `load` reads by.

Draft 7: what Taplo (Even Better TOML) and every other editor's checker understands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import NOTHING, Factory, fields_dict

from p2pstream.config import model
from p2pstream.config.fields import FIELDS
from p2pstream.config.kinds import (
    Boolean,
    Choice,
    Field,
    FilePath,
    Headers,
    Integer,
    Kind,
    Several,
    Strings,
    Table,
    Tables,
    Text,
)

Schema = dict[str, Any]

# Where a string is a secret, it may be a reference to one (spec §1).
_REFERENCE: Final[Schema] = {
    "description": "where the secret is: a file, or an environment variable",
    "type": "object",
    "properties": {
        "file": {"type": "string", "minLength": 1},
        "env": {"type": "string", "minLength": 1},
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
_INCLUDE: Final[Schema] = {
    "description": "files to merge, relative to this one; only in the main file",
    "type": "array",
    "items": {"type": "string"},
    "default": [],
}


def json_schema() -> Schema:
    """The schema of a whole configuration file."""
    top = _of_class(model.Config)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "p2pstream configuration",
        **top,
        "properties": {"include": _INCLUDE, **top["properties"]},
        "definitions": {
            "Secret": _REFERENCE,
            **{one.__name__: _of_class(one) for one in FIELDS if one is not model.Config},
        },
    }


def _of_class(owner: type[Any]) -> Schema:
    attributes = fields_dict(owner)
    required = [name for name, one in attributes.items() if one.default is NOTHING]
    schema: Schema = {
        "type": "object",
        "properties": {name: _of_field(owner, name, one) for name, one in FIELDS[owner].items()},
        "additionalProperties": False,
    }
    if required:
        schema["required"] = required
    for name, one in FIELDS[owner].items():
        if one.writes:
            schema["oneOf"] = [{"required": [one.writes]}, {"required": [name]}]
    return schema


def description(one: Field) -> str:
    """What the reference and the editors say of a key, in one form."""
    unit = f" [{one.unit}]" if one.unit else ""
    return f"{one.purpose}{unit}" + (f"; {one.note}" if one.note else "")


def default_of(owner: type[Any], name: str) -> object:
    """A key's default as TOML has it; `None` where it has none, or none that can be written."""
    attribute = fields_dict(owner).get(name)
    if attribute is None or attribute.default is NOTHING:
        return None
    value = attribute.default
    if isinstance(value, _FACTORY):
        return {} if value.factory is dict else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return value


_FACTORY: Final[type[Any]] = type(Factory(dict))


def _of_field(owner: type[Any], name: str, one: Field) -> Schema:
    schema = {"description": description(one), **_RENDER[type(one.kind)](one.kind)}
    default = default_of(owner, name)
    if default is not None and default != "" and not one.writes:
        schema["default"] = default
    return schema


def _of_kind(kind: Kind) -> Schema:
    return _RENDER[type(kind)](kind)


def _text(kind: Text) -> Schema:
    schema: Schema = {"type": "string"}
    if kind.pattern:
        schema["pattern"] = kind.pattern
    if kind.secret:
        return {"anyOf": [schema, {"$ref": "#/definitions/Secret"}]}
    return schema


def _choice(kind: Choice) -> Schema:
    number = all(isinstance(value, int) for value in kind.values)
    return {"type": "integer" if number else "string", "enum": list(kind.values)}


def _several(kind: Several) -> Schema:
    item = _of_kind(kind.item)
    schema: Schema = {"type": "array", "items": item}
    if kind.least:
        schema["minItems"] = kind.least
    if kind.most < Several(kind.item).most:
        schema["maxItems"] = kind.most
    return {"anyOf": [item, schema]} if kind.alone else schema


def _headers(kind: Headers) -> Schema:
    value = _text(Text(str, secret=kind.secret))
    table: Schema = {"type": "object", "additionalProperties": value}
    if not kind.pairs:
        return table
    pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
    return {"anyOf": [table, {"type": "array", "items": pair}]}


def _strings(_: Strings) -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}}


_RENDER: Final[dict[type[Any], Callable[[Any], Schema]]] = {
    Boolean: lambda kind: {"type": "boolean"},
    Integer: lambda kind: {"type": "integer", "minimum": kind.low, "maximum": kind.high},
    Choice: _choice,
    Text: _text,
    FilePath: lambda kind: {"type": "string", "minLength": 1},
    Several: _several,
    Strings: _strings,
    Headers: _headers,
    Table: lambda kind: {"allOf": [{"$ref": f"#/definitions/{kind.model.__name__}"}]},
    Tables: lambda kind: {
        "type": "array",
        "items": {"$ref": f"#/definitions/{kind.model.__name__}"},
    },
}
