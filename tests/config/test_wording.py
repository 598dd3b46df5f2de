from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.fields import FIELDS
from p2pstream.config.model import Listener, Route, Target
from p2pstream.config.wording import a_type, got, listed, nearest, quote, suggestion


@pytest.mark.parametrize(
    ("owner", "wrong", "meant"),
    [
        (Listener, "prot", "port"),
        (Listener, "Port", "port"),
        (Listener, "adress", "bind_address"),
        (Listener, "max_headers_bytes", "max_header_bytes"),
        (Route, "host", "host_pattern"),
        (Route, "prefix", "path_prefix"),
        (Route, "listener", "listener_id"),
        (Route, "target", "targets"),
        (Target, "wieght", "weight"),
        (Target, "selector", "agent_selector"),
        (Target, "timeout", ""),
        (Target, "zzz", ""),
        (Target, "", ""),
    ],
)
def test_what_was_probably_meant(owner: type[object], wrong: str, meant: str) -> None:
    assert nearest(wrong, FIELDS[owner]) == meant
    assert (meant in suggestion(wrong, FIELDS[owner])) is True


@pytest.mark.parametrize(
    ("value", "shown", "kind"),
    [
        (True, "true", "a boolean"),
        (3, "3", "a whole number"),
        (10**50, "a very large number", "a whole number"),
        (1.5, "1.5", "a fraction"),
        ('a"b\\\n', '"a\\"b\\\\\\u000a"', "a string"),
        ("x" * 99, '"' + "x" * 57 + '..."', "a string"),
        ([1], "an array", "an array"),
        ({"a": 1}, "a table", "a table"),
        (datetime.date(2024, 1, 1), "a date or time", "a date or time"),
    ],
)
def test_what_was_got(value: object, shown: str, kind: str) -> None:
    assert got(value) == shown
    assert a_type(value) == kind


@settings(deadline=None)
@given(st.text())
def test_what_is_quoted_is_one_short_line(text: str) -> None:
    shown = quote(text)
    assert shown.isprintable()
    assert len(shown) <= 2 + 60 * 6


def test_lists() -> None:
    assert listed(["a"]) == '"a"'
    assert listed([301, 302, "c"]) == '301, 302 or "c"'
