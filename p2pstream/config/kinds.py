"""What a key may hold: the few shapes that every value of the file has one of.

These are descriptions only. `fields` gives each key its kind, `read` turns a value into what the
model holds, `schema` turns the kind into JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen


@frozen
class Boolean:
    """`true` or `false`."""


@frozen
class Integer:
    """A whole number from `low` to `high`, both allowed."""

    low: int
    high: int


@frozen
class Choice:
    """One of a few strings, or of a few whole numbers."""

    values: tuple[str | int, ...]


@frozen
class Text:
    """A string that `parse` turns into a value, or refuses with `ValueError`.

    `secret`: never repeated in a fault, and may be `{ file = "…" }` or `{ env = "…" }` instead.
    `pattern`: a regular expression for editors that says as much of `parse` as is practical.
    """

    parse: Callable[[str], object]
    secret: bool = False
    pattern: str = ""


@frozen
class FilePath:
    """A path; a relative one counts from the file that names it.

    `reads`: the file must exist and be readable; with `text`, what it says is the value; with
    `authorities`, it must have a certificate in it. `folder`: it is a directory, and ours to make.
    """

    reads: bool = True
    text: Text | None = None
    authorities: bool = False
    folder: bool = False


@frozen
class Several:
    """An array of `least` to `most` items; with `alone`, one item needs no brackets."""

    item: Text | Table
    least: int = 0
    most: int = 1_000_000
    alone: bool = False


@frozen
class Strings:
    """A table of strings, taken whole by `parse`: labels."""

    parse: Callable[[Mapping[str, str]], dict[str, str]]


@frozen
class Headers:
    """A table of field names to values; `parse_name` and `parse_value` judge each.

    `secret`: every value is one. `pairs`: may also be an array of `[name, value]`, with repeats.
    """

    parse_name: Callable[[str], str]
    parse_value: Callable[[str], str]
    secret: bool = False
    pairs: bool = False


@frozen
class Table:
    """A table whose keys are those of a model class."""

    model: type[Any]


@frozen
class Tables:
    """An array of tables, `[[so]]`, each of a model class."""

    model: type[Any]


Kind = Boolean | Integer | Choice | Text | FilePath | Several | Strings | Headers | Table | Tables


@frozen
class Field:
    """One key: its kind, what it is for, and what the reference says of it.

    `stand_in` takes the place of a required value that is missing or faulty, so that the rest of
    its table can still be judged; no such configuration ever leaves `load`. `writes`: the key of
    the model that this one gives a value to, where it is another.
    """

    kind: Kind
    purpose: str
    unit: str = ""
    note: str = ""
    example: str = ""  # a TOML value, for the reference, where the default shows nothing
    stand_in: object = None
    writes: str = ""
