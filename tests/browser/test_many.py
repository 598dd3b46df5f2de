"""A thousand agents and a thousand routes. What the page does is counted in elements and in changes
of the document, against a site of a hundred: how long that takes is the machine's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.conftest import Watched, live, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

# A hundred fill a screen, what is kept ready around it, and another one: more must cost the same.
FEW, MANY = 100, 1_000
LEEWAY: Final = 1.25

OBSERVE: Final = """() => {
  window.work = 0;
  new MutationObserver((records) => { window.work += records.length; }).observe(document.body,
    { childList: true, subtree: true, attributes: true, characterData: true });
}"""
ROWS: Final = "document.querySelectorAll('table.rows tbody tr').length"
ELEMENTS: Final = "document.getElementsByTagName('*').length"


def work(page: Page, do: Callable[[], object], done: str) -> int:
    """How many changes of the document it takes."""
    page.evaluate("window.work = 0")
    do()
    until(page, done)
    page.evaluate("new Promise((go) => requestAnimationFrame(() => setTimeout(go)))")
    changes: int = page.evaluate("window.work")
    return changes


def measure(page: Page, kind: str) -> dict[str, int]:
    """What a visit costs: to draw, to search, to sort, to scroll, and to stay."""
    first = "site-" if kind == "agents" else "route-"
    name = "document.querySelector('table.rows tbody th')?.textContent"
    found: dict[str, int] = {}
    live(page)
    until(page, f"{ROWS} > 20")
    page.evaluate(OBSERVE)
    found["elements"] = page.evaluate(ELEMENTS)
    field = page.get_by_role("searchbox", name="Filter")
    found["filter"] = work(page, lambda: field.fill(f"{first}0049"), f"{ROWS} === 1")
    found["unfilter"] = work(page, lambda: field.fill(""), f"{ROWS} > 20")
    if kind == "agents":
        head = page.get_by_role("columnheader", name="Agent").get_by_role("button")
        found["sort"] = work(page, head.click, f"{name} !== 'site-0000'")
        work(page, head.click, f"{name} === 'site-0000'")
    found["scroll"] = work(
        page, lambda: page.evaluate("scrollTo(0, 1e9)"), f"{name} !== '{first}0000'"
    )
    return found


@pytest.mark.parametrize("kind", ["agents", "routes"])
def test_a_thousand_cost_what_a_screenful_costs(
    watched: Watched, fake: Callable[[int, int], str], kind: str
) -> None:
    costs = {}
    for size in (FEW, MANY):
        page = watched.page(viewport={"width": 1280, "height": 900})
        page.goto(f"{fake(size, size)}#/{kind}")
        costs[size] = measure(page, kind)
        page.context.close()
    for what, few in costs[FEW].items():
        assert costs[MANY][what] <= few * LEEWAY + 50, (what, costs)


def test_a_second_going_by_touches_only_what_changed(
    watched: Watched, fake: Callable[[int, int], str]
) -> None:
    """One agent in twenty has news each second: of those in sight, a few cells."""
    page = watched.page(viewport={"width": 1280, "height": 900})
    page.goto(f"{fake(MANY, MANY)}#/agents")
    live(page)
    until(page, f"{ROWS} > 20")
    page.evaluate(OBSERVE)
    kept = page.evaluate_handle("document.querySelector('table.rows tbody tr')")
    for _ in range(3):
        page.evaluate("window.work = 0")
        page.wait_for_timeout(1_100)  # news come once a second
        changes = page.evaluate("window.work")
        cells = page.evaluate("document.querySelectorAll('table.rows td').length")
        assert changes < cells / 4, f"{changes} changes, {cells} cells in sight"
    assert kept.evaluate("(row) => row.isConnected"), "rows are kept, not made anew"


def test_all_rows_can_be_reached(watched: Watched, fake: Callable[[int, int], str]) -> None:
    page = watched.page(viewport={"width": 1280, "height": 900})
    page.goto(f"{fake(MANY, MANY)}#/agents")
    live(page)
    until(page, f"{ROWS} > 20")
    table = page.get_by_role("table", name="Agents")
    assert table.get_attribute("aria-rowcount") == str(MANY + 1)
    assert page.evaluate(ROWS) < 100
    page.get_by_role("link", name="site-0000").focus()
    for number in range(60):
        assert page.evaluate("document.activeElement.textContent") == f"site-{number:04d}"
        page.keyboard.press("Tab")
    page.evaluate("scrollTo(0, 1e9)")
    row = table.get_by_role("row", name="site-0999")
    row.wait_for()
    assert row.get_attribute("aria-rowindex") == str(MANY + 1)
    box = row.bounding_box()
    assert box is not None and box["y"] + box["height"] <= 900, "it is in sight"
    row.get_by_role("link").click()
    page.get_by_role("dialog", name="site-0999").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="site-0999").wait_for()
