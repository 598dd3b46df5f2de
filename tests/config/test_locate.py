"""The locator is held to `tomllib`: over generated documents whose lines are known by making."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.locate import locate

Key = tuple[str | int, ...]


def paths(value: Any, key: Key = ()) -> set[Key]:
    """Every key path of a parsed document."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = {key} if key else set()
    for part, inner in items:
        found |= paths(inner, (*key, part))
    return found


class Writer:
    """Writes TOML in one of its many forms, and notes on which line each path came to stand."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Key, int] = {}
        self.break_ = draw(st.sampled_from(["\n", "\r\n"]))

    def one_of(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def here(self) -> int:
        return self.text.count("\n") + 1

    def filler(self) -> None:
        self.text += self.one_of("", "", " ", self.break_, f'  # c ] }} = "{self.break_}')

    def name(self, key: str) -> str:
        bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        forms = [f'"{key}"', f"'{key}'", *([key, key] if bare else [])]
        return self.one_of(*forms)

    def end_of_line(self) -> None:
        self.text += self.one_of("", " ", '  # a = [ { "', "\t# '''") + self.break_
        self.text += self.one_of("", "", self.break_, f"# k = 1{self.break_}")

    def pairs(self, key: Key, names: list[str], depth: int) -> None:
        for name in names:
            self.text += self.one_of("", "  ")
            self.pair(key, name, depth)
            self.end_of_line()

    def pair(self, key: Key, name: str, depth: int) -> None:
        line = self.here()
        inner = (*key, name)
        self.lines[inner] = line
        self.text += self.name(name)
        if self.one_of("no", "no", "dotted") == "dotted":
            self.text += self.one_of(".", " . ") + self.name("dot.ted")
            inner = (*inner, "dot.ted")
            self.lines[inner] = line
        self.text += self.one_of("=", " = ")
        self.value(inner, depth)

    def value(self, key: Key, depth: int) -> None:
        form = self.one_of("scalar", "scalar", "text", *(["array", "table"] if depth else []))
        if form == "scalar":
            self.text += self.one_of(
                "1",
                "-0.5",
                "true",
                "inf",
                "1979-05-27 07:32:00",
                "07:32:00",
                "0x1F",
            )
        elif form == "text":
            self.text += self.one_of(
                '""', "''", '"a # b"', "'a = ] }'", r'"\"]\\"', '"""a"""', "'''a'''",
                f'"""{self.break_}a "" b{self.break_} # c = 1{self.break_}"""',
                f"'''{self.break_}a '' b{self.break_}[x]{self.break_}'''",
                '"""a"""""', "'''a'''''", f'"""\\{self.break_}  a \\"" """', '"""\\\\"""',
            )  # fmt: skip
        elif form == "array":
            self.array(key, depth - 1)
        else:
            self.inline_table(key, depth - 1)

    def array(self, key: Key, depth: int) -> None:
        self.text += "["
        size = self.draw(st.integers(0, 3))
        for position in range(size):
            self.filler()
            self.lines[(*key, position)] = self.here()
            self.value((*key, position), depth)
            self.filler()
            self.text += "," if position < size - 1 else self.one_of("", ",")
        self.filler()
        self.text += "]"

    def inline_table(self, key: Key, depth: int) -> None:
        self.text += "{" + self.one_of("", " ")
        names = self.draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
        for position, name in enumerate(names):
            self.pair(key, name, depth)
            self.text += ", " if position < len(names) - 1 else " "
        self.text += "}"

    def section(self, header: list[str], key: Key, name: str, depth: int) -> None:
        header = [*header, self.name(name)]
        key = (*key, name)
        names = self.draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
        own, below = (names[:2], names[2:]) if depth else (names, [])
        if self.one_of("table", "array") == "table":
            late = below and self.one_of("no", "late") == "late"
            if late:
                self.section(header, key, below.pop(), depth - 1)
            self.lines[key] = self.here()
            self.text += f"[{self.one_of('.', ' . ').join(header)}]"
            self.end_of_line()
            self.pairs(key, own, 2)
            for one in below:
                self.section(header, key, one, depth - 1)
            return
        self.lines[key] = self.here()
        for position in range(self.draw(st.integers(1, 3))):
            self.lines[(*key, position)] = self.here()
            self.text += f"[[{'.'.join(header)}]]"
            self.end_of_line()
            self.pairs((*key, position), own, 2)
            for one in below:
                self.section(header, (*key, position), one, depth - 1)


NAMES = ["a", "b-1", "c_2", "d e", "é", "f.g", "1", "#", "["]


@st.composite
def documents(draw: Any) -> tuple[str, dict[Key, int]]:
    writer = Writer(draw)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    split = draw(st.integers(0, len(names)))
    writer.pairs((), names[:split], 3)
    for name in names[split:]:
        writer.section([], (), name, 2)
    return writer.text, writer.lines


@settings(deadline=None, max_examples=60)
@given(documents())
def test_every_path_stands_where_it_was_written(document: tuple[str, dict[Key, int]]) -> None:
    text, written = document
    found = locate(text)
    assert set(found) == paths(tomllib.loads(text)) == set(written)
    assert found == written


@settings(deadline=None)
@given(st.text(alphabet="ab.=[]{}\"'#,\\ \n\r1", max_size=60))
def test_any_text_that_tomllib_takes_is_located_whole(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        locate(text)  # Rule 1: never a traceback
        return
    assert set(locate(text)) == paths(parsed)


@pytest.mark.parametrize("text", ["[" * 5000, "a = " + "[" * 5000, "a = " + "{a=" * 5000])
def test_what_is_nested_too_deeply_ends_the_scan(text: str) -> None:
    assert isinstance(locate(text), dict)
