"""What differs between two values of one model class, in words that hold no secret."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from attrs import fields, has

from p2pstream.config.model import Certificate
from p2pstream.config.secret import Secret, TokenHash
from p2pstream.config.wording import quote

# Long texts are told by their size alone.
_TEXTS = frozenset({"body", "static_response_body"})


def differences(old: Any, new: Any, without: Collection[str] = ()) -> Iterator[str]:
    """`key: old -> new` for each field that differs, `outer.key: …` inside nested tables."""
    for one in fields(type(new)):
        before, after = getattr(old, one.name), getattr(new, one.name)
        if one.name in without or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _entries(one.name, before, after)
        elif has(type(before)) and type(before) is type(after) and one.name not in _ATOMS:
            yield from (f"{one.name}.{text}" for text in differences(before, after))
        else:
            yield _told(one.name, _shown(one.name, before), _shown(one.name, after))


# Values of several parts that read as one.
_ATOMS = frozenset({"host_pattern", "hostname_pattern", "url", "admin_token_hash"})


def _entries(name: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new:
            yield _told(f"{name}.{key}", _shown(name, old), _shown(name, new))


def _told(name: str, before: str, after: str) -> str:
    """Two secrets, or two texts of one size, differ without a word for it."""
    return f"{name}: changed" if before == after else f"{name}: {before} -> {after}"


def _shown(name: str, value: Any) -> str:
    match value:
        case None:
            return "not set"
        case Secret():
            return "a secret"
        case TokenHash():
            return "a hash"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case tuple():
            return _several(value)
        case str() if name in _TEXTS:
            return f"{len(value.encode())} bytes"
        case _ if has(type(value)) and name not in _ATOMS:
            return "set"
        case _:
            return quote(str(value))


def _several(values: tuple[Any, ...]) -> str:
    if any(isinstance(value, TokenHash) for value in values):
        return "a hash" if len(values) == 1 else f"{len(values)} hashes"
    if any(isinstance(value, Certificate) for value in values):
        return f"[{', '.join(value.hostname_pattern.text for value in values)}]"
    if any(isinstance(value, tuple) for value in values):
        return f"[{', '.join(str(value[0]) for value in values)}]"
    return f"[{', '.join(str(value) for value in values)}]"
