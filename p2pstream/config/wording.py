"""How faults are worded: where, what, what to do. One fault is one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache


def quote(text: str) -> str:
    """Text in double quotes, on one line and not too long."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped if len(escaped) <= 60 else escaped[:57] + "..."
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or nothing.

    A word is also known by its beginning or end (`host` for `host_pattern`), where only one is.
    """
    return _nearest(wrong.lower(), tuple(known))


@lru_cache(maxsize=1024)  # one misspelling may stand in ten thousand tables
def _nearest(wrong: str, known: tuple[str, ...]) -> str:
    names: dict[str, str] = {}
    shared: set[str] = set()
    for word in known:
        parts = word.split("_")
        cuts = range(1, len(parts))
        for short in {*("_".join(parts[:n]) for n in cuts), *("_".join(parts[n:]) for n in cuts)}:
            if names.setdefault(short, word) != word:
                shared.add(short)
    names = {short: word for short, word in names.items() if short not in shared}
    names |= {word: word for word in known}
    near = get_close_matches(wrong, names, n=1, cutoff=0.7)
    return names[near[0]] if near else ""


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where nothing is near."""
    near = nearest(wrong, known)
    return f"; did you mean {quote(near)}?" if near else ""


def got(value: object) -> str:
    """What stood there instead, for a value that is no secret."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            text = repr(value)
            return text if len(text) <= 40 else "a very large number"
        case str():
            return quote(value)
        case _:
            return a_type(value)


def a_type(value: object) -> str:
    """The TOML type of a value, with its article."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "a whole number"
        case float():
            return "a fraction"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def listed(values: Iterable[object]) -> str:
    """`"a", "b" or 3`."""
    *most, last = [got(value) for value in values]
    return f"{', '.join(most)} or {last}" if most else last


def printable(text: str) -> str:
    """Text that a stranger chose, on one line and without what would command a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
