"""What is kept of the text of a configuration once it has been read: where each object stands, and
which of its secrets are references.

That is all that showing an object again needs beside the model; the text itself may be large, and
may hold secrets.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen

from p2pstream.config.document import Document, Key, Source

# The tables whose objects are known by an id.
TABLES: Final = ("listeners", "agents", "routes", "templates")

# Far quicker than `locate`, and right unless such a line stands in a text or an array is written
# otherwise: then there are more or fewer of them than objects.
_HEADER: Final = re.compile(rf"\[\[[ \t]*({'|'.join(TABLES)})[ \t]*\]\]")


@frozen
class Declared:
    """By table and position in it (all files together): file and line; and the references.

    `references` are `{file = "…"}` and `{env = "…"}`, by the whole key path of the secret.
    """

    files: tuple[tuple[str, Path], ...] = ()
    """Names as shown in faults, and the folders that relative paths count from."""
    owners: Mapping[str, array[int]] = field(factory=dict)
    lines: Mapping[str, array[int]] = field(factory=dict)
    references: Mapping[Key, Mapping[str, str]] = field(factory=dict)

    @classmethod
    def of(cls, document: Document, references: Mapping[Key, Mapping[str, str]]) -> Declared:
        """Gather it from a document that was read without a fault, and what was referred to."""
        owners: dict[str, array[int]] = {table: array("L") for table in TABLES}
        lines: dict[str, array[int]] = {table: array("L") for table in TABLES}
        for number, source in enumerate(document.sources):
            for table, found in _lines(source).items():
                owners[table].extend([number] * len(found))
                lines[table].extend(found)
        return cls(
            tuple((source.name, source.directory) for source in document.sources),
            owners,
            lines,
            references,
        )

    def where(self, table: str, position: int) -> str | None:
        """`file:line` of an object; None if that was not kept."""
        if position >= len(self.lines.get(table, ())):
            return None
        return f"{self.files[self.owners[table][position]][0]}:{self.lines[table][position]}"

    def folder(self, table: str, position: int) -> Path | None:
        """What the relative paths of an object count from; None if that was not kept."""
        if position >= len(self.lines.get(table, ())):
            return None
        return self.files[self.owners[table][position]][1]

    def references_of(self, table: str, position: int) -> dict[Key, Mapping[str, str]]:
        """The references in one object, by key path in it."""
        at = (table, position)
        return {key[2:]: value for key, value in self.references.items() if key[:2] == at}


def _lines(source: Source) -> dict[str, list[int]]:
    """The line of each object of each table in one file."""
    text = source.text
    lines: dict[str, list[int]] = {table: [] for table in TABLES}
    counted, line = 0, 1
    for header in _HEADER.finditer(text):
        at = header.start()
        line += text.count("\n", counted, at)
        counted = at
        if not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t"):
            lines[header[1]].append(line)
    for table, found in lines.items():
        objects = source.values.get(table, ())
        if len(found) != len(objects):
            found[:] = [source.lines.get((table, one), 1) for one in range(len(objects))]
    return lines
