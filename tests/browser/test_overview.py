"""Is it up, what fails, what is slow, what changed: the first page, of a server at work."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.browser.conftest import until
from tests.browser.stage import SCRIPT, Stage

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def number(locator: Locator) -> float:
    found = re.search(r"[\d.,]+", locator.text_content() or "")
    assert found is not None, locator.text_content()
    return float(found[0].replace(",", ""))


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tiles > div").filter(has_text=name).locator(".big")


def test_it_says_how_things_are(open_page: Callable[..., Page]) -> None:
    page = open_page()
    # One agent of three is not there, and one route always fails.
    page.get_by_text("1 agent of 3 not connected").wait_for()
    assert tile(page, "Agents").text_content() == "2"
    until(page, "/[1-9]/.test(document.querySelector('.tiles .big').textContent)")
    assert number(tile(page, "Requests")) > 1
    assert 50 < number(tile(page, "Success")) < 100
    assert number(tile(page, "Latency")) > 0
    signals = page.get_by_role("region", name="Problem signals")
    signals.get_by_text("connect_failed").wait_for()
    signals.get_by_text("no route of the listener matches").wait_for()
    signals.get_by_role("link", name="broken").click()
    page.get_by_role("dialog").get_by_role("heading", name="broken").wait_for()


def test_it_lives(open_page: Callable[..., Page]) -> None:
    page = open_page()
    row = page.locator("table.hot").filter(has_text="Listeners").get_by_role("row", name="public")
    cell = row.get_by_role("cell").first
    before = number(cell)
    until(
        page,
        "([row, before]) => Number(row.textContent.replace(',', '')) > before",
        [cell.element_handle(), before],
    )


def test_each_window_has_its_trends(open_page: Callable[..., Page]) -> None:
    page = open_page()
    windows = page.get_by_role("navigation", name="Window")
    for name in ("last hour", "last 24 hours", "last 30 days", "last 5 minutes"):
        windows.get_by_role("link", name=name).click()
        page.locator(".told").filter(has_text=name).wait_for()
        current = windows.locator("[aria-current=true]")
        assert name in (current.text_content() or "")
    page.go_back()
    page.locator(".told").filter(has_text="last 30 days").wait_for()
    page.reload()
    page.locator(".told").filter(has_text="last 30 days").wait_for()


def test_charts_are_read_out_by_keys_and_by_pointer(open_page: Callable[..., Page]) -> None:
    page = open_page()
    until(page, "document.querySelector('path.line.requests').getAttribute('d')")
    reader = page.get_by_role("slider", name="Latency: read out a moment")
    reader.focus()
    last = reader.get_attribute("aria-valuenow")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert int(reader.get_attribute("aria-valuenow") or 0) == int(last or 0) - 2
    assert re.search(
        r"^\d\d:\d\d:\d\d: p50 .*, p95 .*, p99 ", reader.get_attribute("aria-valuetext") or ""
    )
    # One moment, in all charts.
    times = page.locator(".chart .when").all_text_contents()
    assert len(set(times)) == 1 and times[0]
    page.keyboard.press("Escape")
    assert page.locator(".chart .when").first.text_content() == ""
    box = page.locator(".plot").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    until(page, "document.querySelector('.chart .when').textContent")
    page.mouse.move(0, 0)
    until(page, "!document.querySelector('.chart .when').textContent")


def test_charts_have_their_numbers_as_a_table(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_text("The same as a table").click()
    table = page.get_by_role("table", name="The charts' numbers, newest first")
    assert table.get_by_role("columnheader").all_text_contents()[:4] == [
        "Time",
        "Requests/s",
        "Failed/s",
        "p50",
    ]
    assert 55 <= table.get_by_role("row").count() <= 75


def test_hotspots_sort_together(open_page: Callable[..., Page]) -> None:
    page = open_page()
    targets = page.locator("table.hot").filter(has_text="Targets")
    targets.get_by_role("link", name="media/cloud").wait_for()
    heads = page.get_by_role("columnheader", name="Failed")
    heads.first.get_by_role("button").click()
    for head in heads.all():
        assert head.get_attribute("aria-sort") == "descending"
    rows = targets.locator("tbody tr")
    assert "broken/nobody" in (rows.first.text_content() or "")
    page.get_by_role("columnheader", name="Targets").get_by_role("button").click()
    names = targets.locator("tbody th").all_text_contents()
    assert names == sorted(names)
    agents = page.locator("table.hot").filter(has_text="Agents")
    agents.get_by_role("link", name="attic").wait_for()  # by its name, not by its id


def test_a_reload_is_what_changed(open_page: Callable[..., Page], stage: Stage) -> None:
    page = open_page()
    changes = page.get_by_role("region", name="What changed")
    stage.extra = f"""
[[routes]]
id = "added"
listener_id = "public"
path_prefix = {SCRIPT.replace("<", "/<").replace(" ", "")!r}
[[routes.targets]]
target_type = "static"
"""
    try:
        stage.write_routes()
        stage.run("reload")
        changes.get_by_text("+ route added").first.wait_for()
        assert changes.locator(".added").count() >= 1
        stage.extra += "nonsense = true\n"
        stage.write_routes()
        stage.run("reload", code=3)
        changes.get_by_text("Refused").first.wait_for()
        page.get_by_text("The last reload").wait_for()
    finally:
        stage.extra = ""
        stage.write_routes()
        stage.run("reload")
    page.locator(".reasons").filter(has_not_text="The last reload").wait_for()
    assert page.evaluate("window.hacked") is None
