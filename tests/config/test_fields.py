"""The tables of `fields` and the classes of `model` are held to each other."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from attrs import NOTHING, fields_dict, has

from p2pstream.config import model
from p2pstream.config.fields import FIELDS, TITLES
from p2pstream.config.kinds import Boolean, Choice, FilePath, Headers, Integer, Several, Table

CLASSES = [
    value
    for value in vars(model).values()
    if isinstance(value, type) and has(value) and value.__module__ == model.__name__
]
# Keys that only help to write another.
EXTRA = {model.Template: {"body_file"}}


def test_every_class_has_its_table() -> None:
    assert set(CLASSES) == set(FIELDS) == set(TITLES)


@pytest.mark.parametrize("owner", CLASSES)
def test_every_field_has_its_key_and_every_key_its_field(owner: type[Any]) -> None:
    assert set(FIELDS[owner]) - EXTRA.get(owner, set()) == set(fields_dict(owner))
    for one in FIELDS[owner].values():
        assert not one.writes or one.writes in fields_dict(owner)


@pytest.mark.parametrize("owner", CLASSES)
def test_defaults_are_within_their_own_ranges(owner: type[Any]) -> None:
    hints = get_type_hints(owner)
    for name, attribute in fields_dict(owner).items():
        kind = FIELDS[owner][name].kind
        default: Any = attribute.default
        match kind:
            case Boolean():
                assert hints[name] is bool
            case Integer(low=low, high=high):
                assert default is NOTHING or default is None or low <= default <= high
            case Choice(values=values):
                assert default is NOTHING or default is None or default in values
                assert set(values) <= {*get_args(hints[name]), *leaves(hints[name])}
            case _:
                pass


def leaves(hint: Any) -> list[Any]:
    inner = get_args(hint)
    return [leaf for one in inner for leaf in leaves(one)] if inner else [hint]


@pytest.mark.parametrize("owner", CLASSES)
def test_what_is_required_has_a_stand_in_of_its_type(owner: type[Any]) -> None:
    for name, attribute in fields_dict(owner).items():
        if attribute.default is NOTHING:
            one = FIELDS[owner][name]
            assert one.stand_in is not None
            assert one.example, "the reference shows every required key"


def test_every_key_says_what_it_is_for() -> None:
    for owner, known in FIELDS.items():
        for name, one in known.items():
            where = f"{owner.__name__}.{name}"
            assert one.purpose, where
            assert not one.purpose.endswith("."), where
            if name.endswith("_millis"):
                assert one.unit == "ms", where
            if name.endswith("_bytes"):
                assert one.unit == "bytes", where


def test_kinds_are_values() -> None:
    assert Several(Table(model.Certificate)) == Several(Table(model.Certificate))
    assert FilePath() != FilePath(reads=False)
    assert Headers(str, str) == Headers(str, str)
