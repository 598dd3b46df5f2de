"""The text of the main file and of what it includes, as one document that knows where each value
stands.

Rule 1  Only the main file includes. An included file holds arrays of tables (`[[listeners]]`,
        `[[agents]]`, `[[routes]]`, `[[templates]]`, `[[expectations]]`); they are appended to
        those of the main file in the order of `include`, and by name where that has a wildcard.
Rule 2  `[server]` and `[management]` stand in the main file, so that there is one of each.
Rule 3  A file that two patterns find is read once; the main file is never its own include.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tomli
from attrs import define, field, frozen

from p2pstream.config import disk
from p2pstream.config.fields import NOT_YET
from p2pstream.config.locate import locate, locate_long_number
from p2pstream.config.model import Config
from p2pstream.config.scalars import ID_PATTERN
from p2pstream.config.wording import printable, quote

Key = tuple[str | int, ...]

MERGED: Final = ("listeners", "agents", "routes", "templates", "expectations")
MAIN_ONLY: Final = ("include", "server", "management")

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ID = re.compile(ID_PATTERN)
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@define(slots=False)
class Source:
    """One file: its name as shown, the directory its relative paths count from, what it says."""

    name: str
    directory: Path
    text: str
    values: dict[str, Any] = field(factory=dict)

    @cached_property
    def lines(self) -> dict[Key, int]:
        """Key path -> line; made when the first fault asks for it."""
        return locate(self.text)


@frozen(order=True)
class Place:
    """Where a fault is; sorts in the order of files and lines."""

    source: int
    line: int
    column: int = 0


@define
class Document:
    """All sources, main file first, and their values merged.

    A key path (`Key`) points into `values`; `lost` is set when a file could not be parsed, so that
    rules about what is missing would only mislead.
    """

    sources: list[Source] = field(factory=list)
    values: dict[str, Any] = field(factory=dict)
    owners: dict[str, list[tuple[int, int]]] = field(factory=dict)
    faults: list[tuple[Place, str, str]] = field(factory=list)
    lost: bool = False

    def source(self, key: Key) -> Source:
        """The file in which a value stands."""
        return self.sources[self._origin(key)[0]]

    def place(self, key: Key) -> Place:
        """The line of a value or, where it has none, of the nearest thing around it."""
        number, local = self._origin(key)
        lines = self.sources[number].lines
        while local and local not in lines:
            local = local[:-1]
        return Place(number, lines.get(local, 1))

    def path_text(self, key: Key) -> str:
        """A key path as people read it: `routes[media].targets[home-lab].weight`.

        An object is named by its id or name where it has a usable one, else by its position in
        its own file, counted from 1: `routes[#2]`.
        """
        words: list[str] = []
        values: Any = self.values
        local = self._origin(key)[1]
        for part, here in zip(key, local, strict=True):
            values = _step(values, part)
            if isinstance(here, str):
                words.append(here if _BARE.fullmatch(here) else quote(here))
            else:
                words[-1] += f"[{_name(values) or f'#{here + 1}'}]"
        return ".".join(words)

    def show(self, place: Place) -> str:
        """`file:line` or `file:line:column`."""
        numbers = [str(number) for number in (place.line, place.column) if number]
        return ":".join([printable(self.sources[place.source].name), *numbers])

    def _origin(self, key: Key) -> tuple[int, Key]:
        if len(key) > 1 and isinstance(key[0], str) and isinstance(key[1], int):
            owners = self.owners.get(key[0], [])
            if key[1] < len(owners):
                number, position = owners[key[1]]
                return number, (key[0], position, *key[2:])
        return 0, key


def _step(values: Any, part: str | int) -> Any:
    if isinstance(part, str):
        return values.get(part) if isinstance(values, dict) else None
    return values[part] if isinstance(values, list) and part < len(values) else None


def _name(values: Any) -> str:
    names = [values.get(key) for key in ("id", "name")] if isinstance(values, dict) else []
    return next((name for name in names if isinstance(name, str) and _ID.fullmatch(name)), "")


# What the parser says -> what the operator did.
_PLAINER: Final = {
    "Cannot overwrite a value": "this key is already there",
    "Illegal character '\\n'": "a string is not closed on its line",
    "Invalid value": "a value is missing or is none",
}


def gather(path: Path) -> Document:
    """Read and parse a main file and its includes."""
    document = Document()
    directory = Path(os.path.abspath(path)).parent
    try:
        text = disk.read_text(path)
    except ValueError as reason:
        _unread(document, Source(str(path), directory, ""), reason)
        return document
    return gather_text(text, str(path), directory)


def gather_text(text: str, name: str, directory: Path) -> Document:
    """Parse a main file's text, then read and parse what it includes."""
    document = Document()
    main = Source(name, directory, text)
    _parse(document, main)
    seen = {_real(directory / Path(name).name)}
    for position, pattern in enumerate(_patterns(document, main)):
        try:
            paths = disk.included(pattern, directory)
        except ValueError as reason:
            place = document.place(("include", position))
            document.faults.append((place, "include", f"{quote(pattern)} {reason}"))
            document.lost = True
            continue
        for path in paths:
            if _real(path) not in seen:
                seen.add(_real(path))
                _include(document, path, directory, name)
    _merge(document)
    return document


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _patterns(document: Document, main: Source) -> list[str]:
    patterns = main.values.pop("include", [])
    if isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns):
        return patterns
    place = Place(0, main.lines.get(("include",), 1))
    text = 'must be a list of file names, as in ["agents.d/*.toml"]'
    document.faults.append((place, "include", text))
    document.lost = True
    return []


