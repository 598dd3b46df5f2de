"""An object of the model as the TOML that declares it, as a person would have written it.

Rule 1  No secret is shown, nor the hash of a token: a reference stands as it was written, anything
        else as `(secret)` and `(hash)`.
Rule 2  Where nothing was hidden, what is shown loads again to an equal object.
Rule 3  A key that says what its default says is left out; the order is that of the reference.
Rule 4  A small table stands in one line; one that does not fit has a line for each of its keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import NOTHING, Factory, fields_dict, frozen

from p2pstream.config.declared import Declared
from p2pstream.config.document import Key
from p2pstream.config.fields import FIELDS
from p2pstream.config.kinds import (
    Boolean,
    FilePath,
    Headers,
    Integer,
    Kind,
    Several,
    Strings,
    Table,
    Tables,
)
from p2pstream.config.model import Agent, Config
from p2pstream.config.secret import Secret, TokenHash

SECRET: Final = "(secret)"
HASH: Final = "(hash)"

# What fits beside a margin on most screens, and in our own files.
_WIDTH: Final = 88
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_TO_ESCAPE: Final = re.compile(r'[\x00-\x1f\x7f"\\]')
# In a text of several lines, line ends and tabs are themselves, and so are one or two quotes.
_TO_ESCAPE_IN_LINES: Final = re.compile(r'[\x00-\x08\x0b-\x1f\x7f\\]|"(?="")|"$')


def show(config: Config, declared: Declared, table: str, position: int) -> str:
    """The TOML of one object: `table` is the key of the file, `position` counts from 0."""
    value = getattr(config, table)[position]
    shown = _Shown(
        declared.references_of(table, position), declared.folder(table, position) or Path("/")
    )
    return "\n".join(shown.object(table, value, ())) + "\n"


@frozen
class _Shown:
    """One object being written; keys are paths in it."""

    references: Mapping[Key, Mapping[str, str]]
    folder: Path

    def object(self, header: str, value: Any, key: Key) -> Iterator[str]:
        """An object under its `[[header]]`, then those in it."""
        yield f"[[{header}]]"
        inner: list[str] = []
        for name, kind, one in _told(value):
            if isinstance(kind, Tables):
                for position, each in enumerate(one):
                    inner.append("")
                    inner += self.object(f"{header}.{name}", each, (*key, name, position))
            else:
                yield from self.pair(_key(name), kind, one, (*key, name))
        yield from inner

    def pair(self, name: str, kind: Kind, value: Any, key: Key) -> Iterator[str]:
        """`name = value`, in as many lines as it takes."""
        entries = self.entries(kind, value, key)
        if entries is None:
            yield f"{name} = {self.value(kind, value, key)}"
            return
        if len(entries) == 1 and isinstance(kind, Table):
            inner, inner_kind, one, at = entries[0]
            yield from self.pair(f"{name}.{_key(inner)}", inner_kind, one, at)
            return
        line = f"{name} = {self.value(kind, value, key)}"
        if len(line) <= _WIDTH or not entries:
            yield line
            return
        for inner, inner_kind, one, at in entries:
            yield from self.pair(f"{name}.{_key(inner)}", inner_kind, one, at)

    def entries(self, kind: Kind, value: Any, key: Key) -> list[tuple[str, Kind, Any, Key]] | None:
        """What stands in a table, None for what is none."""
        if isinstance(kind, Table):
            return [(name, one, each, (*key, name)) for name, one, each in _told(value)]
        if isinstance(kind, Strings) or (isinstance(kind, Headers) and not _repeats(value)):
            return [(name, _STRING, each, (*key, name)) for name, each in dict(value).items()]
        return None

    def value(self, kind: Kind, value: Any, key: Key) -> str:
        """A value as it stands behind `=`; only a text may take several lines."""
        entries = self.entries(kind, value, key)
        if entries is not None:
            inner = [
                f"{_key(name)} = {self.value(one, each, at)}" for name, one, each, at in entries
            ]
            return f"{{ {', '.join(inner)} }}" if inner else "{}"
        match kind:
            case Boolean():
                return str(value).lower()
            case Integer():
                return str(value)
            case FilePath():
                return _string(self.path(value))
            case Headers():
                return _array([f"[{_string(name)}, {_string(each)}]" for name, each in value])
            case Several(item=item, alone=alone):
                keys = [key] if key in self.references else [(*key, n) for n in range(len(value))]
                pairs = zip(value, keys, strict=True)
                items = [self.value(item, each, at) for each, at in pairs]
                return items[0] if alone and len(items) == 1 else _array(items)
            case _:
                return self.atom(value, key)

    def atom(self, value: Any, key: Key) -> str:
        """A string, or what stands in its place (rule 1)."""
        if isinstance(value, (Secret, TokenHash)):
            reference = self.references.get(key)
            if reference is None:
                return _string(SECRET if isinstance(value, Secret) else HASH)
            (how, name), *_ = reference.items()
            return f"{{ {how} = {_string(name)} }}"
        return str(value) if isinstance(value, int) else _string(str(value))

    def path(self, path: Path) -> str:
        """A path as its file would name it."""
        inside = path.is_relative_to(self.folder) and self.folder != Path("/")
        return os.fspath(path.relative_to(self.folder) if inside else path)


_FACTORY: Final[type[Any]] = type(Factory(dict))
# Of entries whose names the operator chose: a string, or a secret.
_STRING: Final = FIELDS[Agent]["name"].kind


def _told(value: Any) -> Iterator[tuple[str, Kind, Any]]:
    """The keys of an object that say something (rule 3)."""
    model = type(value)
    attributes = fields_dict(model)
    for name, field in FIELDS[model].items():
        if field.writes:
            continue
        one = getattr(value, name)
        default = attributes[name].default
        if isinstance(default, _FACTORY):
            default = default.factory()
        implied = model is Agent and name == "name" and one == value.id
        if (default is NOTHING or one != default) and one is not None and not implied:
            yield name, field.kind, one


def _repeats(pairs: Any) -> bool:
    """Whether field names stand twice, which a table cannot say."""
    names = [name.lower() for name, *_ in (pairs.items() if isinstance(pairs, dict) else pairs)]
    return len(set(names)) < len(names)


def _array(items: list[str]) -> str:
    line = f"[{', '.join(items)}]"
    if len(line) <= _WIDTH or len(items) < 2:
        return line
    return "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


def _string(text: str) -> str:
    """A basic string; with line ends in it, one of several lines."""
    if "\n" not in text.strip("\n") or not text.strip():
        return _quoted(text)
    return f'"""\n{_TO_ESCAPE_IN_LINES.sub(_escape, text)}"""'


def _quoted(text: str) -> str:
    return f'"{_TO_ESCAPE.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in '"\\':
        return f"\\{character}"
    return _ESCAPES.get(character) or f"\\u{ord(character):04x}"
