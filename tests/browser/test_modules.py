"""The pages' pure functions, called where they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pstream import errors
from p2pstream.manage import pages
from tests.browser.conftest import Watched, live

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Call = Callable[..., Any]

NONE = "\N{EN DASH}"

# RFC 7396, appendix A: original, patch, result.
MERGES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
WORDS = [
    ("count", [0], "0"),
    ("count", [99_999], "99,999"),
    ("count", [1_234_567], "1.23M"),
    ("count", [None], NONE),
    ("rate", [0], "0"),
    ("rate", [3.14159], "3.14"),
    ("percent", [100], "100 %"),
    ("percent", [99.999], "99.99 %"),
    ("percent", [98.76], "98.7 %"),
    ("percent", [None], NONE),
    ("failed", [0, 10], "0"),
    ("failed", [1, 1_000_000], "< 0.01 %"),
    ("failed", [1, 3], "33.3 %"),
    ("failed", [0, 0], NONE),
    ("share", [0.6667], "67 %"),
    ("share", [0.004], "0.4 %"),
    ("millis", [0.5], "0.50 ms"),
    ("millis", [1_250], "1.25 s"),
    ("bytes", [999], "999 B"),
    ("bytes", [1_234_000], "1.23 MB"),
    ("duration", [0.4], "0 s"),
    ("duration", [59], "59 s"),
    ("duration", [3_660], "1 h 1 m"),
    ("duration", [273_600], "3 d 4 h"),
    ("duration", [-5], "0 s"),
    ("plural", [1, "agent"], "1 agent"),
    ("plural", [2_000, "agent"], "2,000 agents"),
]
SCALES = [
    (0, 1, 1),
    (7, 9, 3),
    (0.9, 1, 0.5),
    (100, 100, 50),
    (101, 150, 50),
    (4_200, 6_000, 2_000),
]


@pytest.fixture(scope="module")
def call(browser: Browser, fake: Callable[[int, int], str]) -> Iterator[Call]:
    """`call("format", "bytes", 1)`: what a module's function gives."""
    watched = Watched(browser)
    page = watched.page()
    page.goto(fake(3, 3))
    live(page)
    folder = page.evaluate("document.querySelector('script[type=module]').src.replace('app.js','')")

    def run(module: str, function: str, *arguments: object) -> Any:
        return page.evaluate(
            "async ([url, name, given]) => (await import(url))[name](...given)",
            [f"{folder}{module}.js", function, list(arguments)],
        )

    yield run
    watched.end()


@pytest.mark.parametrize(("original", "patch", "result"), MERGES)
def test_patches_are_merged_as_rfc_7396_says(
    call: Call, original: object, patch: object, result: object
) -> None:
    assert call("net", "merge", original, patch) == result


def test_a_patch_cannot_reach_what_it_is_not_meant_for(call: Call) -> None:
    call("net", "merge", {}, {"__proto__": {"hacked": 1}})
    assert "hacked" not in call("net", "merge", {"a": 1}, {"b": 2})


@pytest.mark.parametrize(("function", "given", "said"), WORDS)
def test_numbers_are_written_for_people(
    call: Call, function: str, given: list[object], said: str
) -> None:
    assert call("format", function, *given) == said


@pytest.mark.parametrize(("value", "top", "tick"), SCALES)
def test_scales_are_round_and_hold_the_value(
    call: Call, value: float, top: float, tick: float
) -> None:
    scale = call("chart", "scale", value)
    assert scale["top"] >= value
    assert scale["top"] / scale["tick"] == pytest.approx(round(scale["top"] / scale["tick"]))
    mantissa = float(f"{scale['tick']:e}".split("e")[0])
    assert mantissa in (1, 2, 5)


def test_what_was_not_measured_is_a_gap_and_a_lone_point_a_dot(call: Call) -> None:
    assert call("chart", "path", [1, 2, None, 2, None], 2) == "M0 50.00L1 0.00M3 0.00h0"


def test_the_step_that_is_not_over_counts_by_the_time_that_went_by(call: Call) -> None:
    measured = {name: [1, 1, 1] for name in ("p50_millis", "p95_millis", "p99_millis")}
    counts = {name: [0, 50, 20] for name in ("requests", "failures", "bytes_in", "bytes_out")}
    series = {"start": 0, "step_seconds": 5, "agents_connected": [None, 2, 2], **measured, **counts}
    # Where nobody counted there is a gap; the last step is of two seconds so far.
    assert call("overview", "asRates", series, 12)["requests"] == [None, 10, 10]
    early = call("overview", "asRates", series, 10.5)
    assert early["requests"] == [None, 10] and len(early["p95_millis"]) == 2


def overview(**changes: Any) -> dict[str, Any]:
    totals = {"requests": 100, "failures": 0, "success_percent": 100, "origin_errors": 0}
    totals |= changes.pop("totals", {})
    whole = {"agents_declared": 2, "agents_connected": 2, "problems": [], "reloads": []}
    return {**whole, "history": {"ok": True}, "totals": totals, **changes}


def problem(kind: str, count: int) -> dict[str, Any]:
    return {"error_kind": kind, "count": count, "last_seen": 0, "routes": []}


@pytest.mark.parametrize(
    ("view", "level"),
    [
        (overview(), "good"),
        (overview(totals={"requests": 0}), "idle"),
        (overview(problems=[problem("connect_failed", 20)]), "bad"),
        (overview(problems=[problem("connect_failed", 2)]), "warn"),
        # Strangers may ask for anything: that is no trouble of ours.
        (overview(problems=[problem("no_route", 90), problem("client_cancelled", 5)]), "good"),
        (overview(agents_connected=1), "warn"),
        (overview(agents_connected=0), "bad"),
        (overview(history={"ok": False, "problem": "the disk is full"}), "warn"),
        (overview(reloads=[{"ok": False, "at": 0, "lines": [], "faults": []}]), "warn"),
    ],
)
def test_the_verdict(call: Call, view: dict[str, Any], level: str) -> None:
    assert call("overview", "judge", view)["level"] == level


def test_every_kind_of_failure_is_explained() -> None:
    kinds = set()

    def collect(fault: type[errors.Fault]) -> None:
        kinds.add(fault.kind)
        for one in fault.__subclasses__():
            collect(one)

    collect(errors.Fault)
    text = pages.assets()["overview.js"].decode()
    block = text[text.index("const MEANS") :]
    explained = set(re.findall(r"^  (\w+):", block[: block.index("};")], re.MULTILINE))
    assert explained == kinds


def test_nothing_turns_text_into_markup() -> None:
    for name, body in pages.assets().items():
        text = body.decode()
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, f"{name}: {sink}"
        assert Path(name).suffix != ".html" or not re.search(r"\sstyle=|\son\w+=|<script>", text)
