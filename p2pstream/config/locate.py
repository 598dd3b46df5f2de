"""On which line each key of a TOML text stands; `tomllib` does not say.

Rule 1  The text has been accepted by `tomllib`. Anything unexpected ends the scan with what was
        found so far: a fault then shows the line of something further out, never a traceback.
Rule 2  A path is what `tomllib`'s result is indexed with: keys, and positions in arrays.
Rule 3  A table that is both implied (`[a.b]`) and written (`[a]`) is where it is written; an array
        of tables is where its first element is.
"""

from __future__ import annotations

import re
import sys
import tomllib

Key = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"{1,2}(?!"))[^"\\]*)*"""(?:"{0,2})'  # up to two quotes may end it
    r"|'''[^']*(?:'{1,2}(?!')[^']*)*'''(?:'{0,2})"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_LONG_NUMBER = re.compile(r"[+-]?[0-9_]+[ \t\r]*")
# Far deeper than any key of ours; a path is kept for each level, so depth costs its square.
_DEEPEST = 64

_SCALAR = re.compile(r"[^,\]}#\n]+")  # numbers, booleans, dates (which may have a blank in them)


def locate(text: str) -> dict[Key, int]:
    """Key path -> line, counted from 1, for every key and array element of a valid TOML text."""
    scanner = _Scanner(text)
    try:
        scanner.document()
    except (_Unexpected, RecursionError):
        pass  # Rule 1
    return scanner.lines


def locate_long_number(text: str) -> tuple[Key, int]:
    """The first number that is too long for Python, and its line; `(), 1` if there is none.

    The text need not be valid behind it.
    """
    scanner = _Scanner(text)
    try:
        scanner.document()
    except (_Unexpected, RecursionError):
        pass  # Rule 1
    key = scanner.long_number
    return key, scanner.lines.get(key, 1)


class _Unexpected(Exception):
    """The text is not what `tomllib` would have accepted."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._counted = 0  # line breaks are counted up to here ...
        self._line = 1  # ... and this is the line of that place
        self.long_number: Key = ()
        self._elements: dict[Key, int] = {}  # array of tables -> how many it has so far

    def document(self) -> None:
        table: Key = ()
        while True:
            self._skip(_FILLER)
            if self._at >= len(self._text):
                return
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text.startswith("[", self._at):
                table = self._table_header()
            else:
                self._pair(table)
            self._skip(_REST_OF_LINE)  # at most blanks and a comment

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _Unexpected
        self._at = found.end()
        return found[0]

    def _take(self, character: str) -> None:
        if not self._text.startswith(character, self._at):
            raise _Unexpected
        self._at += len(character)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _name(self) -> list[str]:
        """A key, dotted or not."""
        parts = []
        while True:
            self._skip(_BLANK)
            if self._peek() in ('"', "'"):
                quoted = self._skip(_STRING)
                try:
                    parts.append(str(tomllib.loads(f"key = {quoted}")["key"]))
                except tomllib.TOMLDecodeError as reason:
                    raise _Unexpected from reason
            else:
                parts.append(self._skip(_BARE))
            self._skip(_BLANK)
            if self._peek() != ".":
                return parts
            if len(parts) > _DEEPEST:
                raise _Unexpected
            self._at += 1

    def _inside(self, parts: list[str], line: int) -> Key:
        """The table that `parts` lead to, through the last element of every array of tables."""
        key: Key = ()
        for part in parts:
            key = (*key, part)
            self.lines.setdefault(key, line)
            if key in self._elements:
                key = (*key, self._elements[key] - 1)
        return key

    def _table_header(self) -> Key:
        line = self._here()
        self._take("[")
        key = self._inside(self._name(), line)
        self._take("]")
        self.lines[key] = line
        return key

    def _array_header(self) -> Key:
        line = self._here()
        self._take("[[")
        *outer, last = self._name()
        self._take("]]")
        array = (*self._inside(outer, line), last)
        self.lines.setdefault(array, line)
        position = self._elements.get(array, 0)
        self._elements[array] = position + 1
        key = (*array, position)
        self.lines[key] = line
        return key

    def _pair(self, table: Key) -> None:
        line = self._here()
        key = table
        for part in self._name():
            key = (*key, part)
            self.lines.setdefault(key, line)
        self._take("=")
        self._skip(_BLANK)
        self._value(key)

    def _value(self, key: Key) -> None:
        first = self._peek()
        if first in ('"', "'"):
            self._skip(_STRING)
        elif first == "[":
            self._array(key)
        elif first == "{":
            self._inline_table(key)
        elif self._is_long(self._skip(_SCALAR)) and not self.long_number:
            self.long_number = key

    def _is_long(self, scalar: str) -> bool:
        """Whether it is a number that Python refuses to read."""
        most = sys.get_int_max_str_digits()
        return len(scalar) > most and _LONG_NUMBER.fullmatch(scalar) is not None

    def _array(self, key: Key) -> None:
        self._take("[")
        position = 0
        while True:
            self._skip(_FILLER)
            if self._peek() == "]":
                break
            element = (*key, position)
            self.lines[element] = self._here()
            self._value(element)
            position += 1
            self._skip(_FILLER)
            if self._peek() == ",":
                self._at += 1
        self._take("]")

    def _inline_table(self, key: Key) -> None:
        self._take("{")
        while True:
            self._skip(_FILLER)
            if self._peek() == "}":
                break
            self._pair(key)
            self._skip(_FILLER)
            if self._peek() == ",":
                self._at += 1
        self._take("}")