def _include(document: Document, path: Path, directory: Path, main_name: str) -> None:
    inside = path.is_relative_to(directory)
    shown = str(Path(main_name).parent / path.relative_to(directory) if inside else path)
    source = Source(shown, path.parent, "")
    try:
        source.text = disk.read_text(path)
    except ValueError as reason:
        _unread(document, source, reason)
        return
    _parse(document, source)
    number = len(document.sources) - 1
    for key in MAIN_ONLY:
        if source.values.pop(key, None) is not None:
            place = Place(number, source.lines.get((key,), 1))
            text = f"may stand only in the main file, {printable(main_name)}"
            document.faults.append((place, key, text))


def _unread(document: Document, source: Source, reason: ValueError) -> None:
    """Keep a file that could not be read, for its fault to name."""
    document.sources.append(source)
    line, text = 0, str(reason)
    if isinstance(reason, disk.NotUtf8):
        line, text = reason.line, "is not UTF-8"
    document.faults.append((Place(len(document.sources) - 1, line), "", text))
    document.lost = True


def _parse(document: Document, source: Source) -> None:
    """Parse a source's text into its `values`; TOML's first fault ends a file."""
    document.sources.append(source)
    number = len(document.sources) - 1
    try:
        source.values = tomli.loads(source.text)
        source.text.encode()
    except RecursionError:
        document.faults.append((Place(number, 1), "", "is nested too deeply"))
    except UnicodeEncodeError:
        source.values = {}
        document.faults.append((Place(number, 1), "", "is not UTF-8"))
    except ValueError as reason:
        document.faults.append(_toml_fault(document, number, str(reason)))
    else:
        return
    document.lost = True


def _toml_fault(document: Document, number: int, reason: str) -> tuple[Place, str, str]:
    found = _AT.search(reason)
    text = document.sources[number].text
    if found is None:  # not the parser's own words: Python refuses a number of thousands of digits
        key, line = locate_long_number(text)
        return Place(number, line), document.path_text(key), "is a number out of all range"
    lines = text.replace("\r\n", "\n").split("\n")
    line, column = len(lines), len(lines[-1]) + 1
    if found[1]:
        line, column = int(found[1]), int(found[2])
    what = reason[: found.start()]
    what = _PLAINER.get(what, what[:1].lower() + what[1:])
    end = "" if found[1] else ", and the file ends here"
    return Place(number, line, column), "", f"not valid TOML: {what}{end}"


def _merge(document: Document) -> None:
    for number, source in enumerate(document.sources):
        for key, value in source.values.items():
            if key in MERGED and isinstance(value, list):
                merged = document.values.setdefault(key, [])
                if not isinstance(merged, list):
                    continue  # the main file's `key` is at fault already
                merged.extend(value)
                owners = document.owners.setdefault(key, [])
                owners.extend((number, position) for position in range(len(value)))
            elif number == 0:
                document.values[key] = value
            else:
                _stray(document, number, key)


def _stray(document: Document, number: int, key: str) -> None:
    """An included file's top-level key that is not an array of tables."""
    place = Place(number, document.sources[number].lines.get((key,), 1))
    if key in NOT_YET[Config]:
        text = "not supported by this version"
    elif key in MERGED:
        text = f"must be an array of tables: write [[{key}]]"
    else:
        text = f"unknown key; an included file may hold {', '.join(f'[[{k}]]' for k in MERGED)}"
    document.faults.append((place, key, text))
