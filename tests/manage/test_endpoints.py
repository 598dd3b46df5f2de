from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.manage.endpoints import ENDPOINTS, Endpoint, Parameter

ASKED = Endpoint(
    "GET",
    "/things/{id}/{part}",
    "Things",
    dict[str, Any],
    (
        Parameter("limit", "how many", 10, low=1, high=99),
        Parameter("kind", "which", "a", choices=("a", "b")),
        Parameter("name", "who", pattern="^[a-z]+$"),
        Parameter("tag", "what", many=True),
    ),
)


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("name=x", {"limit": 10, "kind": "a", "name": "x", "tag": []}),
        ("name=x&limit=99&kind=b", {"limit": 99, "kind": "b", "name": "x", "tag": []}),
        ("tag=&name=y&tag=a+b&tag=%C3%A9", {"tag": ["", "a b", "é"], "name": "y"}),
        ("limit=007&name=x", {"limit": 7}),
        ("&&name=x&", {"name": "x"}),
    ],
)
def test_what_a_question_says(query: str, values: dict[str, Any]) -> None:
    got = ASKED.read(query, {"id": "one"})
    assert got.keys() == {"id", "limit", "kind", "name", "tag"}
    assert got.items() >= {"id": "one", **values}.items()


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("", "name: is missing"),
        ("name=", 'name: cannot be ""'),
        ("name=X", 'name: cannot be "X"'),
        ("name=x%0a", 'name: cannot be "x\\u000a"'),
        ("name=x&name=x", "name: given 2 times"),
        ("name=x&limit=100", "limit: must be a whole number from 1 to 99, got"),
        ("name=x&limit=-1", "limit: must be"),
        ("name=x&limit=1.0", "limit: must be"),
        ("name=x&kind=c", "kind: must be one of a, b, got"),
        ("name=x&Kind=a", 'there is no parameter "Kind" here, only limit, kind, name, tag'),
        ("name=x&id=2", 'there is no parameter "id" here'),
        ("name=" + "x" * 3_000, "name: must have at most 2048 characters"),
        ("name=%FF", "the query is not UTF-8"),
    ],
)
def test_what_it_must_not_say(query: str, fault: str) -> None:
    with pytest.raises(ValueError) as error:
        ASKED.read(query, {})
    assert str(error.value).startswith(fault)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("requests", "status=5xx%0a"),
        ("requests", "status=502%0a"),
        ("requests", "route=sec%0a"),
        ("explain", "method=GET%0a&url=http://a/"),
        ("explain", "method=GET&url=http://a/%0a"),
    ],
)
def test_a_line_end_is_part_of_what_was_given(name: str, query: str) -> None:
    with pytest.raises(ValueError, match=r": cannot be "):
        ENDPOINTS[name].read(query, {})
    assert ENDPOINTS[name].read(query.replace("%0a", ""), {})


def test_names_in_a_path() -> None:
    assert ASKED.path_names == ["id", "part"]
    assert ENDPOINTS["agents"].path_names == []


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_query_is_read_or_refused(query: str) -> None:
    for raw in (query, quote(query), urlencode({"limit": query, "url": query})):
        for endpoint in ENDPOINTS.values():
            try:
                values = endpoint.read(raw, {})
            except ValueError as error:
                assert str(error).isprintable()
            else:
                assert values.keys() == {one.name for one in endpoint.parameters}
